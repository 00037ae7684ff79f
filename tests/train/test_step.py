"""The update: the same on any number of devices, and none for a gradient that is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
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


def _train(config, dataset, devices, steps):
    mesh = _mesh(devices)
    parts = run.build(config, dataset, mesh)
    state, losses = parts.state, []
    for step in range(steps):
        indices = np.arange(step * 32, (step + 1) * 32)
        batch = sharding.shard(mesh, dataset.splits["train"].read(indices))
        state, metrics = parts.step(state, batch)
        losses.append(jax.device_get(metrics))
    return jax.device_get(state), losses


@pytest.mark.parametrize(
    ("encoder", "arrangement"), [("mlp", "separate"), ("vit", "joint"), ("resnet18", "shared")]
)
def test_eight_devices_do_what_one_does(dataset, encoder, arrangement):
    config = _config(encoder=encoder, arrangement=arrangement)
    # From the second step on Adam, which divides by the gradient's size, has turned rounding into
    # steps; until then only the gradient, rounded differently at ReLU's kinks, may differ more.
    state_one, one = _train(config, dataset, 1, 3)
    state_eight, eight = _train(config, dataset, 8, 3)
    for step, (a, b) in enumerate(zip(one, eight, strict=True)):
        for name in a:
            first = 2e-4 if name == "gradient_norm" else 1e-5
            tolerance = first if step == 0 else 1e-2
            np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=1e-6, err_msg=name)
    assert state_one.step == state_eight.step == 3


def test_a_step_is_a_function_of_state_and_batch(dataset):
    config = _config(encoder="vit")
    first = _train(config, dataset, 2, 2)
    again = _train(config, dataset, 2, 2)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    config.seed = 1
    other = _train(config, dataset, 2, 2)
    assert other[1][0]["loss"] != first[1][0]["loss"]


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
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
