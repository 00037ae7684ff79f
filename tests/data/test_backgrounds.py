"""Digits over photographs: the composition against float64, and what the draw depends on."""

import pathlib

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax.data import backgrounds, composed, sources
from thanos_jax.data.backgrounds import over_photographs
from thanos_jax.data.dataset import bytes_in_memory
from thanos_jax.errors import ConfigError

MNIST = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "tfds"


def grey(size, height=5, width=7, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, height, width, 1), np.uint8)


def halves(split):
    """The half of each photograph that a split may show, at half brightness."""
    from sklearn.datasets import load_sample_image

    columns = slice(0, 320) if split == "train" else slice(320, 640)
    return [load_sample_image(name)[:, columns] // 2 for name in ("china.jpg", "flower.jpg")]


def contains(photograph, crop):
    """Whether a crop is a piece of a photograph."""
    weights = np.array([1, 2**8, 2**16])
    photograph, crop = photograph @ weights, crop @ weights
    height, width = crop.shape
    tops, lefts = np.nonzero(photograph[: 1 - height, : 1 - width] == crop[0, 0])
    for y, x in np.ndindex(height, width):
        fits = photograph[tops + y, lefts + x] == crop[y, x]
        tops, lefts = tops[fits], lefts[fits]
    return bool(len(tops))


@pytest.mark.parametrize("split", ["train", "test"])
def test_backgrounds_are_pieces_of_the_split_s_own_half(split):
    crops = over_photographs(np.zeros((20, 6, 5, 1), np.uint8), 3, split)
    other = "test" if split == "train" else "train"
    own, others = halves(split), halves(other)
    shown = [[contains(half, crop) for half in own] for crop in crops]
    assert all(any(row) for row in shown)
    assert np.any(shown, axis=0).all(), "both photographs are used"
    elsewhere = [any(contains(half, crop) for half in others) for crop in crops]
    # A plain sky is the same on both sides; most crops are not.
    assert np.mean(elsewhere) < 0.2


def test_composition_is_white_by_grey_level():
    images = grey(30)
    background = over_photographs(np.zeros_like(images), 3, "train").astype(np.float64)
    alpha = images.astype(np.float64) / 255
    expected = alpha * 255 + (1 - alpha) * background
    found = over_photographs(images, 3, "train")
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected, atol=0.5 + 1e-9)
    assert (found[np.broadcast_to(images == 255, found.shape)] == 255).all()
    assert background.max() <= 127


def test_crops_depend_on_number_split_and_seed_only(monkeypatch):
    images = grey(50)
    whole = over_photographs(images, 3, "train")
    order = np.array([41, 3, 3, 0, 17])
    part = over_photographs(images[order], 3, "train", numbers=order)
    np.testing.assert_array_equal(part, whole[order])
    np.testing.assert_array_equal(over_photographs(images[:20], 3, "train"), whole[:20])
    monkeypatch.setattr(backgrounds, "_CHUNK", 7)
    np.testing.assert_array_equal(over_photographs(images, 3, "train"), whole)
    for seed, split in ((4, "train"), (3, "test")):
        other = over_photographs(images, seed, split)
        assert (other != whole).any(axis=(1, 2, 3)).mean() > 0.9
    assert over_photographs(images[:0], 3, "train").shape == (0, 5, 7, 3)


def test_the_draw_is_the_same_everywhere(monkeypatch):
    # A test set that moves makes numbers incomparable. Pixels say where they lie: decoders of JPEG
    # may differ by a level.
    photographs = np.zeros((2, 250, 400, 3), np.uint8)
    photographs[..., 0] = np.arange(2)[:, None, None]
    photographs[..., 1] = np.arange(250)[:, None]
    photographs[..., 2] = np.arange(400) % 200
    monkeypatch.setattr(backgrounds, "_photographs", lambda: photographs)
    places = over_photographs(np.zeros((5, 28, 28, 1), np.uint8), 0, "test")[:, 0, 0]
    assert places.tolist() == [[0, 120, 80], [1, 161, 22], [0, 59, 78], [1, 134, 36], [0, 185, 39]]


