"""The predictions, from the keywords of a loss and of its batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Required, TypedDict, Unpack

import numpy as np
from scipy.optimize import brentq

from thanos_jax.theory.balance import minimum
from thanos_jax.theory.balance.batches import (
    BalanceError,
    Batches,
    check,
    check_number,
    make_batches,
)
from thanos_jax.theory.balance.terms import DENOMINATORS, LOSSES, VIEWS, Loss

Sizes = float | Sequence[float] | np.ndarray


class Drawn(TypedDict, total=False):
    """How batches are drawn; `within_class_spread` describes these keywords."""

    classes: Required[int]
    images_per_class: Required[Sizes]
    images_in_all: Sizes | None
    classes_in_batch: int | None
    draw: str


def within_class_spread(
    *,
    loss: str = "spread",
    alpha: float | None = None,
    beta: float | None = None,
    temperature: float,
    denominator: str = "all",
    views: str = "all",
    **drawn: Unpack[Drawn],
) -> float:
    """Calculates W of the minimum, the mean squared distance of embeddings to their class's mean.

    Args:
      loss: "spread", "supcon" or "joint", of `thanos_jax.losses`.
      alpha: of the spread loss, in [0, 1]; None with the others.
      beta: of the joint loss, in [0, 1]; None with the others.
      temperature: positive.
      denominator: of supcon, "all" or "one_positive".
      views: "all" or "cross".
      **drawn: how batches are drawn:
        classes: in training, at least 2.
        images_per_class: of a class in a batch, a number or one a class. With draw="uniform" the
          mean: the batch size over the number of classes, which need not be whole.
        images_in_all: of a class in training, a number or one a class; math.inf stands for many.
          None, the default: the batch is everything.
        draw: "balanced", the default: a batch has images_per_class of each class that it holds;
          "uniform": images are drawn without regard to their class. The number of a class is then
          random, and the loss is averaged over it: exactly with classes of one size, otherwise with
          the images of other classes in the mean.
        classes_in_batch: how many of the classes a balanced batch holds; None, the default: all.

    Returns:
      W in [0, 1], the mean over images. 0 is class collapse. 0 too where no batch has two images of
      a class: nothing spreads them then.

    Raises:
      BalanceError: a ValueError; an argument out of its range, or less than two classes.

    Example:
      >>> from thanos_jax.theory import balance
      >>> setting = dict(alpha=0.5, temperature=0.5, images_per_class=64)
      >>> round(balance.within_class_spread(classes=2, **setting), 2)
      0.97
      >>> round(balance.within_class_spread(classes=1000, **setting), 2)
      0.02

    Source: the family of embeddings is that of Lee et al., "A Theoretical Framework for Preventing
    Class Collapse in Supervised Contrastive Learning", AISTATS 2025,
    https://arxiv.org/abs/2503.08203; the loss over it, batches and unequal classes are this
    project's, docs/balance.md.
    """
    weight = _weight(loss, alpha, beta)
    batches, form = make_batches(**drawn), _form(loss, temperature, denominator, views)
    return float(batches.importance @ minimum.spreads(batches, form, weight))


def each_class(
    *,
    loss: str = "spread",
    alpha: float | None = None,
    beta: float | None = None,
    temperature: float,
    denominator: str = "all",
    views: str = "all",
    **drawn: Unpack[Drawn],
) -> np.ndarray:
    """Calculates the W of each class, float64 [classes]; keywords and errors as its mean has them.

    See `within_class_spread`.
    """
    weight = _weight(loss, alpha, beta)
    batches, form = make_batches(**drawn), _form(loss, temperature, denominator, views)
    return minimum.spreads(batches, form, weight)[batches.kind_of_class]


def threshold(
    *,
    loss: str = "spread",
    temperature: float,
    denominator: str = "all",
    views: str = "all",
    **drawn: Unpack[Drawn],
) -> float:
    """Calculates the weight at and beyond which collapse is the minimum.

    Args:
      loss: "spread": collapse at and below this alpha; "joint": at and above this beta.
      temperature: positive.
      denominator: of supcon.
      views: "all" or "cross".
      **drawn: how batches are drawn, as `within_class_spread` has it.

    Returns:
      A number in [0, 1]. With classes of several sizes, where the first of them spreads. Where no
      batch has two images of a class, collapse is everywhere: 1.0, and 0.0 for the joint loss.

    Raises:
      BalanceError: a ValueError; an argument out of its range, or a loss without a weight.

    Example:
      >>> from thanos_jax.theory import balance
      >>> setting = dict(temperature=0.5, images_per_class=64)
      >>> [round(balance.threshold(classes=m, **setting), 3) for m in (2, 10, 1000)]
      [0.035, 0.355, 0.498]
    """
    batches, form = make_batches(**drawn), _form(loss, temperature, denominator, views)
    _require_weight(loss)
    return _named(loss, _threshold(batches, form))


def alpha_for(
    within_class_spread: float,
    *,
    loss: str = "spread",
    temperature: float,
    denominator: str = "all",
    views: str = "all",
    **drawn: Unpack[Drawn],
) -> float:
    """Calculates the smallest alpha (the largest beta) whose minimum spreads a class so far.

    Args:
      within_class_spread: W that is wanted, in [0, 1].
      loss: "spread" or "joint".
      temperature: positive.
      denominator: of supcon.
      views: "all" or "cross".
      **drawn: how batches are drawn, as the function `within_class_spread` has it.

    Returns:
      alpha, or beta for the joint loss.

    Raises:
      BalanceError: a ValueError; an argument out of its range, a loss without a weight, a W that no
        weight reaches, or batches without two images of a class.

    Example:
      >>> from thanos_jax.theory import balance
      >>> setting = dict(temperature=0.5, classes=10, images_per_class=25)
      >>> alpha = balance.alpha_for(0.5, **setting)
      >>> round(alpha, 3), round(balance.within_class_spread(alpha=alpha, **setting), 6)
      (0.487, 0.5)
    """
    batches, form = make_batches(**drawn), _form(loss, temperature, denominator, views)
    _require_weight(loss)
    wanted = check_number(
        "within_class_spread", within_class_spread, "a number in [0, 1]", 0.0, 1.0
    )
    if not np.any(batches.meets):
        raise BalanceError(
            "images_per_class: expected batches with at least two images of a class, for nothing "
            f"spreads a single one, got {drawn['images_per_class']!r}"
        )
    return _named(loss, _weight_for(wanted, batches, form))


def _form(loss: str, temperature: float, denominator: str, views: str) -> Loss:
    check("loss", loss, LOSSES)
    check("denominator", denominator, DENOMINATORS)
    check("views", views, VIEWS)
    smallest, largest = np.finfo(float).tiny, np.finfo(float).max
    temperature = check_number("temperature", temperature, "a positive number", smallest, largest)
    spreading = "info_nce" if loss == "joint" else "class_conditional"
    return Loss(spreading, denominator, views, temperature)


def _weight(loss: str, alpha: float | None, beta: float | None) -> float:
    """The weight of the spreading term."""
    given = {"alpha": alpha, "beta": beta}
    wanted = {"spread": "alpha", "joint": "beta"}.get(loss)
    for name, value in given.items():
        if name != wanted and value is not None:
            raise BalanceError(f"{name}: expected None with loss={loss!r}, got {value!r}")
    if wanted is None:
        return 0.0
    value = check_number(wanted, given[wanted], "a number in [0, 1]", 0.0, 1.0)
    return _named(loss, value)


def _named(loss: str, weight: float) -> float:
    """Returns alpha or beta for a weight of the spreading term, and that weight for one of them."""
    return 1.0 - weight if loss == "joint" else weight


def _require_weight(loss: str) -> None:
    if loss == "supcon":
        raise BalanceError("loss: expected 'spread' or 'joint', which have a weight, got 'supcon'")


def _threshold(batches: Batches, form: Loss) -> float:
    meets = batches.meets

    def first(weight: float) -> float:
        found = minimum.collapsed_steepness(batches, form, weight)
        return float(np.min(_balancing(found)[meets], initial=1.0))

    found = first(0.0)
    if minimum.placed_alike(batches, form) or found == 1.0:
        return found
    # Where the points lie depends on the weight: this one balances the terms where it puts them.
    return float(brentq(lambda weight: first(weight) - weight, 0.0, 1.0, xtol=1e-12))


def _balancing(found: minimum.Steepness) -> np.ndarray:
    """The weight at which both terms hold each other; 1 where the spreading one does not spread."""
    spreads = found.spreading < 0
    gap = np.where(spreads, found.supcon - found.spreading, 1.0)
    return np.where(spreads, found.supcon / gap, 1.0)


def _weight_for(wanted: float, batches: Batches, form: Loss) -> float:
    if wanted == 0:
        return 0.0
    if len(batches.classes) == 1:
        found = minimum.steepness(batches, form, wanted)
        # With all weight on it the spreading term alone decides.
        if found.spreading[0] > 0:
            raise _unreached(wanted, batches, form)
        return float(_balancing(found)[0])

    def lacking(weight: float) -> float:
        return float(batches.importance @ minimum.spreads(batches, form, weight)) - wanted

    low = _threshold(batches, form)
    if lacking(1.0) < -1e-6:
        raise _unreached(wanted, batches, form)
    if lacking(1.0) <= 0:
        return 1.0
    return float(brentq(lacking, low, 1.0, xtol=1e-9))


def _unreached(wanted: float, batches: Batches, form: Loss) -> BalanceError:
    most = float(batches.importance @ minimum.spreads(batches, form, 1.0))
    return BalanceError(
        f"within_class_spread: expected at most {most:.6g}, which the spreading term reaches alone,"
        f" got {wanted:g}"
    )
