"""The digits: every image once, stratified, without optional packages; resizing."""

import sys

import numpy as np
from stored_sets import as_arrays, assert_equal_batches, config

from thanos_jax.data import fitting, sources
from thanos_jax.data.batches import train_batches


def test_digits_hold_every_image_once():
    from sklearn.datasets import load_digits

    dataset = sources.load(config("digits"))
    assert dataset.name == "digits"
    assert dataset.image_shape == (8, 8, 1)
    assert {key: len(split) for key, split in dataset.splits.items()} == {
        "train": 1294,
        "validation": 144,
        "test": 359,
    }
    batches = [as_arrays(split) for split in dataset.splits.values()]
    images = np.concatenate([batch["image"] for batch in batches])
    fine = np.concatenate([batch["fine"] for batch in batches])
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    stored, target = load_digits(return_X_y=True)
    expected = np.round(stored * 255 / 16).astype(np.uint8)
    found = {(image.tobytes(), int(label)) for image, label in zip(images, fine, strict=True)}
    assert found == {
        (image.tobytes(), int(label)) for image, label in zip(expected, target, strict=True)
    }
    for batch in batches:
        assert batch["fine"].dtype == batch["coarse"].dtype == np.int32
        np.testing.assert_array_equal(batch["coarse"], batch["fine"] >= 5)


def test_digits_test_split_is_stratified_and_the_same_for_every_seed():
    first, second = (sources.load(config("digits", split_seed=seed)) for seed in (1, 2))
    again = sources.load(config("digits", split_seed=1))
    assert_equal_batches(as_arrays(first.splits["test"]), as_arrays(second.splits["test"]))
    for split in ("train", "validation"):
        assert_equal_batches(as_arrays(first.splits[split]), as_arrays(again.splits[split]))
        assert (first.splits[split].images != second.splits[split].images).any()
    counts = np.bincount(first.splits["test"].fine, minlength=10)
    # load_digits has 174 to 183 images of each digit.
    np.testing.assert_array_equal(counts, [36, 36, 35, 37, 36, 36, 36, 36, 35, 36])
    # The very images: a test set that moves makes numbers incomparable. The sum pins it.
    weights = np.arange(1, 360)[:, None, None, None]
    assert int((first.splits["test"].images * weights).sum()) == 322628817


def test_digits_moments_are_those_of_the_training_images():
    dataset = sources.load(config("digits"))
    parts = [dataset.splits[split].images for split in ("train", "validation")]
    pixels = np.concatenate(parts) / 255.0
    np.testing.assert_allclose(dataset.mean, [pixels.mean()], atol=5e-5)
    np.testing.assert_allclose(dataset.std, [pixels.std()], atol=5e-5)


def test_digits_need_no_optional_package(monkeypatch):
    for package in ("tensorflow", "tensorflow_datasets", "grain", "array_record", "PIL"):
        monkeypatch.setitem(sys.modules, package, None)
    dataset = sources.load(config("digits"))
    batch = next(
        train_batches(dataset.splits["train"], seed=0, batch_size=4, first_step=0, last_step=1)
    )
    assert batch["image"].shape == (4, 8, 8, 1)


def test_image_size_resizes_digits():
    dataset = sources.load(config("digits", image_size=16))
    assert dataset.image_shape == (16, 16, 1)
    assert dataset.splits["test"].images.shape == (359, 16, 16, 1)


def test_resize_is_the_shorter_side_and_a_centre_crop():
    from PIL import Image

    # Sides at which the two-pass way needs no rounding.
    for height, width in ((120, 80), (80, 240), (20, 40), (64, 64)):
        image = Image.fromarray(
            np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        )
        short = min(height, width)
        scaled = image.resize(
            (width * 40 // short, height * 40 // short), Image.Resampling.BILINEAR
        )
        left, top = (scaled.width - 40) // 2, (scaled.height - 40) // 2
        expected = np.asarray(scaled.crop((left, top, left + 40, top + 40)))
        found = np.asarray(fitting.fit(image, 40, 40))
        assert found.shape == (40, 40, 3)
        np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=1)
    assert fitting.bring(image, lambda one: one, fitting.square(0)) is image
