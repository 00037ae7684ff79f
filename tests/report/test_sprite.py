"""Thumbnails of many images in one picture: the right ones, and not too much of them."""

import numpy as np
import pytest
import report_maps as maps

from thanos_jax.report import sprite


@pytest.mark.parametrize("shape", [(7, 8, 8, 3), (5, 9, 5, 1), (1, 3, 4, 3)])
def test_small_thumbnails_are_the_images(shape):
    images = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    one = sprite.make(lambda rows: images[rows], np.arange(shape[0])[::-1], 32)
    assert (one.width, one.height, one.asked) == (shape[2], shape[1], max(shape[1:3]))
    expected = np.broadcast_to(images[::-1], (*shape[:3], 3))
    np.testing.assert_array_equal(maps.cells(one)[: shape[0]], expected)
    # What an odd side lacks to a pair of pixels repeats its edge, not black.
    wider = one._replace(width=one.cell[0], height=one.cell[1])
    np.testing.assert_array_equal(maps.cells(wider)[: shape[0], : shape[1], -1], expected[:, :, -1])


def test_large_images_are_shrunk_to_the_pixels_and_the_bytes_asked_for():
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(64, 80, 40, 3), dtype=np.uint8)
    reads = []

    def read(rows):
        reads.append(len(rows))
        return images[rows % 64]

    one = sprite.make(read, np.arange(300), 40)
    assert (one.width, one.height, one.asked) == (20, 40, 40)
    assert max(reads) < 300  # never all of them at once
    means = images.reshape(64, 40, 2, 20, 2, 3).mean(axis=(2, 4))
    error = np.abs(maps.cells(one)[:64].astype(float) - means).mean()
    assert error < 25  # of noise, at the quality of photographs; another image's: 43
    less = sprite.make(read, np.arange(300), 40, limit=len(one.data) // 2)
    assert len(less.data) <= len(one.data) // 2
    assert less.width / less.height == pytest.approx(0.5, abs=0.05)
    assert less.height < 40 == less.asked
    least = sprite.make(read, np.arange(300), 40, limit=1)
    assert least.height == 8


def test_a_sprite_has_no_more_pixels_than_a_browser_bears(monkeypatch):
    monkeypatch.setattr(sprite, "_MOST_PIXELS", 20 * 12**2)
    one = sprite.make(lambda rows: maps.pictures(rows, 32), np.arange(20), 32)
    assert (one.width, one.asked) == (12, 32)


@pytest.mark.parametrize(
    ("images", "rows", "pixels", "message"),
    [
        (np.zeros((2, 4, 4, 2), np.uint8), [0], 8, r"images: expected uint8 .*\(1, 4, 4, 2\)"),
        (np.zeros((2, 4, 4, 3)), [0], 8, "images: expected uint8 .*got float64"),
        (np.zeros((2, 4, 4, 3), np.uint8), [], 8, "rows: expected at least 1, got 0"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0], 0, "pixels: expected at least 1, got 0"),
    ],
)
def test_a_sprite_refuses(images, rows, pixels, message):
    with pytest.raises(ValueError, match=message):
        sprite.make(lambda chosen: images[chosen], np.array(rows, int), pixels)
