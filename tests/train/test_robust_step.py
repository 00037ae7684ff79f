"""The update against the worst group: the paper's, in float64; alike on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from thanos_jax.train.robust_step import make_robust_step

from thanos_jax import config as schema
from thanos_jax import run, sharding
from thanos_jax.data import augment
from thanos_jax.data.sources import load

SIZES = np.array([100, 25, 400, 9])
WEIGHTS = np.array([0.2, 0.1, 0.4, 0.3])
# Sorted, so that most of eight devices lack most groups; the batch has none of group 3.
GROUPS = np.sort(np.arange(32) % 7 // 3).astype(np.int32)
STEP_SIZE, ADJUSTMENT = 0.5, 2.0


@pytest.fixture(scope="module")
def dataset():
    return load(schema.default().data)


def _config():
    config = schema.default()
    config.method = "ce"
    config.model.encoder = "mlp"
    config.model.mlp.widths = (32, 16)
    # As they are stored, so that the oracle knows what the model sees.
    config.augment.crop_scale = config.augment.crop_ratio = (1.0, 1.0)
    config.augment.update(flip=0.0, jitter_probability=0.0, grey_probability=0.0)
    config.train.update(batch_size=32, warmup_epochs=0.0)
    config.robust.update(group_dro_step_size=STEP_SIZE, group_dro_adjustment=ADJUSTMENT)
    return config


def _recorder():
    """Not an optimizer: its state is the last gradient."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda gradient, state, params: (jax.tree.map(jnp.zeros_like, gradient), gradient),
    )


def _step(dataset, devices, *, group_sizes=None, **changes):
    """State after a step that only records its gradient, metrics, and what the step was given."""
    mesh = jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )
    config = _config()
    parts = run.build(config, dataset, mesh)
    step = make_robust_step(
        parts.model, _recorder(), lambda step: 0.25, config, mesh,
        mean=dataset.mean, std=dataset.std, group_sizes=group_sizes,
    )  # fmt: skip
    weights = None if group_sizes is None else jnp.asarray(WEIGHTS, jnp.float32)
    state = parts.state.replace(
        opt_state=jax.tree.map(jnp.zeros_like, parts.state.params), group_weights=weights
    )
    read = dataset.splits["train"].read(np.arange(32))
    batch = {"image": read["image"], "coarse": read["coarse"], "group": GROUPS} | changes
    given = jax.device_get(state)
    after, metrics = step(sharding.replicate(mesh, state), sharding.shard(mesh, batch))
    return jax.device_get(after), jax.device_get(metrics), given, batch, parts.model


def _cross_entropies(model, params, batch, dataset):
    images = augment.normalize(jnp.asarray(batch["image"]), dataset.mean, dataset.std)
    (logits,) = model.apply({"params": params}, images, train=False)["logits"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["coarse"])


def _assert_gradient(found, model, params, batch, dataset, weights):
    expected = jax.grad(
        lambda p: jnp.sum(jnp.asarray(weights, jnp.float32)
                          * _cross_entropies(model, p, batch, dataset))
    )(params)  # fmt: skip
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    assert largest > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest), found, expected
    )


def test_group_dro_is_the_papers(dataset):
    after, metrics, given, batch, model = _step(dataset, 1, group_sizes=SIZES)
    values = np.asarray(_cross_entropies(model, given.params, batch, dataset), np.float64)
    counts = np.bincount(GROUPS, minlength=4)
    means = np.bincount(GROUPS, weights=values, minlength=4) / np.maximum(counts, 1)
    assert counts[3] == 0
    assert counts[:3].all()
    # Algorithm 1 of arXiv 1911.08731, with the adjustment of its section 3.3.
    q = WEIGHTS * np.exp(STEP_SIZE * (means + ADJUSTMENT / np.sqrt(SIZES)))
    q /= q.sum()
    np.testing.assert_allclose(after.group_weights, q, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], np.sum(q * means), rtol=1e-5)
    np.testing.assert_allclose(metrics["cross_entropy"], values.mean(), rtol=1e-5)
    assert metrics["largest_group_weight"] == after.group_weights.max()
    assert after.step == 1
    # q is a constant of the gradient: a weighted mean of the images' gradients.
    weights = (q / np.maximum(counts, 1))[GROUPS]
    _assert_gradient(after.opt_state, model, given.params, batch, dataset, weights)


def test_weights_of_images_are_those_of_their_gradients(dataset):
    weights = np.linspace(0, 3, 32, dtype=np.float32)
    after, metrics, given, batch, model = _step(dataset, 1, weight=weights)
    values = np.asarray(_cross_entropies(model, given.params, batch, dataset), np.float64)
    np.testing.assert_allclose(metrics["loss"], np.mean(weights * values), rtol=1e-5)
    assert after.group_weights is None
    _assert_gradient(after.opt_state, model, given.params, batch, dataset, weights / 32)


def test_eight_devices_do_what_one_does(dataset):
    one, metrics_one, *_ = _step(dataset, 1, group_sizes=SIZES)
    eight, metrics_eight, *_ = _step(dataset, 8, group_sizes=SIZES)
    for name in metrics_one:
        np.testing.assert_allclose(metrics_one[name], metrics_eight[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(one.group_weights, eight.group_weights, rtol=1e-6)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(one.opt_state))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest),
        one.opt_state, eight.opt_state,
    )  # fmt: skip


def test_a_loss_that_is_not_finite_changes_nothing(dataset):
    after, metrics, given, *_ = _step(dataset, 1, weight=np.full(32, np.nan, np.float32))
    assert not np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, after, given)
