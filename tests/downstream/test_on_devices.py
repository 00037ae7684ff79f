"""Evaluations of embeddings that are split over devices: as on one, and in blocks."""

import dataclasses
import pathlib
import sys
import tracemalloc

import evaluations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from thanos_jax import sharding
from thanos_jax.downstream import (
    coreset,
    geometry,
    linear,
    logistic,
    neural_collapse,
    newton,
    noisy_labels,
    placing,
    points,
    search,
    transfer,
    votes,
)

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
import hlo

CLASSES = 7


def rows(seed, n, d=12):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    means = np.random.default_rng(99).normal(size=(CLASSES, d))
    return (means[labels] + rng.normal(size=(n, d)) + 3).astype(np.float32), labels


def spread(array):
    return jax.device_put(array, NamedSharding(sharding.make_mesh(), P("data")))


def test_eight_devices_are_as_one(monkeypatch):
    # Blocks, samples and tiles that end within the rows of a device.
    monkeypatch.setattr(logistic, "_BLOCK", 48)
    monkeypatch.setattr(search, "_TILE", 48)
    (train, labels), (test, test_labels) = rows(0, 800), rows(1, 100)
    options = {"num_classes": CLASSES, "regularization": (1e-2, 1e-3)}
    assert placing.is_sharded(spread(train))
    assert not placing.is_sharded(jnp.asarray(train))
    heads = [
        linear.linear_head(given, labels, test, test_labels, **options)
        for given in (train, spread(train))
    ]
    for name in ("weights", "bias", "mean", "std"):
        np.testing.assert_allclose(*(getattr(head, name) for head in heads), atol=2e-5)
    assert heads[0].validation_accuracy == heads[1].validation_accuracy > 0.5
    for predict in (
        transfer.class_means,
        lambda *known: transfer.nearest_neighbours(*known, k=9),
    ):
        found = [predict(given, labels, test) for given in (train, spread(train))]
        np.testing.assert_array_equal(*found)
    one, eight = (search.search(test, given, 9) for given in (train, spread(train)))
    np.testing.assert_array_equal(one.indices, eight.indices)
    np.testing.assert_allclose(one.squares, eight.squares, atol=1e-6)


def padded(array):
    """Rows on eight devices, the last of which ends in rows that count for nothing."""
    rows = np.pad(array, [(0, -len(array) % 8), (0, 0)], constant_values=7)
    return dataclasses.replace(placing.place(spread(rows)), known=len(array))


def test_rows_past_the_known_ones_count_for_nothing(monkeypatch):
    # Blocks that end within the rows of a device.
    monkeypatch.setattr(placing, "_NUMBERS_OF_A_BLOCK", 30 * 12)
    monkeypatch.setattr(placing, "_TAKEN", 64)
    (train, fine), (test, test_fine) = rows(0, 203), rows(1, 101)
    coarse, placed = fine // 3, padded(train)
    assert placed.shape == (203, 12)
    predicted = (fine + (np.arange(203) % 5 == 0)) % CLASSES
    weights = np.random.default_rng(3).normal(size=(CLASSES, 12))
    probabilities = np.random.default_rng(4).dirichlet(np.ones(CLASSES), 101)

    def of(train, test):
        return evaluations.of(
            train, test, fine, test_fine, coarse,
            predicted=predicted, weights=weights, probabilities=probabilities,
        )  # fmt: skip

    evaluations.require_close(of(placed, padded(test)), of(train, test))
    with pytest.raises(ValueError, match="embeddings: expected at least 2 rows, got 1"):
        geometry.geometry(dataclasses.replace(placed, known=1), fine[:1], coarse[:1])


