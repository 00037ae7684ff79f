import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from thanos_jax.downstream.coreset import (
    common_strata_scores,
    el2n,
    forgetting_events,
    halves,
    herding,
    select,
)

# halves


@pytest.mark.parametrize("runs", [2, 6])
def test_halves_of_each_class_and_their_complements(runs):
    labels = np.array([3] * 10 + [-1] * 7 + [8] * 1)
    found = halves(labels, runs, seed=4)
    assert found.shape == (runs, 18)
    assert found.dtype == np.bool_
    for run in range(0, runs, 2):
        np.testing.assert_array_equal(found[run], ~found[run + 1])
        assert found[run, labels == 3].sum() == 5
        assert found[run, labels == -1].sum() in (3, 4)
    np.testing.assert_array_equal(found.sum(axis=0), runs // 2)
    np.testing.assert_array_equal(found, halves(labels, runs, seed=4))
    assert (found != halves(labels, runs, seed=5)).any()
    if runs > 2:
        assert (found[0] != found[2]).any()


def test_every_image_is_drawn_equally_often():
    found = halves(np.zeros(10, int), 2000, seed=0)[::2]
    np.testing.assert_allclose(found.mean(axis=0), 0.5, atol=5 * 0.5 / np.sqrt(1000))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"runs": 3}, ValueError, "runs: expected an even number of at least 2, got 3"),
        ({"runs": 0}, ValueError, "runs: expected an even number of at least 2, got 0"),
        ({"seed": -1}, ValueError, r"seed: expected at least 0 and below 2\*\*64, got -1"),
        ({"labels": []}, ValueError, r"labels: expected \[n\] with n >= 1, got shape \(0,\)"),
        ({"labels": [0.5]}, TypeError, r"labels: expected integers \[n\]"),
    ],
)
def test_halves_errors(change, error, message):
    with pytest.raises(error, match=message):
        halves(**{"labels": [0, 1], "runs": 2, **change})


# common_strata_scores


def test_common_strata_against_loops():
    rng = np.random.default_rng(0)
    confidences = rng.random((6, 40)).astype(np.float32)
    trained_on = rng.random((6, 40)) < 0.5
    trained_on[0], trained_on[1] = True, False
    expected = []
    for i in range(40):
        inner = [float(confidences[r, i]) for r in range(6) if trained_on[r, i]]
        outer = [float(confidences[r, i]) for r in range(6) if not trained_on[r, i]]
        expected.append(abs(sum(inner) / len(inner) - sum(outer) / len(outer)))
    found = common_strata_scores(confidences, trained_on)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_nearest_neighbour_model_finds_the_rare_stratum():
    # 20 images of a common stratum, one of a rare one of the same class, 20 of another class.
    rng = np.random.default_rng(0)
    rows = np.repeat([0.0, 30.0, 20.0], [20, 1, 20]) + rng.random(41)
    labels = np.repeat([0, 0, 1], [20, 1, 20])
    trained_on = halves(labels, 4)
    right = np.empty((4, 41), bool)
    for run, chosen in enumerate(trained_on):
        near = np.argmin(np.abs(rows[:, None] - rows[chosen]), axis=1)
        right[run] = labels[chosen][near] == labels
    found = common_strata_scores(right, trained_on)
    assert found[20] == 1
    assert not np.delete(found, 20).any()
    assert 20 in select(found, labels, 0.1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"confidences": np.ones((2, 3), int)},
            TypeError,
            r"confidences: expected floating point or bool \[runs, n\], got dtype int64",
        ),
        ({"confidences": np.ones(3)}, ValueError, r"confidences: expected \[runs, n\].*\(3,\)"),
        (
            {"confidences": [[0.5, 0.5, 0.5], [0.5, 2.0, 0.5]]},
            ValueError,
            r"confidences: expected numbers in \[0, 1\], got 2.0 of image 1 in run 1",
        ),
        (
            {"confidences": [[0.5, np.nan, 0.5], [0.5, 0.5, 0.5]]},
            ValueError,
            "got nan of image 1 in run 0",
        ),
        ({"trained_on": np.ones((2, 3))}, TypeError, r"trained_on: expected bool \[2, 3\]"),
        (
            {"trained_on": np.ones((3, 2), bool)},
            ValueError,
            r"trained_on: expected shape \(2, 3\), got shape \(3, 2\)",
        ),
        (
            {"trained_on": [[True, True, False], [False, True, False]]},
            ValueError,
            r"trained_on: .* got image 1 in 2 of 2 \(2 such images\)",
        ),
    ],
)
def test_common_strata_errors(change, error, message):
    given = {
        "confidences": np.full((2, 3), 0.5),
        "trained_on": np.array([[True] * 3, [False] * 3]),
    }
    with pytest.raises(error, match=message):
        common_strata_scores(**{**given, **change})


# forgetting_events


def test_every_history_of_five_epochs():
    histories = list(itertools.product([False, True], repeat=5))
    found = forgetting_events(np.array(histories).T)
    for history, events in zip(histories, found, strict=True):
        text = "".join("01"[right] for right in history)
        assert events == (text.count("10") if "1" in text else 5)
    assert found.dtype == np.int64


