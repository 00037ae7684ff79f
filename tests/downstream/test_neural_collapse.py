import numpy as np
import pytest

from thanos_jax.downstream.neural_collapse import neural_collapse, strata_neural_collapse


def simplex(classes, dim=None):
    """Rows of length 1 whose pairwise cosines are -1 / (classes - 1)."""
    rows = np.sqrt(classes / (classes - 1)) * (np.eye(classes) - 1 / classes)
    return np.pad(rows, [(0, 0), (0, (dim or classes) - classes)])


def sample(classes=4, each=12, dim=7, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    rows = 2 * rng.normal(size=(classes, dim))[labels] + rng.normal(size=(len(labels), dim))
    order = rng.permutation(len(labels))
    return rows[order].astype(np.float32).astype(np.float64), labels[order]


def rotation(dim):
    return np.linalg.qr(np.random.default_rng(3).normal(size=(dim, dim)))[0]


def oracle(rows, labels, weights=None, predictions=None):
    """The paper's formulas, class by class, with every class counting alike."""
    present = sorted(set(labels.tolist()))
    classes = len(present)
    means = [rows[labels == c].mean(axis=0) for c in present]
    centred = [m - sum(means) / classes for m in means]
    within = sum(
        np.mean([np.outer(h - m, h - m) for h in rows[labels == c]], axis=0)
        for c, m in zip(present, means, strict=True)
    )
    between = sum(np.outer(m, m) for m in centred)
    norms = [np.sqrt(m @ m) for m in centred]
    cosines = [
        centred[a] @ centred[b] / (norms[a] * norms[b]) for a in range(classes) for b in range(a)
    ]
    found = {
        "nc1": np.trace(within / classes @ np.linalg.pinv(between / classes, 1e-10)) / classes,
        "nc2_norms": np.std(norms) / np.mean(norms),
        "nc2_cosines": np.mean([abs(c + 1 / (classes - 1)) for c in cosines]),
    }
    if weights is not None:
        w, m = np.array([weights[c] for c in present]), np.array(centred)
        found["nc3"] = np.sqrt(np.sum((w / np.sqrt(np.sum(w**2)) - m / np.sqrt(np.sum(m**2))) ** 2))
    if predictions is not None:
        nearest = [present[np.argmin([np.sum((h - m) ** 2) for m in means])] for h in rows]
        found["nc4"] = np.mean([a != b for a, b in zip(nearest, predictions, strict=True)])
    return found


@pytest.mark.parametrize("case", ["plain", "unbalanced", "lone member", "few dimensions", "offset"])
def test_against_the_formulas(case):
    rows, labels = sample(dim=2 if case == "few dimensions" else 7)
    weights = np.random.default_rng(1).normal(size=(5, rows.shape[1])).astype(np.float32)
    predictions = np.random.default_rng(2).integers(0, 5, len(rows))
    if case == "unbalanced":
        rows, labels, predictions = rows[labels <= 2], labels[labels <= 2], predictions[labels <= 2]
        keep = (labels != 1) | (np.arange(len(labels)) % 3 == 0)
        rows, labels, predictions = rows[keep], labels[keep], predictions[keep]
    elif case == "lone member":
        labels[5] = 4
    elif case == "offset":
        rows = rows + 64
        rows = rows.astype(np.float32).astype(np.float64)
    found = neural_collapse(rows, labels, weights=weights, predictions=predictions)
    expected = oracle(rows, labels, weights, predictions)
    assert found.keys() == expected.keys()
    assert all(type(value) is float for value in found.values())
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-7, err_msg=name)


def test_normalize():
    rows, labels = sample()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = neural_collapse(rows, labels, normalize=True, predictions=labels)
    for name, value in oracle(unit, labels, predictions=labels).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_collapsed_simplex_is_zero_throughout(classes):
    labels = np.tile(np.arange(classes), 5)
    weights = 3 * simplex(classes, 12)
    rows = 2 * simplex(classes, 12)[labels] + 0.5
    found = neural_collapse(rows, labels, weights=weights, predictions=labels)
    assert set(found) == {"nc1", "nc2_norms", "nc2_cosines", "nc3", "nc4"}
    for name, value in found.items():
        assert value == pytest.approx(0, abs=1e-6), name


def test_isotropic_scatter_about_a_simplex():
    """Sigma_W = s^2 / d I, and Sigma_B is r^2 / (C - 1) on C - 1 dimensions."""
    classes, dim, spread, radius = 4, 6, 0.25, 2.0
    offsets = np.concatenate([np.eye(dim), -np.eye(dim)])
    rows = (radius * simplex(classes, dim)[:, None] + spread * offsets).reshape(-1, dim)
    found = neural_collapse(rows, np.repeat(np.arange(classes), 2 * dim))
    expected = spread**2 / dim * (classes - 1) ** 2 / (classes * radius**2)
    assert found["nc1"] == pytest.approx(expected, rel=1e-6)
    assert found["nc2_norms"] == pytest.approx(0, abs=1e-6)
    assert found["nc2_cosines"] == pytest.approx(0, abs=1e-6)


def test_orthogonal_means_and_opposed_weights():
    # Means e_1 .. e_C are a simplex about their centre; doubling one stretches it.
    rows = np.diag([1.0, 1.0, 2.0])
    found = neural_collapse(rows, np.arange(3), weights=-(rows - rows.mean(axis=0)))
    assert found["nc1"] == 0
    assert found["nc2_norms"] > 0.1
    assert found["nc2_cosines"] > 0.05
    assert found["nc3"] == pytest.approx(2)


