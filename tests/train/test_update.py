"""The update: the same on any number of devices, and none for a gradient that is not finite."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from trainings import make_mesh, recorder

from thanos_jax import config as schema
from thanos_jax import sharding
from thanos_jax.data import augment
from thanos_jax.data.sources import load
from thanos_jax.errors import ConfigError
from thanos_jax.train import objective
from thanos_jax.train.build import build
from thanos_jax.train.two_views import INPUTS, NUM_VIEWS, two_views
from thanos_jax.train.update import make_step


@pytest.fixture(scope="module")
def dataset():
    return load(schema.default().data)


def _config(method="thanos", encoder="mlp", arrangement="separate", micro_batch_size=0):
    config = schema.default()
    config.train.micro_batch_size = micro_batch_size
    config.method = method
    config.model.encoder = encoder
    config.model.arrangement = arrangement
    config.model.mlp.widths = (32, 16)
    config.model.vit.update(patch=4, width=16, depth=1, heads=2, mlp_width=32, dropout=0.1,
                            stochastic_depth=0.1)  # fmt: skip
    config.model.resnet.width = 4
    config.train.batch_size = 32
    config.train.epochs = 2.0
    config.train.warmup_epochs = 0.0
    return config


_BUILT = {}


def _build(config, dataset, devices):
    """A training and its step, compiled once for all tests with this configuration."""
    key = config.to_json(), devices
    if key not in _BUILT:
        training = build(config.copy_and_resolve_references(), dataset, make_mesh(devices))
        _BUILT[key] = training, make_step(training, two_views(training))
    return _BUILT[key]


def _train(config, dataset, devices, count):
    training, step = _build(config, dataset, devices)
    # The step donates its state: each call gets a copy.
    state, found = jax.tree.map(jnp.copy, training.state), []
    for number in range(count):
        indices = np.arange(number * 32, (number + 1) * 32)
        batch = sharding.shard(training.mesh, dataset.splits["train"].read(indices))
        state, metrics = step(state, batch, np.uint32(config.seed))
        found.append(jax.device_get(metrics))
    return jax.device_get(state), found


# Without the convolutional decoder: its gradient is rounded differently at every kink of its ReLUs,
# by as much as 1e-3, on one device too if the batch is merely put in another order.
@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("encoder", "method", "micro_batch_size"),
    [
        ("mlp", "thanos", 0),
        pytest.param("resnet18", "supcon", 0, marks=pytest.mark.slow),
        ("mlp", "thanos", 8),
        pytest.param("vit", "spread", 16, marks=pytest.mark.slow),
    ],
)
def test_eight_devices_do_what_one_does(dataset, encoder, method, micro_batch_size):
    config = _config(method, encoder, micro_batch_size=micro_batch_size)
    state_one, (one,) = _train(config, dataset, 1, 1)
    state_eight, (eight,) = _train(config, dataset, 8, 1)
    for name in one:
        np.testing.assert_allclose(one[name], eight[name], rtol=1e-5, err_msg=name)
    # Adam's first moment after one step is a tenth of the gradient.
    moments = [optax.tree.get(state.opt_state, "mu") for state in (state_one, state_eight)]
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(moments[0]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest), *moments
    )
    assert state_one.step == state_eight.step == 1


def test_the_first_losses_do_not_depend_on_the_number_of_devices(dataset):
    config = _config()
    one, eight = (_train(config, dataset, devices, 5)[1] for devices in (1, 8))
    np.testing.assert_allclose([m["loss"] for m in one], [m["loss"] for m in eight], rtol=1e-5)


def test_a_step_is_a_function_of_state_and_batch(dataset):
    first, second = (_train(_config(), dataset, 8, 2) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_seed_matters(dataset):
    config = _config("ce", arrangement="shared")
    config.train.learning_rate = 1e-2  # as below
    losses = []
    for seed in (0, 1):
        config.seed = seed
        losses.append(_train(config, dataset, 1, 1)[1][0]["loss"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("micro_batch_size", [0, 8])
def test_a_gradient_that_is_not_finite_changes_nothing(dataset, micro_batch_size):
    training, step = _build(_config(micro_batch_size=micro_batch_size), dataset, 1)
    broken = jax.tree.map(jnp.copy, training.state)
    params = dict(broken.params)
    name = next(iter(params))
    params[name] = jax.tree.map(lambda x: x.at[...].set(jnp.nan), params[name])
    broken = broken.replace(params=params)
    before = jax.device_get(broken)
    batch = sharding.shard(make_mesh(1), dataset.splits["train"].read(np.arange(32)))
    after, metrics = step(broken, batch, np.uint32(0))
    assert not np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(after))


@pytest.mark.parametrize(("method", "micro_batch_size"), [("ce", 0), ("thanos", 8)])
def test_training_lowers_the_loss(dataset, method, micro_batch_size):
    config = _config(method, arrangement="shared", micro_batch_size=micro_batch_size)
    config.train.learning_rate = 1e-2
    _, metrics = _train(config, dataset, 1, 20)
    losses = [m["loss"] for m in metrics]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


# Micro-batches: what is held to what is a Python loop over the chunks, all of it differentiated at
# once. Its memory grows with the batch; that of the step does not.


def _gradient(config, dataset, batch, devices=1):
    """The gradient the step takes, the model's state after it, its metrics, and the training."""
    mesh = make_mesh(devices)
    training = build(config, dataset, mesh)
    step = make_step(
        training._replace(optimizer=recorder(), schedule=lambda step: 0.25), two_views(training)
    )
    state = training.state.replace(opt_state=training.state.params)
    after, metrics = step(
        jax.tree.map(jnp.copy, state), sharding.shard(mesh, batch), np.uint32(config.seed)
    )
    return jax.device_get((after.opt_state, after.model_state, metrics)), training


