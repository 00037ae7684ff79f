"""Packs thumbnails of many images into one WebP picture, a grid of cells."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from thanos_jax.checks import check_at_least

# Bytes of the picture: a whole page with 10,000 images stays below 10 MB.
LIMIT = 6_000_000
# Pixels of the picture: a browser holds them in memory, four bytes each.
_MOST_PIXELS = 2**25
_LEAST_SIDE = 8
_CHUNK = 256
# Up to this side, thumbnails are compressed without loss: artefacts would show, and many still take
# little room. Cards are few, and are lossless up to twice this side.
_LOSSLESS = 16


class Sprite(NamedTuple):
    """A picture of thumbnails, row by row.

    Attributes:
      data: WebP.
      width: of a thumbnail, in pixels.
      height: of a thumbnail, in pixels.
      columns: thumbnails in a row.
      asked: the longer side asked for, or the images' own if that is smaller.
    """

    data: bytes
    width: int
    height: int
    columns: int
    asked: int

    @property
    def cell(self) -> tuple[int, int]:
        """Width and height of a cell; even, because WebP shares colour between two pixels."""
        return self.width + self.width % 2, self.height + self.height % 2


def make(
    read: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, pixels: int, *, limit: int = LIMIT
) -> Sprite:
    """Makes the sprite of some images, with smaller thumbnails if it would be too large.

    Args:
      read: rows -> uint8 [b, h, w, 1 or 3]; called for some rows at a time.
      rows: integer [m], at least one.
      pixels: longer side of a thumbnail; smaller images stay as they are.
      limit: largest size of the picture in bytes; thumbnails are shrunk to meet it, down to a side
        of 8 pixels.

    Returns:
      The sprite, with thumbnails in the order of the rows.

    Raises:
      ValueError: no rows, pixels < 1, or images of another shape.
    """
    check_at_least("pixels", pixels, 1)
    check_at_least("rows", len(rows), 1)
    first = read(rows[:1])
    if first.dtype != np.uint8 or first.ndim != 4 or first.shape[3] not in (1, 3):
        raise ValueError(
            f"images: expected uint8 [b, h, w, 1 or 3], got {first.dtype} {first.shape}"
        )
    asked = min(pixels, max(first.shape[1:3]))
    side = min(asked, max(_LEAST_SIDE, math.isqrt(_MOST_PIXELS // len(rows))))
    starts = range(0, len(rows), _CHUNK)
    small = np.concatenate([shrunk(read(rows[k : k + _CHUNK]), side) for k in starts])
    while True:
        sprite = _packed(small, asked)
        if len(sprite.data) <= limit or side <= _LEAST_SIDE:
            return sprite
        # The size of a picture grows a little slower than its number of pixels.
        share = math.sqrt(limit / len(sprite.data))
        side = max(_LEAST_SIDE, int(side * min(0.95 * share, 0.95)))
        small = shrunk(small, side)


def shrunk(images: np.ndarray, side: int) -> np.ndarray:
    """Shrinks images, uint8 [b, h, w, c], so that the longer side is at most `side`."""
    height, width = images.shape[1:3]
    scale = side / max(height, width)
    if scale >= 1:
        return images
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = images.shape[3] == 1
    resized = [
        np.asarray(
            Image.fromarray(image[..., 0] if grey else image).resize(size, Image.Resampling.BOX)
        )
        for image in images
    ]
    return np.stack(resized).reshape(len(images), size[1], size[0], images.shape[3])


def _packed(images: np.ndarray, asked: int) -> Sprite:
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    sprite = Sprite(b"", width, height, columns, asked)
    across, down = sprite.cell
    lines = math.ceil(count / columns)
    sheet = np.zeros((lines * columns, down, across, 3), np.uint8)
    # Cells may be larger than thumbnails: the edge is repeated to fill them.
    padding = ((0, 0), (0, down - height), (0, across - width), (0, 0))
    padded = np.pad(images, padding, mode="edge")
    sheet[:count] = padded if channels == 3 else np.repeat(padded, 3, axis=3)
    grid = sheet.reshape(lines, columns, down, across, 3).transpose(0, 2, 1, 3, 4)
    picture = Image.fromarray(np.ascontiguousarray(grid.reshape(lines * down, columns * across, 3)))
    buffer = io.BytesIO()
    lossless = max(width, height) <= _LOSSLESS
    picture.save(buffer, "WEBP", quality=75, lossless=lossless)
    return sprite._replace(data=buffer.getvalue())
