"""Scores of recovered groups against true ones, and of a classifier on each group."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, roc_auc_score
from sklearn.metrics.cluster import contingency_matrix

from thanos_jax.checks import check_at_least, check_floats, check_labels


def recovery_scores(true_groups: Any, recovered: Any, classes: Any) -> dict[str, float]:
    """Compares recovered with true groups, within each class.

    A group that occurs in several classes counts as one group in each. With n_gr the examples of
    true group g in recovered group r, both of one class:

        f1                 F1(g, r) = 2 n_gr / (n_g + n_r). In each class the one-to-one matching
                           (Hungarian) of largest total F1; its mean over all true groups, 0 for one
                           without a partner. Recovered groups without a partner matter only by the
                           examples that they take away.
        f1_many_to_one     every recovered group stands for the true group most frequent in it
                           (ties: the rarer, then the lower); F1 of g and the union of its recovered
                           groups; mean over all true groups, 0 for one without any.
        adjusted_rand      adjusted Rand index of the examples of a class, mean over classes; 1 for
                           a class of one true and one recovered group.
        purity             share of examples in the most frequent true group of their recovered
                           group.
        rarest_recall, rarest_precision, rarest_recall_many_to_one, rarest_precision_many_to_one
                           n_gr / n_g and n_gr / n_r of the true group with fewest examples and its
                           partner, or union of partners. Among several equally rare groups the one
                           of least F1 counts; 0 without a partner.

    Scores depend on which examples share a label, but not on its value (except for ties, as above).

    Args:
      true_groups: integer [n], any values.
      recovered: integer [n], any values.
      classes: integer [n], any values.

    Returns:
      The figures above by name, each a fraction of 1 (adjusted_rand can be below 0).

    Raises:
      TypeError: not integers.
      ValueError: no examples, or shapes that differ.

    Example:
      >>> import numpy as np
      >>> from thanos_jax.downstream.groups import recovery_scores
      >>> true, recovered = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
      >>> found = recovery_scores(true, recovered, classes=np.zeros(4, np.int64))
      >>> found["purity"], found["rarest_recall"], found["rarest_precision"]
      (0.75, 1.0, 0.5)
    """
    true_groups = check_labels(true_groups, "true_groups", least=1)
    length = len(true_groups)
    recovered = check_labels(recovered, "recovered", length=length)
    classes = check_labels(classes, "classes", length=length)
    one_to_one: list[np.ndarray] = []
    many_to_one: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    rand: list[float] = []
    pure = 0
    for name in np.unique(classes):
        mine = classes == name
        table = contingency_matrix(true_groups[mine], recovered[mine])
        one_to_one.append(_matched_scores(table))
        many_to_one.append(_union_scores(table))
        sizes.append(table.sum(axis=1))
        rand.append(float(adjusted_rand_score(true_groups[mine], recovered[mine])))
        pure += int(table.max(axis=0).sum())
    matched, union = np.concatenate(one_to_one), np.concatenate(many_to_one)
    counts = np.concatenate(sizes)
    rarest = counts == counts.min()
    _, recall, precision = min(matched[rarest].tolist())
    _, recall_union, precision_union = min(union[rarest].tolist())
    return {
        "f1": float(matched[:, 0].mean()),
        "f1_many_to_one": float(union[:, 0].mean()),
        "adjusted_rand": float(np.mean(rand)),
        "purity": pure / length,
        "rarest_recall": recall,
        "rarest_precision": precision,
        "rarest_recall_many_to_one": recall_union,
        "rarest_precision_many_to_one": precision_union,
    }


def group_accuracy(
    correct: Any, groups: Any, num_groups: int, train_sizes: Any = None
) -> dict[str, Any]:
    """Computes the accuracy of each group, of the worst group, and on average.

    Args:
      correct: bool or integer 0 and 1 [n].
      groups: integer [n], 0 to num_groups - 1.
      num_groups: at least 1.
      train_sizes: numbers [num_groups], finite and at least 0: training examples of each group,
        for the adjusted average.

    Returns:
      "accuracies": group -> accuracy, a fraction of 1, without groups that have no example here;
      "empty_groups": groups without an example, ascending; "worst_group_accuracy"; "worst_group":
      the lowest among several; "average_accuracy" of the examples; and with train_sizes
      "adjusted_average_accuracy": mean over the groups that have examples here, weighted by
      train_sizes.

    Raises:
      TypeError: labels not integers, or correct neither bool nor integer.
      ValueError: a wrong shape, no examples, a number out of range, or no training example in any
        group that has examples here.

    Source: Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", arXiv
    1911.08731, report the adjusted average for Waterbirds, whose test groups are balanced.

    Example:
      >>> import numpy as np
      >>> from thanos_jax.downstream.groups import group_accuracy
      >>> found = group_accuracy(np.array([1, 1, 0, 1]), np.array([0, 0, 1, 1]), num_groups=2)
      >>> found["accuracies"], found["worst_group"], found["average_accuracy"]
      ({0: 1.0, 1: 0.5}, 1, 0.75)
    """
    correct = np.asarray(correct)
    if correct.dtype == np.bool_:
        correct = correct.astype(np.int64)
    correct = check_labels(correct, "correct", num_classes=2, least=1)
    sizes, weights = _group_sizes(groups, len(correct), num_groups, train_sizes)
    present = np.flatnonzero(sizes)
    hits = np.bincount(np.asarray(groups), weights=correct, minlength=num_groups)
    accuracies = hits[present] / sizes[present]
    worst = int(np.argmin(accuracies))
    found: dict[str, Any] = {
        "accuracies": dict(zip(present.tolist(), accuracies.tolist(), strict=True)),
        "empty_groups": np.flatnonzero(sizes == 0).tolist(),
        "worst_group_accuracy": float(accuracies[worst]),
        "worst_group": int(present[worst]),
        "average_accuracy": float(correct.mean()),
    }
    if weights is not None:
        found["adjusted_average_accuracy"] = float(np.average(accuracies, weights=weights[present]))
    return found


def group_auroc(scores: Any, labels: Any, groups: Any, num_groups: int) -> dict[str, Any]:
    """Computes the area under the ROC curve of each group against the other class (ISIC).

    A group of class 1 is compared with all examples of class 0, and the reverse. Its area is the
    probability that the classifier ranks an example of the group and an example of the other class
    rightly, ties counting half. Where one class is a single group, as in ISIC, the worst area is
    also the least over pairs of groups.

    Args:
      scores: floating point [n], larger for class 1; finite.
      labels: integer [n], 0 or 1, both present.
      groups: integer [n], 0 to num_groups - 1, each within one class.
      num_groups: at least 1.

    Returns:
      "aurocs": group -> fraction of 1, without groups that have no example here; "empty_groups",
      ascending; "worst_group_auroc"; "worst_group": the lowest among several; "auroc" of all.

    Raises:
      TypeError: scores not floating point, or labels not integers.
      ValueError: a wrong shape, a number out of range, one class only, or a group in both.
    """
    scores = check_floats(scores, "scores")
    labels = check_labels(labels, "labels", length=len(scores), num_classes=2)
    sizes, _ = _group_sizes(groups, len(scores), num_groups, None)
    groups = np.asarray(groups)
    for name in (0, 1):
        if not np.any(labels == name):
            raise ValueError(f"labels: expected both classes 0 and 1, got none of class {name}")
    aurocs: dict[int, float] = {}
    for group in np.flatnonzero(sizes).tolist():
        name = labels[groups == group]
        if name.min() != name.max():
            raise ValueError(f"groups: expected groups within one class, got {group} in both")
        chosen = (groups == group) | (labels != name[0])
        aurocs[group] = float(roc_auc_score(labels[chosen], scores[chosen]))
    worst = min(aurocs, key=aurocs.__getitem__)
    return {
        "aurocs": aurocs,
        "empty_groups": np.flatnonzero(sizes == 0).tolist(),
        "worst_group_auroc": aurocs[worst],
        "worst_group": worst,
        "auroc": float(roc_auc_score(labels, scores)),
    }


def _matched_scores(table: np.ndarray) -> np.ndarray:
    """Returns F1, recall and precision [true groups, 3] under the one-to-one matching."""
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    f1 = 2 * table / (rows[:, None] + columns)
    group, partner = linear_sum_assignment(f1, maximize=True)
    scores = np.zeros((len(table), 3))
    both = table[group, partner]
    scores[group] = np.stack(
        [f1[group, partner], both / rows[group], both / columns[partner]], axis=1
    )
    return scores


def _union_scores(table: np.ndarray) -> np.ndarray:
    """Returns F1, recall and precision [true groups, 3] where clusters join their majority."""
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    rarest_first = np.argsort(rows, kind="stable")
    majority = rarest_first[np.argmax(table[rarest_first], axis=0)]
    stands = majority[:, None] == np.arange(len(table))
    both, size = np.diag(table @ stands), columns @ stands
    return np.stack([2 * both / (rows + size), both / rows, both / np.maximum(size, 1)], axis=1)


def _group_sizes(
    groups: Any, length: int, num_groups: int, train_sizes: Any
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns each group's examples, and train_sizes as float64, both [num_groups]."""
    check_at_least("num_groups", num_groups, 1)
    groups = check_labels(groups, "groups", length=length, num_classes=num_groups)
    sizes = np.bincount(groups, minlength=num_groups)
    if train_sizes is None:
        return sizes, None
    weights = np.asarray(train_sizes, np.float64)
    if weights.shape != (num_groups,):
        raise ValueError(
            f"train_sizes: expected shape ({num_groups},), one number for each group, got shape "
            f"{weights.shape}"
        )
    if not np.isfinite(weights).all() or weights.min() < 0:
        raise ValueError(
            f"train_sizes: expected finite numbers of at least 0, got {weights.tolist()}"
        )
    if not weights[sizes > 0].any():
        raise ValueError(
            "train_sizes: expected a training example in some group that has examples here, got 0 "
            f"in all of {np.flatnonzero(sizes).tolist()}"
        )
    return sizes, weights
