"""Updates despite wrong labels: the papers', in NumPy; alike on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import AxisType

from thanos_jax import config as schema
from thanos_jax import run, sharding
from thanos_jax.data import augment
from thanos_jax.data.sources import load
from thanos_jax.train import nonfinite
from thanos_jax.train import state as train_state
from thanos_jax.train.checkpoint import Checkpoints
from thanos_jax.train.noise_step import (
    ELR_INPUTS,
    first_of,
    keep_rate_schedule,
    make_co_teaching_step,
    make_elr_step,
    pair,
    with_targets,
)
from thanos_jax.train.step import INPUTS, update

BATCH, IMAGES, CLASSES = 32, 40, 3
UNITS = {"mean": (0.4,), "std": (0.3,)}
WEIGHT, MOMENTUM, KEEP_RATE = 3.0, 0.6, 0.6
# Of eight devices' rows, one image comes twice on one device, one on two, one on three.
ROWS = np.random.default_rng(0).permutation(np.arange(3, IMAGES))[:BATCH].astype(np.int32)
ROWS[[0, 1]], ROWS[[2, 31]], ROWS[[9, 18, 27]] = 0, 1, 2


class Small(nn.Module):
    """What a step knows of a model, with all kinds of state and randomness."""

    dropout: float = 0.0
    classifiers: int = 1

    @nn.compact
    def __call__(self, images, *, train):
        hidden = nn.Dense(8)(images.reshape(len(images), -1))
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        return {"logits": tuple(nn.Dense(CLASSES)(hidden) for _ in range(self.classifiers))}


def _mesh(devices):
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def _config(*, plain=True):
    config = schema.default()
    config.noise.update(elr_weight=WEIGHT, elr_momentum=MOMENTUM)
    config.train.warmup_epochs = 0.0
    if plain:
        # Images as they are stored, so that the oracle knows what the model sees.
        config.augment.crop_scale = config.augment.crop_ratio = (1.0, 1.0)
        config.augment.update(flip=0.0, jitter_probability=0.0, grey_probability=0.0)
    return config


def _recorder():
    """Moves parameters by the negative gradient; its state is the gradient."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda gradient, state, params: (jax.tree.map(jnp.negative, gradient), gradient),
    )


def _batch():
    rng = np.random.default_rng(1)
    return {
        "image": rng.integers(0, 256, (BATCH, 6, 6, 1), np.uint8),
        "coarse": rng.integers(0, CLASSES, BATCH, np.int32),
        "row": ROWS,
    }


def _initial(model, optimizer, seed):
    return train_state.create(model, optimizer, jax.random.key(seed), (6, 6, 1))


def _elr_state(model, optimizer):
    """Of training images seen and not yet seen."""
    rng = np.random.default_rng(2)
    targets = rng.dirichlet(np.ones(CLASSES), IMAGES) * rng.choice([0.0, 0.9], (IMAGES, 1))
    return _initial(model, optimizer, 0).replace(targets=jnp.asarray(targets, jnp.float32))


def _pair_state(model, optimizer, seeds=(0, 1)):
    return pair(*(_initial(model, optimizer, seed) for seed in seeds), optimizer)


def _run(
    make, state, names, *, devices=1, model=None, steps=1, optimizer=None, config=None, **keywords
):
    """The state after some steps on one batch, the metrics of the last, and the state before."""
    mesh, model, optimizer = _mesh(devices), model or Small(), optimizer or _recorder()
    config = config or _config()
    step = make(model, optimizer, lambda step: 0.25, config, mesh, **UNITS, **keywords)
    if not isinstance(state, train_state.TrainState):
        state = state(model, optimizer)
    given = jax.device_get(state)
    batch = {name: _batch()[name] for name in names}
    after = sharding.replicate(mesh, given)
    for _ in range(steps):
        after, metrics = step(after, sharding.shard(mesh, batch))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(after))
    return jax.device_get(after), jax.device_get(metrics), given


def _elr(state=_elr_state, **keywords):
    return _run(make_elr_step, state, ELR_INPUTS, **keywords)


def _co_teach(state=_pair_state, keep_rate=lambda step: KEEP_RATE, **keywords):
    return _run(make_co_teaching_step, state, INPUTS, keep_rate=keep_rate, **keywords)


