"""The convolutional network for CPUs: its layers against NumPy and XLA's convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thanos_jax.models import ConvNet, ConvNetDecoder
from thanos_jax.models.convnet import convolve, convolve_transposed, patches

# Height, width, input and output channels, kernel, stride.
SHAPES = [
    (28, 28, 1, 3, 5, 2),
    (7, 9, 2, 3, 3, 1),
    (14, 5, 3, 2, 3, 2),
    (8, 6, 2, 3, 4, 4),
    (9, 10, 1, 2, 7, 4),
    (2, 3, 2, 2, 5, 2),  # a kernel larger than the image
    (9, 7, 2, 3, 2, 3),  # pixels that no patch has
    (1, 1, 2, 3, 1, 1),
]


def _padded_patches(maps, kernel, stride):
    """What is under each place of the kernel, padded as "SAME": [n, rows, columns, k, k, c]."""
    places, padding = [], [(0, 0)]
    for side in maps.shape[1:3]:
        count = -(-side // stride)
        missing = max((count - 1) * stride + kernel - side, 0)
        padding.append((missing // 2, missing - missing // 2))
        places.append([stride * i for i in range(count)])
    padded = np.pad(maps, [*padding, (0, 0)])
    rows = [
        [padded[:, y : y + kernel, x : x + kernel] for x in places[1]]
        for y in places[0]
    ]  # fmt: skip
    return np.moveaxis(np.array(rows), 2, 0)


def _drawn(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def _convolution(maps, kernel, bias, stride):
    return np.einsum("nyxijc,ijcd->nyxd", _padded_patches(maps, len(kernel), stride), kernel) + bias


def _transposed_convolution(maps, kernel, bias, stride, size):
    """<conv(e), maps> for every unit image e: the transpose, by its definition."""
    pixels = size[0] * size[1] * kernel.shape[2]
    units = np.eye(pixels).reshape(pixels, *size, kernel.shape[2])
    images = _convolution(units, kernel, 0, stride)
    return np.einsum("pyxd,nyxd->np", images, maps).reshape(-1, *units.shape[1:]) + bias


@pytest.mark.sampled(4)
@pytest.mark.parametrize("shape", SHAPES)
def test_layers_are_those_of_numpy(shape):
    height, width, inputs, outputs, size, stride = shape
    maps, kernel = _drawn((2, height, width, inputs)), _drawn((size, size, inputs, outputs))
    expected = _convolution(maps, kernel, 0, stride)
    x, k = jnp.asarray(maps, jnp.float32), jnp.asarray(kernel, jnp.float32)

    @jax.jit
    def run(x, k):
        out = convolve(x, k, stride)
        return out, patches(x, size, stride), convolve_transposed(out, k, stride, (height, width))

    got, of_places, back = run(x, k)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    columns = _padded_patches(maps, size, stride)
    np.testing.assert_array_equal(
        of_places, columns.reshape(*expected.shape[:3], -1).astype(np.float32)
    )
    of_numpy = _transposed_convolution(expected, kernel, 0, stride, (height, width))
    np.testing.assert_allclose(back, of_numpy, atol=1e-5 * np.abs(of_numpy).max())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shape", [SHAPES[2], *SHAPES[:2]])
def test_gradients_are_those_of_xlas_convolution(shape):
    height, width, inputs, outputs, size, stride = shape
    maps = jnp.asarray(_drawn((2, height, width, inputs)), jnp.float32)
    kernel = jnp.asarray(_drawn((size, size, inputs, outputs)), jnp.float32)

    def xlas(maps, kernel):
        return jax.lax.conv_general_dilated(
            maps, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    @jax.jit
    def gradients(maps, kernel):
        def both(layer, back):
            def loss(maps, kernel):
                out = layer(maps, kernel)
                again = back(jnp.sin(out), kernel)
                return (again * jnp.cos(maps)).sum()

            return jax.grad(loss, argnums=(0, 1))(maps, kernel)

        def back(out, kernel):
            return jax.linear_transpose(lambda x: xlas(x, kernel), maps)(out)[0]

        ours = both(
            lambda x, k: convolve(x, k, stride),
            lambda y, k: convolve_transposed(y, k, stride, (height, width)),
        )
        return ours, both(xlas, back)

    for ours, theirs in zip(*gradients(maps, kernel), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_cpus_multiply_patches(platform):
    encoder, decoder = ConvNet((2, 3), widths=(4,)), ConvNetDecoder((8, 8, 1), (2, 3), widths=())

    def run(images):
        embeddings, _ = encoder.init_with_output(jax.random.key(0), images, train=True)
        return decoder.init_with_output(jax.random.key(0), embeddings, train=True)[0]

    traced = jax.jit(run).trace(jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == (0 if platform == "cpu" else 4)


def test_encoder_and_decoder_are_those_of_numpy(fill, apply):
    sizes = {"channels": (4, 6), "kernels": (5, 3), "strides": (2, 3)}
    encoder = ConvNet(**sizes, widths=(7, 5))
    decoder = ConvNetDecoder((11, 9, 2), **sizes, widths=(7,))
    images = jnp.asarray(_drawn((3, 11, 9, 2)), jnp.float32)
    variables = fill(encoder, images)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])

    def linear(params, hidden, index):
        layer = params[f"layer_{index}"]
        return hidden @ layer["kernel"] + layer["bias"]

    maps = np.asarray(images, np.float64)
    for index, stride in enumerate((2, 3)):
        layer = params[f"conv_{index}"]
        maps = np.maximum(_convolution(maps, layer["kernel"], layer["bias"], stride), 0)
    assert maps.shape == (3, 2, 2, 6)
    hidden = np.maximum(linear(params, maps.reshape(3, -1), 0), 0)
    expected = linear(params, hidden, 1)
    got = apply(encoder, variables, images, train=True)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_array_equal(got, apply(encoder, variables, images))

    variables = fill(decoder, got)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    hidden = np.maximum(linear(params, np.asarray(got, np.float64), 0), 0)
    maps = np.maximum(linear(params, hidden, 1), 0).reshape(3, 2, 2, 6)
    first, last = params["conv_1"], params["conv_0"]
    maps = _transposed_convolution(maps, first["kernel"], first["bias"], 3, (6, 5))
    maps = np.maximum(maps, 0)
    maps = _transposed_convolution(maps, last["kernel"], last["bias"], 2, (11, 9))
    reconstructed = apply(decoder, variables, got)
    np.testing.assert_allclose(reconstructed, maps, atol=1e-5)
    assert reconstructed.dtype == got.dtype == jnp.float32


def test_bfloat16_computes_in_half_and_the_initial_scale_survives():
    images = jnp.asarray(_drawn((8, 12, 12, 1)), jnp.float32)

    def run(dtype):
        encoder, decoder = ConvNet(dtype=dtype), ConvNetDecoder((12, 12, 1), dtype=dtype)
        keys = jax.random.split(jax.random.key(0, impl="rbg"))
        embeddings, params = encoder.init_with_output(keys[0], images, train=True)
        again, more = decoder.init_with_output(keys[1], embeddings, train=True)
        return (embeddings, again), (params, more)

    ran = jax.jit(lambda: (run(jnp.bfloat16), run(jnp.float32)))()
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(ran))
    for half, full in zip(ran[0][0], ran[1][0], strict=True):
        assert 1e-5 < np.abs(half - full).max() < 0.1
        assert 0.3 < np.sqrt(np.mean(np.square(full))) < 3


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"channels": ()}, r"channels: expected positive integers, one or more, got \(\)"),
        ({"kernels": (5, 0)}, r"kernels: expected positive integers, one or more, got \(5, 0\)"),
        ({"strides": (2,)}, r"strides: expected 2 numbers, .* channels = \(32, 64\), got \(2,\)"),
        ({"kernels": (5, 3, 3)}, r"kernels: expected 2 numbers, .* got \(5, 3, 3\)"),
        ({"widths": ()}, r"widths: expected at least one layer, got \(\)"),
        ({"widths": (8, 0)}, r"widths: expected positive integers, got \(8, 0\)"),
        ({"widths": (-1,)}, r"widths: expected positive integers, got \(-1,\)"),
    ],
)
def test_what_describes_no_network_is_an_error(changes, match):
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(
            lambda key: ConvNet(**changes).init(key, jnp.ones((1, 8, 8, 1)), train=False),
            jax.random.key(0),
        )
    if changes != {"widths": ()}:  # a decoder may have none
        decoder = ConvNetDecoder((8, 8, 1), **changes)
        with pytest.raises(ValueError, match=match):
            jax.eval_shape(
                lambda key: decoder.init(key, jnp.ones((1, 4)), train=False), jax.random.key(0)
            )
