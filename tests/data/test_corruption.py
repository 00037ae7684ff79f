"""Labels made wrong: how many, which, and to what."""

import numpy as np
import pytest

from thanos_jax.data.corruption import KINDS, corrupt


def labels_of(n=1000, classes=5, seed=0):
    return np.random.default_rng(seed).integers(0, classes, n)


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.2, 0.29, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_rate_changes_and_to_another_label(kind, rate):
    labels = labels_of(100)
    fine = 10 * labels + np.arange(100) % 3
    before = fine if kind == "within_class" else labels
    given = {"fine": fine} if kind == "within_class" else {}
    noisy, changed = corrupt(labels, rate, kind, num_classes=5, seed=3, **given)
    assert noisy.dtype == np.int64
    assert changed.dtype == np.bool_
    assert changed.sum() == round(rate * 100)
    np.testing.assert_array_equal(noisy != before, changed)
    if kind == "symmetric":
        assert set(noisy) <= set(range(5))
    elif kind == "asymmetric":
        np.testing.assert_array_equal(noisy[changed], (labels[changed] + 1) % 5)
    else:
        np.testing.assert_array_equal(noisy // 10, labels)


def test_targets_are_uniform_over_the_other_classes():
    labels = np.full(30_000, 2)
    noisy, _ = corrupt(labels, 1.0, num_classes=4, seed=0)
    counts = np.bincount(noisy, minlength=4)
    assert counts[2] == 0
    np.testing.assert_allclose(counts[[0, 1, 3]], 10_000, atol=5 * np.sqrt(30_000 * 2 / 9))


def test_changed_rows_are_uniform_over_the_data():
    labels = np.repeat(np.arange(2), 5000)
    for seed in (0, 1):
        _, changed = corrupt(labels, 0.2, num_classes=2, seed=seed)
        assert abs(changed[:5000].sum() - 1000) < 5 * np.sqrt(10_000 * 0.2 * 0.8 / 4)


def test_the_seed_decides_and_rates_are_nested():
    labels = labels_of()
    low, changed_low = corrupt(labels, 0.1, num_classes=5, seed=1)
    again, _ = corrupt(labels, 0.1, num_classes=5, seed=1)
    high, changed_high = corrupt(labels, 0.5, num_classes=5, seed=1)
    other, changed_other = corrupt(labels, 0.1, num_classes=5, seed=2)
    np.testing.assert_array_equal(low, again)
    assert (changed_high | ~changed_low).all()
    np.testing.assert_array_equal(low[changed_low], high[changed_low])
    assert (changed_other != changed_low).any()
    # Targets of the same rows differ with the seed too.
    both = changed_other & changed_low
    assert (other[both] != low[both]).any()


def test_the_draw_is_fixed():
    noisy, _ = corrupt(np.arange(10), 0.5, num_classes=10, seed=7)
    words = np.random.Philox(key=np.array([7, 2**61 + 1], np.uint64)).random_raw(10)
    shifts = np.random.Philox(key=np.array([7, 2**61 + 2], np.uint64)).random_raw(10)
    expected = list(range(10))
    for row in sorted(range(10), key=lambda i: words[i])[:5]:
        expected[row] = (row + 1 + int(shifts[row]) % 9) % 10
    assert noisy.tolist() == expected


def test_a_given_transition_and_classes_that_keep_their_labels():
    labels = np.repeat([0, 1, 2], 10)
    noisy, changed = corrupt(labels, 0.5, "asymmetric", num_classes=3, seed=0, transition=[1, 0, 2])
    assert changed.sum() == 10  # half of the 20 that can change
    assert not changed[20:].any()
    np.testing.assert_array_equal(noisy[changed], 1 - labels[changed])


def test_within_class_leaves_alone_what_has_no_other_fine_label():
    coarse = np.repeat([0, 1, 2], 10)  # class 3 does not occur
    fine = np.concatenate([np.arange(10) % 2 - 7, np.full(10, 5), 40 + np.arange(10) % 5])
    noisy, changed = corrupt(coarse, 1.0, "within_class", num_classes=4, seed=0, fine=fine)
    np.testing.assert_array_equal(changed, coarse != 1)
    assert noisy[:10].tolist() == [-6, -7] * 5
    assert set(noisy[20:]) <= set(range(40, 45))


def test_one_class():
    noisy, changed = corrupt(np.zeros(4, int), 0.0, num_classes=1, seed=0)
    assert not noisy.any()
    assert not changed.any()
    with pytest.raises(ValueError, match="rate: expected 0, because no label can change"):
        corrupt(np.zeros(4, int), 0.2, num_classes=1, seed=0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kind": "pairs"}, ValueError, r"kind: expected one of \('symmetric'.*got 'pairs'"),
        ({"rate": 1.1}, ValueError, r"rate: expected a share in \[0, 1\], got 1.1"),
        ({"rate": float("nan")}, ValueError, r"rate: expected a share in \[0, 1\], got nan"),
        ({"num_classes": 0}, ValueError, "num_classes: expected at least 1, got 0"),
        ({"num_classes": 2}, ValueError, "labels: expected labels 0 to 1, got 2 in row 2"),
        ({"labels": []}, ValueError, r"labels: expected \[n\] with n >= 1, got shape \(0,\)"),
        ({"labels": [0.5]}, TypeError, r"labels: expected integers \[n\], got dtype float64"),
        ({"labels": [[0]]}, ValueError, r"labels: expected \[n\].*got shape \(1, 1\)"),
        ({"seed": -1}, ValueError, r"seed: expected at least 0 and below 2\*\*64, got -1"),
        ({"fine": [0, 1, 2]}, ValueError, "fine: expected None unless .* got kind='symmetric'"),
        ({"kind": "within_class"}, ValueError, "fine: expected the fine labels .* got None"),
        (
            {"kind": "within_class", "fine": [0]},
            ValueError,
            r"fine: expected shape \(3,\).*got shape \(1,\)",
        ),
        ({"transition": [0, 1, 2]}, ValueError, "transition: expected None .* kind='symmetric'"),
        (
            {"kind": "asymmetric", "transition": [1, 2]},
            ValueError,
            r"transition: expected shape \(3,\)",
        ),
        (
            {"kind": "asymmetric", "transition": [1, 2, 3]},
            ValueError,
            "transition: expected labels 0 to 2, got 3 in row 2",
        ),
    ],
)
def test_bad_input_is_named(change, error, message):
    given = {"labels": [0, 1, 2], "rate": 0.5, "kind": "symmetric", "num_classes": 3, "seed": 0}
    with pytest.raises(error, match=message):
        corrupt(**{**given, **change})