def _forward(params, model_state):
    """Logits and new statistics of the model without dropout on the batch as it is stored."""
    images = augment.normalize(jnp.asarray(_batch()["image"]), UNITS["mean"], UNITS["std"])
    outputs, model_state = Small().apply(
        {"params": params, **model_state}, images, train=True, mutable=["batch_stats"]
    )
    return outputs["logits"][0], model_state


def _softmax(logits):
    logits = np.asarray(logits, np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _cross_entropies(logits):
    return -np.log(_softmax(logits)[np.arange(BATCH), _batch()["coarse"]])


def _assert_close(found, expected, tolerance=1e-5):
    """Of two pytrees, relative to the largest value."""
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    assert largest > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest),
        found, expected,
    )  # fmt: skip


@pytest.mark.parametrize("devices", [1, 8])
def test_early_learning_regularization_is_the_papers(devices):
    after, metrics, given = _elr(devices=devices)
    logits, model_state = _forward(given.params, given.model_state)
    p, table = _softmax(logits), np.array(given.targets, np.float64)
    # The authors' update, and of several occurrences of an image only that of the first.
    clamped = np.clip(p, 1e-4, 1 - 1e-4)
    clamped /= clamped.sum(axis=1, keepdims=True)
    seen = set()
    for place, row in enumerate(ROWS.tolist()):
        if row not in seen:
            table[row] = MOMENTUM * table[row] + (1 - MOMENTUM) * clamped[place]
        seen.add(row)
    assert len(seen) == BATCH - 4 < IMAGES
    np.testing.assert_allclose(after.targets, table, rtol=1e-5, atol=1e-7)
    unseen = np.setdiff1d(np.arange(IMAGES), ROWS)
    np.testing.assert_array_equal(after.targets[unseen], given.targets[unseen])

    targets = table[ROWS]
    regularization = np.mean(np.log(1 - np.sum(p * targets, axis=1)))
    values = _cross_entropies(logits)
    assert regularization < -0.1
    np.testing.assert_allclose(metrics["cross_entropy"], values.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["early_learning_regularization"], regularization, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["loss"], values.mean() + WEIGHT * regularization, rtol=1e-4, atol=1e-6
    )
    right = np.argmax(p, axis=1) == _batch()["coarse"]
    np.testing.assert_allclose(metrics["coarse_accuracy"], right.mean(), rtol=1e-6)
    assert metrics["learning_rate"] == 0.25

    def objective(params):
        q = jax.nn.softmax(_forward(params, given.model_state)[0])
        likelihoods = q[np.arange(BATCH), _batch()["coarse"]]
        agreement = jnp.sum(q * jnp.asarray(targets, jnp.float32), axis=1)
        return jnp.mean(-jnp.log(likelihoods) + WEIGHT * jnp.log(1 - agreement))

    _assert_close(after.opt_state, jax.grad(objective)(given.params))
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(after.opt_state)))
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
    _assert_close(after.params, jax.tree.map(np.subtract, given.params, after.opt_state))
    _assert_close(after.model_state, model_state)
    assert after.step == 1


@pytest.mark.parametrize("devices", [1, 8])
def test_each_of_a_pair_learns_the_small_losses_of_the_other(devices):
    after, metrics, given = _co_teach(devices=devices)
    logits, values, chosen = {}, {}, {}
    for name in ("first", "second"):
        logits[name], model_state = _forward(given.params[name], given.model_state[name])
        _assert_close(after.model_state[name], model_state)
        values[name] = _cross_entropies(logits[name])
        chosen[name] = np.argsort(values[name])[: int(np.ceil(KEEP_RATE * BATCH))]
    assert len(np.setdiff1d(chosen["first"], chosen["second"])) > 2

    def gradient(name, rows):
        def objective(params):
            q = jax.nn.softmax(_forward(params, given.model_state[name])[0])
            return -jnp.mean(jnp.log(q[rows, _batch()["coarse"][rows]]))

        return jax.grad(objective)(given.params[name])

    expected = {
        name: gradient(name, chosen[other])
        for name, other in (("first", "second"), ("second", "first"))
    }
    _assert_close(after.opt_state, expected)
    with pytest.raises(AssertionError):  # nor are they those of its own
        _assert_close(after.opt_state, {name: gradient(name, chosen[name]) for name in chosen}, 0.1)
    _assert_close(after.params, jax.tree.map(np.subtract, given.params, after.opt_state))
    loss = values["first"][chosen["second"]].mean() + values["second"][chosen["first"]].mean()
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["cross_entropy"], values["first"].mean(), rtol=1e-5)
    right = np.argmax(logits["first"], axis=1) == _batch()["coarse"]
    np.testing.assert_allclose(metrics["coarse_accuracy"], right.mean(), rtol=1e-6)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(expected)))
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
    assert metrics["keep_rate"] == np.float32(KEEP_RATE)
    assert after.step == 1


