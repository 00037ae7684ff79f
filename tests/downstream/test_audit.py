"""Labels judged by what did not use them, against loops in float64."""

import numpy as np
import pytest

from thanos_jax.downstream import audit


def by_hand(embeddings, labels, probabilities, known, known_labels, k):
    suspicion, suggested = [], []
    for z, label, p in zip(embeddings, labels, probabilities, strict=True):
        cosine = [z @ y / np.linalg.norm(z) / np.linalg.norm(y) for y in known]
        near = known_labels[np.argsort(cosine)[::-1][:k]]
        votes = [(np.mean(near == c) + p[c]) / 2 for c in range(len(p))]
        rivals = {c: vote for c, vote in enumerate(votes) if c != label}
        best = max(rivals, key=rivals.get)
        suspicion.append(rivals[best] / (rivals[best] + votes[label]))
        suggested.append(best if suspicion[-1] > 0.5 else label)
    return suspicion, suggested


@pytest.mark.parametrize("k", [1, 7, 100])
def test_votes_of_neighbours_and_of_the_classifier(k):
    rng = np.random.default_rng(k)
    embeddings, known = rng.normal(size=(30, 5)), rng.normal(size=(40, 5))
    labels, known_labels = rng.integers(0, 4, 30), rng.integers(0, 4, 40)
    probabilities = rng.dirichlet(np.ones(4), 30)
    found = audit.judge(embeddings, labels, probabilities, known, known_labels, k=k)
    expected = by_hand(embeddings, labels, probabilities, known, known_labels, min(k, 40))
    np.testing.assert_allclose(found.suspicion, expected[0], rtol=1e-12)
    np.testing.assert_array_equal(found.suggested, expected[1])
    assert 0 < (found.suggested != labels).mean() < 1


def test_a_class_of_which_nothing_is_known_is_not_judged():
    found = audit.judge(
        np.eye(2), np.array([0, 1]), np.array([[0.9, 0.1]] * 2), np.eye(2), np.zeros(2, int), k=1
    )
    np.testing.assert_array_equal(found.suspicion[1], 0.5)
    np.testing.assert_array_equal(found.suggested, [0, 1])
    assert found.suspicion[0] < 0.1


def test_what_cannot_be_judged():
    z, labels, p = np.eye(2), np.array([0, 1]), np.full((2, 2), 0.5)
    for changes, message in (
        ({"k": 0}, "k: expected at least 1"),
        ({"probabilities": p[:1]}, r"probabilities: expected \[2, classes\], got shape \(1, 2\)"),
        ({"probabilities": 3 * p}, "a sum of 3 and a least of 1.5 in row 0; logits need a sof"),
        ({"labels": labels + 1}, "labels: expected labels 0 to 1, got 2 in row 1"),
        ({"known_labels": labels - 1}, "known_labels: expected labels 0 to 1, got -1"),
        ({"embeddings": z * np.nan}, "finite"),
    ):
        arguments = {"embeddings": z, "labels": labels, "probabilities": p, "known": z,
                     "known_labels": labels, **changes}  # fmt: skip
        with pytest.raises(ValueError, match=message):
            audit.judge(**arguments)


@pytest.mark.parametrize("count", [2, 5, 7])
def test_parts_are_of_equal_size_and_so_are_classes_in_them(count):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 5], [40, 13, 2]))
    part = audit.folds(labels, count, seed=3)
    for chosen in (np.ones(len(labels), bool), *(labels == label for label in (0, 1, 5))):
        sizes = np.bincount(part[chosen], minlength=count)
        assert np.ptp(sizes) <= 1
    assert not np.array_equal(part, audit.folds(labels, count, seed=4))
    np.testing.assert_array_equal(part, audit.folds(labels, count, seed=3))
    with pytest.raises(ValueError, match="count: expected at least 2, got 1"):
        audit.folds(labels, 1)
