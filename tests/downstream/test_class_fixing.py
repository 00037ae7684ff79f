import itertools

import numpy as np
import pytest

from thanos_jax.downstream.class_fixing import (
    class_fixing_permutation_test,
    permute_within_class,
)


def sample(n=240, seed=0, scale=0.1):
    """Strata apart within their classes; every class has three of them."""
    rng = np.random.default_rng(seed)
    fine = rng.integers(0, 6, n)
    rows = np.eye(6)[fine] + np.eye(6)[fine // 3] + scale * rng.normal(size=(n, 6))
    return rows.astype(np.float32), fine, fine // 3


def supcon(rows, labels, temperature):
    """Khosla's L_out of one view each, averaged over anchors that have a positive."""
    unit = np.float64(rows)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    found = []
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i]
        total = np.log(sum(np.exp(unit[i] @ unit[j] / temperature) for j in others))
        positives = [unit[i] @ unit[j] / temperature for j in others if labels[j] == labels[i]]
        if positives:
            found.append(total - np.mean(positives))
    return np.mean(found)


@pytest.mark.parametrize("labels", [[0, 1, 0, 0, 1, 2], [7, -(2**40), 7, 7, -(2**40), 2**40]])
def test_every_permutation_within_classes_is_drawn_and_no_other(labels):
    labels = np.array(labels)
    drawn = {tuple(permute_within_class(labels, seed).tolist()) for seed in range(200)}
    possible = {
        order for order in itertools.permutations(range(6)) if (labels[list(order)] == labels).all()
    }
    assert len(possible) == 12
    assert drawn == possible


def test_a_seed_draws_one_permutation():
    labels = np.arange(300) % 3
    first = permute_within_class(labels, 5)
    assert first.dtype == np.int64
    np.testing.assert_array_equal(first, permute_within_class(labels, 5))
    assert (first != permute_within_class(labels, 6)).mean() > 0.9
    np.testing.assert_array_equal(np.sort(first), np.arange(300))
    # Within a class, where an image goes has nothing to do with where it was.
    assert abs(np.corrcoef(first[labels == 1], np.flatnonzero(labels == 1))[0, 1]) < 0.3


@pytest.mark.parametrize("classifier", ["class_means", "nearest_neighbours"])
def test_the_loss_stays_and_transfer_goes(classifier):
    rows, fine, coarse = sample()
    found = class_fixing_permutation_test(
        rows, fine, coarse, permutations=9, classifier=classifier, neighbours=3
    )
    assert found["loss"] == pytest.approx(supcon(rows, coarse, 0.5), rel=1e-5)
    assert found["loss_change"] < 1e-5
    assert found["fine_accuracy"] > 0.95
    # A third of each class is of one stratum.
    assert 0.2 < found["fine_accuracy_permuted"] < 0.5
    assert found["p_value"] == pytest.approx(0.1)
    assert all(type(value) is float for value in found.values())


def test_collapsed_classes_have_nothing_to_lose():
    _, fine, coarse = sample()
    found = class_fixing_permutation_test(np.eye(2)[coarse], fine, coarse, permutations=5)
    assert found["fine_accuracy"] == found["fine_accuracy_permuted"]
    assert found["p_value"] == 1
    assert found["loss_change"] == 0


def test_p_values_are_even_where_embeddings_know_nothing():
    """Under the hypothesis, p <= 1/4 in a quarter of the cases or fewer."""
    rng = np.random.default_rng(0)
    values = []
    for seed in range(40):
        fine = rng.integers(0, 6, 60)
        rows = np.eye(2)[fine // 3] + rng.normal(size=(60, 2))
        values.append(
            class_fixing_permutation_test(rows, fine, fine // 3, permutations=7, seed=seed)
        )
    small = [found["p_value"] <= 0.25 for found in values]
    assert np.mean(small) < 0.45
    assert np.mean([found["p_value"] for found in values]) > 0.4


def test_temperature_seed_and_samples():
    rows, fine, coarse = sample()
    few = {"permutations": 2, "samples": 100}
    found = class_fixing_permutation_test(rows, fine, coarse, **few)
    assert found == class_fixing_permutation_test(rows, fine, coarse, **few)
    other = class_fixing_permutation_test(rows, fine, coarse, seed=1, **few)
    assert other["loss"] != found["loss"]
    # log 99 - 1 / temperature and more: a loss of 240 has more candidates.
    whole = class_fixing_permutation_test(rows, fine, coarse, permutations=2)
    assert whole["loss"] > found["loss"] + 0.5
    cold = class_fixing_permutation_test(rows, fine, coarse, permutations=2, temperature=0.2)
    assert cold["loss"] == pytest.approx(supcon(rows, coarse, 0.2), rel=1e-5)


def test_classes_of_one_member_stay_as_they_are():
    found = class_fixing_permutation_test(np.eye(5), np.arange(5), np.arange(5), permutations=3)
    assert found["loss"] == found["loss_change"] == 0
    assert found["fine_accuracy"] == 0
    assert found["p_value"] == 1


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        ({"embeddings": np.ones((4, 2), int)}, TypeError, "embeddings: .*int64"),
        ({"embeddings": np.ones((1, 2))}, ValueError, "embeddings: expected at least 2 rows"),
        ({"fine": np.zeros(3, int)}, ValueError, r"fine: .*\(4,\).*\(3,\)"),
        ({"coarse": np.zeros(4)}, TypeError, "coarse: .*float64"),
        ({"permutations": 0}, ValueError, "permutations: expected at least 1, got 0"),
        ({"samples": 1}, ValueError, "samples: expected at least 2, got 1"),
        ({"classifier": "forest"}, ValueError, "classifier: expected one of .*'forest'"),
        ({"seed": -1}, ValueError, "seed: expected at least 0 and below .*got -1"),
        ({"seed": 0.5}, TypeError, "integer"),
        ({"temperature": 0.0}, ValueError, "temperature"),
        ({"classifier": "nearest_neighbours", "neighbours": 0}, ValueError, "k: expected"),
    ],
)
def test_bad_input_is_named(edit, error, message):
    given = {"embeddings": np.eye(4), "fine": np.arange(4), "coarse": np.arange(4) // 2} | edit
    with pytest.raises(error, match=message):
        class_fixing_permutation_test(**given)


@pytest.mark.parametrize(
    ("labels", "seed", "error", "message"),
    [
        (np.zeros((2, 2), int), 0, ValueError, r"labels: expected \[n\].*\(2, 2\)"),
        (np.zeros(0, int), 0, ValueError, r"labels: expected \[n\].*\(0,\)"),
        (np.zeros(3), 0, TypeError, "labels: .*float64"),
        (np.zeros(3, int), 2**64, ValueError, "seed: expected at least 0 and below"),
    ],
)
def test_bad_permutations_are_named(labels, seed, error, message):
    with pytest.raises(error, match=message):
        permute_within_class(labels, seed)
