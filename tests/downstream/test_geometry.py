import itertools

import numpy as np
import pytest

from thanos_jax.downstream.geometry import geometry
from thanos_jax.downstream.neural_collapse import neural_collapse


def sample(n=60, d=5, seed=0):
    rng = np.random.default_rng(seed)
    fine = rng.integers(0, 6, n)
    rows = np.random.default_rng(9).normal(size=(6, d))[fine] + 0.5 * rng.normal(size=(n, d))
    return rows.astype(np.float32), fine, fine // 2


def brute_force(rows, fine, coarse):
    """Every figure from pairs: a group's mean squared deviation is half its mean pair distance."""
    unit = np.float64(rows)
    lengths = np.sqrt((unit**2).sum(1))
    unit = [z / length if length else z for z, length in zip(unit, lengths, strict=True)]
    n = len(unit)

    def square(i, j):
        return float(((unit[i] - unit[j]) ** 2).sum())

    def spread(groups):
        total = 0.0
        for group in set(groups):
            members = [i for i in range(n) if groups[i] == group]
            total += sum(square(i, j) for i in members for j in members) / (2 * len(members))
        return total / n

    def pairs(groups):
        found = [
            square(i, j) for i, j in itertools.combinations(range(n), 2) if groups[i] == groups[j]
        ]
        return sum(found) / len(found) if found else 0.0

    classes = list(coarse)
    strata = list(zip(coarse, fine, strict=True))
    total, within, stratum = spread([0] * n), spread(classes), spread(strata)
    kernels = [np.exp(-2 * square(i, j)) for i, j in itertools.combinations(range(n), 2)]

    points = np.array(unit)
    # The measures have tests of their own; what is checked here is what they are taken of.
    means = [
        neural_collapse(points[coarse == c], fine[coarse == c])
        for c in set(classes)
        if len(set(fine[coarse == c])) > 1
    ]
    collapse = neural_collapse(points, coarse) | {
        f"{name}_strata": np.mean([m[name] for m in means]) for name in means[0]
    }
    return collapse | {
        "within_class_spread": within,
        "between_class_spread": total - within,
        "within_stratum_spread": stratum,
        "collapse_index": within / total,
        "fine_within_coarse": (within - stratum) / within,
        "alignment": pairs(classes),
        "alignment_fine": pairs(strata),
        "uniformity": np.log(np.mean(kernels)),
    }


@pytest.mark.parametrize("case", ["plain", "zero row", "lone member", "not nested", "odd labels"])
def test_against_brute_force_over_pairs(case):
    rows, fine, coarse = sample()
    if case == "zero row":
        rows[7] = 0
    elif case == "lone member":
        fine[3], coarse[3] = 99, 50
    elif case == "not nested":
        coarse = np.arange(len(fine)) % 3
    elif case == "odd labels":
        fine, coarse = -1000 * fine, 2**40 - coarse
    found = geometry(rows, fine, coarse)
    expected = brute_force(rows, fine, coarse)
    assert found.keys() == expected.keys()
    assert all(type(value) is float for value in found.values())
    for name, value in expected.items():
        # float32 embeddings are taken as given: the rest is float64. The oracle's points for nc1
        # and nc2 are rounded to float32 once they are unit vectors.
        rtol = 1e-5 if name.startswith("nc") else 1e-9
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=1e-12, err_msg=name)


def test_scale_and_precision_do_not_matter():
    rows, fine, coarse = sample()
    expected = geometry(rows, fine, coarse)
    for other in (rows * 2.0**100, rows * 2.0**-100, rows.astype(np.float64)):
        found = geometry(other, fine, coarse)
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-9)


def test_collapsed_classes():
    _, fine, coarse = sample()
    found = geometry(np.eye(3, dtype=np.float32)[coarse], fine, coarse)
    assert found["collapse_index"] == found["within_class_spread"] == found["alignment"] == 0
    assert found["fine_within_coarse"] == 0
    assert found["between_class_spread"] > 0.5
    assert found["nc1"] == pytest.approx(0, abs=1e-12)
    assert found["nc2_cosines"] == pytest.approx(0, abs=1e-7)
    assert not any(name.endswith("_strata") for name in found)


def test_balanced_classes():
    _, fine, coarse = sample()
    found = geometry(np.eye(6, dtype=np.float32)[fine], fine, coarse)
    assert found["fine_within_coarse"] == pytest.approx(1)
    assert found["within_stratum_spread"] == found["alignment_fine"] == 0
    assert 0.2 < found["collapse_index"] < 0.9
    assert found["alignment"] > 0.5
    assert found["nc1_strata"] == pytest.approx(0, abs=1e-12)
    assert found["nc1"] > 0.01


def test_classes_that_coincide():
    rows, fine, _ = sample()
    doubled = np.concatenate([rows, rows])
    classes = np.repeat([0, 1], len(rows))
    found = geometry(doubled, np.tile(fine, 2), classes)
    assert found["collapse_index"] == pytest.approx(1)
    assert found["between_class_spread"] == pytest.approx(0, abs=1e-12)
    assert "nc1" not in found
    assert found["nc1_strata"] > 0


def test_all_embeddings_in_one_point():
    rows = np.full((20, 3), 0.7, np.float32)
    found = geometry(rows, np.arange(20) % 4, np.arange(20) % 2)
    for name in ("collapse_index", "fine_within_coarse"):
        assert found[name] == 0
    assert found["uniformity"] == pytest.approx(0, abs=1e-12)
    assert not any(name.startswith("nc") for name in found)


def test_no_pairs_of_a_class():
    rows, _, _ = sample(n=10)
    found = geometry(rows, np.arange(10), np.arange(10))
    assert found["alignment"] == found["alignment_fine"] == 0
    assert found["uniformity"] < 0


def test_uniformity_samples_are_seeded_and_near_the_whole():
    rows, fine, coarse = sample(n=1200)
    whole = geometry(rows, fine, coarse)
    few = geometry(rows, fine, coarse, samples=400)
    assert few == geometry(rows, fine, coarse, samples=400)
    assert few["uniformity"] != whole["uniformity"]
    assert few["uniformity"] != geometry(rows, fine, coarse, samples=400, seed=1)["uniformity"]
    assert few["uniformity"] == pytest.approx(whole["uniformity"], abs=0.1)
    del few["uniformity"], whole["uniformity"]
    assert few == whole


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        ({"embeddings": np.ones((4, 2), np.int32)}, TypeError, "embeddings: .*int32"),
        ({"embeddings": np.ones(4)}, ValueError, r"embeddings: .*\(4,\)"),
        ({"embeddings": np.ones((1, 2))}, ValueError, "embeddings: expected at least 2 rows"),
        ({"embeddings": np.diag([1, 1, np.nan, 1])}, ValueError, "nan in row 2"),
        ({"embeddings": np.full((4, 1), 1e300)}, ValueError, "inf in row 0"),
        ({"fine": np.zeros(3, int)}, ValueError, r"fine: .*\(4,\).*\(3,\)"),
        ({"coarse": np.zeros(4)}, TypeError, "coarse: .*float64"),
        ({"samples": 1}, ValueError, "samples: expected at least 2, got 1"),
    ],
)
def test_bad_input_is_named(edit, error, message):
    given = {"embeddings": np.eye(4), "fine": np.arange(4), "coarse": np.arange(4)} | edit
    with pytest.raises(error, match=message):
        geometry(**given)
