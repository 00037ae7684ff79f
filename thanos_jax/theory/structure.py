"""Exact covariances in structured form, linear in the number of directions.

An augmentation has noise in one direction. Two directions of noise thus never occur in the same
input, and the noise's block of M is diagonal. The rest of M are the rows of the K features and the
constant:

        [ features  cross ]
    M = [                 ],   and   P = R'R with the scaled class and image means as rows of R.
        [ cross'    noise ]

No entry is approximated or omitted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thanos_jax.theory.data import Sample, check_beta, without_noise

# Eigenvalues below this share of the largest are rounding errors; features have 1e-3 or more.
_RELATIVE_ZERO = 1e-10


class Structure(NamedTuple):
    """M and a factor of P.

    Attributes:
      features: float64 [K + 1, K + 1], M's block of the features and the constant.
      cross: float64 [K + 1, d - K], M's block of features and constant against noise.
      noise: float64 [d - K], the diagonal of M's block of noise.
      factor: R with P = R'R, float64 [r, d + 1], in the inputs' order of directions.
    """

    features: Any
    cross: Any
    noise: Any
    factor: Any


def structure(sample: Sample, beta: float) -> Structure:
    """Calculates M and a factor of P = beta M+ + (1 - beta) M~.

    Args:
      sample: the images.
      beta: in [0, 1]; 1 is the supervised loss (r = 2), 0 the unsupervised (r = n).

    Returns:
      The same matrices as `covariances` and `positives`, in time and memory O(n m K + n d).

    Raises:
      ModelError: beta outside [0, 1].

    Source: Xue et al., ICML 2023, https://arxiv.org/abs/2305.16536
    """
    check_beta(beta)
    model = sample.model
    n, m, d, k = model.samples, model.augmentations, model.dim, model.features
    clean = without_noise(sample)
    seen = np.repeat(clean, m, axis=0)
    axis = sample.j.ravel() - 1
    on_feature = axis < k  # only with noise="all"
    seen[np.flatnonzero(on_feature), axis[on_feature]] += model.sigma
    elsewhere, hits = seen[~on_feature], axis[~on_feature] - k
    cross = np.zeros((d - k, k + 1))
    np.add.at(cross, hits, model.sigma * elsewhere)
    noise = model.sigma**2 * np.bincount(hits, minlength=d - k).astype(np.float64)

    means = np.zeros((n, d + 1))
    means[:, :k], means[:, d] = clean[:, :k], 1.0
    np.add.at(means, (np.repeat(np.arange(n), m), axis), model.sigma / m)
    classes = np.stack([means[sample.y == sign].mean(axis=0) for sign in (-1, 1)])
    factors = []
    if beta > 0:
        factors.append(np.sqrt(beta / 2) * classes)
    if beta < 1:
        factors.append(np.sqrt((1 - beta) / n) * means)
    return Structure(
        features=seen.T @ seen / (n * m),
        cross=cross.T / (n * m),
        noise=noise / (n * m),
        factor=np.concatenate(factors),
    )


def times_covariance(weights: jax.Array, parts: Structure) -> jax.Array:
    """Returns W M, [rows, d + 1], in time O(rows d K).

    Args:
      weights: W, [rows, d + 1].
      parts: M.

    Returns:
      The product, of W's dtype if `parts` has it too.
    """
    k = parts.features.shape[0] - 1
    known = jnp.concatenate([weights[:, :k], weights[:, -1:]], axis=1)
    rest = weights[:, k:-1]
    features = known @ parts.features + rest @ parts.cross.T
    noise = known @ parts.cross + rest * parts.noise
    return jnp.concatenate([features[:, :k], noise, features[:, k:]], axis=1)


def solve(parts: Structure) -> np.ndarray:
    """Returns R M^+, float64 [r, d + 1], with M^+ the pseudo-inverse, in time O(r d K).

    M is singular if every augmentation has noise in the rest, because the noise directions then add
    up to a constant. Eliminating the diagonal block leaves a matrix S of the size of the features.
    S^+ gives a generalized inverse G of M, and S's null vectors give the null vectors of M. The
    projection onto their orthogonal complement turns G R' into M^+ R', because R's rows are in the
    range of M.

    Args:
      parts: M and R.

    Returns:
      The minimum-norm solutions C of C M = R.
    """
    k = parts.features.shape[0] - 1
    inverse = np.divide(1.0, parts.noise, out=np.zeros_like(parts.noise), where=parts.noise > 0)
    reduced = parts.cross * inverse  # features against noise, in units of the noise
    schur = parts.features - reduced @ parts.cross.T
    values, vectors = np.linalg.eigh(schur)
    kept = values > _RELATIVE_ZERO * np.max(np.abs(np.diag(parts.features)))

    known = np.concatenate([parts.factor[:, :k], parts.factor[:, -1:]], axis=1)
    rest = parts.factor[:, k:-1]
    features = ((known - rest @ reduced.T) @ vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    found = np.concatenate([features, rest * inverse - features @ reduced], axis=1)
    null = vectors[:, ~kept].T
    if len(null):
        basis = np.linalg.qr(np.concatenate([null, -null @ reduced], axis=1).T)[0]
        found -= (found @ basis) @ basis.T
    return np.concatenate([found[:, :k], found[:, k + 1 :], found[:, k : k + 1]], axis=1)