@pytest.mark.parametrize("train", [_elr, _co_teach])
def test_eight_devices_do_what_one_does_with_views_and_dropout(train):
    how = {"model": Small(dropout=0.3), "config": _config(plain=False), "steps": 2}
    one, metrics_one, _ = train(**how)
    eight, metrics_eight, _ = train(devices=8, **how)
    for name in metrics_one:
        np.testing.assert_allclose(
            metrics_one[name], metrics_eight[name], rtol=1e-4, atol=1e-6, err_msg=name
        )
    for name in ("params", "model_state", "opt_state"):
        _assert_close(getattr(one, name), getattr(eight, name), 1e-4)
    if one.targets is not None:
        np.testing.assert_allclose(one.targets, eight.targets, rtol=1e-5, atol=1e-7)


def test_a_pair_has_one_view_and_dropout_of_its_own():
    def gradients(dropout, config):
        # Two networks alike, so that only what they are given differs.
        after, *_ = _co_teach(
            lambda model, optimizer: _pair_state(model, optimizer, seeds=(0, 0)),
            lambda step: 1.0,
            model=Small(dropout=dropout),
            config=config,
        )
        return after.opt_state

    found = gradients(0.0, _config(plain=False))
    _assert_close(found["first"], found["second"])
    with pytest.raises(AssertionError):  # it was not the image as it is stored
        _assert_close(found, gradients(0.0, _config()), 0.01)
    found = gradients(0.3, _config())
    with pytest.raises(AssertionError):
        _assert_close(found["first"], found["second"], 0.01)


def test_one_optimizer_of_a_pair_is_two():
    config = _config().train
    config.weight_decay = 0.3
    optimizer = train_state.make_optimizer(config, lambda step: 0.1 / (1 + step))
    singles = {name: _initial(Small(), optimizer, s) for s, name in enumerate(("first", "second"))}
    both = pair(singles["first"], singles["second"], optimizer)
    finite = {"loss": 0.0, "gradient_norm": 0.0}
    updated = jax.jit(lambda state, gradient: update(state, gradient, optimizer, finite))
    for number in range(3):
        gradient = {
            # The one's gradients are far larger than the other's.
            name: jax.tree.map(
                lambda x, s=scale, n=number: s * jnp.cos(n + 9 * x), singles[name].params
            )
            for name, scale in (("first", 100.0), ("second", 0.01))
        }
        both = updated(both, gradient)
        singles = {name: updated(singles[name], gradient[name]) for name in singles}
    for name, single in singles.items():
        _assert_close(both.params[name], single.params, 1e-6)
        np.testing.assert_array_equal(both.step, single.step)


def test_share_that_is_kept():
    rate = keep_rate_schedule(0.3, 20)
    found = np.array([rate(step) for step in (0, 1, 10, 19, 20, 21, 1000)])
    np.testing.assert_allclose(found, [1, 0.985, 0.85, 0.715, 0.7, 0.7, 0.7], rtol=1e-6)
    assert rate(0) == 1
    assert jax.jit(rate)(jnp.int32(10)).dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(rate)(jnp.int32(3)), 0.955, rtol=1e-6)
    np.testing.assert_allclose(keep_rate_schedule(0.5, 2.5)(1), 0.8, rtol=1e-6)
    for step in (0, 7):
        np.testing.assert_allclose(keep_rate_schedule(0.2, 0)(step), 0.8, rtol=1e-6)
        assert keep_rate_schedule(0, 5)(step) == 1
    with pytest.raises(ValueError, match=r"forget_rate: expected a number in \[0, 1\], got 1.5"):
        keep_rate_schedule(1.5, 5)
    for steps in (-1, np.inf, np.nan):
        with pytest.raises(ValueError, match="forget_steps: expected a finite number >= 0"):
            keep_rate_schedule(0.5, steps)


