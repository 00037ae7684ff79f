"""The paper's comparison: the weights at which a spread-out set beats collapse and uniformity.

Perfectly Balanced compares a family of spread-out sets with class collapse and with the uniform
set, and shows that the family has the lower loss for a range of weights. Here the range is
calculated exactly for given numbers, because a loss is linear in its weight.
"""

from __future__ import annotations

from typing import NamedTuple, Unpack

from thanos_jax.theory.balance import minimum, weights
from thanos_jax.theory.balance.batches import BalanceError, Batches, check_number, make_batches
from thanos_jax.theory.balance.predictions import Drawn, Setting, problem
from thanos_jax.theory.balance.terms import Loss


class Range(NamedTuple):
    """An open interval of alpha, or of beta; empty if low is not below high."""

    low: float
    high: float


def uniform_spread(**drawn: Unpack[Drawn]) -> float:
    """Returns W of the uniform set, in which all images are equally far from each other.

    Args:
      **drawn: as in `thanos_jax.theory.balance.within_class_spread`; classes of equal size.

    Returns:
      m (N - 1) / (m N - 1) with m classes of N images: at most 1, and near 1 for large N.

    Raises:
      BalanceError: an argument is out of range, or classes differ in size.
    """
    return _uniform(_one_size(make_batches(**drawn)))


def winning_range(spread: float | None = None, **setting: Unpack[Setting]) -> Range:
    """Calculates the weights at which spread-out sets beat both collapse and the uniform set.

    Args:
      spread: W of one set, above 0 and below `uniform_spread`; None: the best set for each weight.
      **setting: as in `thanos_jax.theory.balance.within_class_spread`, with the loss "spread" or
        "joint" and classes of equal size.

    Returns:
      A range of alpha, or of beta for the joint loss. At and below the low alpha (at and above the
      high beta) collapse is at least as good as the set; at and beyond the other end the uniform
      set is.

    Raises:
      BalanceError: an argument is out of range, the loss has no weight, or classes
        differ in size.

    Example:
      >>> from thanos_jax.theory import balance
      >>> found = balance.winning_range(temperature=0.5, classes=10, images_per_class=64)
      >>> [round(alpha, 3) for alpha in found]
      [0.355, 0.512]

    Source: Chen, Fu et al., Perfectly Balanced, ICML 2022, section 4,
    https://arxiv.org/abs/2204.07596. The sets are from `minimum` here, not the paper's.
    """
    form, batches = problem(**setting)
    weights.require(form)
    _one_size(batches)
    most = _uniform(batches)
    if spread is None:
        low = weights.first_to_spread(batches, form)
        high = float(weights.balancing(minimum.steepness(batches, form, most))[0])
    else:
        wanted = check_number("spread", spread, f"a number above 0 and below {most:g}", 0.0, most)
        if not 0 < wanted < most:
            raise BalanceError(f"spread: expected above 0 and below {most:g}, got {spread!r}")
        set_, collapsed, uniform = (_terms(batches, form, w) for w in (wanted, 0.0, most))
        low = _even(set_, collapsed)
        high = _even(set_, uniform)
    ends = (weights.named(form, low), weights.named(form, high))
    return Range(min(ends), max(ends)) if low < high else Range(ends[0], ends[0])


def _one_size(batches: Batches) -> Batches:
    if len(batches.classes) > 1:
        raise BalanceError("images_per_class: expected classes of one size, got several")
    return batches


def _uniform(batches: Batches) -> float:
    # m (N - 1) / (m N - 1), without infinity over infinity.
    one = 1.0 / float(batches.images[0])
    return (1.0 - one) / (1.0 - one / float(batches.classes[0]))


def _terms(batches: Batches, form: Loss, w: float) -> tuple[float, float]:
    """Returns supcon and the spreading term for classes that all spread by w."""
    supcon, spreading = (minimum.at_spread(batches, form, weight, w) for weight in (0.0, 1.0))
    return supcon.value, spreading.value


def _even(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Returns the weight at which two sets have the same loss, clipped to [0, 1]."""
    supcon, spreading = one[0] - other[0], one[1] - other[1]
    gap = supcon - spreading
    return min(max(supcon / gap, 0.0), 1.0) if gap else 1.0