def _looped(config, dataset, batch, training):
    """As `_gradient`, by definition; also the state that each chunk alone would leave."""
    chunks = config.train.batch_size // config.train.micro_batch_size
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 0))
    augment_keys, dropout_keys = (jax.random.split(key, chunks) for key in keys)
    contrastive = objective.contrastive_loss(config.method, config.loss, make_mesh(1))

    def loss_fn(params):
        outputs, all_views, model_states = [], [], []
        for chunk in range(chunks):
            images = batch["image"][chunk::chunks]
            views = augment.views(
                augment_keys[chunk], images, NUM_VIEWS, **config.augment.to_dict()
            )
            views = augment.normalize(views, dataset.mean, dataset.std)
            output, model_state = training.model.apply(
                {"params": params, **training.state.model_state},
                views.reshape(-1, *views.shape[2:]),
                train=True,
                rngs={"dropout": dropout_keys[chunk]},
                mutable=list(training.state.model_state),
            )
            outputs.append(output)
            all_views.append(views)
            model_states.append(model_state)
        labels = jnp.concatenate([batch["coarse"][chunk::chunks] for chunk in range(chunks)])
        together = jax.tree.map(lambda *x: jnp.concatenate(x), *outputs)
        views = jnp.concatenate(all_views)
        loss, metrics = objective.total_loss(
            together, views, labels, contrastive=contrastive, config=config.loss
        )
        return loss, (metrics, model_states)

    differentiate = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (_, (metrics, model_states)), gradient = differentiate(training.state.params)
    metrics |= {"gradient_norm": optax.tree.norm(gradient), "learning_rate": jnp.float32(0.25)}
    return jax.device_get((gradient, model_states, metrics))


