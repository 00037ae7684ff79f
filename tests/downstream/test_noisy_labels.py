import numpy as np
import pytest
from sklearn.datasets import load_digits

from thanos_jax.data.corruption import corrupt
from thanos_jax.downstream import noisy_labels
from thanos_jax.downstream.noisy_labels import (
    Neighbours,
    detection_scores,
    flag,
    nearest,
    suggest,
    suspicion,
)


def cloud(n=60, dim=4, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    rows = rng.normal(size=(n, dim)) + rng.normal(size=(classes, dim))[labels]
    return rows.astype(np.float32), labels


def strata(seed=0, each=30, classes=3, spread=0.02):
    """Two tight strata for each class, all six far from each other."""
    rng = np.random.default_rng(seed)
    stratum = np.arange(2 * classes * each) % (2 * classes)
    rows = np.eye(2 * classes)[stratum] + spread * rng.normal(size=(len(stratum), 2 * classes))
    return rows, stratum % classes, stratum


# nearest


def cosines(rows):
    rows = rows.astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


def test_nearest_against_a_full_sort():
    rows, _ = cloud()
    found = nearest(rows, 7)
    similar = cosines(rows)
    np.fill_diagonal(similar, -np.inf)
    expected = np.argsort(-similar, axis=1)[:, :7]
    np.testing.assert_array_equal(found.indices, expected)
    np.testing.assert_allclose(
        found.similarities, np.take_along_axis(similar, expected, axis=1), atol=1e-5
    )


def test_nearest_of_equal_embeddings_leaves_out_itself_only():
    found = nearest(np.ones((6, 3)), 20)
    assert [sorted(row) for row in found.indices.tolist()] == [
        [j for j in range(6) if j != i] for i in range(6)
    ]
    np.testing.assert_allclose(found.similarities, 1)


# suspicion


def votes_oracle(rows, labels, k, weighted):
    similar = cosines(rows)
    scores = []
    for i in range(len(rows)):
        order = sorted((j for j in range(len(rows)) if j != i), key=lambda j: -similar[i, j])[:k]
        votes = dict.fromkeys(labels.tolist(), 0.0)
        for j in order:
            votes[int(labels[j])] += max(similar[i, j], 0) if weighted else 1
        own = votes.pop(int(labels[i]))
        rival = max(votes.values(), default=0.0)
        scores.append(rival / (own + rival))
    return scores


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [1, 9, 59, 500])
def test_neighbours_against_loops(k, weighted):
    rows, labels = cloud()
    labels = 100 - 7 * labels
    found = suspicion(rows, labels, k=k, weighted=weighted)
    np.testing.assert_allclose(found, votes_oracle(rows, labels, k, weighted), atol=1e-5)
    at_hand = suspicion(rows, labels, k=k, weighted=weighted, neighbours=nearest(rows, 59))
    np.testing.assert_array_equal(found, at_hand)


def test_with_two_classes_it_is_the_share_that_disagrees():
    rows, labels = cloud(classes=2)
    indices = nearest(rows, 10).indices
    share = (labels[indices] != labels[:, None]).mean(axis=1)
    np.testing.assert_allclose(suspicion(rows, labels, k=10), share)


def test_a_right_label_stays_trusted_where_most_neighbours_are_wrong_each_in_its_own_way():
    labels = np.array([0, 0, 0, 0, 1, 2, 3, 4, 5])
    found = suspicion(np.ones((9, 2)), labels, k=8)
    np.testing.assert_allclose(found[0], 1 / 4)
    np.testing.assert_allclose(found[4], 1)


def test_weights_count_alike_where_no_cosine_is_positive():
    rows, labels = np.array([[1.0, 0], [-1, 0], [-1, 0]]), np.array([0, 0, 1])
    np.testing.assert_allclose(suspicion(rows, labels, weighted=True)[0], 0.5)


def test_strata_of_which_one_is_of_wrong_labels():
    rows, labels, stratum = strata()
    # 8 of stratum 1 bear label 0: together they are a cluster of class 0, not to be trusted.
    noisy = labels.copy()
    wrong = np.flatnonzero(stratum == 1)[:8]
    noisy[wrong] = 0
    found = suspicion(rows, noisy, method="strata", clusters=3)
    np.testing.assert_array_equal(np.flatnonzero(flag(found)), wrong)
    # Trusted places are means of what k-means found; of stratum 1's rest and of strata 0 and 3.
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    places = {
        0: [unit[stratum == s].mean(axis=0) for s in (0, 3)],
        1: [unit[(stratum == s) & (noisy == 1)].mean(axis=0) for s in (1, 4)],
        2: [unit[stratum == s].mean(axis=0) for s in (2, 5)],
    }
    for i in (0, int(wrong[0])):
        near = {c: min(np.linalg.norm(unit[i] - p) for p in places[c]) for c in places}
        own = near.pop(int(noisy[i]))
        assert found[i] == pytest.approx(own / (own + min(near.values())), abs=0.02)


