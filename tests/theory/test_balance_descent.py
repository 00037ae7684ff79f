"""Embeddings that descend the losses, with both views free, end where the prediction says."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from thanos_jax import losses
from thanos_jax.theory import balance

NAMES = {"alpha": "spread", "beta": "joint"}


def loss_of(keywords):
    """The loss of a prediction's keywords, and its name."""
    name = next((NAMES[key] for key in keywords if key in NAMES), "supcon")
    function = getattr(losses, name)
    return name, lambda z, labels: function(z, labels, implementation="dense", **keywords)


def predicted(keywords, classes, held, shown, draw):
    """W of the minimum with batches of `shown` images of a class, drawn from `held`."""
    drawn = {"images_per_class": shown, "images_in_all": held, "draw": draw}
    name, _ = loss_of(keywords)
    return balance.within_class_spread(loss=name, classes=classes, **drawn, **keywords)


def descended(loss, labels, batches=None, dim=None, seed=0, iterations=1000, tolerance=1e-15):
    """Embeddings [images, 2, d] that descend the loss, the mean over batches of row numbers."""
    images = len(labels)
    dim = dim or images + 2  # a direction for each image, and more
    start = np.random.default_rng(seed).normal(size=(images, 2, dim))
    labels = jnp.asarray(labels)

    @jax.jit
    @jax.value_and_grad
    def measured(flat):
        z = flat.reshape(images, 2, dim)
        if batches is None:
            return loss(z, labels)
        return jnp.mean(jax.vmap(lambda rows: loss(z[rows], labels[rows]))(jnp.asarray(batches)))

    def on_host(flat):
        value, slope = measured(flat)
        return float(value), np.asarray(slope, np.float64)

    options = {"maxiter": iterations, "maxfun": 2 * iterations, "ftol": tolerance, "gtol": 1e-9}
    found = scipy.optimize.minimize(
        on_host, start.ravel(), jac=True, method="L-BFGS-B", options={**options, "maxcor": 20}
    )
    z = found.x.reshape(images, 2, dim)
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def spreads_of(z, labels):
    """W of each class, by its definition, over both views."""
    classes = [z[labels == c].reshape(-1, z.shape[-1]) for c in np.unique(labels)]
    return np.array([np.mean(np.sum((rows - rows.mean(0)) ** 2, axis=1)) for rows in classes])


def each_draw(classes, held, shown, draw):
    """All batches that can be drawn, equally likely: int [draws, batch]."""
    if draw == "uniform":
        return np.array(list(itertools.combinations(range(classes * held), classes * shown)))
    one = list(itertools.combinations(range(held), shown))
    rows = [c * held + np.array(one) for c in range(classes)]
    return np.array([np.concatenate(parts) for parts in itertools.product(*rows)])


@pytest.mark.parametrize(
    ("keywords", "classes", "held", "shown", "draw"),
    [
        ({"alpha": 0.5, "temperature": 0.5}, 3, 4, 4, "balanced"),
        ({"beta": 0.4, "temperature": 0.3, "denominator": "one_positive"}, 3, 4, 4, "balanced"),
        ({"alpha": 0.5, "temperature": 0.5, "views": "cross"}, 2, 4, 2, "balanced"),
        ({"alpha": 0.4, "temperature": 0.5}, 2, 4, 2, "uniform"),
    ],
    ids=["everything", "one_positive", "balanced", "uniform"],
)
def test_free_views_end_at_the_prediction(keywords, classes, held, shown, draw):
    _, loss = loss_of(keywords)
    labels = np.repeat(np.arange(classes), held)
    batches = None if held == shown else each_draw(classes, held, shown, draw)
    with jax.enable_x64(True):
        z = descended(loss, labels, batches, iterations=200)
    found = predicted(keywords, classes, held, shown, draw)
    assert 0.1 < found < 0.9
    assert float(np.mean(spreads_of(z, labels))) == pytest.approx(found, abs=2e-5)
    np.testing.assert_allclose(np.sum(z[:, 0] * z[:, 1], axis=-1), 1, atol=1e-5)  # of themselves


def cases(count=40, seed=15):
    """Drawn at random, each weight at least 0.03 from the threshold, most where classes spread."""
    random, found = np.random.default_rng(seed), []
    while len(found) < count:
        m, n = int(random.integers(2, 21)), int(random.integers(2, 33))
        sizes = {"classes": m, "images_per_class": n}
        keywords = {
            "temperature": round(float(np.exp(random.uniform(np.log(0.1), 0.0))), 3),
            "views": str(random.choice(["all", "cross"])),
            "denominator": str(random.choice(["all", "one_positive"])),
        }
        name = str(random.choice(["spread", "joint", "supcon"], p=[0.55, 0.4, 0.05]))
        if name != "supcon":
            weight = round(float(random.uniform(0, 1)), 3)
            beyond = weight - balance.threshold(loss=name, **keywords, **sizes)
            collapses = (beyond if name == "joint" else -beyond) > 0
            if abs(beyond) < 0.03 or (collapses and random.uniform() < 0.8):
                continue
            keywords["alpha" if name == "spread" else "beta"] = weight
        found.append((keywords, sizes))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("keywords", "sizes"), cases(), ids=str)
