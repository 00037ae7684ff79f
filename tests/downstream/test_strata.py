import numpy as np
import pytest

from thanos_jax.downstream.strata import (
    mean_within_classes,
    strata_distances,
    strata_distances_over_fractions,
)


def sample(n=50, dim=4, seed=0):
    rng = np.random.default_rng(seed)
    fine = rng.integers(0, 5, n)
    rows = rng.normal(size=(n, dim)) + rng.normal(size=(5, dim))[fine]
    return rows.astype(np.float32).astype(np.float64), fine, fine % 2


def oracle(rows, fine, coarse, kind, normalize):
    if normalize:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    strata = sorted(set(zip(coarse.tolist(), fine.tolist(), strict=True)))
    members = [
        [i for i in range(len(rows)) if (coarse[i], fine[i]) == stratum] for stratum in strata
    ]
    found = np.full((len(strata), len(strata)), np.nan)
    for a, left in enumerate(members):
        for b, right in enumerate(members):
            if kind == "means":
                found[a, b] = np.linalg.norm(rows[left].mean(0) - rows[right].mean(0))
            else:
                pairs = [np.linalg.norm(rows[i] - rows[j]) for i in left for j in right if i != j]
                found[a, b] = np.mean(pairs) if pairs else np.nan
    return strata, [len(m) for m in members], found


@pytest.mark.parametrize("kind", ["pairs", "means"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("case", ["plain", "lone member", "not nested", "odd labels", "offset"])
def test_against_loops_over_pairs(kind, normalize, case):
    rows, fine, coarse = sample()
    if case == "lone member":
        fine[3], coarse[3] = 99, 50
    elif case == "not nested":
        coarse = np.arange(len(fine)) % 3
    elif case == "odd labels":
        fine, coarse = -1000 * fine, 2**40 - coarse
    elif case == "offset":
        rows = (rows + 100).astype(np.float32).astype(np.float64)
    found = strata_distances(rows, fine, coarse, kind=kind, normalize=normalize)
    strata, counts, expected = oracle(rows, fine, coarse, kind, normalize)
    assert list(zip(found.coarse.tolist(), found.fine.tolist(), strict=True)) == strata
    assert found.counts.tolist() == counts
    np.testing.assert_allclose(found.distances, expected, rtol=1e-7, atol=1e-12)
    assert found.fractions.shape == (0,)
    if case == "lone member":
        assert np.isnan(found.distances[-1, -1]) == (kind == "pairs")


def test_strata_that_are_points():
    fine = np.arange(12) % 3
    rows = np.eye(3)[fine]
    for kind in ("pairs", "means"):
        found = strata_distances(rows, fine, np.zeros(12, int), kind=kind)
        expected = np.sqrt(2) * (1 - np.eye(3))
        np.testing.assert_allclose(found.distances, expected, atol=1e-7)
        assert mean_within_classes(found) == pytest.approx(np.sqrt(2))


def test_a_collapsed_class():
    fine = np.arange(12) % 4
    found = strata_distances(np.eye(2)[fine // 2], fine, fine // 2)
    assert mean_within_classes(found) == pytest.approx(0, abs=1e-7)
    np.testing.assert_allclose(found.distances[:2, 2:], np.sqrt(2))


def test_rotation_and_order_do_not_matter_and_scale_scales():
    rows, fine, coarse = sample()
    expected = strata_distances(rows, fine, coarse, normalize=False).distances
    turned = rows @ np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    order = np.random.default_rng(2).permutation(len(rows))
    for other, labels, kinds, factor in (
        (turned, fine, coarse, 1),
        (rows[order], fine[order], coarse[order], 1),
        (8 * rows, fine, coarse, 8),
    ):
        found = strata_distances(other, labels, kinds, normalize=False).distances
        np.testing.assert_allclose(found, factor * expected, rtol=1e-6)


def test_samples_are_seeded_and_near_the_whole():
    rows, fine, coarse = sample(n=2000)
    whole = strata_distances(rows, fine, coarse, samples=2000).distances
    few = strata_distances(rows, fine, coarse, samples=60)
    again = strata_distances(rows, fine, coarse, samples=60)
    other = strata_distances(rows, fine, coarse, samples=60, seed=1)
    np.testing.assert_array_equal(few.distances, again.distances)
    assert np.abs(few.distances - other.distances).max() > 1e-4
    assert np.abs(few.distances - whole).max() < 0.2
    assert few.counts.sum() == 2000


def test_over_fractions():
    rows, fine, coarse = sample()
    early = rows[:, :3]
    found = strata_distances_over_fractions({1.0: rows, 0.25: early}, fine, coarse)
    assert found.fractions.tolist() == [0.25, 1.0]
    for index, given in enumerate((early, rows)):
        one = strata_distances(given, fine, coarse)
        np.testing.assert_array_equal(found.distances[index], one.distances)
        assert mean_within_classes(found)[index] == mean_within_classes(one)
    np.testing.assert_array_equal(found.fine, one.fine)
    # Classes hold the strata 0, 2, 4 and 1, 3.
    last = found.distances[1]
    pairs = [last[0, 1], last[0, 2], last[1, 2], last[3, 4]]
    assert mean_within_classes(found)[1] == pytest.approx(np.mean(pairs))


def test_classes_of_one_stratum_have_no_distance_within():
    found = strata_distances(np.eye(4), np.arange(4), np.arange(4))
    assert np.isnan(mean_within_classes(found))
    both = strata_distances_over_fractions({0.5: np.eye(4), 1: np.eye(4)}, range(4), np.arange(4))
    assert np.isnan(mean_within_classes(both)).tolist() == [True, True]


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        ({"embeddings": np.ones((4, 2), int)}, TypeError, "embeddings: .*int64"),
        ({"fine": np.zeros(3, int)}, ValueError, r"fine: .*\(4,\).*\(3,\)"),
        ({"coarse": np.zeros(4)}, TypeError, "coarse: .*float64"),
        ({"kind": "medians"}, ValueError, "kind: expected one of .*'medians'"),
        ({"samples": 1}, ValueError, "samples: expected at least 2, got 1"),
    ],
)
def test_bad_input_is_named(edit, error, message):
    given = {"embeddings": np.eye(4), "fine": np.arange(4), "coarse": np.arange(4)} | edit
    with pytest.raises(error, match=message):
        strata_distances(**given)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        ({}, "embeddings: expected at least one fraction"),
        ({0.0: np.eye(4)}, "embeddings: expected fractions above 0 and at most 1, got 0.0"),
        ({1.5: np.eye(4)}, "at most 1, got 1.5"),
        ({0.5: np.eye(3)}, r"embeddings\[0.5\]: expected 4 rows, one for each label, got 3"),
        ({0.5: np.full((4, 1), np.inf)}, r"embeddings\[0.5\]: .*inf in row 0"),
    ],
)
def test_bad_fractions_are_named(embeddings, message):
    with pytest.raises(ValueError, match=message):
        strata_distances_over_fractions(embeddings, np.arange(4), np.arange(4))
