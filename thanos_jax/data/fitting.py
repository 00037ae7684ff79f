"""From an image file to pixels of a given size: how much of it is decoded, cropped and resized.

A JPEG can be decoded at a half, a quarter or an eighth of its size, by an inverse cosine transform
of fewer coefficients in each block (libjpeg's scaled decoding, Pillow's `draft`): most of the work
on a large photograph is saved. At least `KEPT` times the final side is decoded, so that the resize
that follows still averages over two pixels or more in each direction.
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
    """Decodes a picture, and resizes its largest centred box of a shape to that shape.

    Args:
      image: a PIL image that was opened and not decoded; with "scaled" it is changed.
      convert: makes of a PIL image one of mode "L" or "RGB", upright if it is to be.
      size: (height, width) of the result, in pixels; None: as the picture is.
      decode: "full": every pixel is decoded. "scaled": JPEG files whose box is 2 * KEPT times as
        large as the result, or more, are decoded at a half, a quarter or an eighth; all other
        pictures as with "full".

    Returns:
      A PIL image.
    """
    small = _decode_scaled(image, *size) if size and decode == "scaled" else None
    if small is not None:
        return convert(small)
    image = convert(image)
    return fit(image, *size) if size else image


def square(side: int) -> tuple[int, int] | None:
    """Returns the size that `bring` takes of `data.image_size`; None of 0."""
    return (side, side) if side else None


def fit(image: Any, height: int, width: int) -> Any:
    """Resizes the largest centred box of a shape in a picture to that shape.

    The same as bringing the shorter side to its size and cropping the centre, in one pass:
    bilinear, with Pillow's support over all source pixels when it shrinks.

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
    """Left, top, right and bottom of the largest centred box with the shape of height x width."""
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
    """As `fit` of the decoded picture, which still lies as it is stored; None: not worth it."""
    # Colours of other modes are not linear in those of RGB: they are converted first.
    if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB"):
        return None
    columns, rows = image.size
    if on_its_side(image):
        height, width = width, height
    shrink = min(columns / width, rows / height)
    scale = next((scale for scale in _SCALES if scale * KEPT <= shrink), 1)
    if scale == 1 or image.draft(None, (columns // scale, rows // scale)) is None:
        return None
    # The last pixels of a decoded row or column may lie beyond the picture in part.
    box = tuple(edge / scale for edge in _box(columns, rows, height, width))
    return _resize(image, height, width, box)
