import jax
import ml_dtypes
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from sklearn.linear_model import LogisticRegression

from thanos_jax.downstream import linear, logistic, newton, placing, transfer

# One shape for nearly every fit: the solver is compiled for each.
N, WIDTH, CLASSES = 300, 8, 6


def figures(*given, **options):
    """What `transfer.evaluate` measures, without the predictions."""
    return transfer.evaluate(*given, **options)[0]


def blobs(seed=0, *, n=N, d=WIDTH, classes=CLASSES, spread=0.6):
    """Overlapping classes with correlated columns of very different sizes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    means = np.random.default_rng(99).normal(size=(classes, d)) * spread
    mixing = np.random.default_rng(98).normal(size=(d, d))
    scales = 10.0 ** np.linspace(-2, 2, d)
    rows = (means[labels] + rng.normal(size=(n, d))) @ mixing * scales + 5.0
    return rows.astype(np.float32), labels.astype(np.int32)


def fit(train, validation=None, **options):
    return linear.linear_head(*train, *(validation or train), num_classes=CLASSES, **options)


def objective(head, rows, labels, weight):
    logits = ((rows - head.mean) / head.std).astype(np.float64) @ head.weights + head.bias
    logits -= logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(logits).sum(1))
    cross_entropy = np.mean(log_sum - logits[np.arange(len(labels)), labels])
    return cross_entropy + weight / 2 * np.sum(np.float64(head.weights) ** 2)


@pytest.mark.parametrize("weight", [1e-1, 1e-3, 1e-5, 0.0])
def test_linear_head_reaches_the_optimum_of_scikit_learn(weight):
    (rows, labels), (test_rows, test_labels) = blobs(), blobs(1, n=1000)
    head = fit((rows, labels), (test_rows, test_labels), regularization=[weight])
    c = 1 / (len(rows) * weight) if weight else np.inf
    peer = LogisticRegression(C=c, tol=1e-8, max_iter=5000)
    peer.fit(((rows - head.mean) / head.std).astype(np.float64), labels)
    best = head._replace(weights=peer.coef_.T, bias=peer.intercept_)
    reached, optimum = (objective(h, rows, labels, weight) for h in (head, best))
    assert abs(reached - optimum) < 1e-4 * optimum
    predictions = linear.predict(head, test_rows)
    assert np.mean(predictions != linear.predict(best, test_rows)) <= 0.002
    assert head.validation_accuracy == np.mean(predictions == test_labels)
    assert head.validation_accuracy > 0.4
    assert head.gradient_norm < 1e-2


@pytest.mark.parametrize("distance", [1.5, 3.0])
def test_each_weight_of_the_grid_reaches_the_optimum_of_well_separated_classes(distance):
    """Their curvature is hundreds of times below the curvature at zero."""
    rng = np.random.default_rng(0)
    labels = np.arange(N) % CLASSES
    rows = (rng.normal(size=(CLASSES, WIDTH)) * distance)[labels] + rng.normal(size=(N, WIDTH))
    rows = (rows - rows.mean(0)) / rows.std(0)
    placed = placing.place(rows.astype(np.float32))
    known = (placed, placed.split(labels.astype(np.int32)))
    problem = logistic.Problem(
        *known, np.zeros(WIDTH, np.float32), np.ones(WIDTH, np.float32), CLASSES
    )

    def objective(free, weight):
        weights, bias = np.split(free.reshape(-1, CLASSES), [WIDTH])
        logits = rows @ weights + bias
        logits -= logits[np.arange(N), labels][:, None]
        shares = softmax(logits, axis=1) - np.eye(CLASSES)[labels]
        slope = [rows.T @ shares / N + weight * weights, shares.mean(0, keepdims=True)]
        value = np.mean(logsumexp(logits, axis=1)) + weight / 2 * np.sum(weights**2)
        return value, np.concatenate(slope).ravel()

    grid = sorted(linear.REGULARIZATION, reverse=True)
    for weight, found in newton.path(problem, grid, 200):
        reached = objective(np.vstack([found.at["weights"].T, found.at["bias"]]).ravel(), weight)[0]
        # With a weight of 0 and separable classes, the minimum is 0 and never reached.
        peer = minimize(
            objective, np.zeros((WIDTH + 1) * CLASSES), weight, jac=True, method="L-BFGS-B",
            options={"maxiter": 1000 if weight else 200, "maxfun": 10**4, "ftol": 0, "gtol": 1e-7},
        )  # fmt: skip
        assert reached <= (1 + 1e-4) * peer.fun + (0 if weight else 1e-7), weight
        assert 0 < found.iterations < 60


def test_linear_head_keeps_float32_and_compiles_once_for_the_whole_grid():
    rows, labels = blobs()
    with jax.enable_x64(True):
        before = linear.logistic._measure._cache_size()
        head = fit((np.float64(rows), labels), regularization=[1e-3, 1e-2, 0.1])
        assert linear.logistic._measure._cache_size() == before + 1
    for array in head[:4]:
        assert array.dtype == np.float32


def test_regularization_is_chosen_on_validation_and_ties_take_the_largest():
    train, held_out = blobs(spread=0.3), blobs(1, n=2000, spread=0.3)
    grid = (1e-6, 1e-2, 1e-1, 1.0, 10.0)
    alone = {w: fit(train, held_out, regularization=[w]).validation_accuracy for w in grid}
    assert len(set(alone.values())) > 1
    head = fit(train, held_out, regularization=grid)
    assert head.validation_accuracy == max(alone.values())
    assert head.regularization == max(w for w in grid if alone[w] == max(alone.values()))

    labels = np.arange(N) % CLASSES
    easy = np.eye(WIDTH, dtype=np.float32)[labels], labels
    tied = fit(easy, regularization=(0.01, 0.1, 0.001))
    assert (tied.validation_accuracy, tied.regularization) == (1.0, 0.1)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e4])
@pytest.mark.parametrize("rounding", [False, True])
def test_constant_column_changes_nothing(value, rounding):
    rows, labels = blobs()
    column = np.full((N, 1), value, np.float32)
    if rounding:  # the last bit differs, and by chance tells classes apart
        column = np.where(labels[:, None] < 3, column, np.nextafter(column, np.float32(-np.inf)))
    wide = np.concatenate([rows, column], axis=1)
    plain, padded = (fit((x, labels), regularization=[1e-3]) for x in (rows, wide))
    assert padded.std[-1] == np.inf
    np.testing.assert_allclose(padded.weights[:-1], plain.weights, atol=1e-3)
    wide[:, -1] = 1e6  # never seen in training
    np.testing.assert_allclose(linear.scores(padded, wide), linear.scores(plain, rows), atol=1e-2)


def test_embeddings_that_all_coincide_give_the_commonest_class():
    rows, labels = np.full((N, WIDTH), 0.1, np.float32), np.repeat([0, 2], [100, 200])
    head = fit((rows, labels))
    assert set(linear.predict(head, rows)) == {2}
    assert np.isfinite(head.weights).all()


def test_equal_scores_take_the_lowest_label():
    head = linear.Head(
        np.zeros((2, 3), np.float32), np.array([0, 1, 1], np.float32), np.zeros(2), np.ones(2),
        0.0, 0.0, 0, 0.0,
    )  # fmt: skip
    np.testing.assert_array_equal(linear.predict(head, np.ones((4, 2), np.float32)), 1)


def test_more_iterations_lower_the_loss_and_one_says_it_is_not_there():
    train = blobs()
    fits = [fit(train, regularization=[1e-5], max_iterations=count) for count in (1, 2, 200)]
    losses = [objective(head, *train, 1e-5) for head in fits]
    assert losses[0] > losses[1] > losses[2]
    assert fits[0].iterations == 1
    assert fits[0].gradient_norm > 0.05 > fits[2].gradient_norm


def test_nearest_neighbours_against_brute_force():
    (rows, labels), (queries, _) = blobs(), blobs(1, n=100)
    rows, queries = rows - rows.mean(0), queries - rows.mean(0)
    cosine = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
    ).T
    expected = [np.argmax(np.bincount(labels[order[:7]])) for order in np.argsort(-cosine, 1)]
    found = transfer.nearest_neighbours(rows, labels, 3 * queries, k=7)
    np.testing.assert_array_equal(found, expected)


def test_nearest_neighbours_ties_and_k_above_the_number_of_points():
    rows = np.array([[1, 0.1], [1, -0.1], [-1, 0.0]], np.float32)
    query = np.array([[2.0, 0.0]], np.float32)
    assert transfer.nearest_neighbours(rows, np.array([5, 3, 9]), query, k=2) == [3]
    labels = np.array([1, 0, 1])
    all_three = transfer.nearest_neighbours(rows, labels, query, k=3)
    np.testing.assert_array_equal(
        transfer.nearest_neighbours(rows, labels, query, k=1000), all_three
    )
    assert all_three == [1]


def test_class_means_against_brute_force():
    rows, labels = blobs(classes=4)
    rows -= rows.mean(0)
    labels *= 2  # absent labels in between are never predicted
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    distances = [
        [np.linalg.norm(z - unit[labels == label].mean(0)) for label in (0, 2, 4, 6)] for z in unit
    ]
    found = transfer.class_means(rows, labels, 0.5 * rows)
    np.testing.assert_array_equal(found, 2 * np.argmin(distances, axis=1))
    tie = transfer.class_means(
        np.eye(2, dtype=np.float32), np.array([7, 4]), np.ones((1, 2), np.float32)
    )
    assert tie == [4]


def splits():
    """Fine labels 0..5 in coarse classes 0..2, two each."""
    made = {name: blobs(i, spread=1.5) for i, name in enumerate(("train", "validation", "test"))}
    embeddings = {name: rows for name, (rows, _) in made.items()}
    fine = {name: labels for name, (_, labels) in made.items()}
    return embeddings, fine, {name: labels // 2 for name, labels in fine.items()}


def test_evaluate_agrees_with_its_parts():
    embeddings, fine, coarse = splits()
    found = figures(embeddings, fine, coarse, num_fine=6, num_coarse=3, regularization=(1e-4, 1e-2))
    assert all(type(value) is float for value in found.values())
    train, validation = (
        (embeddings[name], fine[name].astype(np.uint8)) for name in ("train", "validation")
    )
    head = fit(train, validation, regularization=(1e-4, 1e-2))
    right = linear.predict(head, embeddings["test"]) == fine["test"]
    assert found["fine_accuracy"] == right.mean()
    assert found["fine_accuracy_validation"] == head.validation_accuracy
    assert found["fine_regularization"] == head.regularization
    assert found["fine_gradient_norm"] == head.gradient_norm
    assert found["fine_accuracy_worst_class"] == min(
        right[fine["test"] == k].mean() for k in range(6)
    )
    logits = linear.scores(head, embeddings["test"])
    within = [
        2 * c + int(row[2 * c + 1] > row[2 * c])
        for row, c in zip(logits, coarse["test"], strict=True)
    ]
    assert found["fine_accuracy_given_coarse"] == np.mean(within == fine["test"])
    assert found["fine_accuracy_given_coarse"] >= found["fine_accuracy"]
    commonest = [2 * c + int(np.argmax(np.bincount(fine["train"])[2 * c :][:2])) for c in range(3)]
    assert found["fine_accuracy_collapsed"] == np.mean(
        np.array(commonest)[coarse["test"]] == fine["test"]
    )
    known = (embeddings["train"], fine["train"], embeddings["test"])
    for name, predictions in (
        ("knn", transfer.nearest_neighbours(*known, k=20)),
        ("class_mean", transfer.class_means(*known)),
    ):
        assert found[f"fine_accuracy_{name}"] == np.mean(predictions == fine["test"])


def test_evaluate_tells_a_collapsed_embedding_from_a_balanced_one():
    _, fine, coarse = splits()
    rng = np.random.default_rng(0)

    def noisy(labels):
        one_hot = np.eye(WIDTH, dtype=np.float32)
        return {k: one_hot[v] + 0.05 * rng.normal(size=(N, WIDTH)) for k, v in labels.items()}

    found = {
        name: figures(noisy(labels), fine, coarse, num_fine=6, num_coarse=3)
        for name, labels in (("collapsed", coarse), ("balanced", fine))
    }
    assert found["balanced"]["fine_accuracy"] == 1.0
    ceiling = found["collapsed"]["fine_accuracy_collapsed"]
    assert 0.45 < ceiling < 0.6
    assert abs(found["collapsed"]["fine_accuracy"] - ceiling) < 0.1


def test_evaluate_does_not_look_at_test_when_it_fits():
    embeddings, fine, coarse = splits()
    first = figures(embeddings, fine, coarse, num_fine=6, num_coarse=3)
    shuffled = {**fine, "test": np.roll(fine["test"], 1)}
    second = figures(embeddings, shuffled, coarse, num_fine=6, num_coarse=3)
    for name in ("fine_accuracy_validation", "fine_regularization", "fine_gradient_norm"):
        assert first[name] == second[name]
    assert first["fine_accuracy"] != second["fine_accuracy"]


def test_bfloat16_and_jax_arrays_are_taken():
    embeddings, fine, coarse = splits()
    low = {name: rows.astype(ml_dtypes.bfloat16) for name, rows in embeddings.items()}
    rounded = {name: rows.astype(np.float32) for name, rows in low.items()}
    on_device = {name: jax.numpy.asarray(rows) for name, rows in low.items()}
    options = {"num_fine": 6, "num_coarse": 3, "regularization": (1e-2,)}
    expected = figures(rounded, fine, coarse, **options)
    assert figures(low, fine, coarse, **options) == expected
    assert figures(on_device, fine, coarse, **options) == expected


def change(dictionary, split, edit):
    edited = np.array(dictionary[split])
    edited = edit(edited)
    return {**dictionary, split: edited}


def put(row, value):
    def edit(array):
        array[row] = value
        return array

    return edit


@pytest.mark.parametrize(
    ("which", "split", "edit", "message"),
    [
        (0, "validation", put((17, 3), np.nan), r"embeddings\['validation'\].*nan in row 17 \(1 "),
        (0, "test", put((5, 0), -np.inf), r"embeddings\['test'\].*-inf in row 5"),
        (0, "train", lambda x: x[:-1], r"fine\['train'\].*\(299,\).*\(300,\)"),
        (0, "train", lambda x: x[0], r"embeddings\['train'\].*\[n, d\].*\(8,\)"),
        (0, "test", lambda x: x[:, :7], r"embeddings\['test'\].*width 8.*\(300, 7\)"),
        (0, "test", lambda x: x[:0], r"embeddings\['test'\].*\(0, 8\)"),
        (1, "test", put(9, 6), r"fine\['test'\]: expected labels 0 to 5, got 6 in row 9"),
        (1, "train", put(4, -1), r"fine\['train'\].*got -1 in row 4"),
        (2, "validation", put(2, 3), r"coarse\['validation'\].*0 to 2, got 3 in row 2"),
        (2, "test", lambda x: x[:-3], r"coarse\['test'\].*\(300,\).*\(297,\)"),
        (1, "test", lambda x: np.where(x == 4, 5, x), r"fine\['test'\].*absent class is 4"),
        (1, "train", lambda x: x % 3, r"fine\['train'\].*all 6.*got 3.*absent class is 3"),
    ],
)
def test_evaluate_refuses_bad_arrays_by_name(which, split, edit, message):
    arguments = list(splits())
    arguments[which] = change(arguments[which], split, edit)
    with pytest.raises(ValueError, match=message):
        figures(*arguments, num_fine=6, num_coarse=3)


def test_evaluate_refuses_wrong_types_and_missing_splits():
    embeddings, fine, coarse = splits()
    sizes = {"num_fine": 6, "num_coarse": 3}
    with pytest.raises(TypeError, match=r"embeddings\['train'\].*int32"):
        figures({**embeddings, "train": fine["train"][:, None]}, fine, coarse, **sizes)
    with pytest.raises(TypeError, match=r"coarse\['test'\].*float64"):
        figures(embeddings, fine, {**coarse, "test": coarse["test"] * 1.0}, **sizes)
    with pytest.raises(ValueError, match=r"fine: expected the split 'test', got \['train', 'val"):
        figures(embeddings, {k: v for k, v in fine.items() if k != "test"}, coarse, **sizes)


def test_missing_classes_can_be_allowed():
    embeddings, fine, coarse = splits()
    for split in ("train", "test"):
        fine[split] = fine[split] % 5  # class 5 is absent
        coarse[split] = fine[split] // 2
    coarse["test"][0] = 3  # never trained on
    found = figures(embeddings, fine, coarse, num_fine=6, num_coarse=4, allow_missing_classes=True)
    assert np.isfinite(list(found.values())).all()
    assert found["fine_accuracy"] > 0.5
    assert found["fine_accuracy_given_coarse"] > found["fine_accuracy"]
    unknown = {**coarse, "test": np.full(N, 3)}
    found = figures(embeddings, fine, unknown, num_fine=6, num_coarse=4, allow_missing_classes=True)
    assert found["fine_accuracy_given_coarse"] == found["fine_accuracy"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes: expected at least 2, got 1"),
        ({"max_iterations": 0}, "max_iterations: expected at least 1"),
        ({"regularization": ()}, "regularization: expected finite"),
        ({"regularization": (0.1, -1.0)}, r"regularization.*\(0.1, -1.0\)"),
        ({"regularization": (np.nan,)}, "regularization"),
    ],
)
def test_linear_head_refuses_bad_options(options, message):
    rows, labels = blobs()
    with pytest.raises(ValueError, match=message):
        linear.linear_head(rows, labels, rows, labels, **({"num_classes": 6} | options))


def test_linear_head_names_what_overflowed():
    rows = np.full((N, WIDTH), -3.4e38, np.float32)
    rows[0] = 3.4e38
    with (
        np.errstate(over="ignore", invalid="ignore"),
        pytest.raises(FloatingPointError, match=r"linear head: .* between -3.4e\+38 and 3.4e\+38"),
    ):
        fit((rows, np.arange(N) % CLASSES))


def test_the_range_of_rows_is_that_of_every_process(monkeypatch):
    rows = np.array([[-2.0, 1.0], [4.0, 0.5]], np.float32)
    assert linear._range(rows) == (-2.0, 4.0)
    # As of a process that has padding alone, or rows within or beyond those of another.
    monkeypatch.setattr(linear, "add_up", lambda _, least, by: by(least, [-3.0, -3.5]))
    assert linear._range(rows) == (-3.0, 4.0)
    assert linear._range(np.zeros((0, 2), np.float32)) == (-3.0, 3.5)


def test_k_below_one_is_refused():
    rows, labels = blobs()
    with pytest.raises(ValueError, match="k: expected at least 1, got 0"):
        transfer.nearest_neighbours(rows, labels, rows, k=0)
