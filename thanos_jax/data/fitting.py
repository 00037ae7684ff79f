"""Decodes, crops and resizes an image to a given size.

A JPEG can be decoded at a half, a quarter or an eighth of its size, by an inverse cosine transform
of fewer coefficients in each block (libjpeg's scaled decoding, Pillow's `draft`). This saves most
of the work on a large photograph. At least `KEPT` times the final side is decoded, so that the
resize that follows still averages over two or more pixels in each direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thanos_jax.data.pixels import on_its_side

DECODES = ("full", "scaled")
KEPT = 2
_SCALES = (8, 4, 2)


def bring(
    image: Any, convert: Callable[[Any], Any], size: tuple[int, int] | None, decode: str = "full"
) -> Any:
    """Decodes an image, crops its largest centred box of the given shape, and resizes the box.

    Args:
      image: a PIL image, opened but not decoded; "scaled" changes it.
      convert: converts a PIL image to mode "L" or "RGB", and turns it upright if needed.
      size: (height, width) of the result, in pixels; None: the size of the image.
      decode: "full": every pixel is decoded. "scaled": JPEG files whose box is at least 2 * KEPT
        times as large as the result are decoded at a half, a quarter or an eighth; all other images
        as with "full".

    Returns:
      A PIL image.
    """
    small = _decode_scaled(image, *size) if size and decode == "scaled" else None
    if small is not None:
        return convert(small)
    image = convert(image)
    return fit(image, *size) if size else image


def square(side: int) -> tuple[int, int] | None:
    """Returns `data.image_size` as the `size` argument of `bring`: (side, side), or None for 0."""
    return (side, side) if side else None


def fit(image: Any, height: int, width: int) -> Any:
    """Crops the largest centred box of the shape height x width and resizes it to that size.

    This resizes the shorter side and crops the centre in one pass. Interpolation is bilinear; when
    the image shrinks, Pillow averages over all source pixels.

    Args:
      image: a PIL image.
      height: in pixels.
      width: in pixels.

    Returns:
      A PIL image of this height and width.
    """
    if image.size == (width, height):
        return image
    columns, rows = image.size
    return _resize(image, height, width, _box(columns, rows, height, width))


def _box(columns: int, rows: int, height: int, width: int) -> tuple[float, float, float, float]:
    """Returns left, top, right, bottom of the largest centred box of the shape height x width."""
    columns_kept, rows_kept = float(columns), float(rows)
    if columns * height <= rows * width:
        rows_kept = columns * height / width
    else:
        columns_kept = rows * width / height
    left, top = (columns - columns_kept) / 2, (rows - rows_kept) / 2
    return left, top, left + columns_kept, top + rows_kept


def _resize(image: Any, height: int, width: int, box: tuple[float, ...]) -> Any:
    from PIL import Image

    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _decode_scaled(image: Any, height: int, width: int) -> Any | None:
    """Decodes at a smaller scale, then `fit`s, without turning upright; None if not possible."""
    # Other modes must be converted to RGB first, which is not linear in their channels.
    if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB"):
        return None
    columns, rows = image.size
    if on_its_side(image):
        height, width = width, height
    shrink = min(columns / width, rows / height)
    scale = next((scale for scale in _SCALES if scale * KEPT <= shrink), 1)
    if scale == 1 or image.draft(None, (columns // scale, rows // scale)) is None:
        return None
    # The last pixels of a decoded row or column may be partly outside the image.
    box = tuple(edge / scale for edge in _box(columns, rows, height, width))
    return _resize(image, height, width, box)
