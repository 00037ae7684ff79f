"""The vision transformer against a NumPy forward pass; its random parts."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thanos_jax.models import ViT
from thanos_jax.models.vit import Block, patches

SMALL = {"patch": 4, "width": 16, "depth": 2, "heads": 2, "mlp_width": 24}


def _images(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def _reference(params, images, *, patch, depth, heads, **_):
    """ViT in float64, every token through every layer."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)["params"]

    def dense(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    def norm(layer, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * layer["scale"] + layer["bias"]

    gelu = np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2)
    count, height, width, _ = images.shape
    tokens = np.stack(
        [
            images[:, top : top + patch, left : left + patch].reshape(count, -1)
            for top in range(0, height, patch)
            for left in range(0, width, patch)
        ],
        axis=1,
    )
    tokens = dense(params["patch_embedding"], tokens)
    first = np.repeat(params["class_token"], count, axis=0)
    tokens = np.concatenate([first, tokens], axis=1) + params["positions"]
    for index in range(depth):
        block = params[f"block_{index}"]
        mixed = dense(block["query_key_value"], norm(block["attention_norm"], tokens))
        size = tokens.shape[-1] // heads
        attended = []
        for head in range(heads):
            query, key, value = (
                mixed[..., (part * heads + head) * size : (part * heads + head + 1) * size]
                for part in range(3)
            )
            scores = np.exp(query @ key.transpose(0, 2, 1) / np.sqrt(size))
            attended.append(scores / scores.sum(-1, keepdims=True) @ value)
        tokens = tokens + dense(block["attention_out"], np.concatenate(attended, axis=-1))
        hidden = gelu(dense(block["mlp_in"], norm(block["mlp_norm"], tokens)))
        tokens = tokens + dense(block["mlp_out"], hidden)
    return norm(params["norm"], tokens)[:, 0]


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 12, 3)])
def test_forward_pass_is_that_of_numpy(shape, fill, apply):
    model, images = ViT(**SMALL), _images((3, *shape))
    params = fill(model, images)
    got = apply(model, params, images)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, _reference(params, np.asarray(images), **SMALL), atol=1e-4)


def test_patches_come_in_reading_order():
    image = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    got = patches(jnp.asarray(image), 2)
    assert got.shape == (2, 6, 12)
    np.testing.assert_array_equal(got[1, 0], image[1, :2, :2].ravel())
    np.testing.assert_array_equal(got[1, 1], image[1, :2, 2:4].ravel())
    np.testing.assert_array_equal(got[1, 3], image[1, 2:, :2].ravel())


@pytest.mark.parametrize(
    ("shape", "patch", "parameters"),
    [((32, 32, 3), 4, 3_719_680), ((8, 8, 1), 4, 3_696_128), ((28, 28, 1), 4, None)],
)
def test_shape_and_number_of_parameters(shape, patch, parameters):
    def run(key):
        images = jnp.zeros((2, *shape))
        return ViT(patch=patch).init_with_output(key, images, train=False)

    output, variables = jax.eval_shape(run, jax.random.key(0))
    assert output.shape == (2, 256)
    tokens = shape[0] * shape[1] // patch**2 + 1
    pixels = patch**2 * shape[2]
    block = 256 * 768 + 768 + 256 * 256 + 256 + 2 * 256 * 512 + 512 + 256 + 4 * 256
    expected = pixels * 256 + 256 + 256 + tokens * 256 + 7 * block + 512
    assert sum(x.size for x in jax.tree.leaves(variables)) == expected
    assert parameters in (expected, None)


def test_evaluation_draws_nothing_and_training_draws_from_dropout(fill, apply):
    small = {**SMALL, "depth": 1}
    model = ViT(**small, dropout=0.2, stochastic_depth=0.2)
    images = _images((4, 8, 8, 1))
    params = fill(model, images)
    train = jax.jit(
        lambda seed: model.apply(params, images, train=True, rngs={"dropout": jax.random.key(seed)})
    )
    # Without a key, so that nothing can be drawn.
    still = apply(model, params, images)
    np.testing.assert_array_equal(train(0), train(0))
    assert not np.allclose(train(0), train(1))
    assert not np.allclose(train(0), still)
    off = ViT(**small, dropout=0.0, stochastic_depth=0.0)
    np.testing.assert_allclose(apply(off, params, images, train=True), still, atol=1e-5)


def test_stochastic_depth_drops_whole_branches_and_keeps_the_expectation(fill, apply):
    rate, count = 0.3, 4096
    block = Block(heads=2, mlp_width=8, drop_branch=rate)
    tokens = jnp.tile(_images((1, 3, 4)), (count, 1, 1))
    params = fill(block, tokens[:1])
    for kept, silent in (("attention_out", "mlp_out"), ("mlp_out", "attention_out")):
        muted = {"params": {**params["params"]}}
        muted["params"][silent] = jax.tree.map(jnp.zeros_like, params["params"][silent])
        branch = np.asarray(apply(block, muted, tokens[:1]) - tokens[:1])
        assert np.abs(branch).max() > 0.05, kept
        drawn = np.asarray(apply(block, muted, tokens, train=True, seed=0) - tokens)
        dropped = np.isclose(drawn, 0, atol=1e-6).all(axis=(1, 2))
        whole = np.isclose(drawn, branch / (1 - rate), atol=1e-5).all(axis=(1, 2))
        assert (dropped ^ whole).all()
        assert abs(dropped.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / count)
        np.testing.assert_allclose(drawn.mean(axis=0), branch[0], atol=0.04 * np.abs(branch).max())


def test_stochastic_depth_rises_linearly_to_its_value():
    rates = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, Block):
            rates.append(context.module.drop_branch)
        return call(*args, **kwargs)

    model = ViT(**{**SMALL, "depth": 4}, stochastic_depth=0.2)
    with nn.intercept_methods(note):
        jax.eval_shape(
            lambda key: model.init(key, jnp.zeros((1, 8, 8, 1)), train=False), jax.random.key(0)
        )
    np.testing.assert_allclose(rates, [0.05, 0.1, 0.15, 0.2])


def test_bfloat16_computes_in_half_and_keeps_float32_outside(fill, apply):
    images = _images((4, 8, 8, 1))
    half, full = ViT(**SMALL, dtype=jnp.bfloat16), ViT(**SMALL)
    params = fill(half, images)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    got, expected = (apply(model, params, images) for model in (half, full))
    assert got.dtype == jnp.float32
    assert 1e-5 < np.abs(got - expected).max() < 0.15
    jaxpr = jax.make_jaxpr(lambda x: half.apply(params, x, train=False))(images)
    products = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
    assert products
    assert all(eqn.invars[0].aval.dtype == jnp.bfloat16 for eqn in products)


@pytest.mark.parametrize(
    ("change", "shape", "match"),
    [
        ({"patch": 5}, (8, 8, 1), "patch: expected a divisor .*got 5 and images of 8 x 8"),
        ({"patch": 4}, (8, 6, 1), "patch: expected a divisor"),
        ({"heads": 3}, (8, 8, 1), "heads: expected a divisor of width=16, got 3"),
        ({"depth": 0}, (8, 8, 1), "depth: expected at least 1, got 0"),
    ],
)
def test_sizes_that_do_not_fit_are_named(change, shape, match):
    with pytest.raises(ValueError, match=match):
        ViT(**{**SMALL, **change}).init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)
