"""Augmentation against Pillow, colorsys and NumPy; probabilities; devices; views."""

import colorsys
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image

from thanos_jax.data import augment, colour

OFF = {"crop_scale": (1.0, 1.0), "flip": 0.0, "jitter_probability": 0.0, "grey_probability": 0.0}


@pytest.fixture(autouse=True)
def _strict_and_compiled_quickly():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
    jax.config.update("jax_disable_most_optimizations", before)


def _bytes(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _floats(shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def _boxes(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    extent = rng.uniform(0.2, 1.0, (count, 2)) * (height, width)
    start = rng.random((count, 2)) * ((height, width) - extent)
    return np.concatenate([start, extent], axis=1).astype(np.float32)


# Crop


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (9, 14, 3)])
def test_crop_is_pillows_bilinear_crop(shape):
    images, boxes = _floats((6, *shape)), _boxes(6, *shape[:2])
    expected = np.empty_like(images)
    for index, (top, left, height, width) in enumerate(boxes.tolist()):
        box = (left, top, min(left + width, shape[1]), min(top + height, shape[0]))
        for channel in range(shape[2]):
            plane = Image.fromarray(images[index, :, :, channel])
            resized = plane.resize(shape[1::-1], Image.Resampling.BILINEAR, box=box)
            expected[index, :, :, channel] = resized
    got = augment.crop(jnp.asarray(images), jnp.asarray(boxes))
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_crop_is_linear_interpolation_between_pixel_centres():
    images, boxes = _floats((5, 7, 11, 2)), _boxes(5, 7, 11, seed=1)
    expected = np.empty(images.shape)
    for index, (top, left, height, width) in enumerate(boxes.astype(float)):
        rows = top + (np.arange(7) + 0.5) * height / 7 - 0.5
        columns = left + (np.arange(11) + 0.5) * width / 11 - 0.5
        for channel in range(2):
            plane = images[index, :, :, channel].astype(float)
            plane = np.stack([np.interp(rows, np.arange(7), line) for line in plane.T], axis=1)
            plane = np.stack([np.interp(columns, np.arange(11), line) for line in plane])
            expected[index, :, :, channel] = plane
    got = augment.crop(jnp.asarray(images), jnp.asarray(boxes))
    np.testing.assert_allclose(got, expected, atol=5e-6)


def test_crop_of_the_whole_image_is_the_image():
    images = _floats((3, 10, 6, 3))
    got = augment.crop(jnp.asarray(images), jnp.tile(jnp.array([[0.0, 0.0, 10.0, 6.0]]), (3, 1)))
    np.testing.assert_allclose(got, images, atol=3e-6)


def test_crop_of_one_pixel_is_that_pixels_colour_at_the_middle():
    images = _floats((1, 5, 5, 3))
    got = augment.crop(jnp.asarray(images), jnp.array([[2.0, 3.0, 1.0, 1.0]]))
    np.testing.assert_allclose(got[0, 2, 2], images[0, 2, 3], atol=1e-6)


def test_boxes_have_the_distribution_of_random_resized_crop():
    height, width = 24, 40
    boxes = augment.random_boxes(
        jax.random.key(3), 8192, (height, width), (0.2, 0.4), (3 / 4, 4 / 3)
    )
    top, left, box_height, box_width = np.asarray(boxes, float).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + box_height <= height + 1e-4).all()
    assert (left + box_width <= width + 1e-4).all()
    # Up to 0.4 of the area every one of these ratios fits, so that nothing is clipped.
    area, log_ratio = box_height * box_width / (height * width), np.log(box_width / box_height)
    for values, low, high in (
        (area, 0.2, 0.4),
        (log_ratio, np.log(3 / 4), np.log(4 / 3)),
        (top / (height - box_height), 0, 1),
        (left / (width - box_width), 0, 1),
    ):
        uniform = (values - low) / (high - low)
        assert uniform.min() > -1e-4
        assert uniform.max() < 1 + 1e-4
        # Kolmogorov-Smirnov distance to the uniform distribution; 0.022 is its 0.1 % point here.
        grid = np.linspace(0, 1, 201)
        shares = np.searchsorted(np.sort(uniform), grid) / uniform.size
        assert np.abs(shares - grid).max() < 0.022
    assert np.abs(np.corrcoef(np.stack([area, log_ratio, top, left])) - np.eye(4))[0, 1] < 0.05


