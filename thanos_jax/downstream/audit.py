"""Finds wrong labels with classifiers and neighbours that were not trained on them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from thanos_jax.checks import check_at_least, check_labels, check_seed
from thanos_jax.downstream import search
from thanos_jax.downstream.arrays import check_labelled, check_probabilities
from thanos_jax.permutations import AUDIT_FOLDS, permutation

_VOTES = 2**20  # votes held in memory at a time


class Judgement(NamedTuple):
    """Suspicion and suggested label for each of n labels.

    Attributes:
      suspicion: float64 [n], from 0 to 1; above 1/2 where another class is likelier.
      suggested: int64 [n], the likeliest class, or the label where none is likelier.
    """

    suspicion: np.ndarray
    suggested: np.ndarray


def folds(labels: Any, count: int, *, seed: int = 0) -> np.ndarray:
    """Splits examples at random into stratified folds.

    The sizes of folds differ by at most one example, and so do the sizes of each class in them.

    Args:
      labels: integer [n], none negative.
      count: number of folds, at least 2.
      seed: of the draw, in [0, 2**64).

    Returns:
      int64 [n], the fold of each example, 0 to count - 1.

    Raises:
      TypeError: labels are not integers.
      ValueError: a wrong shape, negative labels, or an argument out of range.

    Example:
      >>> import numpy as np
      >>> from thanos_jax.downstream.audit import folds
      >>> part = folds(np.array([0, 0, 1, 1]), count=2)
      >>> sorted(part[:2].tolist()), sorted(part[2:].tolist())  # each class in both parts
      ([0, 1], [0, 1])
    """
    check_at_least("count", count, 2)
    check_seed(seed)
    labels = check_labels(labels, "labels", num_classes=2**31 - 1, least=1)
    order = permutation(seed, AUDIT_FOLDS, len(labels))
    # Sorted by class and in random order within a class, examples are dealt to folds in turn.
    dealt = order[np.argsort(labels[order], kind="stable")]
    part = np.empty(len(labels), np.int64)
    part[dealt] = np.arange(len(labels)) % count
    return part


def judge(
    embeddings: Any,
    labels: Any,
    probabilities: Any,
    known: Any,
    known_labels: Any,
    *,
    k: int = 20,
) -> Judgement:
    """Scores how likely each label is wrong, with a model that was not trained on it.

    The vote for a class is the mean of two numbers: its share among the k nearest known embeddings
    by cosine, and the classifier's probability. With o the vote for the given label and r the
    largest vote for another class, suspicion is r / (o + r). If no known example has the label,
    it cannot be judged: its suspicion is 1/2, and it is kept.

    Args:
      embeddings: floating point [n, d], of the examples whose labels are judged. A jax array whose
        rows are split over devices stays there, and every process of the job makes this call.
      labels: integer [n], 0 to classes - 1, the labels that are judged.
      probabilities: floating point [n, classes], of a classifier not trained on these examples;
        the sum of a row is 1 (to 1 %).
      known: floating point [m, d], other examples, embedded by the same encoder; may be split over
        devices, as `embeddings`.
      known_labels: integer [m], their labels.
      k: number of neighbours, at least 1; clipped to m.

    Returns:
      Suspicion and suggested label, for each label.

    Raises:
      TypeError: not floating point, or labels not integers.
      ValueError: shapes that do not fit, or an argument out of range.
    """
    check_at_least("k", k, 1)
    embeddings, labels = check_labelled(embeddings, labels, least=1, on_devices=True)
    known, known_labels = check_labelled(known, known_labels, least=1, on_devices=True)
    probabilities = check_probabilities(probabilities, length=len(labels))
    count = probabilities.shape[1]
    for what, values in (("labels", labels), ("known_labels", known_labels)):
        check_labels(values, what, num_classes=count)
    k = min(k, len(known))
    nearest = search.search(embeddings, known, k).indices
    suspicion, suggested = np.empty(len(labels)), np.empty(len(labels), np.int64)
    block = max(1, _VOTES // count)
    for start in range(0, len(labels), block):
        some = slice(start, start + block)
        given, rows = labels[some], np.arange(len(labels[some]))
        cells = rows[:, None] * count + known_labels[nearest[some]]
        shares = np.bincount(cells.ravel(), minlength=len(rows) * count).reshape(-1, count) / k
        others = (shares + probabilities[some].astype(np.float64)) / 2
        own = others[rows, given]
        others[rows, given] = -1
        rival = np.maximum(others.max(axis=1), 0)
        total = own + rival
        suspicion[some] = np.where(total > 0, rival / np.where(total > 0, total, 1), 0.5)
        suggested[some] = others.argmax(axis=1)
    suspicion[~np.isin(labels, known_labels)] = 0.5
    return Judgement(suspicion, np.where(suspicion > 0.5, suggested, labels))
