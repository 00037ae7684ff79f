"""What an anchor meets in a batch: how many images of its own class and of the other classes.

Classes of one size are one kind. The minimum treats them alike, so that it is looked for among
numbers of kinds, not of classes.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binom, hypergeom

from thanos_jax.checks import check_option
from thanos_jax.errors import UserError

DRAWS = ("balanced", "uniform")
# Numbers of images that are drawn less often than this leave no trace in the result.
_RARE = 1e-12


class BalanceError(UserError, ValueError):
    """An argument without a prediction; the message names it, what was got, what is expected."""


class Batches(NamedTuple):
    """The anchors of a batch, counted by what they meet; of K kinds of classes and S cases.

    Attributes:
      kind_of_class: int [classes], the kind of each class.
      classes: int [K], classes of a kind.
      images: float64 [K], images of a class in training, may be infinite.
      meets: bool [K], whether an anchor ever meets another image of its class.
      importance: float64 [K], the share of a kind's images among all.
      kind: int [S], the kind of the anchor's class.
      probability: float64 [S], adds up to 1.
      same: float64 [S], other images of the anchor's class in the batch.
      others: float64 [S, K], images of other classes in the batch, by the kind of their class.
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


def make_batches(
    *,
    classes: Any,
    images_per_class: Any,
    images_in_all: Any = None,
    classes_in_batch: Any = None,
    draw: str = "balanced",
) -> Batches:
    """Counts what anchors meet.

    Args:
      classes: in training, at least 2.
      images_per_class: of a class in a batch, a number or one a class; the mean with
        draw="uniform".
      images_in_all: of a class in training, a number or one a class, may be infinite; None: the
        batch is everything.
      classes_in_batch: how many of the classes a balanced batch holds; None: all.
      draw: "balanced": a batch holds images_per_class of each class; "uniform": images are drawn
        without regard to their class, and the number of images of a class is random.

    Raises:
      BalanceError: an argument out of its range.
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
        importance = _shares(per_kind, held, shown)
        meets = held > 1
    else:
        cases = _balanced(int(present), per_kind, shown)
        importance = _shares(per_kind, held, shown)
        meets = shown > 1
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
    """Returns float64 [classes]."""
    sizes = np.asarray(value)
    if sizes.shape not in ((), (classes,)):
        raise BalanceError(
            f"{name}: expected a number or {classes}, one a class, got shape {sizes.shape}"
        )
    kind = "integers of at least 1" if whole else "positive numbers"
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
    """The share of each kind among all images; infinite sets are as large as they are drawn."""
    weights = per_kind * (shown if np.any(np.isinf(held)) else held)
    return weights / weights.sum()


def _balanced(present: int, per_kind: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, ...]:
    count = per_kind.sum()
    # Where a batch holds some of the classes, the others of each kind in the mean.
    drawn = (present - 1) / (count - 1)
    others = (per_kind - np.eye(len(shown))) * shown * drawn
    weights = per_kind * shown
    return np.arange(len(shown)), weights / weights.sum(), shown - 1, others


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
    """Each anchor with each number of other images of its class; the rest in the mean.

    With classes of one kind that is exact: all images of other classes are met alike.
    """
    share = _shares(per_kind, held, shown)
    of_class = share / per_kind
    kinds = len(held)
    found: list[tuple[np.ndarray, ...]] = []
    for kind in range(kinds):
        if math.isinf(held[kind]):
            law = binom(size - 1, of_class[kind])
        else:
            law = hypergeom(round(float(per_kind @ held)) - 1, round(held[kind]) - 1, size - 1)
        same = np.arange(size, dtype=float)
        probability = law.pmf(same)
        kept = probability > _RARE
        same, probability = same[kept], probability[kept]
        rest = (per_kind - np.eye(kinds)[kind]) * of_class
        others = (size - 1 - same)[:, None] * rest / rest.sum()
        weight = share[kind] * probability / probability.sum()
        found.append((np.full(len(same), kind), weight, same, others))
    kind_, probability, same, others = (np.concatenate(part) for part in zip(*found, strict=True))
    return kind_, probability, same, others