def test_blocks_change_no_digit_that_counts(monkeypatch):
    train, fine = rows(0, 203)
    coarse = fine // 3

    def of():
        return (
            geometry.geometry(train, fine, coarse),
            neural_collapse.neural_collapse(train, fine, predictions=(fine + 1) % CLASSES),
            noisy_labels.suspicion(train, fine, method="strata", k=5, clusters=2),
            noisy_labels.suggest(train, fine, k=5),
            noisy_labels.suspicion(train, fine, k=5),
        )

    whole = of()
    monkeypatch.setattr(placing, "_NUMBERS_OF_A_BLOCK", 30 * 12)
    monkeypatch.setattr(geometry, "_BLOCK", 30)
    monkeypatch.setattr(votes, "_VOTES", 10 * CLASSES)
    blocks = [len(block) for _, block in points.Points(train, normalize=True).blocks()]
    assert blocks == [30] * 6 + [23]
    jax.tree.map(
        lambda *both: np.testing.assert_allclose(*both, rtol=1e-12, atol=1e-15), whole, of()
    )


def test_memory_of_geometry_does_not_grow_with_rows_times_classes_or_rows():
    """What NumPy allocates is bounded by blocks; each array of 20,000 x 300 floats has 48 MB."""
    n, d, classes = 20_000, 4, 300
    rng = np.random.default_rng(0)
    train = rng.normal(size=(n, d)).astype(np.float32)
    fine = rng.integers(0, classes, n)
    neighbours = noisy_labels.Neighbours(rng.integers(0, n, (n, 3)), np.ones((n, 3)))
    calls = (
        lambda: geometry.geometry(train, fine, fine // 2, samples=500),
        lambda: neural_collapse.neural_collapse(train, fine, predictions=fine),
        lambda: noisy_labels.suspicion(train, fine, k=3, neighbours=neighbours),
        lambda: noisy_labels.suggest(train, fine, k=3, neighbours=neighbours),
        lambda: coreset.herding(train, fine, 3),
    )
    for call in calls:
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * n * classes


def test_numpy_is_split_over_devices_and_what_pads_it_counts_for_nothing(monkeypatch):
    (train, labels), (test, test_labels) = rows(0, 801), rows(1, 100)
    found = []
    for least in (10**6, 100):
        monkeypatch.setattr(placing, "_ROWS_OF_A_DEVICE", least)
        head = linear.linear_head(
            train, labels, test, test_labels, num_classes=CLASSES, regularization=(1e-3,)
        )
        found.append((head, search.search(test, train, 9)))
    assert placing.place(train).mesh.size == 8
    (one, near), (eight, near_of_eight) = found
    np.testing.assert_allclose(one.weights, eight.weights, atol=2e-5)
    np.testing.assert_array_equal(near.indices, near_of_eight.indices)


@pytest.mark.parametrize(
    ("sample", "atol", "excess"), [(200, 5e-3, 1e-4), (60, 2e-2, 2.5e-4), (20, 2e-2, 2e-4)]
)
def test_a_sample_of_the_curvature_reaches_the_optimum_of_all(monkeypatch, sample, atol, excess):
    train = rows(0, 800)
    options = {"num_classes": CLASSES, "regularization": (1e-3,)}
    whole = linear.linear_head(*train, *train, **options)
    monkeypatch.setattr(logistic, "SAMPLE", sample)
    jax.clear_caches()
    with monkeypatch.context() as patch:
        patch.setattr(newton, "_SHARE_SAMPLED", 1e-6)
        part = linear.linear_head(*train, *train, **options)
    assert part.gradient_norm < 1e-3
    np.testing.assert_allclose(part.weights, whole.weights, atol=atol)

    # Steps end earlier than that by default, within 1e-4 of each optimum, or nearly so where the
    # sample has fewer rows than the head has weights.
    embeddings, labels = train
    placed = placing.place(embeddings)
    split = placed.split(labels.astype(np.int32))
    problem = logistic.Problem(placed, split, whole.mean, np.float32(1) / whole.std, CLASSES)
    for weight, found in newton.path(problem, sorted(linear.REGULARIZATION, reverse=True), 200):
        peer = LogisticRegression(
            C=1 / (800 * weight) if weight else np.inf, tol=1e-8, max_iter=999
        )
        standard = (np.float64(embeddings) - whole.mean) / whole.std
        peer.fit(standard, labels)
        reached, best = (
            log_loss(labels, softmax(standard @ w.T + b, axis=1)) + weight / 2 * np.sum(w**2)
            for w, b in ((found.at["weights"], found.at["bias"]), (peer.coef_, peer.intercept_))
        )
        assert reached <= (1 + excess) * best + (0 if weight else 1e-6), weight


def penalized(problem, found, weight):
    squares = np.sum(found.at["weights"] ** 2)
    return logistic.measure(problem, found.at).value + weight / 2 * squares


def test_past_steps_their_slopes_and_alike_rows_save_passes_over_the_rows(monkeypatch):
    train, labels = rows(0, 800)
    placed = placing.place(train)
    known = (placed, placed.split(labels.astype(np.int32)))
    problem = logistic.Problem(*known, train.mean(0), 1 / train.std(0), CLASSES)
    monkeypatch.setattr(logistic, "SAMPLE", 40)

    def passes(module=newton, **changes):
        """Passes over the rows, and the objective reached with each weight."""
        measured = []
        jax.clear_caches()  # programs have constants of their modules
        with monkeypatch.context() as patch:
            for name, value in changes.items():
                patch.setattr(module, name, value)
            measure = logistic.measure
            patch.setattr(logistic, "measure", lambda *at: measured.append(1) or measure(*at))
            path = list(newton.path(problem, (1e-2, 1e-3, 1e-4, 1e-5), 200))
        return len(measured), [penalized(problem, found, weight) for weight, found in path]

    ours, reached = passes()
    others = {
        0.7: passes(_corrected=lambda pairs, gradient, solve: solve(gradient)),
        0.4: passes(_flat=lambda *slopes: 1.0),
        0.6: passes(logistic, _ALIKE=0.0),
    }
    for share, (number, objectives) in others.items():
        assert ours < share * number
        # Not by an earlier end.
        np.testing.assert_array_less(reached, np.multiply(1 + 3e-4, objectives))


def test_without_a_weight_longer_steps_lead_faster_to_a_loss_of_zero(monkeypatch):
    train, labels = rows(0, 800)
    apart = 5 * np.random.default_rng(5).normal(size=(CLASSES, 12))
    train = (train + apart[labels]).astype(np.float32)
    placed = placing.place(train)
    known = (placed, placed.split(labels.astype(np.int32)))
    problem = logistic.Problem(*known, train.mean(0), 1 / train.std(0), CLASSES)
    monkeypatch.setattr(logistic, "SAMPLE", 400)
    jax.clear_caches()
    (_, _), (_, ours) = newton.path(problem, (1e-3, 0.0), 200)
    monkeypatch.setattr(newton, "_LONGEST", 1.0)
    (_, _), (_, plain) = newton.path(problem, (1e-3, 0.0), 200)
    assert ours.iterations < 0.7 * plain.iterations < 0.7 * 200
    for found in (ours, plain):
        assert logistic.measure(problem, found.at).value < 1e-7


def test_a_few_rows_on_many_devices_are_no_sample(monkeypatch):
    """Each device has rows and padding; what is taken of all devices is the known rows."""
    train, labels = rows(0, 101)
    monkeypatch.setattr(logistic, "SAMPLE", 101)
    monkeypatch.setattr(placing, "_ROWS_OF_A_DEVICE", 10)
    jax.clear_caches()
    placed = placing.place(train)
    assert placed.mesh.size == 8
    assert len(placed.rows) > 101
    known = (placed, placed.split(labels.astype(np.int32)))
    problem = logistic.Problem(
        *known, np.ones(12, np.float32), np.full(12, 2.0, np.float32), CLASSES
    )
    drawn = logistic.sample(problem, placed.split(np.zeros(101, np.float32)))
    np.testing.assert_array_equal(drawn.rows, (train - 1) * 2)
    np.testing.assert_allclose(drawn.weights, np.full(101, 1 / 101), rtol=1e-6)


def test_past_steps_correct_the_curvature():
    """Against dense updates of the inverse curvature: Nocedal and Wright, equation 6.17."""
    rng = np.random.default_rng(0)
    root, rough = rng.normal(size=(2, 6, 6))
    curvature, inverse = root @ root.T + np.eye(6), rough @ rough.T + np.eye(6)

    def tree(values):
        return {"weights": values[:4].reshape(2, 2), "bias": values[4:]}

    def flat(of):
        return np.concatenate([of["weights"].ravel(), of["bias"]])

    steps = rng.normal(size=(3, 6))
    pairs = [newton._Pair(tree(step), tree(curvature @ step)) for step in steps]
    # Against the curvature: rounding may do this, and such a pair counts for nothing.
    pairs.insert(1, newton._Pair(tree(steps[0]), tree(-steps[0])))
    gradient = rng.normal(size=6)
    found = newton._corrected(pairs, tree(gradient), lambda slope: tree(-inverse @ flat(slope)))
    expected = inverse
    for step in steps:
        change = curvature @ step
        turn = np.eye(6) - np.outer(step, change) / (step @ change)
        expected = turn @ expected @ turn.T + np.outer(step, step) / (step @ change)
    np.testing.assert_allclose(flat(found), -expected @ gradient, rtol=1e-10)


def test_draws_do_not_depend_on_the_number_of_devices(monkeypatch):
    train, labels = rows(0, 801)
    monkeypatch.setattr(logistic, "SAMPLE", 200)
    jax.clear_caches()
    drawn, heads = [], []
    for least in (10**6, 100):
        monkeypatch.setattr(placing, "_ROWS_OF_A_DEVICE", least)
        placed = placing.place(train)
        known = (placed, placed.split(labels.astype(np.int32)))
        problem = logistic.Problem(*known, train.mean(0), np.ones(12, np.float32), CLASSES)
        # A tenth of the rows are undecided, on every device.
        doubt = placed.split((np.arange(801) % 10 == 0).astype(np.float32) * 0.8)
        drawn.append(logistic.sample(problem, doubt, 3))
        options = {"num_classes": CLASSES, "regularization": (1e-3,)}
        heads.append(linear.linear_head(train, labels, train, labels, **options))
    assert placed.mesh.size == 8
    one, eight = drawn
    np.testing.assert_allclose(one.rows, eight.rows, atol=1e-6)
    np.testing.assert_allclose(one.weights, eight.weights, rtol=1e-5)
    found = {tuple(row) for row in np.asarray(one.rows)}
    assert len(found) == 200  # none twice
    assert {tuple(row) for row in np.float32(train - train.mean(0))[::10]} <= found
    np.testing.assert_allclose(np.sum(one.weights), 1, atol=0.2)
    np.testing.assert_allclose(heads[0].weights, heads[1].weights, atol=1e-3)


@pytest.mark.parametrize("scale", [1e38, 1e-37])
def test_search_divides_by_lengths_near_the_ends_of_float32(scale):
    known = np.random.default_rng(0).uniform(-3, 3, (50, 8))
    known = (known * scale).astype(np.float32)
    found = search.search(known, known, 2)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(50))
    unit = known / np.linalg.norm(np.float64(known), axis=1, keepdims=True)
    squares = np.sum((unit[:, None] - unit) ** 2, axis=2) + 9 * np.eye(50)
    tolerance = 1e-5 if scale > 1 else 0.05  # numbers below 1.2e-38 are zeros
    np.testing.assert_allclose(found.squares[:, 1], squares.min(1), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("k", "spread"), [(1, 1e-4), (20, 1e-4), (1, 1e-6), (20, 1e-6)])