def test_a_small_cluster_is_no_stratum():
    rng = np.random.default_rng(0)
    rows = np.eye(3)[np.repeat([0, 1, 2], [40, 40, 2])] + 0.02 * rng.normal(size=(82, 3))
    labels = np.repeat([0, 1, 1], [40, 40, 2])
    found = suspicion(rows, labels, k=1, method="strata", clusters=2)
    # The two agree with each other, yet lie as far from their class as from the other.
    assert (found[:80] < 0.1).all()
    assert (np.abs(found[80:] - 0.5) < 0.05).all()


def test_a_class_without_a_trusted_cluster_keeps_the_best():
    rows, labels, _ = strata(each=10)
    labels = labels + 10
    labels[0] = 7  # a class of one, inside stratum 0
    found = suspicion(rows, labels, method="strata", clusters=2)
    assert found[0] == 0  # its own place is itself
    assert np.isfinite(found).all()


def test_of_untrusted_clusters_the_one_that_agrees_most_is_kept():
    rng = np.random.default_rng(0)
    place = np.repeat([0, 0, 1, 1], [4, 6, 4, 20])
    rows = np.eye(2)[place] + 0.02 * rng.normal(size=(34, 2))
    labels = np.repeat([0, 1, 0, 2], [4, 6, 4, 20])  # class 0 is outvoted in both places
    found = suspicion(rows, labels, k=9, method="strata", clusters=2)
    assert (found[:4] < 0.9).all()
    assert (found[10:14] > 0.9).all()


def test_strata_of_points_and_of_one_class():
    rows = np.repeat(np.eye(2), 10, axis=0)
    labels = np.repeat([0, 1], 10)
    np.testing.assert_allclose(suspicion(rows, labels, method="strata"), 0, atol=1e-6)
    alike = suspicion(np.ones((8, 2)), np.arange(8) % 2, method="strata", clusters=2)
    np.testing.assert_allclose(alike, 0.5)
    for method in noisy_labels.METHODS:
        assert not suspicion(*strata()[:1], np.zeros(180, int), method=method).any()


@pytest.mark.parametrize("method", noisy_labels.METHODS)
def test_suspicion_is_of_directions_and_the_same_again(method):
    rows, labels, _ = strata(spread=0.3)
    found = suspicion(rows, labels, method=method)
    np.testing.assert_array_equal(found, suspicion(rows, labels, method=method))
    scaled = rows * np.random.default_rng(1).integers(1, 9, (len(rows), 1))
    np.testing.assert_allclose(suspicion(scaled, labels, method=method), found, atol=1e-4)
    assert found.dtype == np.float64
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("method", noisy_labels.METHODS)
def test_noise_on_digits_is_found_and_mended(method, kind):
    rows, labels = load_digits(return_X_y=True)
    noisy, changed = corrupt(labels, 0.2, kind, num_classes=10, seed=0)
    at_hand = nearest(rows)
    found = suspicion(rows, noisy, method=method, neighbours=at_hand)
    flagged = flag(found)
    scores = detection_scores(found, flagged, changed)
    assert scores["auroc"] > 0.98
    assert scores["recall"] > 0.97
    assert scores["precision"] > 0.85
    mended = suggest(rows, noisy, trusted=~flagged, neighbours=at_hand)
    assert np.mean(np.where(flagged, mended, noisy) == labels) > 0.95


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"method": "loss"}, ValueError, r"method: expected one of \('neighbours', 'strata'\)"),
        ({"k": 0}, ValueError, "k: expected at least 1, got 0"),
        ({"clusters": 0}, ValueError, "clusters: expected at least 1, got 0"),
        ({"seed": 2**32}, ValueError, r"seed: expected at least 0 and below 2\*\*32"),
        (
            {"method": "strata", "weighted": True},
            ValueError,
            "weighted: expected False with method='strata', got True",
        ),
        ({"embeddings": np.ones((1, 2))}, ValueError, "embeddings: expected at least 2 rows"),
        ({"embeddings": np.ones((2, 2), int)}, TypeError, "embeddings: expected floating point"),
        ({"labels": [0]}, ValueError, r"labels: expected shape \(3,\)"),
        ({"labels": [0.0, 1, 2]}, TypeError, r"labels: expected integers \[3\]"),
        (
            {"neighbours": Neighbours(np.zeros((3, 1), int), np.zeros((3, 1)))},
            ValueError,
            r"neighbours: expected at least 2 of each of the 3 embeddings.*\(3, 1\)",
        ),
        (
            {"neighbours": Neighbours(np.zeros((4, 2), int), np.zeros((4, 2)))},
            ValueError,
            r"neighbours: expected at least 2 of each of the 3 embeddings.*\(4, 2\)",
        ),
        (
            {"k": 0, "neighbours": Neighbours(np.zeros((3, 2), int), np.zeros((3, 2)))},
            ValueError,
            "k: expected at least 1, got 0",
        ),
    ],
)
def test_suspicion_errors(change, error, message):
    given = {"embeddings": np.eye(3), "labels": [0, 1, 2]}
    with pytest.raises(error, match=message):
        suspicion(**{**given, **change})


