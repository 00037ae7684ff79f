"""The multiply-adds of a model by the definition of its layers, against counts by hand."""

import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from thanos_jax.models import MLP, ConvNet, ConvNetDecoder

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "benchmarks"))
from layer_flops import multiply_adds


def count(model, *shape):
    def run(x):
        return model.init_with_output(jax.random.key(0), x, train=True)[0]

    return multiply_adds(run, jax.ShapeDtypeStruct(shape, jnp.float32))


def taps(side, kernel, stride):
    """Pixels that a kernel meets along one side, padded as "SAME"."""
    places = -(-side // stride)
    before = max((places - 1) * stride + kernel - side, 0) // 2
    starts = [stride * place - before for place in range(places)]
    return sum(0 <= start + tap < side for start in starts for tap in range(kernel))


def test_convolutions_count_pixels_and_not_their_padding_or_patches():
    assert (taps(28, 5, 2), taps(14, 3, 2)) == (67, 20)
    convolutions = 67**2 * 32 + 20**2 * 32 * 64
    linear = 7 * 7 * 64 * 256
    assert count(ConvNet(), 3, 28, 28, 1) == 3 * (convolutions + linear + 256 * 128)
    # Mirrored, each layer has as many.
    decoder = ConvNetDecoder((28, 28, 1))
    assert count(decoder, 3, 128) == 3 * (convolutions + linear + 256 * 128)
    assert count(MLP((5, 4)), 2, 3, 3, 1) == 2 * (9 * 5 + 5 * 4)


def test_strides_dilations_loops_and_nested_functions_count():
    layer = nn.Conv(4, (3, 2), strides=(2, 1), kernel_dilation=(1, 2), padding="VALID")

    def apply(x):
        return layer.init_with_output(jax.random.key(0), x)[0]

    x = jnp.ones((1, 7, 5, 2))
    # 3 x 3 places of 3 x 2 taps, none of them in padding.
    assert multiply_adds(apply, x) == 9 * 6 * 2 * 4

    def looped(x):
        return jax.lax.scan(lambda y, _: (jax.jit(jnp.matmul)(y, y), None), x, length=5)[0]

    assert multiply_adds(looped, jnp.ones((3, 3))) == 5 * 27
    with pytest.raises(ValueError, match="loops of known length, got a while loop"):
        multiply_adds(lambda x: jax.lax.while_loop(lambda y: y < 3, lambda y: y + 1, x), 0)
