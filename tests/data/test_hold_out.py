"""Held out by class: every class keeps a training image."""

import numpy as np
import pytest
from own_images import load, pixels, save

from thanos_jax.data.dataset import hold_out
from thanos_jax.data.splits import DataError

# Training images of 20 classes of two images, one of them for test, and of ten of 30.
SIZES = [1] * 20 + [24] * 10


@pytest.mark.parametrize(
    ("sizes", "fraction"), [(SIZES, 0.1), ([3] * 7, 0.5), ([1, 1, 200], 0.3), ([2, 2], 0.5)]
)
def test_every_class_keeps_a_training_image(sizes, fraction):
    classes = np.repeat(np.arange(len(sizes)), sizes)
    for seed in range(50):
        train, held = hold_out(len(classes), fraction, seed, classes)
        assert set(classes[train]) == set(range(len(sizes)))
        assert len(held) == min(round(fraction * len(classes)), len(classes) - len(sizes))
        np.testing.assert_array_equal(np.sort(np.concatenate([train, held])), range(len(classes)))


def test_where_no_class_is_lost_the_draw_is_what_it_was():
    classes = np.repeat(np.arange(4), 30)
    for seed in range(20):
        plain, by_class = hold_out(120, 0.1, seed), hold_out(120, 0.1, seed, classes)
        np.testing.assert_array_equal(plain[1], by_class[1])


def test_what_cannot_be_held_out_is_said_with_the_key():
    with pytest.raises(DataError, match=r"validation_fraction: .* 3 training images of 3 .*split"):
        hold_out(3, 0.1, 0, np.arange(3))


def test_small_classes_of_a_folder(tmp_path):
    number = 0
    for name, each in [*((f"s{n:02}", 2) for n in range(20)), *((f"l{n}", 6) for n in range(4))]:
        for _ in range(each):
            save(tmp_path / name / f"{number}.png", pixels(number))
            number += 1
    for seed in range(5):
        for limit in (0.0, 4.0):
            dataset = load(tmp_path, split_seed=seed, memory_limit_gib=limit)
            for split in ("train", "test"):
                assert set(dataset.splits[split].fine) == set(range(24))
    save(tmp_path / "alone" / "1.png", pixels(999))
    with pytest.raises(
        DataError,
        match=r"^alone/1\.png: the only image of fine class 'alone'; .* Add images, or le",
    ):
        load(tmp_path)
