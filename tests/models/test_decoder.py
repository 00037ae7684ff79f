"""Decoders: exact output shapes, blocks, what reaches which parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thanos_jax.models import ConvDecoder, MLPDecoder
from thanos_jax.models.decoder import UpBlock, enlarge, number_of_doublings


def _embeddings(count, width=6):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, width)).astype(np.float32))


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1), (5, 3, 2), (8, 8, 1), (28, 28, 1), (32, 32, 3), (33, 47, 3), (64, 64, 3),
        (96, 96, 3), (218, 178, 3), (224, 224, 3), (17, 300, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("decoder", [ConvDecoder, MLPDecoder])
def test_the_reconstruction_has_exactly_the_shape_of_the_image(decoder, shape):
    model = decoder(image_shape=shape)
    output = jax.eval_shape(
        lambda key: model.init_with_output(key, jnp.zeros((2, 256)), train=False)[0],
        jax.random.key(0),
    )
    assert (output.shape, output.dtype) == ((2, *shape), jnp.float32)


def test_an_image_of_32_pixels_starts_at_4_by_4_by_512_and_narrows_as_published():
    model = ConvDecoder(image_shape=(32, 32, 3))
    _, variables = jax.eval_shape(
        lambda key: model.init_with_output(
            key, jnp.zeros((1, 256)), train=False, capture_intermediates=True
        ),
        jax.random.key(0),
    )
    assert variables["params"]["linear"]["kernel"].shape == (256, 4 * 4 * 512)
    stages = [
        variables["intermediates"][f"stage_{stage}_block_1"]["__call__"][0].shape[1:]
        for stage in range(4)
    ]
    assert stages == [(8, 8, 256), (16, 16, 128), (32, 32, 64), (32, 32, 64)]


@pytest.mark.parametrize(
    ("size", "doublings"),
    [((1, 1), 0), ((4, 4), 0), ((8, 8), 1), ((28, 28), 3), ((32, 20), 3), ((64, 64), 4),
     ((65, 3), 5), ((224, 224), 5), ((1024, 1024), 5)],
)  # fmt: skip
def test_number_of_doublings(size, doublings):
    assert number_of_doublings(*size) == doublings


def test_enlarge_repeats_pixels():
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    for factor in (1, 2, 3):
        expected = maps.repeat(factor, axis=1).repeat(factor, axis=2)
        np.testing.assert_array_equal(enlarge(jnp.asarray(maps), factor), expected)


@pytest.mark.parametrize(("factor", "channels"), [(2, 4), (1, 4), (1, 6)])
def test_a_block_is_two_convolutions_beside_a_shortcut(factor, channels, fill, apply):
    model = UpBlock(channels, factor)
    maps = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4, 6)).astype(np.float32))
    variables = fill(model, maps)
    params, averages = variables["params"], variables["batch_stats"]

    def layer(x, name, norm):
        out = jax.lax.conv_general_dilated(
            x, params[name]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        shaped = {
            key: jnp.reshape(value, (1, 1, 1, -1))
            for key, value in {**params[norm], **averages[norm]}.items()
        }
        scaled = (out - shaped["mean"]) / jnp.sqrt(shaped["var"] + 1e-5)
        return scaled * shaped["scale"] + shaped["bias"]

    def repeat(x):
        return jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)

    changed = factor == 2 or channels != 6
    assert ("shortcut" in params) == changed

    @jax.jit
    def expect(maps):
        out = layer(repeat(jax.nn.relu(layer(maps, "conv_0", "norm_0"))), "conv_1", "norm_1")
        shortcut = layer(repeat(maps), "shortcut", "shortcut_norm") if changed else maps
        return jnp.maximum(out + shortcut, 0)

    expected = np.asarray(expect(maps))
    got = apply(model, variables, maps)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_training_reaches_every_parameter_and_the_embedding(fill, apply):
    model = ConvDecoder(image_shape=(9, 7, 2), channels=(4,))
    embeddings = _embeddings(4)
    variables = fill(model, embeddings)
    assert "stem_1" in variables["params"]

    @jax.jit
    def gradient(params, embeddings):
        def loss(params, embeddings):
            output, state = model.apply(
                {**variables, "params": params}, embeddings, train=True, mutable=["batch_stats"]
            )
            weights = jnp.sin(jnp.arange(output.size, dtype=jnp.float32)).reshape(output.shape)
            return (output * weights).sum(), state

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, embeddings)

    (gradients, to_embeddings), state = gradient(variables["params"], embeddings)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.abs(leaf).max() > 0, path
    assert (np.abs(to_embeddings) > 0).all()
    moved = jax.tree.map(
        lambda a, b: not np.allclose(a, b), state["batch_stats"], variables["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))
    kept = apply(model, variables, embeddings, mutable=["batch_stats"])[1]
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], variables["batch_stats"])


def test_mlp_decoder_is_that_of_numpy(fill, apply):
    model = MLPDecoder(image_shape=(3, 2, 2), widths=(5, 4))
    embeddings = _embeddings(3)
    params = fill(model, embeddings)
    hidden = np.asarray(embeddings, np.float64)
    for name in ("layer_0", "layer_1", "output"):
        layer = params["params"][name]
        hidden = hidden @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])
        if name != "output":
            hidden = np.maximum(hidden, 0)
    got = apply(model, params, embeddings)
    np.testing.assert_allclose(got, hidden.reshape(3, 3, 2, 2), atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda dtype: ConvDecoder(image_shape=(6, 5, 2), channels=(6,), dtype=dtype),
        lambda dtype: MLPDecoder(image_shape=(6, 5, 2), widths=(8,), dtype=dtype),
    ],
)
def test_bfloat16_computes_in_half_and_keeps_float32_outside(make, fill, apply):
    embeddings = _embeddings(4)
    half, full = make(jnp.bfloat16), make(jnp.float32)
    variables = fill(half, embeddings)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
    got, expected = (apply(model, variables, embeddings) for model in (half, full))
    assert got.dtype == jnp.float32
    assert 1e-5 < np.abs(got - expected).max() < 0.2 * np.abs(expected).max()
