"""The predictions, as functions of the keywords of a loss and of its batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Required, TypedDict, Unpack

import numpy as np

from thanos_jax.theory.balance import minimum, weights
from thanos_jax.theory.balance.batches import BalanceError, Batches, check_number, make_batches
from thanos_jax.theory.balance.terms import Loss

Sizes = float | Sequence[float] | np.ndarray


class Drawn(TypedDict, total=False):
    """Keywords that say how batches are drawn; `within_class_spread` describes them."""

    classes: Required[int]
    images_per_class: Required[Sizes]
    images_in_all: Sizes | None
    classes_in_batch: int | None
    draw: str


class Setting(Drawn, total=False):
    """Keywords of a loss, except its weight, and of its batches."""

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
    """Calculates W at the minimum, the mean squared distance of embeddings to their class's mean.

    Args:
      loss: "spread", "supcon" or "joint", of `thanos_jax.losses`.
      alpha: weight of the spread loss, in [0, 1]; None for other losses.
      beta: weight of the joint loss, in [0, 1]; None for other losses.
      temperature: positive.
      denominator: denominator of supcon, "all" or "one_positive".
      views: "all" or "cross".
      **drawn: how batches are drawn:
        - classes: number of classes in training, at least 2.
        - images_per_class: number of images of a class in a batch, one number or one per class.
          With draw="uniform" the mean, the batch size over the number of classes, not necessarily
          whole.
        - images_in_all: number of training images of a class, one number or one per class; math.inf
          stands for many. None, the default: the batch is the training set.
        - draw: "balanced", the default: a batch has images_per_class images of each of its classes;
          "uniform": images are drawn regardless of class. The number of images of a class is then
          random, and the loss is averaged over it: exactly if classes have equal size, otherwise
          with the mean numbers of images of other classes.
        - classes_in_batch: number of classes in a balanced batch; None, the default: all.

    Returns:
      W in [0, 1], the mean over images. 0 is class collapse. W is 0 too if no batch has two images
      of a class, because then nothing spreads them.

    Raises:
      BalanceError: an argument is out of range, or there are fewer than two classes.

    Example:
      >>> from thanos_jax.theory import balance
      >>> setting = dict(alpha=0.5, temperature=0.5, images_per_class=64)
      >>> round(balance.within_class_spread(classes=2, **setting), 2)
      0.97
      >>> round(balance.within_class_spread(classes=1000, **setting), 2)
      0.2

    Source: the family of embeddings is from Lee et al., "A Theoretical Framework for Preventing
    Class Collapse in Supervised Contrastive Learning", AISTATS 2025,
    https://arxiv.org/abs/2503.08203. The minimization over it, the batches and unequal classes are
    from this project; see docs/balance.md.
    """
    form = weights.make_loss(loss, temperature, denominator, views)
    weight, batches = weights.of_spreading(form, alpha, beta), make_batches(**drawn)
    return float(batches.importance @ minimum.spreads(batches, form, weight))


def least_loss(
    *, alpha: float | None = None, beta: float | None = None, **setting: Unpack[Setting]
) -> float:
    """Calculates the loss at its minimum, a lower bound for every training.

    Args:
      alpha: weight of the spread loss.
      beta: weight of the joint loss; 0 is InfoNCE.
      **setting: as in `within_class_spread`.

    Returns:
      The loss with `reduction="mean"`, averaged over batches.

    Raises:
      BalanceError: as `within_class_spread`.

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
      alpha: weight of the spread loss.
      beta: weight of the joint loss.
      **setting: as in `within_class_spread`.

    Raises:
      BalanceError: as `within_class_spread`.
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
    """Returns a loss and its batches from checked keywords of `within_class_spread`."""
    return weights.make_loss(loss, temperature, denominator, views), make_batches(**drawn)


def threshold(**setting: Unpack[Setting]) -> float:
    """Calculates the weight at and beyond which collapse is the minimum.

    Args:
      **setting: as in `within_class_spread`: loss ("spread" or "joint"), temperature, denominator,
        views, and how batches are drawn.

    Returns:
      A number in [0, 1]: collapse is the minimum at and below this alpha, or at and above this
      beta. If classes differ in size, it is the weight at which the first of them spreads. If no
      batch has two images of a class, collapse is always the minimum: 1.0, or 0.0 for the joint
      loss.

    Raises:
      BalanceError: an argument is out of range, or the loss has no weight.

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
    """Calculates the smallest alpha (the largest beta) whose minimum has a given W.

    Args:
      within_class_spread: the wanted W, in [0, 1].
      **setting: as in the function `within_class_spread`, with the loss "spread" or "joint".

    Returns:
      alpha, or beta for the joint loss.

    Raises:
      BalanceError: an argument is out of range, the loss has no weight, no weight
        reaches this W, or no batch has two images of a class.

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