def test_random_settings_end_at_the_prediction(keywords, sizes):
    name, loss = loss_of(keywords)
    labels = np.repeat(np.arange(sizes["classes"]), sizes["images_per_class"])
    with jax.enable_x64(True):
        z = descended(loss, labels, iterations=6000, tolerance=1e-12)
    found = balance.within_class_spread(loss=name, **keywords, **sizes)
    assert float(np.mean(spreads_of(z, labels))) == pytest.approx(found, abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keywords", "sizes"),
    [
        ({"alpha": 0.3, "temperature": 0.5}, [8, 4]),
        ({"alpha": 0.5, "temperature": 0.3, "views": "cross"}, [8, 4, 4]),
        ({"beta": 0.4, "temperature": 0.4, "denominator": "one_positive"}, [4, 8, 8, 4]),
        ({"alpha": 0.09, "temperature": 0.5}, [8, 4, 4]),  # the large class spreads, alone
    ],
    ids=str,
)
def test_unequal_classes_end_at_the_prediction(keywords, sizes):
    name, loss = loss_of(keywords)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    with jax.enable_x64(True):
        z = descended(loss, labels, iterations=3000)
    setting = {"loss": name, "classes": len(sizes), "images_per_class": sizes, **keywords}
    found, each = spreads_of(z, labels), balance.each_class(**setting)
    assert each.max() - each.min() > 0.02
    np.testing.assert_allclose(found, each, atol=2e-3)
    mean = np.average(found, weights=sizes)
    assert mean == pytest.approx(balance.within_class_spread(**setting), abs=1e-3)


@pytest.mark.slow
def test_unequal_classes_drawn_uniformly():
    # All 84 batches of three out of nine; other classes are met in the mean, so not exactly.
    labels = np.repeat(np.arange(3), [5, 2, 2])
    batches = np.array(list(itertools.combinations(range(9), 3)))
    keywords = {"alpha": 0.5, "temperature": 0.5}
    _, loss = loss_of(keywords)
    with jax.enable_x64(True):
        z = descended(loss, labels, batches, iterations=3000)
    drawn = {"images_per_class": 1.0, "images_in_all": [5, 2, 2], "draw": "uniform"}
    each = balance.each_class(classes=3, **drawn, **keywords)
    np.testing.assert_allclose(spreads_of(z, labels), each, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "shown", "temperature"), [(2, 4, 0.5), (4, 3, 0.4), (3, 2, 1.0)]
)
def test_the_threshold_is_where_descent_begins_to_spread(classes, shown, temperature):
    labels = np.repeat(np.arange(classes), shown)

    def spread(alpha):
        _, loss = loss_of({"alpha": alpha, "temperature": temperature})
        with jax.enable_x64(True):
            z = descended(loss, labels, iterations=2000, tolerance=1e-16)
        return float(np.mean(spreads_of(z, labels)))

    low, high = 0.0, 1.0
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (low, middle) if spread(middle) > 1e-3 else (middle, high)
    found = balance.threshold(temperature=temperature, classes=classes, images_per_class=shown)
    assert found == pytest.approx((low + high) / 2, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "held", "shown", "keywords", "draw"),
    [
        (10, 16, 2, {"alpha": 0.5, "temperature": 0.2}, "balanced"),
        (4, 32, 4, {"alpha": 0.5, "temperature": 0.2}, "balanced"),
        (4, 16, 4, {"beta": 0.4, "temperature": 0.3}, "balanced"),
        (10, 16, 2, {"alpha": 0.5, "temperature": 0.2}, "uniform"),
        (4, 16, 4, {"alpha": 0.4, "temperature": 0.4, "views": "cross"}, "uniform"),
    ],
    ids=str,
)
def test_drawn_batches_end_at_the_prediction(classes, held, shown, keywords, draw):
    _, loss = loss_of(keywords)
    images, steps, at_once = classes * held, 6000, 8
    labels = jnp.repeat(jnp.arange(classes), held)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, steps))

    def rows(key):
        if draw == "uniform":
            return jax.random.choice(key, images, (classes * shown,), replace=False)
        orders = jax.vmap(lambda k: jax.random.permutation(k, held))(jax.random.split(key, classes))
        return (orders[:, :shown] + held * jnp.arange(classes)[:, None]).reshape(-1)

    @jax.jit
    def trained(z):
        def step(state, key):
            z, moments = state
            drawn = jax.vmap(rows)(jax.random.split(key, at_once))
            slope = jax.grad(lambda z: jnp.mean(jax.vmap(lambda r: loss(z[r], labels[r]))(drawn)))(
                z
            )
            updates, moments = optimizer.update(slope, moments)
            return (z + updates, moments), None

        keys = jax.random.split(jax.random.key(0), steps)
        return jax.lax.scan(step, (z, optimizer.init(z)), keys)[0][0]

    start = jax.random.normal(jax.random.key(1), (images, 2, images)) / np.sqrt(images)
    z = np.asarray(trained(start), np.float64)
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    found = predicted(keywords, classes, held, shown, draw)
    measured = float(np.mean(spreads_of(z, np.asarray(labels))))
    assert measured == pytest.approx(found, abs=0.002 if draw == "balanced" else 0.01)


@pytest.mark.slow
def test_a_narrow_embedding_spreads_less():
    keywords = {"alpha": 0.5, "temperature": 0.5}
    _, loss = loss_of(keywords)
    labels = np.repeat(np.arange(4), 16)
    with jax.enable_x64(True):
        z = descended(loss, labels, dim=8, iterations=3000)
    found = balance.within_class_spread(classes=4, images_per_class=16, **keywords)
    assert found == pytest.approx(0.784, abs=1e-3)
    assert float(np.mean(spreads_of(z, labels))) == pytest.approx(0.592, abs=0.01)
