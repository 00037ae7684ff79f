"""How much of a JPEG is decoded, and what that changes."""

import functools
import io

import numpy as np
import pytest
from own_images import load
from PIL import Image
from sklearn.datasets import load_sample_images

from thanos_jax import config as schema
from thanos_jax.data import fitting, pixels, preprocess

PHOTOGRAPHS = load_sample_images().images  # two of 427 x 640
# Levels of 0 to 255; what docs/input.md states.
MEAN, MOST = 1.0, 20


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def photograph(number, side):
    """One of the two enlarged or cut to `side` rows."""
    image = Image.fromarray(PHOTOGRAPHS[number])
    if side > image.height:
        return image.resize((round(1.5 * side), side), Image.Resampling.BICUBIC)
    return image.crop((0, 0, 3 * side // 2, side))


def brought(content, size, how, mode="RGB"):
    with Image.open(io.BytesIO(content)) as image:
        picture = fitting.bring(image, functools.partial(pixels.convert, mode=mode), size, how)
        return np.asarray(picture).astype(int), image.size


@pytest.mark.parametrize(
    ("side", "final", "decoded"),
    [
        *((1280, 224, 640), (1283, 224, 642), (427, 106, 214), (427, 50, 107), (419, 25, 53)),
        pytest.param(2560, 224, 640, marks=pytest.mark.slow),
    ],
)
def test_scaled_decoding_changes_pixels_little(side, final, decoded):
    for number in range(2):
        content = jpeg(photograph(number, side))
        full, whole = brought(content, (final, final), "full")
        scaled, size = brought(content, (final, final), "scaled")
        assert (whole[1], size[1]) == (side, decoded)
        change = abs(scaled - full)
        assert 0 < change.mean() < MEAN
        assert change.max() <= MOST


@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 are none
def test_orientation_and_partial_pixels_are_kept(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # 8 pixels decode to one, of which the last row and column have a share alone.
    content = jpeg(photograph(1, 409).crop((0, 0, 601, 409)), exif=exif)
    for size in ((40, 24), (24, 24)):
        full, _ = brought(content, size, "full", "L")
        scaled, decoded = brought(content, size, "scaled", "L")
        assert full.shape == scaled.shape == size
        assert max(decoded) <= 151
        change = abs(scaled - full)
        assert change.mean() < MEAN
        assert change.max() <= MOST


@pytest.mark.parametrize("kind", ["PNG", "CMYK", "small", "as it is"])
def test_what_is_not_scaled_has_the_same_bits(kind):
    image, size = photograph(0, 427), (100, 100)
    if kind == "PNG":
        file = io.BytesIO()
        image.save(file, "PNG")
        content = file.getvalue()
    else:
        content = jpeg(image.convert("CMYK") if kind == "CMYK" else image)
    if kind == "small":
        size = (107, 107)  # of which 427 is not four times
    found = [brought(content, None if kind == "as it is" else size, how) for how in fitting.DECODES]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] == image.size


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six JPEG files of two classes."""
    root = tmp_path_factory.mktemp("photographs")
    for number in range(6):
        path = root / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        image = photograph(number % 2, 300 + number)
        path.write_bytes(jpeg(image.rotate(10 * number)))
    return root


def test_a_model_decodes_files_as_its_training_did(folder):
    config = schema.default()
    images = {}
    for how in fitting.DECODES:
        config.data.decode = how
        dataset = load(folder, image_size=64, decode=how)
        rule = preprocess.rule(config.data, dataset.image_shape)
        for split in dataset.splits.values():
            every = split.read(np.arange(len(split)))["image"]
            for name, image in zip(split.names, every, strict=True):
                np.testing.assert_array_equal(image, preprocess.preprocess(folder / name, rule))
                images[how, name] = image
        assert ("JPEG" in preprocess.in_words(config.data)) == (how == "scaled")
    assert len(images) == 12
    for how, name in images:
        assert (images[how, name] != images["full", name]).any() == (how == "scaled")


def test_a_picture_that_is_open_already_is_decoded_in_full_and_stays(folder):
    path = folder / "class0" / "0.jpg"
    to = preprocess.Rule((64, 64, 3), "white", "refuse", 500.0, "scaled")
    with Image.open(path) as image:
        found = preprocess.preprocess(image, to)
        assert image.size == (450, 300)
    expected = preprocess.preprocess(path, to._replace(decode="full"))
    np.testing.assert_array_equal(found, expected)