def test_one_epoch():
    assert forgetting_events(np.array([[True, False]])).tolist() == [0, 1]


def test_forgetting_errors():
    with pytest.raises(TypeError, match="correct: expected bool, got dtype int64"):
        forgetting_events([[0, 1]])
    for shape in ((3,), (0, 3), (3, 0)):
        with pytest.raises(ValueError, match=r"correct: expected \[epochs, n\], got shape"):
            forgetting_events(np.zeros(shape, bool))


# el2n


def test_el2n_closed_forms():
    found = el2n(np.array([[1.0, 0, 0], [0, 1, 0], [1 / 3] * 3]), [0, 0, 2])
    np.testing.assert_allclose(found, [0, np.sqrt(2), np.sqrt(2 / 3)])
    assert found.dtype == np.float64


def test_el2n_is_averaged_over_runs_and_does_not_change_its_input():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), size=(3, 10))
    kept, labels = p.copy(), rng.integers(0, 4, 10)
    expected = [
        np.mean([np.sqrt(sum((p[r, i, c] - (c == y)) ** 2 for c in range(4))) for r in range(3)])
        for i, y in enumerate(labels)
    ]
    np.testing.assert_allclose(el2n(p, labels), expected)
    np.testing.assert_array_equal(p, kept)
    single = el2n(p[0], labels)
    np.testing.assert_allclose(el2n(p[:1], labels), single)
    half = el2n(jnp.asarray(p[0], jnp.bfloat16), labels)
    np.testing.assert_allclose(half, single, atol=0.01)


@pytest.mark.parametrize(
    ("probabilities", "labels", "error", "message"),
    [
        (np.ones((2, 1), int), [0, 0], TypeError, "probabilities: expected floating point"),
        (np.ones(2), [0, 0], ValueError, r"probabilities: expected \[n, classes\] or"),
        (np.ones((2, 1)), [0], ValueError, r"labels: expected shape \(2,\)"),
        (np.ones((2, 1)), [0, 1], ValueError, "labels: expected labels 0 to 0, got 1 in row 1"),
        (
            np.array([[0.5, 0.5], [3.0, 1.0]]),
            [0, 1],
            ValueError,
            "probabilities: .* a sum of 4 and a least of 1 in row 1; logits need a softmax",
        ),
        (np.array([[-0.5, 1.5]]), [0], ValueError, "a sum of 1 and a least of -0.5 in row 0"),
        (np.array([[np.nan, 1.0]]), [0], ValueError, "a sum of nan"),
        (np.array([[[0.5, 0.5]], [[1.0, 1.0]]]), [0], ValueError, "a sum of 2 .* row 0 of run 1"),
    ],
)
def test_el2n_errors(probabilities, labels, error, message):
    with pytest.raises(error, match=message):
        el2n(probabilities, labels)


# herding


def sample(n=60, dim=5, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)).astype(np.float32), rng.integers(0, classes, n)


def herd_oracle(rows, count):
    unit = rows.astype(np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    mean, picks = unit.mean(axis=0), []
    for _ in range(count):
        rest = [i for i in range(len(unit)) if i not in picks]
        picks.append(min(rest, key=lambda i: np.linalg.norm(unit[[*picks, i]].mean(axis=0) - mean)))
    return picks


def test_herding_against_means_written_out():
    rows, labels = sample()
    found = herding(rows, 5 - 2 * labels, 12)
    assert found.shape == (3, 12)
    for row, name in zip(found, (2, 1, 0), strict=True):  # labels 1, 3, 5
        members = np.flatnonzero(labels == name)
        assert row.tolist() == members[herd_oracle(rows[members], 12)].tolist()


def test_herding_keeps_the_mean_closer_than_random_picks():
    rows, labels = sample(n=400)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    mean = unit[labels == 0].mean(axis=0)

    def distance(chosen):
        return np.linalg.norm(unit[chosen[labels[chosen] == 0]].mean(axis=0) - mean)

    herded = distance(select("herding", labels, 0.1, embeddings=rows))
    drawn = [distance(select("random", labels, 0.1, seed=seed)) for seed in range(20)]
    assert herded < min(drawn) / 2


def test_herding_all_of_a_class_picks_each_once():
    rows, labels = sample(n=8, classes=1)
    assert sorted(herding(rows, labels, 8)[0].tolist()) == list(range(8))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"count": 0}, ValueError, "count: expected at least 1, got 0"),
        ({"count": 2}, ValueError, "count: expected at most 1, the number of images of class 4,"),
        ({"embeddings": np.ones((3, 2), int)}, TypeError, "embeddings: expected floating point"),
        ({"labels": [4]}, ValueError, r"labels: expected shape \(3,\)"),
    ],
)
def test_herding_errors(change, error, message):
    with pytest.raises(error, match=message):
        herding(**{"embeddings": np.ones((3, 2)), "labels": [9, 9, 4], "count": 1, **change})


# select


