"""Coarse-to-fine transfer: classifiers of fine labels on the embeddings of a frozen encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thanos_jax.checks import check_at_least, check_labels
from thanos_jax.downstream import search
from thanos_jax.downstream.arrays import (
    check_labelled,
    check_on_devices,
    check_width,
    unit_rows,
)
from thanos_jax.downstream.linear import REGULARIZATION, linear_head, scores
from thanos_jax.downstream.partition import indexed_sums
from thanos_jax.downstream.placing import add_up, host_blocks, of_all_rows

_COUNTS = 2**20  # vote counts held in memory at a time


def nearest_neighbours(
    train_embeddings: Any, train_labels: Any, test_embeddings: Any, *, k: int
) -> np.ndarray:
    """Predicts by majority among the k nearest training embeddings by cosine.

    Exact search, in blocks. k is at most the number of training embeddings. Among classes with
    equally many neighbours the lowest label is taken. The search decides which of several
    equidistant embeddings is the k-th. A zero embedding stays zero.

    Args:
      train_embeddings: floating point [n, d]. A jax array whose rows are split over devices stays
        there, and every process of the job makes this call.
      train_labels: integer [n].
      test_embeddings: floating point [m, d], on devices or not.
      k: at least 1.

    Returns:
      int64 [m].

    Raises:
      TypeError, ValueError: as `linear_head`.
    """
    check_at_least("k", k, 1)
    train, labels, test = _checked(train_embeddings, train_labels, test_embeddings)
    found = search.search(test, train, min(k, len(train)))
    names, group = np.unique(labels, return_inverse=True)
    return names[_majority(group[found.indices], len(names))]


def class_means(train_embeddings: Any, train_labels: Any, test_embeddings: Any) -> np.ndarray:
    """Predicts the class whose mean L2-normalized training embedding is nearest.

    The distance is Euclidean, from the L2-normalized test embedding to the mean, which is not
    normalized again. Among equal distances the lowest label is taken. Args, Returns and Raises as
    `nearest_neighbours`.

    Example:
      >>> import numpy as np
      >>> from thanos_jax.downstream.transfer import class_means
      >>> class_means(np.eye(2), np.array([3, 7]), np.array([[2.0, 0.1]]))
      array([3])
    """
    train, labels, test = _checked(train_embeddings, train_labels, test_embeddings)
    present, group = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(present), train.shape[1]))
    for where, rows in host_blocks(train):
        sums += indexed_sums(unit_rows(rows), group[where], len(present))
    means = add_up(train, sums) / np.bincount(group)[:, None]
    found = np.zeros(len(test), np.int64)
    for where, rows in host_blocks(test, columns=len(present)):
        # |z - m|^2 without |z|^2, which is the same for every class.
        distances = np.sum(means**2, axis=1) - 2 * unit_rows(rows) @ means.T
        found[where] = present[np.argmin(distances, axis=1)]
    return of_all_rows(test, found)


def evaluate(
    embeddings: Mapping[str, Any],
    fine: Mapping[str, Any],
    coarse: Mapping[str, Any],
    *,
    num_fine: int,
    num_coarse: int,
    regularization: Sequence[float] = REGULARIZATION,
    max_iterations: int = 200,
    neighbours: int = 20,
    allow_missing_classes: bool = False,
) -> tuple[dict[str, float], np.ndarray]:
    """Measures how well frozen embeddings predict the fine labels of the test split.

    Everything is fitted on "train"; "validation" chooses the L2 weight; every example of "test" is
    used, once. Accuracies are fractions of 1:

        fine_accuracy               of the linear head (see `linear_head`)
        fine_accuracy_validation    its accuracy on validation, which chose the L2 weight
        fine_regularization         the L2 weight chosen
        fine_gradient_norm          where the fit ended (see `Head`)
        fine_accuracy_given_coarse  of the linear head's best guess among the fine classes of the
                                    test image's true coarse class: errors within coarse classes
        fine_accuracy_collapsed     of always guessing the commonest fine class of the true coarse
                                    class, as a perfectly collapsed embedding would
        fine_accuracy_worst_class   lowest over fine classes, linear head
        fine_accuracy_knn           majority of the nearest neighbours by cosine
        fine_accuracy_class_mean    nearest class mean

    The fine classes of a coarse class are the ones that occur with it in training.

    Args:
      embeddings: "train", "validation", "test" -> floating point [n, d]; other splits are ignored.
        Rows that are split over devices stay there, and every process of the job makes this call.
      fine: the same splits -> integer [n], 0 to num_fine - 1.
      coarse: the same splits -> integer [n], 0 to num_coarse - 1.
      num_fine: at least 2.
      num_coarse: at least 1.
      regularization: L2 weights to choose from.
      max_iterations: of the linear head, for each weight.
      neighbours: k of the nearest neighbours, at most the number of training embeddings.
      allow_missing_classes: accept fine classes absent from train or test. Their accuracy is then
        unknown, and figures cannot be compared with figures of a full split.

    Returns:
      The figures above by name, and int64 [n], the linear head's predictions on "test".

    Raises:
      TypeError: embeddings are not floating point, or labels not integers.
      ValueError: a split is missing, lengths or widths differ, a label is out of range, embeddings
        are not finite (names split and first bad row), or a fine class is absent.

    Source: the coarse-to-fine protocol of Chen, Fu et al., "Perfectly Balanced", arXiv 2204.07596,
    table 3, with the linear head solved to its optimum instead of 100 epochs of AdamW.
    """
    z, y, c = {}, {}, {}
    for split in ("train", "validation", "test"):
        for name, given in (("embeddings", embeddings), ("fine", fine), ("coarse", coarse)):
            if split not in given:
                raise ValueError(f"{name}: expected the split {split!r}, got {sorted(given)}")
        z[split] = check_on_devices(embeddings[split], f"embeddings[{split!r}]")
        check_width(z[split], z["train"].shape[1], f"embeddings[{split!r}]")
        length = len(z[split])
        y[split] = check_labels(
            fine[split], f"fine[{split!r}]", length=length, num_classes=num_fine
        )
        c[split] = check_labels(
            coarse[split], f"coarse[{split!r}]", length=length, num_classes=num_coarse
        )
    if not allow_missing_classes:
        for split in ("train", "test"):
            absent = np.setdiff1d(np.arange(num_fine), y[split])
            if absent.size:
                raise ValueError(
                    f"fine[{split!r}]: expected all {num_fine} fine classes, got "
                    f"{num_fine - absent.size}; the first absent class is {absent[0]}. "
                    "allow_missing_classes=True evaluates the others"
                )

    head = linear_head(
        z["train"],
        y["train"],
        z["validation"],
        y["validation"],
        num_classes=num_fine,
        regularization=regularization,
        max_iterations=max_iterations,
    )
    counts = np.zeros((num_coarse, num_fine), np.int64)
    np.add.at(counts, (c["train"], y["train"]), 1)
    belongs = counts > 0
    belongs[~belongs.any(axis=1)] = True  # a coarse class never trained on excludes nothing
    chosen = np.zeros((len(y["test"]), 2), np.int64)
    for where, rows in host_blocks(z["test"], columns=num_fine):
        logits = scores(head, rows)
        chosen[where, 0] = np.argmax(logits, axis=1)
        within = np.where(belongs[c["test"][where]], logits, -np.inf)
        chosen[where, 1] = np.argmax(within, axis=1)
    predictions, given_coarse = of_all_rows(z["test"], chosen).T
    per_class = [np.mean(predictions[y["test"] == k] == k) for k in np.unique(y["test"])]
    known = (z["train"], y["train"], z["test"])
    figures = {
        "fine_accuracy": _accuracy(predictions, y["test"]),
        "fine_accuracy_validation": head.validation_accuracy,
        "fine_regularization": head.regularization,
        "fine_gradient_norm": head.gradient_norm,
        "fine_accuracy_given_coarse": _accuracy(given_coarse, y["test"]),
        "fine_accuracy_collapsed": _accuracy(np.argmax(counts, axis=1)[c["test"]], y["test"]),
        "fine_accuracy_worst_class": float(min(per_class)),
        "fine_accuracy_knn": _accuracy(nearest_neighbours(*known, k=neighbours), y["test"]),
        "fine_accuracy_class_mean": _accuracy(class_means(*known), y["test"]),
    }
    return figures, predictions


def _checked(train: Any, labels: Any, test: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """Checks training embeddings, their labels, and test embeddings; returns all three."""
    train, labels = check_labelled(train, labels, "train_", on_devices=True)
    test = check_on_devices(test, "test_embeddings")
    check_width(test, train.shape[1], "test_embeddings")
    return train, labels, test


def _majority(votes: np.ndarray, count: int) -> np.ndarray:
    """Returns int64 [n], the commonest of votes [n, k] in 0 .. count - 1; the lowest of equals."""
    winners = np.empty(len(votes), np.int64)
    block = max(1, _COUNTS // count)
    for start in range(0, len(votes), block):
        some = votes[start : start + block]
        cells = np.arange(len(some))[:, None] * count + some
        counts = np.bincount(cells.ravel(), minlength=len(some) * count)
        winners[start : start + block] = np.argmax(counts.reshape(len(some), count), axis=1)
    return winners


def _accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(predictions == labels))
