"""The multiply-adds of a model by the definition of its layers, against counts by hand."""

import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from thanos_jax import config as schema
from thanos_jax import sharding
from thanos_jax.models import MLP, ConvNet, ConvNetDecoder
from thanos_jax.train.build import build
from thanos_jax.train.layer_flops import forward_flops, model_flops, multiply_adds

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "benchmarks"))
from random_data import random_dataset


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


def test_branches_count_their_least_only_where_the_platform_chooses():
    def twice(x):
        return x @ x @ x

    def once(x):
        return x @ x

    def by_platform(x):
        return jax.lax.platform_dependent(x, cpu=twice, default=once)

    def by_value(x, *branches):
        return jax.lax.cond(x[0, 0] > 0, *branches, x)

    x = jnp.ones((3, 3))
    assert multiply_adds(by_platform, x) == multiply_adds(jax.jit(by_platform), x) == 27
    assert multiply_adds(lambda x: by_value(x, once, lambda x: x.T @ x), x) == 27
    for function in (
        lambda x: by_value(x, once, twice),
        lambda x: by_value(by_platform(x), once, lambda x: x),
    ):
        with pytest.raises(ValueError, match="branches of one cost, got costs"):
            multiply_adds(function, x)


@pytest.fixture(scope="module")
def training():
    config = schema.default()
    config.data.name = "digits"
    config.model.encoder = "mlp"
    config.model.arrangement = "shared"
    config.model.mlp.widths = (16, 8)
    config.model.projection = ()
    config.method = "supcon"
    config.train.batch_size = 5
    return build(config, random_dataset(config, size=20, side=4), sharding.make_mesh())


def test_a_step_counts_three_times_the_forward_pass_of_its_views(training):
    rows, columns, channels = training.dataset.image_shape
    classes = len(training.dataset.coarse_names)
    forward = 2 * (rows * columns * channels * 16 + 16 * 8 + 8 * classes)
    assert forward_flops(training) == forward
    assert model_flops(training) == 3 * 2 * 5 * forward
