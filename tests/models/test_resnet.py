"""Residual networks: sizes, blocks against NumPy, batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from thanos_jax.models import ResNet, resnet18, resnet50
from thanos_jax.models.resnet import ResidualBlock


def _tiny(**settings):
    return ResNet((1, 1), bottleneck=False, width=4, **settings)


def _images(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def _shapes(model, shape):
    def run(key):
        return model.init_with_output(key, jnp.zeros((2, *shape)), train=False)

    output, variables = jax.eval_shape(run, jax.random.key(0))
    return output, sum(x.size for x in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("model", "shape", "features", "parameters"),
    [
        (resnet18(), (32, 32, 3), 512, 11_168_832),
        # torchvision: 11,689,512 and 25,557,032, less 513,000 and 2,049,000 of the last layer.
        (resnet18(stem="imagenet"), (224, 224, 3), 512, 11_176_512),
        (resnet50(), (224, 224, 3), 2048, 23_508_032),
        (resnet18(width=4), (28, 28, 1), 32, None),
        (resnet18(), (64, 64, 3), 512, 11_168_832),
        (resnet50(stem="small"), (8, 8, 1), 2048, None),
        (resnet18(stem="imagenet"), (8, 8, 1), 512, None),
    ],
)
def test_features_and_number_of_parameters(model, shape, features, parameters):
    output, count = _shapes(model, shape)
    assert (output.shape, output.dtype) == ((2, features), jnp.float32)
    assert parameters in (count, None)


@pytest.mark.parametrize(("stem", "side"), [("small", 8), ("imagenet", 2)])
def test_the_stem_and_the_stages_reduce_the_map(stem, side):
    model = ResNet((1, 1, 1), bottleneck=False, width=4, stem=stem)
    _, variables = jax.eval_shape(
        lambda key: model.init_with_output(
            key, jnp.zeros((1, 32, 32, 3)), train=False, capture_intermediates=True
        ),
        jax.random.key(0),
    )
    last = variables["intermediates"]["stage_2_block_0"]["__call__"][0]
    assert last.shape == (1, side, side, 16)


def _convolve(maps, kernel, stride):
    padding = kernel.shape[0] // 2
    padded = np.pad(maps, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = range(0, maps.shape[1], stride)
    columns = range(0, maps.shape[2], stride)
    out = np.empty((maps.shape[0], len(rows), len(columns), kernel.shape[-1]))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window = padded[:, row : row + kernel.shape[0], column : column + kernel.shape[1]]
            out[:, i, j] = np.tensordot(window, kernel, axes=3)
    return out


@pytest.mark.parametrize(
    ("bottleneck", "strides", "stride", "channels_in"),
    [
        (False, (0, 1), 2, 3),
        (False, (0, 1), 1, 4),
        (True, (1,), 2, 3),
        (True, (1,), 1, 16),
    ],
)
def test_blocks_are_those_of_numpy(bottleneck, strides, stride, channels_in, fill, apply):
    model = ResidualBlock(channels=4, bottleneck=bottleneck, stride=stride)
    maps = _images((2, 7, 6, channels_in))
    variables = fill(model, maps)
    params, averages = (
        jax.tree.map(lambda x: np.asarray(x, np.float64), variables[name])
        for name in ("params", "batch_stats")
    )

    def normalize(name, x):
        scaled = (x - averages[name]["mean"]) / np.sqrt(averages[name]["var"] + 1e-5)
        return scaled * params[name]["scale"] + params[name]["bias"]

    images = np.asarray(maps, np.float64)
    out, layers = images, 3 if bottleneck else 2
    for layer in range(layers):
        strided = stride if layer == strides[0] else 1
        out = _convolve(out, params[f"conv_{layer}"]["kernel"], strided)
        out = normalize(f"norm_{layer}", out)
        if layer < layers - 1:
            out = np.maximum(out, 0)
    shortcut = images
    if stride == 2:
        shortcut = _convolve(images, params["shortcut"]["kernel"], 2)
        shortcut = normalize("shortcut_norm", shortcut)
    expected = np.maximum(out + shortcut, 0)
    assert ("shortcut" in params) == (stride == 2)
    got = apply(model, variables, maps)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_batch_statistics_move_in_training_only(fill, apply):
    model, images = _tiny(), _images((16, 8, 8, 3))
    variables = fill(model, images)
    output, state = apply(model, variables, images, train=True, mutable=["batch_stats"])
    stem = _convolve(np.asarray(images), np.asarray(variables["params"]["stem"]["kernel"]), 1)
    old = variables["batch_stats"]["stem_norm"]
    new = state["batch_stats"]["stem_norm"]
    for name, of_batch in (("mean", stem.mean(axis=(0, 1, 2))), ("var", stem.var(axis=(0, 1, 2)))):
        np.testing.assert_allclose(new[name], 0.9 * old[name] + 0.1 * of_batch, rtol=1e-4)

    evaluated, kept = apply(model, variables, images, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], variables["batch_stats"])
    assert not np.allclose(output, evaluated, atol=1e-3)


def test_an_image_is_evaluated_alike_in_any_batch(fill, apply):
    model, images = _tiny(), _images((6, 8, 8, 3))
    variables = fill(model, images)
    whole = apply(model, variables, images)
    alone = apply(model, variables, images[2:3])
    np.testing.assert_allclose(whole[2:3], alone, rtol=1e-5, atol=1e-6)


def test_batch_statistics_are_those_of_the_global_batch(fill):
    model, images = _tiny(), _images((16, 8, 8, 1))
    variables = fill(model, images)
    run = jax.jit(lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"]))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    one = run(images)
    eight = run(jax.device_put(images, NamedSharding(mesh, P("data"))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, eight)


def test_features_start_at_a_sensible_scale(apply):
    model, images = _tiny(), _images((8, 8, 8, 3))
    variables = jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))
    for train in (False, True):
        features, _ = apply(model, variables, images, train=train, mutable=["batch_stats"])
        assert 0.1 < np.sqrt(np.mean(np.square(features))) < 10


def test_bfloat16_computes_in_half_and_keeps_float32_outside(fill, apply):
    images = _images((8, 8, 8, 3))
    half, full = _tiny(dtype=jnp.bfloat16), _tiny()
    variables = fill(half, images)
    got, state = apply(half, variables, images, train=True, mutable=["batch_stats"])
    expected, _ = apply(full, variables, images, train=True, mutable=["batch_stats"])
    assert got.dtype == jnp.float32
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((variables, state)))
    assert 1e-5 < np.abs(got - expected).max() < 0.1


def test_an_unknown_stem_is_named():
    with pytest.raises(
        ValueError, match=r"stem: expected one of \('small', 'imagenet'\), got 'large'"
    ):
        _shapes(_tiny(stem="large"), (8, 8, 1))