def test_crops_reach_every_part_of_a_half():
    places = over_photographs(np.zeros((400, 427, 1, 1), np.uint8), 0, "train")
    # Crops of full height: only the column is drawn.
    half = halves("train")
    columns = {crop.tobytes() for crop in places}
    every = {part[:, left : left + 1].tobytes() for part in half for left in range(320)}
    assert columns <= every
    # 400 draws from 640 columns show 298 of them on average, give or take 8.
    assert 260 < len(columns) < 335


@pytest.mark.parametrize(
    ("images", "split", "error", "message"),
    [
        (grey(1).astype(float), "train", TypeError, "images: expected uint8, got float64"),
        (grey(1)[..., 0], "train", ValueError, r"shape \[n, h, w, 1\], got \(1, 5, 7\)"),
        (grey(1).repeat(3, -1), "train", ValueError, r"got \(1, 5, 7, 3\)"),
        (grey(1), "validation", ValueError, "split: expected one of train, test, got 'validation'"),
        (grey(1, 428, 2), "train", ValueError, "at most 427 x 320 pixels, .* got 428 x 2"),
        (grey(1, 2, 321), "test", ValueError, "at most 427 x 320 pixels, .* got 2 x 321"),
    ],
)
def test_images_that_cannot_be_laid_over_are_refused(images, split, error, message):
    with pytest.raises(error, match=message):
        over_photographs(images, 0, split)


def digits(**changes):
    config = schema.default()
    config.data.update({"background": "photographs", **changes})
    schema.check(config)
    return sources.load(config.data)


def test_digits_over_photographs():
    plain, dataset = digits(background="none"), digits()
    assert dataset.image_shape == (8, 8, 3)
    pixels = dataset.splits["train"].images / 255.0
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std(axis=(0, 1, 2)), rtol=1e-12)
    for name, split in dataset.splits.items():
        assert split.in_memory
        grey_split = plain.splits[name]
        np.testing.assert_array_equal(split.fine, grey_split.fine)
        np.testing.assert_array_equal(split.coarse, grey_split.coarse)
        # White where the digit is, and nowhere darker than the digit on black.
        assert (split.images[np.broadcast_to(grey_split.images == 255, split.images.shape)]).all()
        assert (split.images.astype(int) >= grey_split.images.astype(int) - 1).all()


def test_the_test_split_is_the_same_for_every_seed_and_training_images_are_not():
    first, second = digits(split_seed=1), digits(split_seed=2)
    np.testing.assert_array_equal(first.splits["test"].images, second.splits["test"].images)
    crops = [
        {image.tobytes() for image in dataset.splits["train"].images} for dataset in (first, second)
    ]
    assert len(crops[0] & crops[1]) < 0.1 * len(crops[0])


def test_holding_out_changes_no_image():
    """Validation images are training images, whatever share is held out."""
    some, more = digits(validation_fraction=0.1), digits(validation_fraction=0.4)
    sets = [
        {
            image.tobytes()
            for name in ("train", "validation")
            for image in dataset.splits[name].images
        }
        for dataset in (some, more)
    ]
    assert sets[0] == sets[1]


def test_image_size_is_that_of_the_digits_on_the_photographs():
    assert digits(image_size=12).image_shape == (12, 12, 3)


def test_only_grey_images_have_backgrounds(monkeypatch):
    monkeypatch.setitem(sources._LOADERS, "digits", in_colour)
    with pytest.raises(
        sources.DataError,
        match="background: expected 'none' for digits, got 'photographs'; only images of one ch",
    ):
        digits()
    with pytest.raises(ConfigError, match=r"data\.background: expected one of none, photo"):
        digits(background="sky")


def in_colour(config_data):
    return sources._digits(config_data)._replace(image_shape=(8, 8, 3))


