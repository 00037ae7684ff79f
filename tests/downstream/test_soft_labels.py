"""Soft labels against Bayes' rule, in plain loops."""

import numpy as np
import pytest

from thanos_jax.data.corruption import corrupt
from thanos_jax.downstream.noisy_labels import Neighbours, nearest
from thanos_jax.downstream.soft_labels import soften

COUNT, CLASSES, RATE = 60, 4, 0.3


def given(seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, COUNT)
    probabilities = rng.dirichlet(np.full(CLASSES, 0.4), COUNT)
    indices = np.array([rng.permutation(COUNT)[:7] for _ in range(COUNT)])
    return labels, probabilities, Neighbours(indices, np.ones(indices.shape))


def bayes(labels, probabilities, neighbours, rate):
    """Class by class, from the definition."""
    wrong = rate / (CLASSES - 1)
    rows = []
    for label, estimate, around in zip(labels, probabilities, neighbours.indices, strict=True):
        shares = [sum(labels[j] == c for j in around) / len(around) for c in range(CLASSES)]
        before = np.ones(CLASSES)
        for noisy in (estimate, shares):
            clean = [max((p - wrong) / (1 - rate - wrong), 1e-3) for p in noisy]
            before *= np.array(clean) / sum(clean)
        likelihood = [1 - rate if c == label else wrong for c in range(CLASSES)]
        after = np.sqrt(before) * likelihood
        rows.append(after / after.sum())
    return np.array(rows)


@pytest.mark.parametrize("rate", [0.0, RATE, 0.74])
def test_probabilities_are_of_bayes_rule(rate):
    found = soften(*given(), rate=rate)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, bayes(*given(), rate), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    if not rate:
        np.testing.assert_array_equal(found, np.eye(CLASSES)[given()[0]])


def test_noise_is_undone_exactly_where_the_estimates_are_right():
    """With the true probabilities after noise, the result is the true posterior."""
    rng = np.random.default_rng(1)
    clean = np.array([0.55, 0.25, 0.15, 0.05])
    noisy = clean * (1 - RATE - RATE / 3) + RATE / 3
    labels = rng.choice(CLASSES, 4000, p=noisy)
    counts = np.round(noisy * 2000).astype(int)
    around = np.concatenate([np.flatnonzero(labels == c)[:n] for c, n in enumerate(counts)])
    neighbours = Neighbours(np.tile(around, (4000, 1)), np.ones((4000, len(around))))
    found = soften(labels, np.tile(noisy, (4000, 1)), neighbours, rate=RATE)
    likelihood = np.where(np.eye(CLASSES, dtype=bool), 1 - RATE, RATE / 3)
    expected = clean * likelihood / (clean * likelihood).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected[labels], atol=2e-3)


def test_a_class_without_an_image_has_a_column(monkeypatch):
    labels, probabilities, neighbours = given()
    labels[labels == CLASSES - 1] = 0
    whole = soften(labels, probabilities, neighbours, rate=RATE)
    assert whole.shape == (COUNT, CLASSES)
    monkeypatch.setattr("thanos_jax.downstream.votes._VOTES", 5 * CLASSES)  # blocks of five rows
    np.testing.assert_array_equal(soften(labels, probabilities, neighbours, rate=RATE), whole)


def test_the_most_probable_class_is_right_more_often_than_the_label():
    rng = np.random.default_rng(0)
    right = rng.integers(0, CLASSES, 2000)
    centres = 2.2 * np.eye(CLASSES)
    rows = centres[right] + rng.normal(size=(2000, CLASSES))
    noisy, changed = corrupt(right, RATE, num_classes=CLASSES, seed=0)
    logits = rows @ centres.T
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    likely = likely / likely.sum(axis=1, keepdims=True)
    likely = likely * (1 - RATE - RATE / 3) + RATE / 3
    found = soften(noisy, likely, nearest(rows, 100), rate=RATE)
    assert np.mean(found.argmax(axis=1) == right) > 0.88
    assert found[np.arange(2000), noisy][changed].mean() < 0.25
    assert found[np.arange(2000), noisy][~changed].mean() > 0.9


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": np.full(COUNT, CLASSES)}, ValueError, "labels: expected labels 0 to 3, got 4"),
        ({"labels": np.zeros(COUNT)}, TypeError, "labels: expected integers"),
        ({"labels": np.zeros(3, int)}, ValueError, "labels: expected"),
        ({"probabilities": np.ones((COUNT, CLASSES), int)}, TypeError,
         r"probabilities: expected floating point \[n, classes\], got int64"),
        ({"probabilities": np.ones(COUNT)}, ValueError,
         r"probabilities: expected \[n, classes\], got shape \(60,\)"),
        ({"probabilities": np.full((COUNT, CLASSES), np.nan)}, ValueError, "got a sum of nan"),
        ({"probabilities": np.tile([1.5, -0.5, 0, 0], (COUNT, 1))}, ValueError,
         "a least of -0.5 in row 0; logits need a softmax first"),
        ({"probabilities": np.ones((COUNT, CLASSES))}, ValueError, "got a sum of 4"),
        ({"neighbours": Neighbours(np.zeros((3, 2), int), np.ones((3, 2)))}, ValueError,
         r"neighbours: expected \[60, k\] with k >= 1, got shape \(3, 2\)"),
        ({"rate": -0.1}, ValueError, "rate: expected"),
        ({"rate": 0.75}, ValueError, "rate: expected less than 0.75, .*, got 0.75"),
    ],
)  # fmt: skip
def test_what_cannot_be_softened_is_refused(change, error, message):
    names = ("labels", "probabilities", "neighbours")
    arguments = {**dict(zip(names, given(), strict=True)), "rate": RATE, **change}
    with pytest.raises(error, match=message):
        soften(**arguments)