def test_search_is_exact_where_embeddings_have_nearly_collapsed(k, spread):
    rng = np.random.default_rng(0)
    known = (np.ones(8) + spread * rng.normal(size=(300, 8))).astype(np.float32)
    asked = (np.ones(8) + spread * rng.normal(size=(20, 8))).astype(np.float32)
    unit = [
        each / np.linalg.norm(each, axis=1, keepdims=True)
        for each in map(np.float64, (asked, known))
    ]
    squares = np.sum((unit[0][:, None] - unit[1]) ** 2, axis=2)
    found = search.search(asked, known, k)
    expected = np.sort(squares, axis=1)[:, :k]
    np.testing.assert_allclose(found.squares, expected, rtol=5e-3)


@pytest.mark.parametrize("count", [50, 3000])
def test_the_greatest_of_each_row(count):
    values = np.random.default_rng(0).normal(size=(6, count)).astype(np.float32)
    places, last = search._greatest(jnp.asarray(values), 9)
    order = np.argsort(-values, axis=1)
    np.testing.assert_array_equal(places, order[:, :9])
    np.testing.assert_array_equal(last, np.take_along_axis(values, order[:, 8:9], axis=1)[:, 0])


def test_no_program_holds_a_row_for_each_row_and_a_column_for_each_class_or_row():
    n, d, classes = 40_000, 4, 50
    train = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    placed = placing.place(train)
    problem = logistic.Problem(
        placed, placed.split(np.zeros(n, np.int32)), np.zeros(d), np.ones(d), classes
    )
    at = {
        "weights": np.zeros((classes, d), np.float32),
        "bias": np.zeros(classes, np.float32),
    }
    common = {"mesh": placed.mesh}
    given = (np.int32(n), np.zeros(d, np.float32), np.ones(d, np.float32))
    doubt = placed.split(np.zeros(n, np.float32))
    drawn = logistic.Sample(jnp.zeros((logistic.SAMPLE, d)), jnp.zeros(logistic.SAMPLE))
    gradient = (np.zeros(d, np.float32), np.zeros((d, d), np.float32))
    asked = np.zeros((search._QUERIES, d), np.float32)
    factors = placed.split(np.zeros((n, 2), np.float32))
    programs = {
        logistic._measure.lower(placed.rows, problem.labels, *given, at, **common): (
            logistic._BLOCK * classes
        ),
        logistic._sample.lower(placed.rows, given[0], doubt, *given[1:], np.uint32(0), **common): n
        * d,
        logistic._newton_step.lower(drawn, at, at, np.float32(0), gradient, sampled=True): (
            logistic.SAMPLE * classes
        ),
        placing._take.lower(placed.rows, np.zeros(placing._TAKEN, np.int32), **common): n * d,
        search._search_block.lower(
            asked, placed.rows, factors, given[0], k=20, wide=False, **common
        ): search._QUERIES * max(search._TILE, 2 * n // search._RUN),
    }
    for program, most in programs.items():
        largest = hlo.summarize(program.compile().as_text()).largest_buffer
        assert largest.bytes <= 4 * most, largest
        assert most < n * classes / 2 or most < search._QUERIES * n / 2


def test_products_of_a_search_are_kept_once(monkeypatch):
    """The largest of each run of 8 rows; a copy, to transpose them say, would take as much."""
    monkeypatch.setattr(placing, "_ROWS_OF_A_DEVICE", 10**6)
    n, q = 40_000, search._QUERIES
    placed = placing.place(np.zeros((n, 4), np.float32))
    factors = placed.split(np.zeros((n, 2), np.float32))
    given = (np.zeros((q, 4), np.float32), placed.rows, factors, np.int32(n))
    lowered = search._search_block.lower(*given, k=20, wide=False, mesh=placed.mesh)
    held = lowered.compile().memory_analysis().temp_size_in_bytes
    kept = q * (n // search._RUN) * 4
    assert kept < held < 1.5 * kept


def test_neighbours_of_rows_in_blocks(monkeypatch):
    monkeypatch.setattr(search, "_QUERIES", 64)
    known, _ = rows(0, 150)
    jax.clear_caches()
    found = noisy_labels.nearest(known, 5)
    unit = known / np.linalg.norm(known, axis=1, keepdims=True)
    cosines = unit.astype(np.float64) @ unit.T
    np.fill_diagonal(cosines, -2)
    np.testing.assert_array_equal(found.indices, np.argsort(-cosines, axis=1)[:, :5])


def test_sharded_rows_that_are_not_finite_are_refused():
    train, labels = rows(0, 80)
    train[9, 1] = np.nan
    with pytest.raises(ValueError, match="train_embeddings: expected finite numbers"):
        transfer.class_means(spread(train), labels, train[:8])
