"""Scores of recovered groups against brute force and hand-made cases; accuracy on each group."""

import itertools

import numpy as np
import pytest

from thanos_jax.downstream.groups import group_accuracy, group_auroc, recovery_scores


def brute_force_f1(true_groups, recovered, classes):
    """Tries every one-to-one matching."""
    found = []
    for name in sorted(set(classes)):
        rows = [i for i in range(len(classes)) if classes[i] == name]
        groups = sorted({true_groups[i] for i in rows})
        others = sorted({recovered[i] for i in rows}) + [None] * len(groups)
        best = None
        for matching in set(itertools.permutations(others, len(groups))):
            scores = []
            for group, other in zip(groups, matching, strict=True):
                hits = sum(true_groups[i] == group and recovered[i] == other for i in rows)
                positives = sum(true_groups[i] == group for i in rows)
                called = sum(recovered[i] == other for i in rows)
                recall, precision = hits / positives, hits / called if called else 0.0
                total = recall + precision
                scores.append(2 * recall * precision / total if total else 0.0)
            if best is None or sum(scores) > sum(best):
                best = scores
        found += best
    return np.mean(found)


@pytest.mark.parametrize(("groups", "clusters"), [(3, 2), (2, 4), (3, 3), (1, 3), (3, 1)])
def test_f1_against_every_matching(groups, clusters):
    generator = np.random.default_rng(groups + 10 * clusters)
    classes = generator.integers(0, 2, 60)
    true_groups = generator.integers(0, groups, 60)
    mixed = np.where(generator.random(60) < 0.6, true_groups, generator.integers(0, 9, 60))
    recovered = mixed % clusters
    found = recovery_scores(true_groups, recovered, classes)
    expected = brute_force_f1(true_groups.tolist(), recovered.tolist(), classes.tolist())
    assert found["f1"] == pytest.approx(expected)
    assert all(type(value) is float for value in found.values())


def test_scores_by_hand():
    # One class. Group 0: 6 examples, of which 4 in cluster 0 and 2 in 1; group 1: 2, in cluster 2
    # and in 1.
    true_groups = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    recovered = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    found = recovery_scores(true_groups, recovered, np.zeros(8, int))
    assert found["f1"] == pytest.approx((2 * 4 / 10 + 2 * 1 / 3) / 2)
    assert found["rarest_recall"] == pytest.approx(1 / 2)
    assert found["rarest_precision"] == 1
    # Clusters 0 and 1 stand for group 0: 6 of 7; cluster 2 for group 1.
    assert found["f1_many_to_one"] == pytest.approx((2 * 6 / 13 + 2 * 1 / 3) / 2)
    assert found["rarest_recall_many_to_one"] == pytest.approx(1 / 2)
    assert found["rarest_precision_many_to_one"] == 1
    assert found["purity"] == pytest.approx(7 / 8)
    # Pairs together in both: 6 + 1; in groups: 15 + 1; in clusters: 6 + 3; of 28.
    chance = 16 * 9 / 28
    assert found["adjusted_rand"] == pytest.approx((7 - chance) / ((16 + 9) / 2 - chance))


def test_perfect_and_split_recovery():
    classes = np.repeat([0, 1], 8)
    true_groups = np.tile(np.repeat([0, 1], [6, 2]), 2)
    perfect = recovery_scores(true_groups, true_groups, classes)
    assert set(perfect.values()) == {1.0}
    split = recovery_scores(true_groups, np.arange(16) // 2, classes)
    assert split["f1_many_to_one"] == split["purity"] == 1
    assert split["f1"] == pytest.approx((2 * 2 / 8 + 1) / 2)
    assert split["adjusted_rand"] < 0.5
    # Labels that are the same in both classes are different groups all the same.
    crossed = np.where(classes == 0, true_groups, 1 - true_groups)
    assert set(recovery_scores(true_groups, crossed, classes).values()) == {1.0}


def test_one_cluster_one_group_and_one_example():
    true_groups = np.array([0] * 6 + [1] * 2)
    one_cluster = recovery_scores(true_groups, np.zeros(8, int), np.zeros(8, int))
    assert one_cluster["f1"] == one_cluster["f1_many_to_one"] == pytest.approx(2 * 6 / 14 / 2)
    assert one_cluster["rarest_recall"] == one_cluster["rarest_precision"] == 0
    assert one_cluster["adjusted_rand"] == 0
    assert one_cluster["purity"] == pytest.approx(6 / 8)
    one_group = recovery_scores(np.zeros(8, int), true_groups, np.zeros(8, int))
    assert one_group["f1"] == pytest.approx(2 * 6 / 14)
    assert one_group["f1_many_to_one"] == one_group["purity"] == 1
    assert one_group["rarest_recall"] == pytest.approx(6 / 8)
    lone = recovery_scores([0, 0, 5], [1, 1, 3], [0, 0, 1])
    assert set(lone.values()) == {1.0}


def test_values_of_labels_do_not_matter():
    generator = np.random.default_rng(5)
    classes, true_groups, recovered = generator.integers(0, [[2], [3], [4]], (3, 90))
    expected = recovery_scores(true_groups, recovered, classes)
    order = generator.permutation(90)
    found = recovery_scores(
        np.array([9, -4, 2])[true_groups][order],
        np.array([5, 3, 11, -1])[recovered][order],
        1 - classes[order],
    )
    assert found == pytest.approx(expected)


def test_a_tie_of_a_cluster_goes_to_the_rarer_group():
    true_groups, recovered = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2])
    for groups in (true_groups, 1 - true_groups):
        found = recovery_scores(groups, recovered, np.zeros(5, int))
        assert found["rarest_recall_many_to_one"] == 1
        assert found["rarest_precision_many_to_one"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        ({"true_groups": []}, ValueError, r"true_groups: expected \[n\] with n >= 1"),
        ({"true_groups": np.ones(3)}, TypeError, "true_groups: .*float64"),
        ({"recovered": [0]}, ValueError, r"recovered: .*\(3,\).*\(1,\)"),
        ({"classes": [0] * 4}, ValueError, r"classes: .*\(3,\).*\(4,\)"),
    ],
)
def test_bad_input_of_recovery_scores_is_named(edit, error, message):
    given = {"true_groups": [0, 1, 1], "recovered": [0, 1, 1], "classes": [0, 0, 0]} | edit
    with pytest.raises(error, match=message):
        recovery_scores(**given)