def test_share_that_is_kept_follows_the_step():
    _, metrics, _ = _co_teach(keep_rate=keep_rate_schedule(0.4, 4), steps=3)
    np.testing.assert_allclose(metrics["keep_rate"], 0.8, rtol=1e-6)


def test_a_loss_that_is_not_finite_changes_nothing():
    config = _config()
    config.noise.elr_weight = np.nan
    after, metrics, given = _elr(config=config)
    assert not np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, after, given)
    assert after.targets.any()


@pytest.mark.parametrize("broken", ["first", "second"])
def test_a_network_that_is_not_finite_stops_both(broken):
    state = _pair_state(Small(), _recorder())
    state.params[broken]["Dense_0"]["kernel"] *= np.nan
    after, metrics, given = _co_teach(state)
    assert not np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, after, given)


def test_what_cannot_be_trained_is_refused():
    message = "model: expected one classifier, got 2"
    with pytest.raises(ValueError, match=message):
        _elr(model=Small(classifiers=2))
    with pytest.raises(ValueError, match=message):
        _co_teach(model=Small(classifiers=2))
    with pytest.raises(ValueError, match=r"state: expected one with targets, .* got None"):
        _elr(lambda model, optimizer: _initial(model, optimizer, 0))


@pytest.fixture(scope="module")
def built():
    """Of a real run: config, data, mesh of all devices, optimizer and states of two seeds."""
    config = _config(plain=False)
    config.method = "ce"
    config.model.encoder = "mlp"
    config.model.mlp.widths = (16, 8)
    config.train.batch_size = BATCH
    dataset, mesh = load(config.data), _mesh(8)
    parts = run.build(config, dataset, mesh)
    config.seed = 1
    second = run.build(config, dataset, mesh).state
    return config, dataset, mesh, parts, second


@pytest.mark.parametrize("method", ["elr", "co_teaching"])
def test_training_goes_on_from_a_checkpoint(built, tmp_path, method):
    config, dataset, mesh, parts, second = built
    # Steps donate their states.
    first, second = jax.tree.map(jnp.copy, (parts.state, second))
    schedule = optax.constant_schedule(1e-3)
    optimizer = train_state.make_optimizer(config.train, schedule)
    split = dataset.splits["train"]
    batch = split.read(np.arange(BATCH))
    batch = {"image": batch["image"], "coarse": batch["coarse"]}
    common = (parts.model, optimizer, schedule, config, mesh)
    units = {"mean": dataset.mean, "std": dataset.std}
    if method == "elr":
        step = make_elr_step(*common, **units)
        state = with_targets(first, len(split), len(dataset.coarse_names))
        assert state.targets.shape == (len(split), len(dataset.coarse_names))
        assert state.targets.dtype == jnp.float32
        assert not state.targets.any()
        batch["row"] = np.arange(BATCH, dtype=np.int32)
    else:
        step = make_co_teaching_step(*common, **units, keep_rate=keep_rate_schedule(0.5, 3))
        state = pair(first, second, optimizer)
    step = nonfinite.skipping(step)
    batch = sharding.shard(mesh, batch)
    like = jax.tree.map(jnp.copy, state)
    state, _ = step(state, batch)
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(state, 1)
        restored, number = checkpoints.restore_latest(like)
    assert number == 1
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    state, metrics = step(state, batch)
    restored, again = step(restored, batch)
    jax.tree.map(np.testing.assert_array_equal, (restored, again), (state, metrics))
    assert state.step == 2
    assert metrics["skipped_steps"] == 0
    if method == "elr":
        assert np.array_equal(np.asarray(state.targets).any(axis=1), np.arange(len(split)) < BATCH)


def test_first_of_a_pair_can_be_embedded(built):
    config, dataset, _, parts, second = built
    optimizer = train_state.make_optimizer(config.train, optax.constant_schedule(1e-3))
    found = first_of(pair(parts.state, second, optimizer))
    images = dataset.splits["train"].read(np.arange(8))["image"]
    embeddings = [
        parts.forward({"params": state.params, **state.model_state}, images)["embedding"]
        for state in (found, parts.state, second)
    ]
    np.testing.assert_array_equal(embeddings[0], embeddings[1])
    assert np.abs(np.subtract(embeddings[0], embeddings[2])).max() > 0.1
    np.testing.assert_array_equal(found.step, parts.state.step)