def test_boxes_that_do_not_fit_are_clipped():
    boxes = augment.random_boxes(jax.random.key(0), 512, (10, 10), (0.9, 1.0), (0.5, 2.0))
    boxes = np.asarray(boxes)
    assert boxes[:, 2:].max() == 10
    assert (boxes >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= 10 + 1e-5).all()


# Colour


def _factors(count, seed=5):
    return np.random.default_rng(seed).uniform(0.2, 1.8, (count, 1, 1, 1)).astype(np.float32)


def _grey(images):
    return (images * np.array([0.299, 0.587, 0.114])).sum(axis=-1, keepdims=True)


def _reference(name, amount, images):
    """The four changes in float64."""
    images = np.asarray(images, np.float64)
    if name == "hue":
        turned = np.empty_like(images)
        amount = np.broadcast_to(amount, images.shape)
        for place in np.ndindex(images.shape[:-1]):
            hue, saturation, value = colorsys.rgb_to_hsv(*images[place])
            turned[place] = colorsys.hsv_to_rgb((hue + amount[place][0]) % 1, saturation, value)
        return turned
    one_channel = images.shape[-1] == 1
    other = {
        "brightness": 0.0,
        "contrast": (images if one_channel else _grey(images)).mean(axis=(1, 2, 3), keepdims=True),
        "saturation": 0.0 if one_channel else _grey(images),
    }[name]
    return np.clip(amount * images + (1 - amount) * other, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_blends_are_their_formulas(name, channels):
    if name == "saturation" and channels == 1:
        images = np.repeat(_floats((6, 5, 7, 1)), 3, axis=-1)  # grey has no saturation to change
    else:
        images = _floats((6, 5, 7, channels))
    factors = _factors(6)
    got = getattr(colour, name)(jnp.asarray(factors), jnp.asarray(images))
    np.testing.assert_allclose(got, _reference(name, factors, images), atol=2e-6)


def test_hue_is_that_of_colorsys():
    images = _floats((8, 4, 5, 3))
    # Corners of the colour cube, greys and ties between channels are where branches meet.
    corners = np.array(list(itertools.product((0.0, 0.5, 1.0), repeat=3)), np.float32)
    images = np.concatenate([images.reshape(-1, 3), corners]).reshape(1, -1, 1, 3)
    for shift in (-0.5, -0.1, 0.0, 1 / 3, 0.45, 0.5):
        got = colour.hue(jnp.full((1, 1, 1, 1), shift), jnp.asarray(images))
        np.testing.assert_allclose(got, _reference("hue", shift, images), atol=3e-6)


def test_a_third_of_a_turn_takes_red_to_green():
    red = jnp.array([1.0, 0.0, 0.0]).reshape(1, 1, 1, 3)
    got = colour.hue(jnp.full((1, 1, 1, 1), 1 / 3), red)
    np.testing.assert_allclose(got.ravel(), [0, 1, 0], atol=1e-6)


def test_grey_is_pillows():
    images = _bytes((2, 6, 5, 3))
    got = colour.grey(jnp.asarray(images / np.float32(255)))
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    np.testing.assert_array_equal(got[..., 0], got[..., 2])
    np.testing.assert_allclose(np.asarray(got[..., 1]) * 255, expected, atol=0.51)


_jitter_all = jax.jit(functools.partial(colour.jitter, probability=1.0), static_argnums=2)


def _amounts(key, strengths):
    """What jitter draws from a key, read off from images on which each change acts alone."""
    jitter = functools.partial(_jitter_all, key)
    alone = np.diag(np.float64(strengths))
    flat = jnp.full((1, 2, 1, 3), 0.5)
    edge = jnp.array([0.4, 0.6])[None, :, None, None] * jnp.ones((1, 2, 1, 3))
    orange = jnp.array([0.6, 0.5, 0.4])[None, None, None, :] * jnp.ones((1, 2, 1, 3))
    reddish = jnp.array([0.5, 0.25, 0.25])[None, None, None, :] * jnp.ones((1, 2, 1, 3))
    brightness = jitter(flat, tuple(alone[0]))[0, 0, 0, 0] / 0.5
    contrast = (jitter(edge, tuple(alone[1]))[0, 1, 0, 0] - 0.5) / 0.1
    luma = _grey(np.asarray(orange))[0, 0, 0, 0]
    saturation = (jitter(orange, tuple(alone[2]))[0, 0, 0, 0] - luma) / (0.6 - luma)
    hue = colorsys.rgb_to_hsv(*np.asarray(jitter(reddish, tuple(alone[3]))[0, 0, 0], float))[0]
    return [float(x) for x in (brightness, contrast, saturation)] + [(hue + 0.5) % 1 - 0.5]


def test_jitter_is_the_four_changes_in_an_order_that_varies():
    strengths = (0.4, 0.4, 0.4, 0.1)
    names = ("brightness", "contrast", "saturation", "hue")
    image = _floats((1, 2, 2, 3), seed=8)
    orders, drawn = set(), []
    for seed in range(12):
        amounts = _amounts(jax.random.key(seed), strengths)
        got = np.asarray(_jitter_all(jax.random.key(seed), jnp.asarray(image), strengths))
        fitting = []
        for order in itertools.permutations(range(4)):
            expected = image
            for place in order:
                expected = _reference(names[place], amounts[place], expected)
            if np.abs(got - expected).max() < 1e-5:
                fitting.append(order)
        assert fitting, (seed, amounts)
        orders.add(fitting[0])
        drawn.append(amounts)
    assert len(orders) >= 6
    drawn = np.array(drawn)
    assert (np.abs(drawn - (1, 1, 1, 0)) <= np.array(strengths) + 1e-5).all()
    assert (drawn.std(axis=0) > 0.3 * np.array(strengths)).all()


# The whole


def test_parts_switched_off_leave_the_images_unchanged_and_are_not_traced():
    images = _bytes((4, 6, 6, 3))
    unit = images.astype(np.float32) / np.float32(255)
    off = functools.partial(augment.augment, jax.random.key(0), **OFF)
    np.testing.assert_array_equal(off(jnp.asarray(unit)), unit)
    # XLA divides by a constant by way of its reciprocal: the last bit may differ.
    levels = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    got = np.asarray(off(levels)).ravel()
    np.testing.assert_allclose(got, np.arange(256) / 255, rtol=2e-7)
    assert got[0] == 0
    assert got[-1] == 1
    assert "random_bits" not in str(jax.make_jaxpr(off)(jnp.asarray(images)))
    still = functools.partial(off, jitter=(0.0, 0.0, 0.0, 0.0), jitter_probability=1.0)
    np.testing.assert_array_equal(still(jnp.asarray(unit)), unit)


def test_one_channel_has_no_colour_to_change():
    images = jnp.asarray(_floats((16, 6, 6, 1)))
    key = jax.random.key(1)
    settings = {**OFF, "jitter_probability": 1.0, "grey_probability": 1.0}
    only_colour = augment.augment(key, images, **{**settings, "jitter": (0, 0, 0.9, 0.5)})
    np.testing.assert_array_equal(only_colour, images)
    both = augment.augment(key, images, **{**settings, "jitter": (0.4, 0.4, 0.4, 0.1)})
    assert (np.abs(np.asarray(both - images)).max(axis=(1, 2, 3)) > 1e-3).all()


def test_values_stay_in_the_unit_interval():
    shape = (12, 10, 3)
    images = np.concatenate(
        [_bytes((30, *shape)), np.zeros((2, *shape), np.uint8), np.full((2, *shape), 255, np.uint8)]
    )
    run = jax.jit(
        functools.partial(
            augment.augment, jitter=(2.0, 2.0, 2.0, 0.5), jitter_probability=1.0, flip=0.5
        )
    )
    for seed in range(4):
        got = np.asarray(run(jax.random.key(seed), images))
        assert got.dtype == np.float32
        assert got.shape == images.shape
        assert np.isfinite(got).all()
        assert got.min() >= 0
        assert got.max() <= 1
        assert got[:30].std() > 0.01


def test_probabilities_are_honoured():
    count = 4096
    images = jnp.asarray(np.repeat(_floats((1, 3, 3, 3)), count, axis=0))

    def share(changed):
        return float(np.mean(np.asarray(changed)))

    run = functools.partial(augment.augment, jax.random.key(9), images)
    flipped = run(**{**OFF, "flip": 0.3})
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (flipped == images).all(axis=(1, 2, 3))
    assert (mirrored ^ kept).all()
    jittered = (run(**{**OFF, "jitter_probability": 0.3}) != images).any(axis=(1, 2, 3))
    turned = run(**{**OFF, "grey_probability": 0.3})
    grey = (turned == turned[..., :1]).all(axis=(1, 2, 3))
    # Four standard deviations of a share of 4096 draws.
    tolerance = 4 * np.sqrt(0.3 * 0.7 / count)
    for changed in (mirrored, jittered, grey):
        assert abs(share(changed) - 0.3) < tolerance
    always = run(**{**OFF, "flip": 1.0, "grey_probability": 1.0})
    np.testing.assert_array_equal(always, colour.grey(images[:, :, ::-1]))


def test_eight_devices_give_what_one_gives():
    images = _bytes((32, 8, 8, 3))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    run = jax.jit(augment.augment)
    one = run(jax.random.key(4), images)
    placed = jax.device_put(images, NamedSharding(mesh, P("data")))
    eight = run(jax.random.key(4), placed)
    assert len(eight.sharding.device_set) == 8
    np.testing.assert_allclose(one, eight, atol=2e-6)


def test_views_are_independent_draws():
    images = np.repeat(_floats((1, 6, 6, 1)), 2048, axis=0)
    key = jax.random.key(2)
    flips = augment.views(key, jnp.asarray(images), 3, **{**OFF, "flip": 0.5})
    assert flips.shape == (2048, 3, 6, 6, 1)
    rows = augment.augment(key, jnp.repeat(images, 3, axis=0), **{**OFF, "flip": 0.5})
    np.testing.assert_array_equal(flips.reshape(rows.shape), rows)
    flipped = np.asarray((flips != jnp.asarray(images)[:, None]).any(axis=(2, 3, 4)), float)
    correlation = np.corrcoef(flipped.T)
    assert np.abs(correlation - np.eye(3)).max() < 4 / np.sqrt(2048)

    crop = jax.jit(
        functools.partial(augment.views, num_views=2, **{**OFF, "crop_scale": (0.2, 0.9)})
    )
    crops = crop(key, jnp.asarray(images[:64]))
    rows = np.asarray(crops).reshape(128, -1)
    assert len(np.unique(rows.round(5), axis=0)) == 128
    np.testing.assert_array_equal(crops, crop(key, jnp.asarray(images[:64])))


def test_normalize_and_back():
    images, mean, std = _bytes((3, 2, 4, 4, 3)), (0.1, 0.5, 0.9), (0.2, 0.25, 0.5)
    got = augment.normalize(jnp.asarray(images), mean, std)
    expected = (images / 255.0 - np.array(mean)) / np.array(std)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=2e-6)
    np.testing.assert_allclose(augment.unnormalize(got, mean, std), images / 255.0, atol=1e-6)
    wild = augment.unnormalize(jnp.array([[[[-9.0, 0.0, 9.0]]]]), mean, std)
    np.testing.assert_allclose(wild.ravel(), [0, 0.5, 1])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"crop_scale": (0.0, 1.0)}, "crop_scale: expected .*got"),
        ({"crop_scale": (0.5, 1.5)}, "crop_scale"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio"),
        ({"crop_ratio": (1.0,)}, "crop_ratio"),
        ({"flip": 1.5}, "flip: expected a share.*1.5"),
        ({"jitter_probability": -0.1}, "jitter_probability"),
        ({"grey_probability": 2}, "grey_probability"),
        ({"jitter": (0.4, 0.4, 0.4)}, "jitter: expected four"),
        ({"jitter": (0.4, -0.4, 0.4, 0.1)}, "jitter"),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "hue at most 0.5"),
    ],
)
def test_settings_out_of_range_are_named(settings, match):
    with pytest.raises(ValueError, match=match):
        augment.augment(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), **settings)


def test_images_that_do_not_fit_are_named():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"images: expected \[n, h, w, c\], got shape \(4, 4, 3\)"):
        augment.augment(key, jnp.zeros((4, 4, 3)))
    with pytest.raises(TypeError, match="uint8 or floating, got int32"):
        augment.augment(key, jnp.zeros((1, 4, 4, 3), jnp.int32))
    with pytest.raises(ValueError, match="1 or 3 channels"):
        augment.augment(key, jnp.zeros((1, 4, 4, 2)))
    # Without colour changes any number of channels will do.
    many = augment.augment(key, jnp.ones((1, 4, 4, 5)), **{**OFF, "flip": 0.5})
    np.testing.assert_array_equal(many, 1)
    with pytest.raises(ValueError, match="num_views: expected at least 1, got 0"):
        augment.views(key, jnp.zeros((1, 4, 4, 3)), 0)
    with pytest.raises(ValueError, match="mean: expected one number per channel"):
        augment.normalize(jnp.zeros((1, 4, 4, 3)), (0.5,), (0.5,))
    with pytest.raises(ValueError, match="std: expected positive"):
        augment.unnormalize(jnp.zeros((1, 4, 4, 1)), (0.5,), (0.0,))
