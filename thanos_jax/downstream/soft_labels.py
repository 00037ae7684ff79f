"""Soft labels: the probabilities of the classes, where some of the given labels are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from thanos_jax.checks import check_labels, check_share
from thanos_jax.downstream.arrays import check_probabilities
from thanos_jax.downstream.votes import Neighbours, Votes

_LEAST = 1e-3  # of a class's probability before the label is seen


def rate_limit(classes: int) -> float:
    """Returns the share of wrong labels at which labels say nothing: 1 - 1 / classes."""
    return 1 - 1 / classes


def soften(labels: Any, probabilities: Any, neighbours: Neighbours, *, rate: float) -> np.ndarray:
    """Returns the probability of each class, given the example and its label.

    A share r of the labels is wrong. A wrong label is each of the other classes with the same
    probability e = r / (classes - 1). With p_ic the probability that example i is of class c,
    before its label y_i is seen, Bayes' rule gives

        q_ic = p_ic (1 - r if c = y_i, else e) / sum_k p_ik (1 - r if k = y_i, else e)

    p_i is the geometric mean of two estimates, divided by its sum: the probabilities of a
    classifier that was trained on the labels, and the shares of the labels among the nearest
    neighbours. Both estimate the class probabilities of wrong and right labels together, which are
    e + (1 - r - e) times the probability of the class. This map is inverted first. A result below
    1e-3 is replaced by 1e-3, and the estimate is divided by its sum.

    Args:
      labels: integer [n], 0 to classes - 1, some of them wrong.
      probabilities: floating point [n, classes], of a classifier; the sum of a row is 1 (to 1 %).
      neighbours: the nearest neighbours, from `noisy_labels.nearest`. More are better than for
        `noisy_labels.suspicion`: 100 neighbours tell a probability of 1 % from 0.
      rate: r, the share of wrong labels, at least 0 and below `rate_limit(classes)`. A classifier
        gives the labels that it was trained on too much probability. If these labels are among
        them, a rate above the true one corrects for some of it.

    Returns:
      float32 [n, classes], whose rows sum to 1. With rate 0 the label has probability 1.

    Raises:
      TypeError: labels are not integers, or probabilities not floating point.
      ValueError: shapes that do not fit, or an argument out of range.

    Source: the estimates and their mean are ours. Reed et al., "Training Deep Neural Networks on
    Noisy Labels with Bootstrapping", arXiv 1412.6596, and Li et al., "DivideMix", ICLR 2020, train
    on mixtures of labels and predictions. Patrini et al., "Making Deep Neural Networks Robust to
    Label Noise", CVPR 2017, correct a loss by the rates at which labels change.

    Example:
      >>> import numpy as np
      >>> from thanos_jax.downstream.soft_labels import soften
      >>> from thanos_jax.downstream.votes import Neighbours
      >>> found = Neighbours(np.array([[1, 2], [0, 2], [0, 1]]), np.ones((3, 2)))
      >>> likely = np.array([[0.8, 0.2]] * 3)
      >>> soften(np.array([0, 0, 1]), likely, found, rate=0.1).round(2)  # the last label is doubted
      array([[0.96, 0.04],
             [0.96, 0.04],
             [0.91, 0.09]], dtype=float32)
    """
    probabilities = check_probabilities(probabilities)
    count, classes = probabilities.shape
    labels = check_labels(labels, "labels", length=count, num_classes=classes)
    shape = neighbours.indices.shape
    if len(shape) != 2 or shape[0] != count or not shape[1]:
        raise ValueError(f"neighbours: expected [{count}, k] with k >= 1, got shape {shape}")
    check_share("rate", rate)
    if rate >= rate_limit(classes):
        raise ValueError(
            f"rate: expected less than {rate_limit(classes):g}, at which labels of {classes} "
            f"classes say nothing, got {rate:g}"
        )
    wrong = rate / (classes - 1)
    found = np.empty((count, classes), np.float32)
    for rows, votes in Votes(neighbours, labels, weighted=False, num_classes=classes).blocks():
        shares = votes / votes.sum(axis=1, keepdims=True)
        before = np.sqrt(
            _without_noise(probabilities[rows].astype(np.float64), rate, wrong)
            * _without_noise(shares, rate, wrong)
        )
        after = before * wrong
        places = np.arange(len(rows)), labels[rows]
        after[places] = before[places] * (1 - rate)
        found[rows] = after / after.sum(axis=1, keepdims=True)
    return found


def _without_noise(estimate: np.ndarray, rate: float, wrong: float) -> np.ndarray:
    """Inverts what noise does to probabilities of classes; the rows of the result sum to 1."""
    clean = np.maximum((estimate - wrong) / (1 - rate - wrong), _LEAST)
    return clean / clean.sum(axis=1, keepdims=True)
