"""The multilayer perceptron against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thanos_jax.models import MLP


def test_forward_pass_is_that_of_numpy(fill, apply):
    model = MLP(widths=(7, 6, 5))
    images = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)
    params = fill(model, images)
    hidden = images.reshape(4, -1).astype(np.float64)
    for index in range(3):
        layer = params["params"][f"layer_{index}"]
        hidden = hidden @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])
        if index < 2:
            hidden = np.maximum(hidden, 0)
    got = apply(model, params, images, train=True)
    assert got.shape == (4, 5)
    np.testing.assert_allclose(got, hidden, atol=1e-5)
    np.testing.assert_array_equal(got, apply(model, params, images))


def test_bfloat16_computes_in_half_and_keeps_float32_outside(apply):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32))
    half, full = MLP(dtype=jnp.bfloat16), MLP()
    params = jax.jit(lambda key: half.init(key, images, train=False))(jax.random.key(0))
    got, expected = (apply(model, params, images) for model in (half, full))
    assert (got.shape, got.dtype) == ((4, 128), jnp.float32)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    assert 1e-5 < np.abs(got - expected).max() < 0.1
    # The initial scale of the inputs survives the layers.
    assert 0.3 < np.sqrt(np.mean(np.square(expected))) < 3


def test_no_layers_is_an_error():
    with pytest.raises(ValueError, match="widths: expected at least one layer"):
        MLP(widths=()).init(jax.random.key(0), jnp.ones((1, 2, 2, 1)), train=False)
