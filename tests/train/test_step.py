"""The update: the same on any number of devices, and none for a gradient that is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from thanos_jax import config as schema
from thanos_jax import run, sharding
from thanos_jax.data.sources import load


@pytest.fixture(scope="module")
def dataset():
    return load(schema.default().data)


def _config(method="thanos", encoder="mlp", arrangement="separate"):
    config = schema.default()
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


def _mesh(devices):
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def _steps(parts, dataset, mesh, count):
    # The step donates its state: each call gets a copy.
    state, found = jax.tree.map(jnp.copy, parts.state), []
    for step in range(count):
        indices = np.arange(step * 32, (step + 1) * 32)
        batch = sharding.shard(mesh, dataset.splits["train"].read(indices))
        state, metrics = parts.step(state, batch)
        found.append(jax.device_get(metrics))
    return jax.device_get(state), found


def _train(config, dataset, devices, count):
    mesh = _mesh(devices)
    return _steps(run.build(config, dataset, mesh), dataset, mesh, count)


# Without the convolutional decoder: its gradient is rounded differently at every kink of its ReLUs,
# by as much as 1e-3, on one device too if the batch is merely put in another order.
@pytest.mark.parametrize(
    ("encoder", "method"), [("mlp", "thanos"), ("vit", "spread"), ("resnet18", "supcon")]
)
def test_eight_devices_do_what_one_does(dataset, encoder, method):
    config = _config(method, encoder)
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
    config = _config(arrangement="shared")
    one, eight = (_train(config, dataset, devices, 5)[1] for devices in (1, 8))
    np.testing.assert_allclose([m["loss"] for m in one], [m["loss"] for m in eight], rtol=1e-5)


def test_a_step_is_a_function_of_state_and_batch(dataset):
    config, mesh = _config(encoder="vit", method="spread"), _mesh(2)
    parts = run.build(config, dataset, mesh)
    first = _steps(parts, dataset, mesh, 2)
    jax.tree.map(np.testing.assert_array_equal, first, _steps(parts, dataset, mesh, 2))


def test_the_seed_matters(dataset):
    config = _config(method="ce")
    losses = []
    for seed in (0, 1):
        config.seed = seed
        losses.append(_train(config, dataset, 1, 1)[1][0]["loss"])
    assert losses[0] != losses[1]


def test_a_gradient_that_is_not_finite_changes_nothing(dataset):
    mesh = _mesh(1)
    parts = run.build(_config(), dataset, mesh)
    broken = jax.tree.map(lambda x: x, parts.state)
    params = dict(broken.params)
    name = next(iter(params))
    params[name] = jax.tree.map(lambda x: x.at[...].set(jnp.nan), params[name])
    broken = broken.replace(params=params)
    before = jax.device_get(broken)
    batch = sharding.shard(mesh, dataset.splits["train"].read(np.arange(32)))
    after, metrics = parts.step(broken, batch)
    assert not np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(after))


@pytest.mark.parametrize("method", ["thanos", "ce"])
def test_training_lowers_the_loss(dataset, method):
    config = _config(method=method, arrangement="shared")
    config.train.learning_rate = 1e-2
    _, metrics = _train(config, dataset, 1, 20)
    losses = [m["loss"] for m in metrics]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
