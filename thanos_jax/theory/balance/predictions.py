"""The predictions, from the keywords of a loss and of its batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Required, TypedDict, Unpack

import numpy as np

from thanos_jax.theory.balance import minimum, weights
from thanos_jax.theory.balance.batches import BalanceError, Batches, check_number, make_batches
from thanos_jax.theory.balance.terms import Loss

Sizes = float | Sequence[float] | np.ndarray


class Drawn(TypedDict, total=False):
    """How batches are drawn; `within_class_spread` describes these keywords."""

    classes: Required[int]
    images_per_class: Required[Sizes]
    images_in_all: Sizes | None
    classes_in_batch: int | None
    draw: str


class Setting(Drawn, total=False):
    """A loss but for its weight, and its batches."""

    loss: str
    temperature: Required[float]
    denominator: str
    views: str


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
        - classes: in training, at least 2.
        - images_per_class: of a class in a batch, a number or one a class. With draw="uniform" the
          mean: the batch size over the number of classes, which need not be whole.
        - images_in_all: of a class in training, a number or one a class; math.inf stands for many.
          None, the default: the batch is everything.
        - draw: "balanced", the default: a batch has images_per_class of each class that it holds;
          "uniform": images are drawn without regard to their class. The number of a class is then
          random, and the loss is averaged over it: exactly with classes of one size, otherwise with
          the images of other classes in the mean.
        - classes_in_batch: how many of the classes a balanced batch holds; None, the default: all.

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
      0.2

    Source: the family of embeddings is that of Lee et al., "A Theoretical Framework for Preventing
    Class Collapse in Supervised Contrastive Learning", AISTATS 2025,
    https://arxiv.org/abs/2503.08203; the loss over it, batches and unequal classes are this
    project's, docs/balance.md.
    """
    form = weights.make_loss(loss, temperature, denominator, views)
    weight, batches = weights.of_spreading(form, alpha, beta), make_batches(**drawn)
    return float(batches.importance @ minimum.spreads(batches, form, weight))


def least_loss(
    *, alpha: float | None = None, beta: float | None = None, **setting: Unpack[Setting]
) -> float:
    """Calculates the value of the loss at its minimum, below which no training gets.

    Args:
      alpha: of the spread loss.
      beta: of the joint loss; 0 is InfoNCE.
      **setting: as `within_class_spread` has it, and so the errors.

    Returns:
      The loss with `reduction="mean"`, in the mean over batches.

    Example:
      >>> from thanos_jax.theory import balance
      >>> supcon = dict(loss="supcon", classes=10, images_per_class=25)
      >>> [round(balance.least_loss(temperature=t, **supcon), 2) for t in (0.1, 0.5)]
      [3.89, 4.58]
    """
    form, batches = problem(**setting)
    return minimum.least(batches, form, weights.of_spreading(form, alpha, beta))


def each_class(
    *, alpha: float | None = None, beta: float | None = None, **setting: Unpack[Setting]
) -> np.ndarray:
    """Calculates the W of each class, float64 [classes].

    Args:
      alpha: of the spread loss.
      beta: of the joint loss.
      **setting: as `within_class_spread` has it, and so the errors.
    """
    form, batches = problem(**setting)
    weight = weights.of_spreading(form, alpha, beta)
    return minimum.spreads(batches, form, weight)[batches.kind_of_class]


def problem(
    *,
    loss: str = "spread",
    temperature: float,
    denominator: str = "all",
    views: str = "all",
    **drawn: Unpack[Drawn],
) -> tuple[Loss, Batches]:
    """Returns a loss and its batches from the keywords of `within_class_spread`, checked."""
    return weights.make_loss(loss, temperature, denominator, views), make_batches(**drawn)


def threshold(**setting: Unpack[Setting]) -> float:
    """Calculates the weight at and beyond which collapse is the minimum.

    Args:
      **setting: as `within_class_spread` has it: loss ("spread" or "joint"), temperature,
        denominator, views, and how batches are drawn.

    Returns:
      A number in [0, 1]: collapse is the minimum at and below this alpha, or at and above this
      beta. With classes of several sizes, where the first of them spreads. Where no
      batch has two images of a class, collapse is everywhere: 1.0, and 0.0 for the joint loss.

    Raises:
      BalanceError: a ValueError; an argument out of its range, or a loss without a weight.

    Example:
      >>> from thanos_jax.theory import balance
      >>> setting = dict(temperature=0.5, images_per_class=64)
      >>> [round(balance.threshold(classes=m, **setting), 3) for m in (2, 10, 1000)]
      [0.035, 0.355, 0.498]
    """
    form, batches = problem(**setting)
    weights.require(form)
    return weights.named(form, weights.first_to_spread(batches, form))


def alpha_for(within_class_spread: float, **setting: Unpack[Setting]) -> float:
    """Calculates the smallest alpha (the largest beta) whose minimum spreads a class so far.

    Args:
      within_class_spread: W that is wanted, in [0, 1].
      **setting: as the function `within_class_spread` has it, of the loss "spread" or "joint".

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
      (0.467, 0.5)
    """
    form, batches = problem(**setting)
    weights.require(form)
    wanted = check_number(
        "within_class_spread", within_class_spread, "a number in [0, 1]", 0.0, 1.0
    )
    if not np.any(batches.meets):
        raise BalanceError(
            "images_per_class: expected batches with at least two images of a class, for nothing "
            f"spreads a single one, got {setting['images_per_class']!r}"
        )
    return weights.named(form, weights.reaching(wanted, batches, form))
