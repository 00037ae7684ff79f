"""Features that the minimizers learn, against the strength of irrelevant features or beta."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from thanos_jax.theory.data import Model, ModelError, check_beta, draw
from thanos_jax.theory.minimizers import Spectrum, spectrum, structured
from thanos_jax.theory.structure import solve, structure


def threshold(model: Model) -> float:
    """Returns the phi_k above which a narrow unsupervised encoder does not learn v_1.

    An irrelevant feature occurs in one of K - 2 images, so that its mean square is
    phi_k^2 / (K - 2). With the constant there are K + 1 features, and K rows learn all but the
    weakest. This is v_1 if phi_k^2 / (K - 2) > phi_1^2, given that v_1 is weaker than v_2 and the
    constant.

    Args:
      model: the model; phi_1 and features are used.

    Returns:
      phi_1 sqrt(K - 2).

    Source: Xue et al., ICML 2023, https://arxiv.org/abs/2305.16536
    """
    return model.phi_1 * math.sqrt(model.features - 2)


def strength(
    model: Model, phi_k: Sequence[float], *, beta: float, rows: int, seed: int = 0
) -> np.ndarray:
    """Calculates how strongly the minimizer learns each feature, for each phi_k.

    Args:
      model: the model; its own phi_k is not used.
      phi_k: strengths of the irrelevant features [s], at least one.
      beta: weight of the joint loss; 0 is unsupervised.
      rows: number of rows of W.
      seed: seed of the data; the noise is the same at every strength.

    Returns:
      |W v_k|, float64 [s, K].

    Raises:
      ModelError: an argument is out of range, or there are no strengths.

    Source: Xue et al., ICML 2023
    """
    if not len(phi_k):
        raise ModelError("phi_k: expected at least one strength, got none")
    models = [dataclasses.replace(model, phi_k=value) for value in phi_k]
    known: Spectrum | None = None
    found = []
    with _one_thread():
        for one in models:
            parts = structure(draw(one, seed), beta)
            # With noise on features the spectrum varies, because noise does not scale with phi_k.
            if known is None or model.noise != "rest":
                known = spectrum(parts.factor, solve(parts))
            weights = structured(parts, rows, known)
            found.append(np.linalg.norm(weights[:, : model.features], axis=0))
    return np.stack(found)


def weight(model: Model, betas: Sequence[float], *, rows: int, seed: int = 0) -> np.ndarray:
    """Calculates how strongly the minimizer of the joint loss learns each feature, for each beta.

    Args:
      model: the distribution of the inputs.
      betas: [b], each in [0, 1], at least one.
      rows: number of rows of W.
      seed: seed of the data.

    Returns:
      |W v_k|, float64 [b, K].

    Raises:
      ModelError: an argument is out of range, or there are no betas.

    Source: Xue et al., ICML 2023
    """
    if not len(betas):
        raise ModelError("betas: expected at least one beta, got none")
    for beta in betas:
        check_beta(beta)
    sample = draw(model, seed)
    with _one_thread():
        found = [structured(structure(sample, beta), rows)[:, : model.features] for beta in betas]
    return np.stack([np.linalg.norm(weights, axis=0) for weights in found])


def _one_thread() -> threadpool_limits:
    # Threads of an eigendecomposition wait for each other at every column; at these sizes they gain
    # little, and on a busy machine they lose much.
    return threadpool_limits(1, user_api="blas")