def test_two_classes_always_form_a_simplex():
    rows, labels = sample(classes=2)
    found = neural_collapse(rows, labels)
    assert found["nc2_norms"] == pytest.approx(0, abs=1e-12)
    assert found["nc2_cosines"] == pytest.approx(0, abs=1e-12)
    assert found["nc1"] > 0


@pytest.mark.parametrize(
    "change", ["rotation", "scale", "translation", "order", "labels", "repetition"]
)
def test_invariance(change):
    rows, labels = sample()
    weights = np.random.default_rng(1).normal(size=(4, 7))
    given = {"weights": weights, "predictions": (labels + 1) % 4}
    expected = neural_collapse(rows, labels, **given)
    if change == "rotation":
        rows, given["weights"] = rows @ rotation(7), weights @ rotation(7)
    elif change == "scale":
        rows, given["weights"] = 1e-4 * rows, 1e3 * weights
    elif change == "translation":
        rows = rows + 8
    elif change == "order":
        order = np.random.default_rng(4).permutation(len(rows))
        rows, labels, given["predictions"] = rows[order], labels[order], given["predictions"][order]
    elif change == "labels":
        # Other names of the same classes, in the same order.
        names = np.array([-(2**40), -3, 0, 2**40])
        labels, given = names[labels], {"predictions": names[given["predictions"]]}
        del expected["nc3"]
    elif change == "repetition":
        # Every class counts alike, however many members it has.
        twice = np.concatenate([np.arange(len(rows)), *(2 * [np.flatnonzero(labels == 2)])])
        rows, labels = rows[twice], labels[twice]
        del given["predictions"], expected["nc4"]
    found = neural_collapse(rows, labels, **given)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, err_msg=name)


def test_means_that_coincide_leave_only_the_predictions():
    rows, _ = sample(each=6)
    doubled = np.concatenate([rows, rows])
    labels = np.repeat([0, 1], len(rows))
    found = neural_collapse(doubled, labels, weights=np.ones((2, 7)), predictions=labels)
    assert found == {"nc4": 0.5}
    assert neural_collapse(np.zeros((4, 2)), np.arange(4) % 2) == {}


def test_strata_are_measured_within_their_class():
    rows, fine = sample(classes=7, dim=5)
    coarse = np.array([10, 10, 10, -4, -4, 3, 3])[fine]
    fine[coarse == 3] = 5
    found = strata_neural_collapse(rows, fine, coarse)
    assert set(found) == {10, -4}
    for label, measured in found.items():
        members = coarse == label
        expected = oracle(rows[members], fine[members])
        assert measured.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(measured[name], value, rtol=1e-7, atol=1e-12, err_msg=name)
    scaled = strata_neural_collapse(rows * np.arange(1, len(rows) + 1)[:, None], fine, coarse)
    assert scaled[10]["nc1"] != pytest.approx(found[10]["nc1"])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    members = coarse == 10
    assert strata_neural_collapse(rows, fine, coarse, normalize=True)[10]["nc1"] == pytest.approx(
        oracle(unit[members], fine[members])["nc1"]
    )


def test_strata_of_one_member_each():
    found = strata_neural_collapse(np.eye(4), np.arange(4), np.zeros(4, int))
    for value in found[0].values():
        assert value == pytest.approx(0, abs=1e-12)
    assert strata_neural_collapse(np.eye(4), np.arange(4), np.arange(4)) == {}


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        ({"embeddings": np.ones((4, 2), np.int32)}, TypeError, "embeddings: .*int32"),
        ({"embeddings": np.full((4, 2), np.nan)}, ValueError, "nan in row 0"),
        ({"labels": np.zeros(3, int)}, ValueError, r"labels: .*\(4,\).*\(3,\)"),
        ({"labels": np.zeros(4, int)}, ValueError, "labels: expected at least 2 classes, got only"),
        ({"weights": np.ones((2, 3))}, ValueError, r"weights: expected \[classes, 4\].*\(2, 3\)"),
        ({"weights": np.ones((2, 4), int)}, TypeError, "weights: .*int64"),
        ({"weights": np.ones((2, 4))}, ValueError, "labels: expected labels 0 to 1, got 2"),
        ({"weights": np.ones((4, 4)), "normalize": True}, ValueError, "weights: expected None"),
        ({"predictions": np.zeros(3, int)}, ValueError, r"predictions: .*\(4,\)"),
        ({"predictions": np.zeros(4)}, TypeError, "predictions: .*float64"),
    ],
)
def test_bad_input_is_named(edit, error, message):
    given = {"embeddings": np.eye(4), "labels": np.arange(4)} | edit
    with pytest.raises(error, match=message):
        neural_collapse(**given)


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        ({"embeddings": np.ones(4)}, ValueError, r"embeddings: .*\(4,\)"),
        ({"fine": np.zeros(3, int)}, ValueError, r"fine: .*\(4,\).*\(3,\)"),
        ({"coarse": np.zeros(4)}, TypeError, "coarse: .*float64"),
    ],
)
def test_bad_strata_are_named(edit, error, message):
    given = {"embeddings": np.eye(4), "fine": np.arange(4), "coarse": np.arange(4)} | edit
    with pytest.raises(error, match=message):
        strata_neural_collapse(**given)
