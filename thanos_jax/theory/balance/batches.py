"""Composition of batches: the numbers of other images of an anchor's class and of other classes.

Classes of equal size form a kind. The minimum treats them equally, so that its variables are
numbers of kinds, not of classes.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaln, xlog1py, xlogy

from thanos_jax.checks import check_option
from thanos_jax.errors import UserError

DRAWS = ("balanced", "uniform")
# Cases with a smaller probability are ignored; they do not change the result.
_RARE = 1e-12


class BalanceError(UserError, ValueError):
    """An argument is not allowed; the message names it, the expected and the given value."""


class Batches(NamedTuple):
    """The cases of an anchor's batch and their probabilities, for K kinds of classes and S cases.

    Attributes:
      kind_of_class: int [classes], the kind of each class.
      classes: int [K], number of classes of a kind.
      images: float64 [K], number of training images of a class, may be infinite.
      meets: bool [K], whether a batch may have another image of the anchor's class.
      importance: float64 [K], the share of a kind's images among all images.
      kind: int [S], the kind of the anchor's class.
      probability: float64 [S], probability of the case; the sum is 1.
      same: float64 [S], number of other images of the anchor's class in the batch.
      others: float64 [S], number of images of other classes in the batch.
      mix: float64 [K, K], by the anchor's kind, the share of each kind among the images of other
        classes; rows sum to 1.
    """

    kind_of_class: np.ndarray
    classes: np.ndarray
    images: np.ndarray
    meets: np.ndarray
    importance: np.ndarray
    kind: np.ndarray
    probability: np.ndarray
    same: np.ndarray
    others: np.ndarray
    mix: np.ndarray


def make_batches(
    *,
    classes: Any,
    images_per_class: Any,
    images_in_all: Any = None,
    classes_in_batch: Any = None,
    draw: str = "balanced",
) -> Batches:
    """Calculates the composition of batches from the way they are drawn.

    Args:
      classes: number of classes in training, at least 2.
      images_per_class: number of images of a class in a batch, one number or one per class; with
        draw="uniform", the mean.
      images_in_all: number of training images of a class, one number or one per class, may be
        infinite; None: the batch is the training set.
      classes_in_batch: number of classes in a balanced batch; None: all.
      draw: "balanced": a batch has images_per_class images of each of its classes; "uniform":
        images are drawn regardless of class, and the number of images of a class is random.

    Raises:
      BalanceError: an argument is out of range.
    """
    check("draw", draw, DRAWS)
    if not _is_integer(classes) or classes < 2:
        raise BalanceError(f"classes: expected an integer of at least 2, got {classes!r}")
    count = int(classes)
    uniform = draw == "uniform"
    shown = _sizes("images_per_class", images_per_class, count, whole=not uniform)
    if images_in_all is None:
        if uniform:
            raise BalanceError(
                "images_in_all: expected the images of a class in training with draw='uniform', "
                "got None"
            )
        held = shown
    else:
        held = _sizes("images_in_all", images_in_all, count, whole=True, infinite=True)
        if not uniform and np.any(held < shown):
            raise BalanceError(
                f"images_in_all: expected at least images_per_class, {images_per_class!r}, "
                f"got {images_in_all!r}"
            )
    present = count if classes_in_batch is None else classes_in_batch
    if not _is_integer(present) or not 2 <= present <= count or (uniform and present != count):
        allowed = (
            "None with draw='uniform'" if uniform else f"an integer from 2 to {count}, or None"
        )
        raise BalanceError(f"classes_in_batch: expected {allowed}, got {classes_in_batch!r}")
    pairs = np.stack([shown, held], axis=1)
    _, first, kind_of_class, per_kind = np.unique(
        pairs, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    kind_of_class = kind_of_class.reshape(-1)
    shown, held = shown[first], held[first]
    if uniform:
        size = _batch_size(pairs, per_kind, held, shown)
        cases = _uniform(size, per_kind, held, shown)
        meets = held > 1
    else:
        cases = _balanced(int(present), per_kind, shown)
        meets = shown > 1
    importance = _shares(per_kind, held, shown)
    return Batches(kind_of_class, per_kind, held, meets, importance, *cases)


def check(name: str, value: Any, options: Sequence[str]) -> None:
    """Raises BalanceError unless the value is one of the options."""
    try:
        check_option(name, value, options)
    except ValueError as error:
        raise BalanceError(str(error)) from None


def check_number(name: str, value: Any, expected: str, low: float, high: float) -> float:
    """Returns a real number in [low, high]; raises BalanceError for anything else."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not low <= float(value) <= high:
        raise BalanceError(f"{name}: expected {expected}, got {value!r}")
    return float(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _sizes(
    name: str, value: Any, classes: int, *, whole: bool, infinite: bool = False
) -> np.ndarray:
    """Returns one number per class, float64 [classes], after checking them."""
    sizes = np.asarray(value)
    if sizes.shape not in ((), (classes,)):
        raise BalanceError(
            f"{name}: expected a number or {classes}, one a class, got shape {sizes.shape}"
        )
    kind = "integers of at least 1" if whole else "positive numbers"
    if whole and name == "images_per_class":
        kind += " (or means, with draw='uniform')"
    wrong = BalanceError(f"{name}: expected {kind}, got {value!r}")
    if not np.issubdtype(sizes.dtype, np.integer) and not np.issubdtype(sizes.dtype, np.floating):
        raise wrong
    sizes = np.broadcast_to(sizes, (classes,)).astype(float)
    finite = np.isfinite(sizes)
    fits = (sizes > 0) & (finite | infinite)  # NaN is not above 0
    if whole:
        fits &= ~finite | (np.floor(sizes) == sizes)
    if not np.all(fits):
        raise wrong
    return sizes


def _shares(per_kind: np.ndarray, held: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Returns the share of each kind among all images; infinite classes count as drawn."""
    weights = per_kind * (shown if np.any(np.isinf(held)) else held)
    return weights / weights.sum()


def _balanced(present: int, per_kind: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, ...]:
    # If a batch has only some of the classes, the mean number of other classes of each kind.
    drawn = (present - 1) / (per_kind.sum() - 1)
    totals, mix = _others(per_kind, shown)
    weights = per_kind * shown
    return np.arange(len(shown)), weights / weights.sum(), shown - 1, drawn * totals, mix


def _others(per_kind: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns, by an anchor's kind, the images of other classes [K], and shares of kinds [K, K]."""
    others = (per_kind - np.eye(len(size))) * size
    totals = others.sum(axis=1)
    return totals, others / totals[:, None]


def _batch_size(
    pairs: np.ndarray, per_kind: np.ndarray, held: np.ndarray, shown: np.ndarray
) -> int:
    total = float(pairs[:, 0].sum())
    if abs(total - round(total)) > 1e-6 * max(total, 1.0) or round(total) < 2:
        raise BalanceError(
            "images_per_class: expected a mean that makes a whole batch of at least 2 images "
            f"over all classes, got {total:g} in all"
        )
    everything = float(pairs[:, 1].sum())
    if round(total) > everything:
        raise BalanceError(
            f"images_in_all: expected at least a batch, {round(total)} over all classes, "
            f"got {everything:g}"
        )
    expected = _shares(per_kind, held, shown) * total / per_kind
    if len(np.unique(pairs[:, 0])) > 1 and not np.allclose(expected, shown, rtol=1e-6):
        raise BalanceError(
            "images_per_class: expected the mean number of a class, in proportion to "
            f"images_in_all, with draw='uniform', got {pairs[:, 0].tolist()}"
        )
    return round(total)


def _uniform(
    size: int, per_kind: np.ndarray, held: np.ndarray, shown: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Returns the cases of uniform draws: each number of other images of the anchor's class.

    Images of other classes are counted in the mean. This is exact for classes of one kind, because
    all images of other classes are then equivalent.
    """
    share = _shares(per_kind, held, shown)
    of_class = share / per_kind
    same = np.broadcast_to(np.arange(size, dtype=float), (len(held), size))
    if np.any(np.isinf(held)):
        rest, chance = size - 1 - same, of_class[:, None]
        logs = _log_binomial(size - 1.0, same) + xlogy(same, chance) + xlog1py(rest, -chance)
    else:  # without replacement
        own, rest, total = held[:, None] - 1, size - 1 - same, float(per_kind @ held) - 1
        logs = _log_binomial(own, same) + _log_binomial(total - own, rest)
        logs -= _log_binomial(total, size - 1.0)
    probability = np.exp(logs)
    probability *= probability > _RARE
    probability *= share[:, None] / probability.sum(axis=1, keepdims=True)
    kind, number = np.nonzero(probability)
    others = size - 1.0 - number
    mix = _others(per_kind, of_class)[1]
    return kind, probability[kind, number], number.astype(float), others, mix


def _log_binomial(n: Any, k: Any) -> np.ndarray:
    """Returns the log of the binomial coefficient n over k; -inf if k is not in 0 .. n."""
    fits = (k >= 0) & (k <= n)
    k = np.where(fits, k, 0.0)
    n = np.maximum(n, k)
    return np.where(fits, gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1), -np.inf)
