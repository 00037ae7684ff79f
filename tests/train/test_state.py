"""Learning rate, weight decay mask."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from thanos_jax import config as schema
from thanos_jax.train import state as train_state


def test_schedule_warms_up_once_and_falls_once_to_zero():
    config = schema.default().train
    config.warmup_epochs = 2.0
    schedule = train_state.learning_rate(config, steps=100, steps_per_epoch=5.0)
    rates = np.array([schedule(step) for step in range(101)])
    np.testing.assert_allclose(rates[:11], np.linspace(0, config.learning_rate, 11), rtol=1e-5)
    expected = config.learning_rate * (1 + np.cos(np.pi * np.arange(91) / 90)) / 2
    np.testing.assert_allclose(rates[10:], expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_schedule_of_a_run_shorter_than_its_warmup_is_finite_and_moves(steps):
    schedule = train_state.learning_rate(schema.default().train, steps=steps, steps_per_epoch=50.0)
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
    optimizer = train_state.make_optimizer(config, lambda step: 0.1)
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
