"""Digits on backgrounds that go with their class: exact counts, and what the draws depend on."""

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax.data import backgrounds, group_counts, sources
from thanos_jax.data.backgrounds import over_photographs
from thanos_jax.data.composed import with_images
from thanos_jax.data.splits import ArraySplit, RecordSplit
from thanos_jax.data.spurious import BACKGROUNDS, assign, over_backgrounds
from thanos_jax.errors import ConfigError

KINDS = ("colour", "texture")


def grey(size, height=8, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, height, width, 1), np.uint8)


def digits(kind, **changes):
    config = schema.default()
    config.data.update({"background": kind, **changes})
    schema.check(config)
    return sources.load(config.data)


def streamed(split):
    """The same examples, as if they had stayed on disk."""
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


def assert_equal_batches(first, second):
    assert first.keys() == second.keys()
    for key in first:
        assert first[key].dtype == second[key].dtype
        np.testing.assert_array_equal(first[key], second[key])


# Which background


@pytest.mark.parametrize(
    ("correlation", "expected"),
    [(0.95, (57, 38)), (1.0, (60, 40)), (0.5, (30, 20)), (0.99, (59, 40)), (0.0, (0, 0))],
)
def test_counts_are_exact_in_each_class(correlation, expected):
    coarse = np.random.default_rng(0).permutation(np.repeat([0, 1], [60, 40]))
    background = assign(coarse, correlation=correlation, seed=3, split="train")
    assert background.dtype == np.int32
    own = tuple(int((background[coarse == label] == label).sum()) for label in (0, 1))
    assert own == expected


def test_halves_of_odd_classes_are_rounded_up():
    background = assign(np.repeat([0, 1], [5, 7]), correlation=0.5, seed=0, split="test")
    assert (background[:5] == 0).sum() == 3
    assert (background[5:] == 1).sum() == 4


def test_the_draw_depends_on_seed_and_split_only():
    coarse = np.arange(400) % 2
    options = {"correlation": 0.7, "seed": 1, "split": "train"}
    first = assign(coarse, **options)
    np.testing.assert_array_equal(assign(coarse, **options), first)
    for change in ({"seed": 2}, {"split": "test"}):
        other = assign(coarse, **{**options, **change})
        # Two independent draws of 0.7 agree on 0.58 of the images, give or take 0.025.
        assert 0.5 < (other == first).mean() < 0.66
    # More correlation moves images to the background of their class, and none away from it.
    more = assign(coarse, **{**options, "correlation": 0.9})
    assert (more == coarse)[first == coarse].all()
    assert assign(coarse[:0], **options).shape == (0,)


# How it looks


def test_colours_are_red_and_green():
    backgrounds = over_backgrounds(
        np.zeros((2, 3, 5, 1), np.uint8), np.array([0, 1]), kind="colour", seed=0, split="train"
    )
    assert backgrounds.shape == (2, 3, 5, 3)
    assert (backgrounds[0] == [128, 0, 0]).all()
    assert (backgrounds[1] == [0, 128, 0]).all()


def stripes(size=400, split="train", seed=0, side=8):
    background = np.arange(size) % 2
    images = np.zeros((size, side, side, 1), np.uint8)
    return background, over_backgrounds(images, background, kind="texture", seed=seed, split=split)


def test_textures_are_stripes_of_two_pixels_of_every_phase():
    background, images = stripes()
    assert images.shape == (400, 8, 8, 1)
    profiles = {}
    for label, image in zip(background, images[..., 0], strict=True):
        upright = image if label == 0 else image.T
        assert (upright == upright[:, :1]).all()
        profile = tuple(upright[:, 0].tolist())
        profiles[label, profile] = profiles.get((label, profile), 0) + 1
    periods = ([0, 0, 128, 128], [0, 128, 128, 0], [128, 128, 0, 0], [128, 0, 0, 128])
    expected = {(label, tuple(period * 2)) for label in (0, 1) for period in periods}
    assert set(profiles) == expected
    # 50 on average, give or take 6.
    assert min(profiles.values()) > 25