@pytest.mark.parametrize("fraction", [0.1, 0.29, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("method", ["random", "herding", "scores"])
def test_exact_counts_of_each_class(method, fraction):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([-3, 5, 6, 2**40], [100, 73, 31, 11]))
    rows = rng.normal(size=(215, 3))
    scores = rng.integers(0, 4, 215) if method == "scores" else method
    given = {"embeddings": rows} if method == "herding" else {}
    chosen = select(scores, labels, fraction, **given)
    assert chosen.dtype == np.int64
    assert len(chosen) == round(fraction * 215)
    assert (np.diff(chosen) > 0).all()
    for name, size in ((-3, 100), (5, 73), (6, 31), (2**40, 11)):
        assert abs((labels[chosen] == name).sum() - fraction * size) < 1
    np.testing.assert_array_equal(chosen, select(scores, labels, fraction, **given))


def test_whole_shares_are_met_exactly():
    labels = np.repeat(np.arange(10), 100)
    for fraction in (0.07, 0.29, 0.57):
        counts = np.bincount(labels[select("random", labels, fraction)])
        assert (counts == round(100 * fraction)).all()


def test_largest_remainders_round_up_and_equal_ones_from_the_lowest_label():
    labels = np.repeat([0, 1, 2], [3, 5, 7])  # of 0.5: 1.5, 2.5, 3.5 and 8 in all (7.5)
    assert np.bincount(labels[select("random", labels, 0.5)]).tolist() == [2, 3, 3]


def test_rounding_does_not_decide_between_equal_remainders():
    labels = np.repeat([0, 1], [50, 150])
    assert np.bincount(labels[select("random", labels, 0.29)]).tolist() == [15, 43]


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("drop", ["lowest", "highest"])
def test_what_is_dropped(drop, balanced):
    scores = np.array([5.0, 1, 4, 2, 30, 10, 20, 40])
    labels = np.repeat([0, 1], 4)
    expected = {
        ("lowest", True): [0, 2, 4, 7],
        ("lowest", False): [4, 5, 6, 7],
        ("highest", True): [1, 3, 5, 6],
        ("highest", False): [0, 1, 2, 3],
    }[drop, balanced]
    assert select(scores, labels, 0.5, drop=drop, balanced=balanced).tolist() == expected


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("scores", ["random", np.zeros(400)])
def test_ties_are_drawn_by_seed(scores, balanced):
    labels = np.arange(400) % 2
    first = select(scores, labels, 0.5, balanced=balanced, seed=1)
    second = select(scores, labels, 0.5, balanced=balanced, seed=2)
    assert len(first) == len(second) == 200
    assert set(first.tolist()) != set(second.tolist())
    for chosen in (first, second):
        assert 70 < (chosen < 200).sum() < 130
    if balanced:
        assert (labels[first] == 0).sum() == 100


def test_scores_decide_before_ties():
    scores = np.r_[np.zeros(50, bool), np.ones(50, bool)]
    chosen = select(scores, np.zeros(100, int), 0.6)
    assert (chosen[10:] == np.arange(50, 100)).all()


def test_fraction_one_keeps_everything_and_one_class_is_enough():
    labels = np.zeros(7, int)
    for scores in ("random", np.arange(7)):
        assert select(scores, labels, 1).tolist() == list(range(7))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scores": "best"}, ValueError, r"scores: expected an array \[n\] or one of .* 'best'"),
        ({"scores": ["a"] * 4}, TypeError, r"scores: expected numbers \[4\], got dtype <U1"),
        ({"scores": [1, 2]}, ValueError, r"scores: expected shape \(4,\).*got shape \(2,\)"),
        ({"scores": [1, np.inf, 0, 0]}, ValueError, "scores: .* got inf in row 1"),
        ({"labels": []}, ValueError, r"labels: expected \[n\] with n >= 1, got shape \(0,\)"),
        ({"fraction": 0}, ValueError, "fraction: expected a share above 0 and at most 1, got 0"),
        ({"fraction": 1.5}, ValueError, "fraction: expected a share above 0"),
        ({"fraction": float("nan")}, ValueError, "fraction: expected a share above 0.*nan"),
        (
            {"fraction": 0.1},
            ValueError,
            "fraction: expected one that keeps some of the 4 images, got 0.1",
        ),
        (
            {"labels": [0, 0, 0, 7]},
            ValueError,
            "fraction: .* each class, got 0.5, which keeps none of the 1 images of class 7",
        ),
        ({"drop": "middle"}, ValueError, r"drop: expected one of \('lowest', 'highest'\)"),
        ({"seed": -1}, ValueError, "seed: expected at least 0"),
        (
            {"embeddings": np.eye(4)},
            ValueError,
            "embeddings: expected None without .* got",
        ),
        ({"scores": "herding"}, ValueError, r"embeddings: expected \[n, d\] .* got None"),
        (
            {"scores": "herding", "embeddings": np.eye(4), "balanced": False},
            ValueError,
            "balanced: expected True with scores='herding'",
        ),
        (
            {"scores": "herding", "embeddings": np.eye(3)},
            ValueError,
            r"labels: expected shape \(3,\)",
        ),
    ],
)
def test_select_errors(change, error, message):
    given = {"scores": "random", "labels": [0, 0, 1, 1], "fraction": 0.5}
    with pytest.raises(error, match=message):
        select(**{**given, **change})
