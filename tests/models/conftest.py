"""What the tests of models share: random parameters without compiling an initializer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _strict():
    with jax.numpy_rank_promotion("raise"):
        yield


def _fill(model, inputs, seed=1):
    shapes = jax.eval_shape(lambda key: model.init(key, inputs, train=False), jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        values = rng.normal(size=leaf.shape)
        if name == "kernel":
            values /= np.sqrt(np.prod(leaf.shape[:-1]))
        elif name == "var":
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = 0.2 * values + (1.0 if name == "scale" else 0.0)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture
def fill():
    """(model, inputs) -> variables, all of them random: what starts at 0 would hide mistakes."""
    return _fill


@pytest.fixture
def apply():
    """(model, variables, inputs, train=False, seed=None, mutable=False) -> model.apply, jitted."""

    def run(model, variables, inputs, *, train=False, seed=None, mutable=False):
        def call(variables, inputs):
            rngs = None if seed is None else {"dropout": jax.random.key(seed)}
            return model.apply(variables, inputs, train=train, rngs=rngs, mutable=mutable)

        return jax.jit(call)(variables, inputs)

    return run