@pytest.mark.parametrize("background", ["photographs", "texture"])
def test_a_stored_validation_split_is_numbered_after_the_training_images(background, monkeypatch):
    def with_validation(config_data):
        dataset = sources._digits(config_data)
        train = dataset.splits["train"]
        parts = {"train": train.subset(np.arange(1000)), "test": dataset.splits["test"]}
        parts["validation"] = train.subset(np.arange(1000, len(train)))
        return dataset._replace(splits=parts)

    def every(dataset):
        return sorted(
            (image.tobytes(), int(fine))
            for name in ("train", "validation")
            for image, fine in zip(
                dataset.splits[name].images, dataset.splits[name].fine, strict=True
            )
        )

    held_out = digits(background=background)
    monkeypatch.setitem(sources._LOADERS, "digits", with_validation)
    stored = digits(background=background)
    assert len(stored.splits["validation"]) == 438
    assert every(stored) == every(held_out)


def streamed(split):
    """The same examples, as if they had stayed on disk."""
    from thanos_jax.data.splits import RecordSplit

    return RecordSplit(
        list(range(len(split))),
        lambda number: (split.images[number], int(split.fine[number]), int(split.coarse[number])),
        image_shape=split.images.shape[1:],
        num_fine=10,
        num_coarse=2,
        dataset="digits",
        split="train",
        file_of=str,
    )


def test_from_disk_is_in_memory():
    plain = digits(background="none").splits["test"]
    held, lazy = (
        composed.with_images(
            split, lambda images, rows: over_photographs(images, 5, "test", numbers=rows)
        )
        for split in (plain, streamed(plain))
    )
    assert held.in_memory
    assert not lazy.in_memory
    assert len(lazy) == len(held)
    chosen = np.array([200, 3, 77, 3])
    first, second = np.array([2, 0, 1]), np.arange(len(held))[::-1]
    for indices in (chosen, second):
        for a, b in (
            (held.read(indices), lazy.read(indices)),
            (held.subset(indices).read(first), lazy.subset(indices).read(first)),
            (
                held.subset(second).subset(indices).read(first),
                lazy.subset(second).subset(indices).read(first),
            ),
        ):
            assert a.keys() == b.keys()
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])
    with pytest.raises(IndexError, match="indices: expected numbers in"):
        lazy.read(np.array([len(held)]))
    with pytest.raises(IndexError, match="indices: expected numbers in"):
        lazy.subset(np.array([-1]))


@pytest.mark.parametrize("background", ["none", "photographs", "colour", "texture"])
def test_absent_images_stay_in_memory_as_the_real_ones_would(background):
    config = schema.default().data
    config.update(name="fashion_mnist", background=background)
    channels = 3 if background in ("photographs", "colour") else 1
    found = sources.stand_in(config)
    sizes = {name: len(split) for name, split in found.splits.items()}
    assert (sum(sizes.values()), sizes["test"]) == (70_000, 10_000)
    assert all(split.in_memory for split in found.splits.values())
    assert bytes_in_memory(found) == {
        name: size * (28 * 28 * channels + 8) for name, size in sizes.items()
    }
    some = found.splits["validation"].read(np.arange(40))
    assert some["image"].shape == (40, 28, 28, channels)
    np.testing.assert_array_equal(some["fine"], found.splits["validation"].fine[:40])
    if background in ("colour", "texture"):
        np.testing.assert_array_equal(some["fine"] // 2, some["coarse"])
    assert found.mean == (0.5,) * channels
    config.memory_limit_gib = 0.0
    on_disk = sources.stand_in(config)
    assert not on_disk.splits["train"].in_memory
    assert set(bytes_in_memory(on_disk).values()) == {0}


@pytest.mark.slow
@pytest.mark.skipif(not (MNIST / "mnist").exists(), reason="no MNIST beside the checkout")
def test_mnist_streams_over_photographs_and_the_limit_counts_three_channels():
    options = {"name": "mnist", "data_dir": str(MNIST)}
    # Grey, the images would fit.
    limit = 70_000 * 28 * 28 * 2 / 2**30
    dataset = digits(memory_limit_gib=limit, **options)
    assert dataset.image_shape == (28, 28, 3)
    assert not dataset.splits["test"].in_memory
    plain = digits(background="none", memory_limit_gib=0.0, **options)
    numbers = np.arange(200, 260)
    images = plain.splits["test"].read(numbers)["image"]
    np.testing.assert_array_equal(
        dataset.splits["test"].read(numbers)["image"],
        over_photographs(images, 0, "test", numbers=numbers),
    )