# flag


def test_flag_by_the_half_and_by_rate():
    scores = np.array([0.5, 0.9, 0.1, 0.51, 0.7])
    assert flag(scores).tolist() == [False, True, False, True, True]
    assert flag(scores, 0.4).tolist() == [False, True, False, False, True]
    assert not flag(scores, 0).any()
    assert flag(scores, 1).all()


def overlapping(rate, size=4000):
    """Suspicion of right labels, of which many are above 1/2, and of a share of wrong ones."""
    rng = np.random.default_rng(0)
    changed = np.arange(size) < round(rate * size)
    odds = np.where(changed, rng.normal(2.5, 0.6, size), rng.normal(-0.8, 1.0, size))
    return 1 / (1 + np.exp(-odds)), changed


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.4])
def test_a_mixture_estimates_the_rate_where_classes_overlap(rate):
    scores, changed = overlapping(rate)
    half, mixture = flag(scores), flag(scores, rule="mixture")
    assert half.mean() > rate + 0.1
    assert abs(mixture.mean() - rate) < 0.03
    assert not np.any(mixture & ~half)
    assert changed[mixture].mean() > changed[half].mean() + 0.2
    # Whatever is more suspicious than a flagged label is flagged.
    assert scores[mixture].min() > scores[~mixture].max()


def test_a_mixture_flags_whatever_is_more_suspicious_than_a_flagged_label():
    rng = np.random.default_rng(0)
    # The right labels' Gaussian is so wide that beyond the wrong ones it is the likelier again.
    right, wrong = rng.normal(-1, 2.0, 4000), rng.normal(2.5, 0.3, 1000)
    odds = np.concatenate([right, wrong, [5.0, 6.0]])
    flagged = flag(1 / (1 + np.exp(-odds)), rule="mixture")
    assert flagged[-2:].all()
    assert odds[flagged].min() > odds[~flagged].max()


def test_a_mixture_flags_no_more_than_half_does():
    right, _ = overlapping(0.0)
    whole = np.array([0.0, 0.0, 0.0, 0.0, 1.0, 1.0] * 5)
    for scores in (right, whole, np.full(7, 0.7), np.array([0.9]), np.array([0.4, 0.6])):
        assert not np.any(flag(scores, rule="mixture") & ~flag(scores))
    # Values that all labels share, and exact zeros and ones, are no obstacle.
    np.testing.assert_array_equal(flag(whole, rule="mixture"), whole == 1)
    assert flag(np.full(7, 0.7), rule="mixture").all()
    np.testing.assert_array_equal(
        flag(whole, rule="mixture"), flag(whole.astype(np.float32), rule="mixture")
    )


def test_ties_are_drawn_by_seed():
    scores = np.repeat([0.9, 0.5], [2, 98])
    first, second = flag(scores, 0.5, seed=1), flag(scores, 0.5, seed=2)
    for flagged in (first, second):
        assert flagged[:2].all()
        assert flagged.sum() == 50
        assert 10 < flagged[50:].sum() < 40
    assert (first != second).any()
    np.testing.assert_array_equal(first, flag(scores, 0.5, seed=1))


@pytest.mark.parametrize(
    ("scores", "more", "error", "message"),
    [
        ([1, 0], {}, TypeError, r"suspicion: expected floating point \[n\], got dtype int64"),
        ([[0.5]], {}, ValueError, r"suspicion: expected \[n\] with n >= 1, got shape \(1, 1\)"),
        (np.zeros(0), {}, ValueError, r"suspicion: expected \[n\] with n >= 1, got shape \(0,\)"),
        ([0.5, np.nan], {}, ValueError, "suspicion: expected finite numbers, got nan in row 1"),
        ([0.5], {"rate": -0.1}, ValueError, r"rate: expected a share in \[0, 1\], got -0.1"),
        ([0.5], {"rate": 0.1, "seed": -1}, ValueError, "seed: expected at least 0"),
        ([0.5], {"rule": "thirds"}, ValueError, "rule: expected one of"),
        ([0.5, 1.5], {"rule": "mixture"}, ValueError, "suspicion: expected numbers from 0 to 1"),
    ],
)
def test_flag_errors(scores, more, error, message):
    with pytest.raises(error, match=message):
        flag(scores, **more)


