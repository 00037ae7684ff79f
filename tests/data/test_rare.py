"""Rare strata: exact counts, drawn without replacement, and nothing else changed."""

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax.data import DataError, group_counts, rare, sources
from thanos_jax.errors import ConfigError


def digits(fraction, **changes):
    config = schema.default()
    config.data.update({"rare_fraction": fraction, **changes})
    schema.check(config)
    return sources.load(config.data)


def images_of(dataset, *names):
    return [
        (image.tobytes(), int(fine), int(coarse))
        for name in names
        for image, fine, coarse in zip(
            dataset.splits[name].images,
            dataset.splits[name].fine,
            dataset.splits[name].coarse,
            strict=True,
        )
    ]


def training_counts(dataset):
    counts = group_counts(dataset)
    return counts["train"] + counts["validation"]


@pytest.mark.parametrize("fraction", [0.5, 0.1, 0.01])
def test_the_last_two_digits_of_each_class_are_thinned_out(fraction):
    every, counts = training_counts(digits(1.0)), training_counts(digits(fraction))
    for digit in range(10):
        if digit in (3, 4, 8, 9):
            assert abs(counts[digit] - fraction * every[digit]) <= 0.5
        else:
            assert counts[digit] == every[digit]


def test_images_are_drawn_without_replacement_and_keep_their_labels():
    whole, thinned = digits(1.0), digits(0.1)
    kept = images_of(thinned, "train", "validation")
    assert len(set(kept)) == len(kept) < 1438
    assert set(kept) < set(images_of(whole, "train", "validation"))
    assert images_of(thinned, "test") == images_of(whole, "test")
    assert thinned.fine_names == whole.fine_names == tuple("0123456789")
    assert (thinned.mean, thinned.std) == (whole.mean, whole.std)


def test_the_seed_draws_them():
    def chosen(seed):
        return {
            pair
            for pair in images_of(digits(0.1, split_seed=seed), "train", "validation")
            if pair[1] in (3, 4, 8, 9)
        }

    assert chosen(1) == chosen(1)
    # 57 of 572: two draws share 6 on average.
    assert len(chosen(1) & chosen(2)) < 25


def test_thin_out_keeps_the_order():
    fine = np.tile(np.arange(10), 20)
    kept = rare.thin_out(fine, dict.fromkeys((3, 4, 8, 9), 5), seed=0)
    assert kept.dtype == np.int64
    assert (np.diff(kept) > 0).all()
    np.testing.assert_array_equal(np.bincount(fine[kept]), [20, 20, 20, 5, 5, 20, 20, 20, 5, 5])
    everything = rare.thin_out(fine, dict.fromkeys(range(10), 20), seed=0)
    np.testing.assert_array_equal(everything, np.arange(200))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((5, 5), (3, 4, 8, 9)), ((4, 2, 3), (2, 3, 5, 8)), ((1, 2), (2,)), ((10,), (6, 7, 8, 9))],
)
def test_the_last_forty_percent_of_each_coarse_class_are_rare(sizes, expected):
    coarse = np.repeat(np.repeat(np.arange(len(sizes)), sizes), 10)
    fine = np.repeat(np.arange(sum(sizes)), 10)
    names = tuple(map(str, range(sum(sizes))))
    assert rare.rare_counts(fine, coarse, 0.25, names) == dict.fromkeys(expected, 2)


def test_what_cannot_be_thinned_out_is_refused():
    with pytest.raises(
        DataError,
        match=r"data\.rare_fraction: .* fine class '3', got 0\.001 of \d+ training images",
    ):
        digits(0.001)
    with pytest.raises(DataError, match=r"expected 1 where no coarse class has two fine classes"):
        rare.rare_counts(np.arange(4), np.arange(4), 0.5, tuple("abcd"))
    for value in (0.0, 1.5):
        with pytest.raises(ConfigError, match=r"data\.rare_fraction: expected above 0"):
            digits(value)
    for background in ("photographs", "colour", "texture"):
        with pytest.raises(
            DataError,
            match=rf"data\.rare_fraction: expected 1 for digits with .*{background}', got 0\.5; on",
        ):
            digits(0.5, background=background)