@pytest.mark.parametrize("side", [8, 28])
def test_every_texture_has_the_same_levels(side):
    _, images = stripes(20, side=side)
    counts = [np.bincount(image.ravel(), minlength=256) for image in images]
    assert all((count == counts[0]).all() for count in counts)
    assert counts[0][0] == counts[0][128] == side * side / 2


def test_images_may_be_oblong():
    images = np.zeros((2, 4, 6, 1), np.uint8)
    found = over_backgrounds(images, np.array([0, 1]), kind="texture", seed=0, split="test")
    assert (found[0] == found[0][:, :1]).all()
    assert (found[1] == found[1][:1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_composition_is_white_by_grey_level(kind):
    images, background = grey(30), np.arange(30) % 2
    options = {"kind": kind, "seed": 3, "split": "train"}
    behind = over_backgrounds(np.zeros_like(images), background, **options).astype(np.float64)
    alpha = images.astype(np.float64) / 255
    found = over_backgrounds(images, background, **options)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, alpha * 255 + (1 - alpha) * behind, atol=0.5 + 1e-9)


def test_phases_depend_on_number_split_and_seed_only(monkeypatch):
    images, background = grey(50), np.arange(50) % 2
    options = {"kind": "texture", "seed": 3, "split": "train"}
    whole = over_backgrounds(images, background, **options)
    order = np.array([41, 3, 3, 0, 17])
    part = over_backgrounds(images[order], background[order], numbers=order, **options)
    np.testing.assert_array_equal(part, whole[order])
    monkeypatch.setattr(backgrounds, "_CHUNK", 7)
    np.testing.assert_array_equal(over_backgrounds(images, background, **options), whole)
    for change in ({"seed": 4}, {"split": "test"}):
        other = over_backgrounds(images, background, **{**options, **change})
        # One phase in four is the same.
        assert 0.5 < (other != whole).any(axis=(1, 2, 3)).mean() < 0.95
    assert over_backgrounds(images[:0], background[:0], **options).shape == (0, 8, 8, 1)


def test_the_draws_are_the_same_everywhere():
    # A test set that moves makes numbers incomparable.
    drawn = assign(np.arange(12) % 2, correlation=0.5, seed=0, split="test")
    assert "".join(map(str, drawn)) == "111010010001"
    _, images = stripes(8, split="test")
    corners = images[:, (0, 1), (0, 1), 0] // 128
    shown = " ".join("".join(map(str, corner)) for corner in corners)
    assert shown == "01 00 11 11 11 00 01 01"


# The data set


@pytest.mark.parametrize(("kind", "channels"), [("colour", 3), ("texture", 1)])
def test_digits_in_groups(kind, channels):
    plain, dataset = digits("none"), digits(kind)
    assert dataset.image_shape == (8, 8, channels)
    assert dataset.coarse_names == ("0 to 4", "5 to 9")
    names = {"colour": ("red", "green"), "texture": ("horizontal stripes", "vertical stripes")}
    assert dataset.fine_names == tuple(
        f"{half}, {background}" for half in ("0 to 4", "5 to 9") for background in names[kind]
    )
    pixels = dataset.splits["train"].images / 255.0
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std(axis=(0, 1, 2)), rtol=1e-12)
    for name, split in dataset.splits.items():
        np.testing.assert_array_equal(split.coarse, plain.splits[name].coarse)
        np.testing.assert_array_equal(split.fine // 2, split.coarse)
        images = plain.splits[name].images
        # White where the digit is.
        assert (split.images[np.broadcast_to(images == 255, split.images.shape)] == 255).all()
    # The corner is free of ink in most digits, and shows the background it should.
    if kind == "colour":
        test = dataset.splits["test"]
        free = plain.splits["test"].images[:, 0, 0, 0] == 0
        assert free.mean() > 0.9
        colour = np.array([[128, 0, 0], [0, 128, 0]])[test.fine % 2]
        np.testing.assert_array_equal(test.images[free, 0, 0], colour[free])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("correlation", [0.5, 0.95, 1.0])
def test_groups_of_digits_have_the_sizes_asked_for(kind, correlation):
    counts = group_counts(digits(kind, correlation=correlation, split_seed=5))
    assert {name: count.dtype for name, count in counts.items()} == dict.fromkeys(
        ("train", "validation", "test"), np.int64
    )
    both = (counts["train"] + counts["validation"]).reshape(2, 2)
    own = np.diag(both)
    assert (np.abs(own - correlation * both.sum(axis=1)) <= 0.5).all()
    assert both.sum() == 1438
    # 180 and 179 images.
    np.testing.assert_array_equal(counts["test"], [90, 90, 89, 90])


@pytest.mark.parametrize("kind", KINDS)
def test_the_test_split_is_the_same_for_every_seed_and_correlation(kind):
    first, second = digits(kind, split_seed=1), digits(kind, split_seed=2, correlation=0.8)
    again = digits(kind, split_seed=1)
    tests = [dataset.splits["test"] for dataset in (first, second)]
    assert_equal_batches(*(split.read(np.arange(len(split))) for split in tests))
    trains = [dataset.splits["train"] for dataset in (first, again)]
    assert_equal_batches(*(split.read(np.arange(len(split))) for split in trains))
    assert (first.splits["train"].images != second.splits["train"].images).any()


@pytest.mark.parametrize("kind", KINDS)
def test_holding_out_changes_no_image(kind):
    def every(fraction):
        dataset = digits(kind, validation_fraction=fraction)
        return {
            (image.tobytes(), int(fine))
            for name in ("train", "validation")
            for image, fine in zip(
                dataset.splits[name].images, dataset.splits[name].fine, strict=True
            )
        }

    assert every(0.1) == every(0.4)


def test_only_orientation_gives_texture_away():
    from sklearn.metrics import roc_auc_score

    split = digits("texture").splits["test"]
    images, vertical = split.images[..., 0].astype(np.float64), split.fine % 2
    for label in (0, 1):
        chosen = split.coarse == label
        for statistic in (np.mean, np.std):
            found = roc_auc_score(vertical[chosen], statistic(images[chosen], axis=(1, 2)))
            # 0.5 give or take 0.043 if the statistic says nothing.
            assert abs(found - 0.5) < 0.13
    across = np.abs(np.diff(images, axis=2)).sum((1, 2))
    down = np.abs(np.diff(images, axis=1)).sum((1, 2))
    assert roc_auc_score(vertical, across - down) > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_from_disk_is_in_memory(kind, monkeypatch):
    held = digits(kind)
    whole = sources._digits(schema.default().data)
    on_disk = {name: streamed(split) for name, split in whole.splits.items()}
    monkeypatch.setitem(
        sources._LOADERS, "digits", lambda config_data: whole._replace(splits=on_disk)
    )
    lazy = digits(kind)
    assert lazy.image_shape == held.image_shape
    np.testing.assert_allclose(lazy.mean, held.mean, rtol=1e-12)
    for name, split in lazy.splits.items():
        assert not split.in_memory
        indices = np.random.default_rng(0).integers(0, len(split), 40)
        assert_equal_batches(split.read(indices), held.splits[name].read(indices))
        part, first = split.subset(indices), np.array([7, 0, 7])
        assert len(part) == 40
        assert_equal_batches(part.read(first), held.splits[name].subset(indices).read(first))
        np.testing.assert_array_equal(part.fine, held.splits[name].fine[indices])
        for method in (split.read, split.subset):
            for wrong in (-1, len(split)):
                with pytest.raises(IndexError, match="indices: expected numbers in"):
                    method(np.array([wrong]))
    expected = group_counts(held)
    for name, counts in group_counts(lazy).items():
        np.testing.assert_array_equal(counts, expected[name])


def test_group_counts_leave_out_what_would_have_to_be_read():
    dataset = digits("none")
    counts = group_counts(dataset)
    np.testing.assert_array_equal(
        counts["test"], np.bincount(dataset.splits["test"].fine, minlength=10)
    )
    unknown = streamed(dataset.splits["test"])
    changed = with_images(
        unknown, lambda images, rows: over_photographs(images, 0, "test", numbers=rows)
    )
    for split in (unknown, changed):
        splits = {**dataset.splits, "test": split}
        assert set(group_counts(dataset._replace(splits=splits))) == {"train", "validation"}


def test_image_size_is_that_of_the_digits():
    assert digits("colour", image_size=12).image_shape == (12, 12, 3)
    assert digits("texture", image_size=12).image_shape == (12, 12, 1)


# What is refused


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"kind": "photographs"},
            ValueError,
            "kind: expected one of colour, texture, got 'photographs'",
        ),
        (
            {"split": "validation"},
            ValueError,
            "split: expected one of train, test, got 'validation'",
        ),
        ({"images": grey(2).astype(float)}, TypeError, "images: expected uint8, got float64"),
        ({"images": grey(2)[..., 0]}, ValueError, r"shape \[n, h, w, 1\], got \(2, 8, 8\)"),
        ({"images": grey(2).repeat(3, -1)}, ValueError, r"got \(2, 8, 8, 3\)"),
        ({"background": np.zeros(3, int)}, ValueError, r"shape \(2,\), got \(3,\)"),
    ],
)
def test_arguments_that_cannot_be_used(changes, error, message):
    arguments = {"images": grey(2), "background": np.array([0, 1]), "kind": "colour"}
    with pytest.raises(error, match=message):
        over_backgrounds(**{**arguments, "seed": 0, "split": "train", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correlation": 1.1}, "correlation: expected a number from 0 to 1, got 1.1"),
        ({"correlation": float("nan")}, "correlation: expected a number from 0 to 1, got nan"),
        ({"split": "all"}, "split: expected one of train, test, got 'all'"),
        ({"coarse": np.array([0, -2])}, r"coarse: expected no negative numbers, got \[-2  0\]"),
    ],
)
def test_assignments_that_cannot_be_made(changes, message):
    options = {"coarse": np.array([0, 1]), "correlation": 0.9, "seed": 0, "split": "train"}
    with pytest.raises(ValueError, match=message):
        assign(**{**options, **changes})


