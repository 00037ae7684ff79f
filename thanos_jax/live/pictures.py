"""Pictures for loggers: rows of images as one picture, thumbnails as one square sprite."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# TensorBoard's projector shows no larger sprite.
SPRITE_SIDE = 8192
# A picture of small images is enlarged to about this width in pixels.
_WIDTH = 512
# White pixels between images.
_GAP = 2


def rows(lines: Sequence[np.ndarray]) -> np.ndarray:
    """Returns one picture of some lines of images.

    Args:
      lines: each [k, h, w, 1 or 3], uint8, or floating point in [0, 1]; values outside are clipped.

    Returns:
      uint8 [H, W, 1 or 3]. Small images are enlarged by a whole factor; gaps are white.
    """
    grid = np.stack([_as_bytes(np.asarray(line)) for line in lines])
    factor = max(1, _WIDTH // (grid.shape[1] * grid.shape[3]))
    grid = grid.repeat(factor, axis=2).repeat(factor, axis=3)
    gaps = ((0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0))
    grid = np.pad(grid, gaps, constant_values=255)
    count, images, height, width, channels = grid.shape
    picture = grid.transpose(0, 2, 1, 3, 4).reshape(count * height, images * width, channels)
    return picture[:-_GAP, :-_GAP]


def most_thumbnails(side: int) -> int:
    """Returns how many square thumbnails, `side` pixels wide, a sprite can hold."""
    return (SPRITE_SIDE // side) ** 2


def sprite(thumbnails: np.ndarray) -> np.ndarray:
    """Returns a square picture of thumbnails, row by row; empty cells are black.

    Args:
      thumbnails: uint8 [m, s, s, 3].

    Raises:
      ValueError: the picture would be larger than `SPRITE_SIDE`.
    """
    count, side = thumbnails.shape[:2]
    columns = math.ceil(math.sqrt(count))
    if columns * side > SPRITE_SIDE:
        raise ValueError(
            f"thumbnails: expected at most {most_thumbnails(side)} of {side} pixels, got {count}"
        )
    cells = np.zeros((columns**2, side, side, 3), np.uint8)
    cells[:count] = thumbnails
    grid = cells.reshape(columns, columns, side, side, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(columns * side, columns * side, 3)


def _as_bytes(images: np.ndarray) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
