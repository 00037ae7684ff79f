"""Updates of classifiers: the papers', in NumPy and float64; alike on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trainings import CLASSES, DATASET, IMAGES, Small, make_mesh, recorder, small_training
from trainings import assert_close as _assert_close

from thanos_jax import config as schema
from thanos_jax import sharding
from thanos_jax.data import augment
from thanos_jax.data.sources import load
from thanos_jax.train import optimizers
from thanos_jax.train import state as train_state
from thanos_jax.train.build import build
from thanos_jax.train.checkpoint import Checkpoints
from thanos_jax.train.classifier_losses import (
    co_teaching,
    early_learning_regularization,
    first_of,
    group_dro,
    keep_rate_schedule,
    pair,
    soft,
    weighted,
    with_group_weights,
    with_targets,
)
from thanos_jax.train.update import apply, make_step

BATCH = 32
WEIGHT, MOMENTUM, KEEP_RATE = 3.0, 0.6, 0.6
# Of eight devices' rows, one image comes twice on one device, one on two, one on three.
ROWS = np.random.default_rng(0).permutation(np.arange(3, IMAGES))[:BATCH].astype(np.int32)
ROWS[[0, 1]], ROWS[[2, 31]], ROWS[[9, 18, 27]] = 0, 1, 2
SIZES = np.array([100, 25, 400, 9])
GROUP_WEIGHTS = np.array([0.2, 0.1, 0.4, 0.3])
# Sorted, so that most of eight devices lack most groups; the batch has none of group 3.
GROUPS = np.sort(np.arange(32) % 7 // 3).astype(np.int32)
STEP_SIZE, ADJUSTMENT = 0.5, 2.0


def _config(*, plain=True):
    config = schema.default()
    config.noise.update(elr_weight=WEIGHT, elr_momentum=MOMENTUM)
    config.groups.update(group_dro_step_size=STEP_SIZE, group_dro_adjustment=ADJUSTMENT)
    config.train.update(batch_size=BATCH, warmup_epochs=0.0)
    if plain:
        # Images as they are stored, so that the oracle knows what the model sees.
        config.augment.crop_scale = config.augment.crop_ratio = (1.0, 1.0)
        config.augment.update(flip=0.0, jitter_probability=0.0, grey_probability=0.0)
    return config


def _batch():
    rng = np.random.default_rng(1)
    return {
        "image": rng.integers(0, 256, (BATCH, 6, 6, 1), np.uint8),
        "coarse": rng.integers(0, CLASSES, BATCH, np.int32),
        "row": ROWS,
        "group": GROUPS,
    }


def _initial(seed):
    return train_state.create(Small(), recorder(), jax.random.key(seed), DATASET.image_shape)


def _elr_state(training):
    """Of training images seen and not yet seen."""
    rng = np.random.default_rng(2)
    targets = rng.dirichlet(np.ones(CLASSES), IMAGES) * rng.choice([0.0, 0.9], (IMAGES, 1))
    return training.state.replace(targets=jnp.asarray(targets, jnp.float32))


def _pair_state(training, second=1):
    return pair(training, _initial(second))


def _run(objective, state, *, devices=1, model=None, steps=1, config=None, changes=None):
    """The state after some steps on one batch, the metrics of the last, and the state before."""
    mesh = make_mesh(devices)
    training = small_training(config or _config(), model=model, mesh=mesh)
    of_training = objective(training)
    step = make_step(training, of_training)
    given = jax.device_get(state(training))
    batch = _batch() | (changes or {})
    batch = {name: batch[name] for name in of_training.inputs}
    after = sharding.replicate(mesh, given)
    for _ in range(steps):
        after, metrics = step(after, sharding.shard(mesh, batch), np.uint32(training.config.seed))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(after))
    return jax.device_get(after), jax.device_get(metrics), given


def _elr(state=_elr_state, **keywords):
    return _run(early_learning_regularization, state, **keywords)


def _co_teach(state=_pair_state, keep_rate=lambda step: KEEP_RATE, **keywords):
    return _run(lambda training: co_teaching(training, keep_rate), state, **keywords)


def _weigh(weights):
    return _run(weighted, lambda training: training.state, changes={"weight": weights})


def _group_dro(**keywords):
    def state(training):
        return training.state.replace(group_weights=jnp.asarray(GROUP_WEIGHTS, jnp.float32))

    return _run(lambda training: group_dro(training, SIZES), state, **keywords)


def _forward(params, model_state):
    """Logits and new statistics of the model without dropout on the batch as it is stored."""
    images = augment.normalize(jnp.asarray(_batch()["image"]), DATASET.mean, DATASET.std)
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


def _assert_gradient(found, given, weights):
    def objective(params):
        logits, _ = _forward(params, given.model_state)
        values = optax.softmax_cross_entropy_with_integer_labels(logits, _batch()["coarse"])
        return jnp.sum(jnp.asarray(weights, jnp.float32) * values)

    _assert_close(found, jax.grad(objective)(given.params))


def test_group_dro_is_the_papers():
    after, metrics, given = _group_dro()
    values = _cross_entropies(_forward(given.params, given.model_state)[0])
    counts = np.bincount(GROUPS, minlength=4)
    means = np.bincount(GROUPS, weights=values, minlength=4) / np.maximum(counts, 1)
    assert counts[3] == 0
    assert counts[:3].all()
    # Algorithm 1 of arXiv 1911.08731, with the adjustment of its section 3.3.
    q = GROUP_WEIGHTS * np.exp(STEP_SIZE * (means + ADJUSTMENT / np.sqrt(SIZES)))
    q /= q.sum()
    np.testing.assert_allclose(after.group_weights, q, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], np.sum(q * means), rtol=1e-5)
    np.testing.assert_allclose(metrics["cross_entropy"], values.mean(), rtol=1e-5)
    assert metrics["largest_group_weight"] == after.group_weights.max()
    assert after.step == 1
    # q is a constant of the gradient: a weighted mean of the images' gradients.
    _assert_gradient(after.opt_state, given, (q / np.maximum(counts, 1))[GROUPS])


def test_weights_of_images_are_those_of_their_gradients():
    weights = np.linspace(0, 3, 32, dtype=np.float32)
    after, metrics, given = _weigh(weights)
    values = _cross_entropies(_forward(given.params, given.model_state)[0])
    np.testing.assert_allclose(metrics["loss"], np.mean(weights * values), rtol=1e-5)
    assert after.group_weights is None
    _assert_gradient(after.opt_state, given, weights / 32)


@pytest.mark.parametrize("devices", [1, 8])
def test_soft_labels_are_the_probabilities_of_the_cross_entropy(devices):
    targets = np.random.default_rng(2).dirichlet(np.ones(CLASSES), BATCH)
    after, metrics, given = _run(
        soft,
        lambda training: training.state,
        devices=devices,
        changes={"target": targets.astype(np.float32)},
    )
    logits, _ = _forward(given.params, given.model_state)
    value = -np.mean(np.sum(targets * np.log(_softmax(logits)), axis=1))
    np.testing.assert_allclose([metrics["loss"], metrics["cross_entropy"]], value, rtol=1e-5)
    right = np.argmax(logits, axis=1) == _batch()["coarse"]
    np.testing.assert_allclose(metrics["coarse_accuracy"], right.mean(), rtol=1e-6)

    def objective(params):
        q = jax.nn.softmax(_forward(params, given.model_state)[0])
        return -jnp.mean(jnp.sum(jnp.asarray(targets, jnp.float32) * jnp.log(q), axis=1))

    _assert_close(after.opt_state, jax.grad(objective)(given.params))


def test_group_dro_on_eight_devices_does_what_it_does_on_one():
    one, metrics_one, _ = _group_dro()
    eight, metrics_eight, _ = _group_dro(devices=8)
    for name in metrics_one:
        np.testing.assert_allclose(metrics_one[name], metrics_eight[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(one.group_weights, eight.group_weights, rtol=1e-6)
    _assert_close(eight.opt_state, one.opt_state)


def test_a_weighted_loss_that_is_not_finite_changes_nothing():
    after, metrics, given = _weigh(np.full(32, np.nan, np.float32))
    assert not np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, after, given)


def test_a_group_without_images_weighs_nothing_at_first():
    state = with_group_weights(small_training(_config()), np.array([3, 0, 2]))
    np.testing.assert_array_equal(state.group_weights, np.float32([0.5, 0, 0.5]))


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


@pytest.mark.sampled(2)
@pytest.mark.parametrize("devices", [8, 1])
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


@pytest.mark.sampled(2)
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
            lambda training: _pair_state(training, 0),
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
    optimizer = optimizers.make_optimizer(config, lambda step: 0.1 / (1 + step))
    singles = {
        name: train_state.create(Small(), optimizer, jax.random.key(seed), DATASET.image_shape)
        for seed, name in enumerate(("first", "second"))
    }
    training = small_training(_config(), optimizer=optimizer, state=singles["first"])
    both = pair(training, singles["second"])
    updated = jax.jit(lambda state, gradient: apply(state, gradient, optimizer, True, {}))
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
    def broken_pair(training):
        state = _pair_state(training)
        state.params[broken]["Dense_0"]["kernel"] *= np.nan
        return state

    after, metrics, given = _co_teach(broken_pair)
    assert not np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, after, given)


def test_what_cannot_be_trained_is_refused():
    message = "model: expected one classifier, got 2"
    with pytest.raises(ValueError, match=message):
        _elr(model=Small(classifiers=2))
    with pytest.raises(ValueError, match=message):
        _co_teach(model=Small(classifiers=2))
    with pytest.raises(ValueError, match=r"state: expected one with targets, .* got None"):
        _elr(lambda training: training.state)


@pytest.mark.sampled(2)
@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("objective", "state"),
    [
        (weighted, lambda training: training.state),
        (
            lambda training: group_dro(training, SIZES),
            lambda training: with_group_weights(training, SIZES),
        ),
        (early_learning_regularization, with_targets),
        (lambda training: co_teaching(training, keep_rate_schedule(0.4, 4)), _pair_state),
    ],
    ids=["weighted", "group_dro", "elr", "co_teaching"],
)
def test_the_seed_is_no_constant_of_the_step(objective, state):
    batch, texts = _batch() | {"weight": np.ones(BATCH, np.float32)}, []
    for seed in (0, 1):
        config = _config(plain=False)
        config.seed = seed
        training = small_training(config, model=Small(dropout=0.3))
        of_training = objective(training)
        given = {name: batch[name] for name in of_training.inputs}
        step = make_step(training, of_training)
        texts.append(step.lower(state(training), given, np.uint32(seed)).as_text())
    assert texts[0] == texts[1]


@pytest.fixture(scope="module")
def built():
    """A real training, on all devices, and the state of another seed."""
    config = _config(plain=False)
    config.method = "ce"
    config.model.encoder = "mlp"
    config.model.mlp.widths = (16, 8)
    config.train.on_nonfinite = "skip"
    dataset, mesh = load(config.data), make_mesh(8)
    training = build(config.copy_and_resolve_references(), dataset, mesh)
    config.seed = 1
    return training, build(config, dataset, mesh).state


@pytest.mark.sampled(2)
@pytest.mark.parametrize("method", ["elr", "co_teaching"])
def test_training_goes_on_from_a_checkpoint(built, tmp_path, method):
    training, second = built
    # Steps donate their states.
    first, second = jax.tree.map(jnp.copy, (training.state, second))
    schedule = optax.constant_schedule(1e-3)
    optimizer = optimizers.make_optimizer(training.config.train, schedule)
    training = training._replace(state=first, optimizer=optimizer, schedule=schedule)
    split = training.dataset.splits["train"]
    batch = split.read(np.arange(BATCH)) | {"row": np.arange(BATCH, dtype=np.int32)}
    if method == "elr":
        objective = early_learning_regularization(training)
        state = with_targets(training)
        assert state.targets.shape == (len(split), len(training.dataset.coarse_names))
        assert state.targets.dtype == jnp.float32
        assert not state.targets.any()
    else:
        objective = co_teaching(training, keep_rate_schedule(0.5, 3))
        state = pair(training, second)
    step, seed = make_step(training, objective), np.uint32(1)
    batch = sharding.shard(training.mesh, {name: batch[name] for name in objective.inputs})
    like = jax.tree.map(jnp.copy, state)
    state, _ = step(state, batch, seed)
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(state, 1)
        restored, number = checkpoints.restore_latest(like)
    assert number == 1
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    state, metrics = step(state, batch, seed)
    restored, again = step(restored, batch, seed)
    jax.tree.map(np.testing.assert_array_equal, (restored, again), (state, metrics))
    assert state.step == 2
    assert metrics["skipped_steps"] == 0
    if method == "elr":
        assert np.array_equal(np.asarray(state.targets).any(axis=1), np.arange(len(split)) < BATCH)


def test_first_of_a_pair_can_be_embedded(built):
    training, second = built
    found = first_of(pair(training, second))
    images = training.dataset.splits["train"].read(np.arange(8))["image"]
    embeddings = [
        training.forward({"params": state.params, **state.model_state}, images)["embedding"]
        for state in (found, training.state, second)
    ]
    np.testing.assert_array_equal(embeddings[0], embeddings[1])
    assert np.abs(np.subtract(embeddings[0], embeddings[2])).max() > 0.1
    np.testing.assert_array_equal(found.step, training.state.step)