def test_group_accuracy_by_hand():
    correct = np.array([True, True, False, True, False, False, True, True])
    groups = np.array([0, 0, 0, 0, 2, 2, 2, 3])
    found = group_accuracy(correct, groups, 5, train_sizes=[80, 7, 10, 10, 3])
    assert found == {
        "accuracies": {0: 0.75, 2: pytest.approx(1 / 3), 3: 1.0},
        "empty_groups": [1, 4],
        "worst_group_accuracy": pytest.approx(1 / 3),
        "worst_group": 2,
        "average_accuracy": 0.625,
        "adjusted_average_accuracy": pytest.approx((80 * 0.75 + 10 / 3 + 10) / 100),
    }
    without = group_accuracy(correct.astype(int), groups, 5)
    assert "adjusted_average_accuracy" not in without
    assert without["accuracies"] == found["accuracies"]


def test_adjusted_average_with_the_shares_at_hand_is_the_average():
    generator = np.random.default_rng(0)
    correct, groups = generator.integers(0, 2, 50), generator.integers(0, 4, 50)
    found = group_accuracy(correct, groups, 4, train_sizes=np.bincount(groups))
    assert found["adjusted_average_accuracy"] == pytest.approx(found["average_accuracy"])


def test_of_equally_bad_groups_the_lowest_is_named():
    assert group_accuracy([1, 0, 0], [0, 1, 2], 3)["worst_group"] == 1


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        ({"correct": np.ones(3)}, TypeError, "correct: .*float64"),
        ({"correct": [0, 1, 2]}, ValueError, "correct: .*got 2 in row 2"),
        ({"groups": [0, 1, 2]}, ValueError, "groups: expected labels 0 to 1, got 2 in row 2"),
        ({"groups": [0, 1]}, ValueError, r"groups: .*\(3,\).*\(2,\)"),
        (
            {"correct": np.zeros(0, int), "groups": []},
            ValueError,
            r"correct: expected \[n\] with n >= 1",
        ),
        ({"num_groups": 0}, ValueError, "num_groups: expected at least 1, got 0"),
        ({"train_sizes": [1]}, ValueError, r"train_sizes: expected shape \(2,\).*\(1,\)"),
        ({"train_sizes": [1, -1]}, ValueError, r"train_sizes: .*\[1.0, -1.0\]"),
        ({"groups": [0, 0, 0], "train_sizes": [0, 4]}, ValueError, r"train_sizes: .* 0 in .*\[0\]"),
    ],
)
def test_bad_input_of_group_accuracy_is_named(edit, error, message):
    given = {"correct": [0, 1, 1], "groups": [0, 1, 1], "num_groups": 2} | edit
    with pytest.raises(error, match=message):
        group_accuracy(**given)


def test_group_auroc_counts_pairs():
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 2, 40)
    groups = np.where(labels == 1, 3, generator.integers(0, 2, 40))
    scores = np.round(generator.normal(size=40) + labels, 1)  # ties

    def pairs(positive, negative):
        return np.mean(
            [(p > q) + 0.5 * (p == q) for p in scores[positive] for q in scores[negative]]
        )

    found = group_auroc(scores, labels, groups, 4)
    assert found["aurocs"] == pytest.approx(
        {
            0: pairs(labels == 1, groups == 0),
            1: pairs(labels == 1, groups == 1),
            3: pairs(groups == 3, labels == 0),
        }
    )
    assert found["auroc"] == pytest.approx(pairs(labels == 1, labels == 0))
    assert found["empty_groups"] == [2]
    assert found["worst_group_auroc"] == min(found["aurocs"].values())
    assert found["aurocs"][found["worst_group"]] == found["worst_group_auroc"]


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        ({"scores": [1, 2, 3]}, TypeError, "scores: .*int64"),
        ({"scores": [0.1, np.inf, 0.2]}, ValueError, "scores: .*inf in row 1"),
        ({"labels": [1, 1, 1]}, ValueError, "labels: .*none of class 0"),
        ({"labels": [1, 1, 2]}, ValueError, "labels: .*got 2 in row 2"),
        ({"groups": [0, 0, 1]}, ValueError, "groups: .*got 0 in both"),
        ({"num_groups": 1}, ValueError, "groups: expected labels 0 to 0, got 1"),
    ],
)
def test_bad_input_of_group_auroc_is_named(edit, error, message):
    given = {"scores": [0.1, 0.7, 0.2], "labels": [0, 1, 0], "groups": [0, 1, 0], "num_groups": 2}
    with pytest.raises(error, match=message):
        group_auroc(**(given | edit))