def test_config_values_out_of_range_are_refused():
    for value in (0.4, 1.01):
        with pytest.raises(ConfigError, match=r"data\.correlation: .* at least 0\.5"):
            digits("colour", correlation=value)
    with pytest.raises(ConfigError, match=r"expected one of none, .*texture, got 'sky'"):
        digits("sky")


@pytest.mark.parametrize("kind", KINDS)
def test_classes_own_backgrounds_in_turns(kind, monkeypatch):
    plain = sources._digits(schema.default().data)
    splits = {
        name: ArraySplit(split.images, split.fine, split.fine % 3, split.names)
        for name, split in plain.splits.items()
    }
    three = plain._replace(splits=splits, coarse_names=tuple("abc"))
    monkeypatch.setitem(sources._LOADERS, "digits", lambda config_data: three)
    found = digits(kind, correlation=0.9)
    first, second = BACKGROUNDS[kind]
    assert found.fine_names == tuple(f"{c}, {b}" for c in "abc" for b in (first, second))
    fine, coarse = (
        np.concatenate([getattr(found.splits[part], name) for part in ("train", "validation")])
        for name in ("fine", "coarse")
    )
    np.testing.assert_array_equal(fine // 2, coarse)
    for label in range(3):
        members = fine[coarse == label] % 2
        assert (members == label % 2).sum() == int(0.9 * len(members) + 0.5)