def _batch(dataset, size=32):
    whole = dataset.splits["train"].read(np.arange(size))
    return {name: whole[name] for name in INPUTS}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "encoder", "arrangement", "micro_batch_size"),
    [
        ("thanos", "mlp", "separate", 8),
        ("spread", "vit", "shared", 16),
        ("supcon", "resnet18", "shared", 16),
    ],
)
def test_micro_batches_have_the_gradient_of_the_whole_batch(
    dataset, method, encoder, arrangement, micro_batch_size
):
    """With dropout, stochastic depth and all of the augmentation; BatchNorm's chunk by chunk."""
    config = _config(method, encoder, arrangement, micro_batch_size)
    config.loss.update(contrastive_weight=0.7, cross_entropy_weight=1.3, reconstruction_weight=0.4)
    batch = _batch(dataset)
    (gradient, model_state, metrics), training = _gradient(config, dataset, batch)
    expected, model_states, expected_metrics = _looped(config, dataset, batch, training)
    assert metrics.keys() == expected_metrics.keys()
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest),
        gradient, expected,
    )  # fmt: skip
    # The running statistics move once: to the mean of where each chunk alone would move them.
    mean = jax.tree.map(lambda *x: np.mean(x, axis=0), *model_states)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                 model_state, mean)  # fmt: skip
    assert bool(jax.tree.leaves(mean)) == (encoder == "resnet18")


def _lowered(config, dataset, mesh):
    training = build(config, dataset, mesh)
    sharded = NamedSharding(mesh, P("data"))
    batch = {
        name: jax.ShapeDtypeStruct(
            (config.train.batch_size, *x.shape[1:]), x.dtype, sharding=sharded
        )
        for name, x in _batch(dataset, 1).items()
    }
    step = make_step(training, two_views(training))
    return step.lower(training.state, batch, np.uint32(config.seed))


def test_a_micro_batch_of_the_whole_batch_is_the_plain_step(dataset):
    texts = [
        _lowered(_config("cauto", micro_batch_size=size), dataset, make_mesh(1)).as_text()
        for size in (0, 32, 16)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("micro_batch_size", [16, 0])
def test_the_seed_is_no_constant_of_the_step(dataset, micro_batch_size):
    texts = []
    for seed in (0, 1):
        config = _config(micro_batch_size=micro_batch_size)
        config.seed = seed
        texts.append(_lowered(config, dataset, make_mesh(1)).as_text())
    assert texts[0] == texts[1]


COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-to-all|all-reduce|collective-\w+|reduce-scatter)")


@pytest.mark.parametrize("method", ["ce", "spread"])
def test_images_stay_on_their_devices(dataset, method):
    """Each device works on its own part of every chunk: what travels is never an image."""
    config = _config(method, micro_batch_size=16)
    config.train.batch_size = 64
    text = _lowered(config, dataset, make_mesh(8)).compile().as_text()
    sent = [(kind, shapes) for shapes, kind in COLLECTIVE.findall(text)]
    assert sent
    if method == "ce":
        assert {kind for kind, _ in sent} == {"all-reduce"}  # gradients and metrics
    for kind, shapes in sent:
        for dtype, dimensions in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            # Images are uint8 [.., 8, 8, 1], their views float32 [..., 8, 8, 1].
            assert dtype != "u8", (kind, shapes)
            assert len(dimensions.split(",")) < 4, (kind, shapes)


@pytest.mark.slow
def test_memory_of_a_batch_sixteen_times_as_large(dataset):
    """All that the step holds: temporaries, arguments (the images too) and results.

    The batch is small enough for the similarities of its 1,024 views, 4 MiB a matrix in the dense
    implementation, to be little beside the encoder's activations.
    """
    held = []
    for batch_size, micro_batch_size in ((32, 0), (512, 32)):
        config = _config("spread", "vit", micro_batch_size=micro_batch_size)
        config.train.batch_size = batch_size
        config.model.vit.update(patch=1, width=32, depth=2)
        found = _lowered(config, dataset, make_mesh(1)).compile().memory_analysis()
        held.append(
            found.temp_size_in_bytes + found.argument_size_in_bytes
            + found.output_size_in_bytes - found.alias_size_in_bytes
        )  # fmt: skip
    assert held[1] < 1.3 * held[0], held
    # An encoder that held the whole batch would be far beyond the bound.
    assert held[0] > 16 * 2**20


def test_a_micro_batch_the_devices_cannot_share_is_refused(dataset):
    config = _config(micro_batch_size=4)
    expected = r"train\.micro_batch_size: expected 0 or a multiple of the 8 devices, got 4"
    with pytest.raises(ConfigError, match=expected):
        two_views(build(config, dataset, make_mesh(8)))
