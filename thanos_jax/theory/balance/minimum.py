"""The minimum of a loss over all embeddings, as a problem with few variables.

A loss is convex in the matrix of cosines. Averaging over permutations of the images of a class, and
of the classes of a kind, thus never increases it. A minimum is therefore attained by embeddings

    z_ci = mu_c + sqrt(w_c) b_ci,   |mu_c|^2 = 1 - w_c,

where b_ci are the vertices of a regular simplex of the class's N images, orthogonal to everything
else. The cosine is 1 - w_c N / (N - 1) within a class and mu_c . mu_d between classes. If classes
have equal size, the mu_c form a regular simplex too, and w is the only variable. Otherwise the
variables are the w of each kind and the cosines between kinds. The two views of an image are one
point; see docs/balance.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, minimize
from threadpoolctl import threadpool_limits

from thanos_jax.theory.balance.batches import Batches
from thanos_jax.theory.balance.terms import Loss, Slopes, slopes


class Steepness(NamedTuple):
    """Derivatives of the two terms with respect to the w of a class, float64 [K], by kind.

    Attributes:
      supcon: derivative of supcon, at least 0, because it contracts a class.
      spreading: derivative of the spreading term.
    """

    supcon: np.ndarray
    spreading: np.ndarray


def spreads(batches: Batches, loss: Loss, weight: float) -> np.ndarray:
    """Returns the w of each kind at the minimum, float64 [K].

    Args:
      batches: composition of the batches.
      loss: the loss.
      weight: weight of the spreading term, in [0, 1].
    """
    if not np.any(batches.meets) or not np.any(
        _slope_by_weight(collapsed_steepness(batches, loss, weight), weight) < 0
    ):
        return np.zeros(len(batches.classes))
    if len(batches.classes) > 1:
        return of_kinds(batches, loss, weight)[0]

    def slope(w: float) -> float:
        return float(_slope_by_weight(steepness(batches, loss, w), weight)[0])

    if slope(1.0) <= 0:
        return np.ones(1)
    return np.array([brentq(slope, 0.0, 1.0, xtol=1e-12)])


def least(batches: Batches, loss: Loss, weight: float) -> float:
    """Returns the loss at its minimum; arguments as in `spreads`."""
    if len(batches.classes) == 1:
        return at_spread(batches, loss, weight, float(spreads(batches, loss, weight)[0])).value
    w, other = of_kinds(batches, loss, weight)
    return slopes(batches, loss, weight, 1.0 - w * _ratio(batches), other).value


def steepness(batches: Batches, loss: Loss, w: float) -> Steepness:
    """Returns the derivatives of both terms for classes of one kind that all spread by w."""
    ratio, between = _ratio(batches), batches.classes[0] - 1

    def total(weight: float) -> np.ndarray:
        found = at_spread(batches, loss, weight, w)
        return -ratio * found.same + found.other[0] / between

    return Steepness(total(0.0), total(1.0))


def at_spread(batches: Batches, loss: Loss, weight: float, w: float) -> Slopes:
    """Returns the loss for classes of one kind that all spread by w."""
    other = -(1.0 - w) / (batches.classes[:, None] - 1.0)
    return slopes(batches, loss, weight, 1.0 - w * _ratio(batches), other)


def collapsed_steepness(batches: Batches, loss: Loss, weight: float) -> Steepness:
    """Returns the derivatives of both terms at collapse, with the points placed optimally.

    As a class spreads, its mean becomes shorter and cannot be as far from the others. The cost is
    the multiplier of the mean's length, -sum_d F_cd mu_c . mu_d, with F the derivative of the loss
    with respect to the matrix of mu_c . mu_d.
    """
    if len(batches.classes) == 1:
        return steepness(batches, loss, 0.0)
    placed = 0.0 if placed_alike(batches, loss) else weight
    _, other = of_kinds(batches, loss, placed, free=False)
    ratio, found = _ratio(batches), []
    for term in (0.0, 1.0):
        at = slopes(batches, loss, term, np.ones(len(ratio)), other)
        pulls = (at.other + at.other.T) / 2 * other
        found.append((-ratio * at.same - pulls.sum(axis=1)) / batches.classes)
    return Steepness(*found)


def placed_alike(batches: Batches, loss: Loss) -> bool:
    """Returns whether the optimal places of collapsed classes do not depend on the weight.

    At collapse the class-conditional term is constant, and InfoNCE equals supcon with denominator
    "all".
    """
    one_kind = len(batches.classes) == 1
    return one_kind or loss.spreading == "class_conditional" or loss.denominator == "all"


def _slope_by_weight(found: Steepness, weight: float) -> np.ndarray:
    return (1.0 - weight) * found.supcon + weight * found.spreading


def _ratio(batches: Batches) -> np.ndarray:
    """Returns N / (N - 1), which relates distances between images to distances to their mean."""
    images = np.maximum(batches.images, 2.0)  # an image alone does not spread
    return np.where(np.isinf(images), 1.0, 1.0 / (1.0 - 1.0 / images))


def of_kinds(
    batches: Batches, loss: Loss, weight: float, *, free: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Minimizes the loss for several kinds; returns w [K] and cosines between classes [K, K].

    The mean of a class of kind a has squared length 1 - w_a = |r_a|^2 + s_a^2: r_a, of K entries,
    is shared by the classes of the kind, and s_a is the part of a simplex among them.
    (r_a, s_a, sqrt(w_a)) is a unit vector, and any unit vectors are feasible, so that the
    minimization is unconstrained. Cosines are r_a . r_b between kinds, and
    |r_a|^2 - s_a^2 / (k_a - 1) within a kind of k_a classes.
    """
    kinds, ratio = len(batches.classes), _ratio(batches)
    allowed = np.ones((kinds, kinds + 2))
    allowed[:, kinds] = batches.classes > 1
    allowed[:, kinds + 1] = batches.meets if free else 0.0
    between = np.maximum(batches.classes - 1.0, 1.0)
    diagonal = np.arange(kinds)

    def cosines(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w, common = unit[:, kinds + 1] ** 2, unit[:, :kinds]
        other = common @ common.T
        other[diagonal, diagonal] -= unit[:, kinds] ** 2 / between
        return w, other

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        rows = flat.reshape(kinds, kinds + 2) * allowed
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        unit = rows / length
        w, other = cosines(unit)
        at = slopes(batches, loss, weight, 1.0 - w * ratio, other)
        slope = np.zeros_like(unit)
        slope[:, :kinds] = (at.other + at.other.T) @ unit[:, :kinds]
        slope[:, kinds] = -2 * at.other[diagonal, diagonal] / between * unit[:, kinds]
        slope[:, kinds + 1] = -2 * ratio * at.same * unit[:, kinds + 1]
        slope -= np.sum(slope * unit, axis=1, keepdims=True) * unit
        return at.value, (slope / length * allowed).ravel()

    start = np.random.default_rng(0).normal(size=(kinds, kinds + 2)) * allowed
    start[:, kinds + 1] = allowed[:, kinds + 1] * np.linalg.norm(start[:, :-1], axis=1)
    # For so small a problem threads mostly wait for each other, for long on a busy machine.
    with threadpool_limits(1, user_api="blas"):
        found = minimize(
            objective, start.ravel(), jac=True, method="L-BFGS-B",
            options={"maxiter": 5000, "maxfun": 10000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 20},
        ).x  # fmt: skip
    rows = found.reshape(kinds, kinds + 2) * allowed
    return cosines(rows / np.linalg.norm(rows, axis=1, keepdims=True))
