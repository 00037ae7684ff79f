"""Optimizers and schedules, held to NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from thanos_jax import config as schema
from thanos_jax.train import optimizers

STEPS = 20


def configured(**changes):
    config = schema.default().train
    config.update(warmup_epochs=0.0, learning_rate=0.1, weight_decay=0.05, momentum=0.9)
    config.update(**changes)
    return config


def data():
    """Logistic regression: inputs, labels, and initial parameters under their names in a model."""
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(5, 1)), "bias": rng.normal(size=1)}
    return rng.normal(size=(30, 5)), rng.integers(0, 2, 30), params


def gradient(x, y, params):
    logits = (x @ params["kernel"] + params["bias"])[:, 0]
    errors = (1 / (1 + np.exp(-logits)) - y)[:, None] / len(y)
    return {"kernel": x.T @ errors, "bias": errors.sum(axis=0)}


def trained(config, rate):
    """The parameters after some steps of the optimizer, in float32."""
    x, y, params = data()
    optimizer = optimizers.make_optimizer(config, rate)
    params = {"layer": jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)}

    @jax.jit
    def step(params, state):
        def loss(params):
            logits = (jnp.asarray(x, jnp.float32) @ params["layer"]["kernel"])[:, 0]
            logits += params["layer"]["bias"]
            return jnp.mean(jax.nn.softplus(logits) - y * logits)

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return jax.tree.map(jnp.add, params, updates), state

    state = optimizer.init(params)
    for _ in range(STEPS):
        params, state = step(params, state)
    return params["layer"]


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", ["kernels", "all"])
def test_sgd_is_the_textbooks(optimizer, momentum, decay):
    config = configured(optimizer=optimizer, momentum=momentum, decay=decay)
    rates = np.linspace(0.3, 0.01, STEPS)
    x, y, params = data()
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    for rate in rates:
        slopes = gradient(x, y, params)
        for name, value in params.items():
            acts = decay == "all" or name == "kernel"
            g = slopes[name] + (config.weight_decay * value if acts else 0.0)
            velocity[name] = momentum * velocity[name] + g
            direction = g + momentum * velocity[name] if optimizer == "nesterov" else velocity[name]
            params[name] = value - rate * direction
    table = jnp.asarray(rates, jnp.float32)
    found = trained(config, lambda step: table[step])
    for name, value in params.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("decay", ["kernels", "all"])
def test_adamw_is_the_papers(decay):
    config, rate = configured(decay=decay), 0.05
    x, y, params = data()
    first = {name: np.zeros_like(value) for name, value in params.items()}
    second = {name: np.zeros_like(value) for name, value in params.items()}
    for t in range(1, STEPS + 1):
        slopes = gradient(x, y, params)
        for name, value in params.items():
            first[name] = 0.9 * first[name] + 0.1 * slopes[name]
            second[name] = 0.999 * second[name] + 0.001 * slopes[name] ** 2
            step = first[name] / (1 - 0.9**t) / (np.sqrt(second[name] / (1 - 0.999**t)) + 1e-8)
            acts = decay == "all" or name == "kernel"
            params[name] = value - rate * (step + (config.weight_decay * value if acts else 0.0))
    found = trained(config, lambda step: rate)
    for name, value in params.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=2e-6, err_msg=name)


def test_lars_scales_the_rate_of_kernels():
    config = configured(optimizer="lars", momentum=0.0, weight_decay=0.0)
    x, y, params = data()
    for _ in range(STEPS):
        slopes = gradient(x, y, params)
        ratio = 0.001 * np.linalg.norm(params["kernel"]) / np.linalg.norm(slopes["kernel"])
        params["kernel"] = params["kernel"] - 0.1 * ratio * slopes["kernel"]
        params["bias"] = params["bias"] - 0.1 * slopes["bias"]
    found = trained(config, lambda step: 0.1)
    for name, value in params.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("optimizer", ["lars", "lamb"])
def test_optimizers_for_large_batches_learn(optimizer):
    config = configured(optimizer=optimizer, momentum=0.9, weight_decay=0.0)
    x, y, params = data()
    found = trained(config, lambda step: 0.1)

    def loss(params):
        logits = (x @ np.asarray(params["kernel"]) + np.asarray(params["bias"]))[:, 0]
        return np.mean(np.log1p(np.exp(logits)) - y * logits)

    assert loss(found) < loss(params)


@pytest.mark.parametrize("warmup", [0.0, 2.0])
def test_schedules(warmup):
    def rates(schedule, **changes):
        config = configured(schedule=schedule, warmup_epochs=warmup, **changes)
        rate = optimizers.learning_rate(config, steps=40, steps_per_epoch=2.5)
        return np.array([float(rate(step)) for step in range(41)])

    rise = round(warmup * 2.5)
    steps = np.arange(41)
    rising = np.where(steps < rise, 0.1 * steps / max(rise, 1), 0.1)
    np.testing.assert_allclose(rates("constant"), rising, rtol=1e-6)
    # Drops at steps 10 and 30; two within one step are both made.
    found = rates("step", drop_epochs=(4.0, 12.0), drop_factor=0.5)
    np.testing.assert_allclose(found, rising * np.where(steps < 10, 1, np.where(steps < 30, 0.5, 0.25)), rtol=1e-6)  # fmt: skip  # noqa: E501
    np.testing.assert_allclose(rates("step", drop_epochs=(4.0, 4.1), drop_factor=0.5)[-1], 0.025)
    half_period = 0.05 * (1 + np.cos(np.pi * (steps - rise) / (40 - rise)))
    expected = np.where(steps < rise, rising, half_period)
    np.testing.assert_allclose(rates("cosine"), expected, rtol=1e-5, atol=1e-8)


def test_schedule_warms_up_once_and_falls_once_to_zero():
    config = schema.default().train
    config.warmup_epochs = 2.0
    schedule = optimizers.learning_rate(config, steps=100, steps_per_epoch=5.0)
    rates = np.array([schedule(step) for step in range(101)])
    np.testing.assert_allclose(rates[:11], np.linspace(0, config.learning_rate, 11), rtol=1e-5)
    expected = config.learning_rate * (1 + np.cos(np.pi * np.arange(91) / 90)) / 2
    np.testing.assert_allclose(rates[10:], expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_schedule_of_a_run_shorter_than_its_warmup_is_finite_and_moves(steps):
    schedule = optimizers.learning_rate(schema.default().train, steps=steps, steps_per_epoch=50.0)
    rates = [float(schedule(step)) for step in range(steps)]
    assert np.isfinite(rates).all()
    assert max(rates) == pytest.approx(schema.default().train.learning_rate)


def test_only_kernels_decay():
    class Small(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            cls = self.param("cls", nn.initializers.ones, (4,))
            x = nn.Dense(4)(x.reshape(x.shape[0], -1)) + cls
            return nn.BatchNorm(use_running_average=not train)(nn.LayerNorm()(x))

    config = schema.default().train
    config.weight_decay, config.warmup_epochs = 0.5, 0.0
    optimizer = optimizers.make_optimizer(config, lambda step: 0.1)
    params = Small().init(jnp.array([0, 1], jnp.uint32), jnp.ones((2, 2, 2, 1)), train=False)
    params = params["params"]
    zero = {k: {n: jnp.zeros_like(v) for n, v in d.items()} if isinstance(d, dict)
            else jnp.zeros_like(d) for k, d in params.items()}  # fmt: skip
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(
        updates["Dense_0"]["kernel"], -0.05 * params["Dense_0"]["kernel"], rtol=1e-6
    )
    for name in ("cls", "BatchNorm_0", "LayerNorm_0"):
        leaves = updates[name].values() if isinstance(updates[name], dict) else [updates[name]]
        assert all((leaf == 0).all() for leaf in leaves)
    assert (updates["Dense_0"]["bias"] == 0).all()