# suggest


@pytest.mark.parametrize("weighted", [False, True])
def test_suggest_against_loops(weighted):
    rows, labels = cloud(classes=4)
    labels = 3 * labels - 5
    trusted = np.random.default_rng(1).random(60) < 0.5
    trusted[:30] &= labels[:30] != 1
    similar = cosines(rows)
    expected = []
    for i in range(60):
        order = sorted((j for j in range(60) if j != i), key=lambda j: -similar[i, j])[:6]
        votes = dict.fromkeys(sorted(set(labels.tolist())), 0.0)
        for j in order:
            if trusted[j]:
                votes[int(labels[j])] += max(similar[i, j], 0) if weighted else 1
        best = max(votes.values())
        tied = [c for c, v in votes.items() if v == best]
        expected.append(int(labels[i]) if labels[i] in tied else tied[0])
    found = suggest(rows, labels, k=6, weighted=weighted, trusted=trusted)
    assert found.tolist() == expected
    assert any(found != labels)


def test_suggest_keeps_labels_on_ties_and_without_trusted_neighbours():
    rows = np.ones((4, 2))
    everyone = np.ones(4, bool)
    assert suggest(rows, [5, 5, 3, 3], trusted=everyone).tolist() == [3, 3, 5, 5]
    assert suggest(rows, [5, 5, 3, 3], trusted=[True, False, True, False]).tolist() == [3, 5, 5, 3]
    assert suggest(rows, [1, 2, 3, 4], trusted=np.zeros(4, bool)).tolist() == [1, 2, 3, 4]


def test_by_default_the_unsuspicious_are_trusted():
    rows, labels, _ = strata()
    noisy, _ = corrupt(labels, 0.3, num_classes=3, seed=0)
    found = suggest(rows, noisy, k=15)
    trusted = ~flag(suspicion(rows, noisy, k=15))
    np.testing.assert_array_equal(found, suggest(rows, noisy, k=15, trusted=trusted))
    np.testing.assert_array_equal(found, labels)


def test_suggest_errors():
    with pytest.raises(TypeError, match=r"trusted: expected bool \[2\], got dtype int64"):
        suggest(np.eye(2), [0, 1], trusted=[0, 1])
    with pytest.raises(ValueError, match=r"trusted: expected shape \(2,\), got shape \(1,\)"):
        suggest(np.eye(2), [0, 1], trusted=[True])


# detection_scores


def test_detection_scores_by_hand():
    found = detection_scores(
        np.array([0.9, 0.8, 0.4, 0.3, 0.3]),
        np.array([True, True, False, False, False]),
        np.array([True, False, True, False, False]),
    )
    assert found == pytest.approx(
        {
            "precision": 1 / 2,
            "recall": 1 / 2,
            "auroc": 5 / 6,  # of the pairs (2 wrong, 3 right), one is the wrong way round
            "average_precision": (1 + 2 / 3) / 2,
            "flagged": 2 / 5,
            "changed": 2 / 5,
        }
    )


def test_scores_that_are_not_defined_are_left_out():
    scores, yes, no = np.array([0.2, 0.8]), np.ones(2, bool), np.zeros(2, bool)
    assert detection_scores(scores, no, no) == {"flagged": 0, "changed": 0}
    assert detection_scores(scores, yes, no) == {"precision": 0, "flagged": 1, "changed": 0}
    assert detection_scores(scores, yes, yes) == {
        "precision": 1,
        "recall": 1,
        "average_precision": 1,
        "flagged": 1,
        "changed": 1,
    }


def test_detection_errors():
    yes = np.ones(2, bool)
    with pytest.raises(TypeError, match=r"flagged: expected bool \[2\], got dtype int64"):
        detection_scores([0.1, 0.2], [0, 1], yes)
    with pytest.raises(ValueError, match=r"changed: expected shape \(2,\), got shape \(3,\)"):
        detection_scores([0.1, 0.2], yes, np.ones(3, bool))
    with pytest.raises(TypeError, match="suspicion: expected floating point"):
        detection_scores([1, 2], yes, yes)
