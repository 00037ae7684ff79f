"""The model's inputs: class, subclass and irrelevant features, and noise that augmentation redraws.

Features are the standard basis: v_k is axis k - 1. Another orthonormal basis would rotate inputs
and encoder together; losses, minimizers and the distribution of the initial weights stay the same.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from thanos_jax.errors import UserError

NOISES = ("rest", "all")


class ModelError(UserError, ValueError):
    """A setting is not allowed; the message names it, the expected and the given value."""


@dataclasses.dataclass(frozen=True)
class Model:
    """The distribution of inputs; with the defaults, a subclass is learned and then unlearned.

    x = y phi_1 v_1 + (y_sub phi_2 + mu) v_2 + rho phi_k v_k + xi, and a constant 1 appended, with
    class y, subclass y_sub and rho in {-1, 1}, k in 3 .. K, and xi = sigma v_j. An augmentation of
    an image redraws j and keeps everything else.

    Attributes:
      samples: number of images n, a multiple of 8, so that all combinations of signs are equally
        frequent. With a multiple of 8 (K - 2), all combinations of signs and k are.
      augmentations: number m of augmentations of each image.
      dim: number of directions d, without the constant.
      features: number of features K, at least 3 and less than dim.
      phi_1: strength of the class feature.
      phi_2: strength of the subclass feature.
      phi_k: strength of each irrelevant feature.
      mu: mean of the subclass feature, which correlates it with the constant.
      sigma: strength of the noise.
      noise: directions from which j is drawn uniformly: "rest", v_{K+1} .. v_d, orthogonal to all
        features; or "all", v_1 .. v_d, so that a few augmentations disturb a feature.

    Raises:
      ModelError: a value is out of range or not finite.

    Source: Xue et al., ICML 2023, https://arxiv.org/abs/2305.16536
    """

    samples: int = 1000
    augmentations: int = 5
    dim: int = 2000
    features: int = 4
    phi_1: float = 1.0
    phi_2: float = 1.0
    phi_k: float = 1.0
    mu: float = 1.0
    sigma: float = 2.0
    noise: str = "rest"

    def __post_init__(self) -> None:
        check_integer("samples", self.samples, least=8)
        if self.samples % 8:
            raise ModelError(f"samples: expected a multiple of 8, got {self.samples}")
        check_integer("augmentations", self.augmentations, least=1)
        check_integer("features", self.features, least=3)
        check_integer("dim", self.dim, least=self.features + 1)
        for name in ("phi_1", "phi_2", "phi_k"):
            check_positive(name, getattr(self, name))
        _check_real("mu", self.mu, "a finite number", math.isfinite)
        _check_real(
            "sigma", self.sigma, "a finite number of at least 0", lambda v: 0 <= v < math.inf
        )
        if self.noise not in NOISES:
            raise ModelError(f"noise: expected one of {NOISES}, got {self.noise!r}")


class Sample(NamedTuple):
    """Images drawn from a model: the class, features and noise of each.

    Attributes:
      model: the model.
      y: int64 [n], -1 or 1, the class.
      y_sub: int64 [n], -1 or 1, the subclass.
      rho: int64 [n], -1 or 1, sign of the irrelevant feature.
      k: int64 [n], 3 .. K, number of the irrelevant feature.
      j: int64 [n, m], 1 .. d, direction of each augmentation's noise.
    """

    model: Model
    y: np.ndarray
    y_sub: np.ndarray
    rho: np.ndarray
    k: np.ndarray
    j: np.ndarray


class Covariances(NamedTuple):
    """Uncentred covariances, each float64 [d + 1, d + 1].

    Attributes:
      everything: M, the covariance of all n m augmentations.
      class_means: M+, the covariance of the means of the two classes.
      image_means: M~, the covariance of the means of the n images over their augmentations.
    """

    everything: np.ndarray
    class_means: np.ndarray
    image_means: np.ndarray


def draw(model: Model, seed: int = 0) -> Sample:
    """Draws images; the result depends on the arguments only.

    Signs and k cycle through all values, so that they are balanced as the paper assumes; only the
    noise is random. The order of images has no meaning.

    Args:
      model: the distribution of the inputs.
      seed: seed of the noise, at least 0.

    Raises:
      ModelError: the seed is negative.

    Source: Xue et al., ICML 2023
    """
    check_integer("seed", seed, least=0)
    image = np.arange(model.samples)
    first = model.features if model.noise == "rest" else 0
    shape = (model.samples, model.augmentations)
    return Sample(
        model=model,
        y=1 - 2 * (image % 2),
        y_sub=1 - 2 * (image // 2 % 2),
        rho=1 - 2 * (image // 4 % 2),
        k=3 + image // 8 % (model.features - 2),
        j=1 + np.random.default_rng(seed).integers(first, model.dim, shape),
    )


def inputs(sample: Sample) -> np.ndarray:
    """Returns all augmentations, float64 [n, m, d + 1]; the last entry of each is the constant 1.

    Source: Xue et al., ICML 2023
    """
    model = sample.model
    n, m, k = model.samples, model.augmentations, model.features
    found = np.zeros((n, m, model.dim + 1))
    found[..., :k] = without_noise(sample)[:, None, :k]
    found[..., -1] = 1.0
    found[np.arange(n)[:, None], np.arange(m), sample.j - 1] += model.sigma
    return found


def without_noise(sample: Sample) -> np.ndarray:
    """Returns the features of each image and the constant 1, float64 [n, K + 1]."""
    model = sample.model
    clean = np.zeros((model.samples, model.features + 1))
    clean[:, 0] = sample.y * model.phi_1
    clean[:, 1] = sample.y_sub * model.phi_2 + model.mu
    clean[np.arange(model.samples), sample.k - 1] = sample.rho * model.phi_k
    clean[:, -1] = 1.0
    return clean


def covariances(sample: Sample) -> Covariances:
    """Calculates M, M+ and M~ by their definitions, in time O(n m d^2).

    Args:
      sample: the images.

    Source: Xue et al., ICML 2023
    """
    entries = inputs(sample)
    images = entries.mean(axis=1)
    classes = np.stack([images[sample.y == sign].mean(axis=0) for sign in (-1, 1)])
    return Covariances(*(_second_moment(rows) for rows in (entries, classes, images)))


def check_integer(name: str, value: Any, *, least: int) -> None:
    """Raises ModelError unless the value is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ModelError(f"{name}: expected an integer of at least {least}, got {value!r}")


def check_positive(name: str, value: Any) -> None:
    """Raises ModelError unless the value is a finite positive number."""
    _check_real(name, value, "a finite positive number", lambda v: 0 < v < math.inf)


def check_beta(beta: Any) -> None:
    """Raises ModelError unless beta is a number in [0, 1]."""
    _check_real("beta", beta, "a number in [0, 1]", lambda v: 0 <= v <= 1)


def _check_real(name: str, value: Any, expected: str, fits: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not fits(float(value)):
        raise ModelError(f"{name}: expected {expected}, got {value!r}")


def _second_moment(rows: np.ndarray) -> np.ndarray:
    rows = rows.reshape(-1, rows.shape[-1])
    return rows.T @ rows / len(rows)
