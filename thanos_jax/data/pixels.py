"""Converts PIL images to upright, opaque images of one or three channels of 8 bits."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

# Background of transparent pixels -> its level in every channel.
MATTES = {"white": 255, "grey": 128, "black": 0}
DEEP_OPTIONS = ("refuse", "scale")

_GREY_MODES = ("1", "L", "LA", "La")
_LOOKED_AT = 1 << 20  # bytes of a file that are searched for its header
_ORIENTATION = 0x0112  # Exif tag with values 1 to 8; readers treat others as 1
_ON_ITS_SIDE = (5, 6, 7, 8)
# Raw modes, such as RGB;16B, of channels of 16 bits that Pillow reduces to 8. In RGB;15 and RGB;16
# the number is bits per pixel.
_CUT = re.compile(r"[A-Za-z]+;16[BLNR]")


class Header(NamedTuple):
    """Properties of an image that are known before it is decoded.

    Attributes:
      height: height of the upright image, in pixels.
      width: width of the upright image, in pixels.
      grey: whether it has no colour.
      deep: Pillow's name of the pixel format if a channel has more than 8 bits; else "".
      scalable: whether `convert` can keep the upper 8 bits, as it can for 16-bit integers.
    """

    height: int
    width: int
    grey: bool
    deep: str
    scalable: bool


def header(image: Any, *, with_size: bool = True) -> Header:
    """Returns the properties of a PIL image that was opened but not decoded.

    Args:
      image: from `thanos_jax.data.image_files.open_image`.
      with_size: whether height and width must refer to the upright image.
    """
    width, height = image.size
    # Reading the Exif data of a PNG decodes the image.
    deep, scalable = _depth(image)
    mode = image.mode
    if with_size and on_its_side(image):
        width, height = height, width
    return Header(height, width, mode in _GREY_MODES or mode[0] == "I", deep, scalable)


def on_its_side(image: Any) -> bool:
    """Returns whether turning a PIL image upright swaps its rows and columns."""
    return image.getexif().get(_ORIENTATION, 1) in _ON_ITS_SIDE


def require_depth(found: Header, deep_images: str) -> None:
    """Raises ValueError for channels of more than 8 bits, unless they may be scaled.

    Args:
      found: header of the image.
      deep_images: an element of `DEEP_OPTIONS`.
    """
    if found.deep and not (found.scalable and deep_images == "scale"):
        way = "; data.deep_images=scale keeps the upper 8 of 16 bits" if found.scalable else ""
        raise ValueError(f"pixels of mode {found.deep}, expected 8 bits in each channel{way}")


def convert(image: Any, mode: str, *, matte: str = "white") -> Any:
    """Turns an image upright, lays it over a background, and converts it to 8 bits per channel.

    Transparency may come from an alpha channel, from entries of a palette or from one colour. The
    upper 8 of 16 bits are kept.

    Args:
      image: a PIL image, decoded or not.
      mode: mode of the result, "L" or "RGB".
      matte: background of transparent pixels, a key of `MATTES`.

    Returns:
      A PIL image.
    """
    from PIL import Image, ImageOps

    image.load()  # in a PNG, Exif data may come after the pixels
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode[0] == "I":
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        level = MATTES[matte]
        behind = Image.new("RGBA", image.size, (level, level, level, 255))
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    return in_mode(image, mode)


def in_mode(image: Any, mode: str) -> Any:
    """Returns a PIL image in a mode; an image that has the mode is not copied."""
    return image if image.mode == mode else image.convert(mode)


def _depth(image: Any) -> tuple[str, bool]:
    """Returns `Header.deep` and `Header.scalable` of a PIL image."""
    tiles = getattr(image, "tile", ())  # an image made in memory has none
    arguments = [_flat(tile[3]) for tile in tiles]
    raw = [word for words in arguments for word in words if isinstance(word, str)]
    cut = next((word for word in raw if _CUT.fullmatch(word)), "")
    if image.mode[0] in "IF":
        unsigned = image.mode.startswith("I;16") or bool(cut) or image.format == "PPM"
        odd = any(word.endswith(("S", ";12")) for word in raw)
        return image.mode, image.mode[0] == "I" and unsigned and not odd
    if cut:
        return cut, True
    most = 8
    if image.format == "PPM":
        numbers = [n for words in arguments for n in words if isinstance(n, int)]
        most = max(numbers, default=0).bit_length()
    elif tiles and tiles[0][0] == "SGI16":
        most = 16
    elif image.format in _BITS:
        most = _BITS[image.format](_start(image.fp))
    return (f"{image.mode};{most}", True) if most > 8 else ("", False)


def _flat(arguments: Any) -> tuple[Any, ...]:
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _start(file: Any) -> bytes:
    """Returns the beginning of an open file without moving its position."""
    place = file.tell()
    file.seek(0)
    content = file.read(_LOOKED_AT)
    file.seek(place)
    return content


def _jpeg2000_bits(content: bytes) -> int:
    """Returns the bits of the deepest channel, from the SIZ marker of ISO 15444-1, A.5.1; or 8."""
    place = content.find(b"\xff\x4f\xff\x51") + 4
    channels = int.from_bytes(content[place + 36 : place + 38])
    depths = content[place + 38 : place + 38 + 3 * channels : 3]
    return max(((depth & 0x7F) + 1 for depth in depths), default=8) if place > 3 else 8


def _avif_bits(content: bytes) -> int:
    """Returns the bits of a channel, from the box av1C of AV1's ISO binding, 2.3.3; or 8."""
    place = content.find(b"av1C")
    flags = content[place + 6] if 0 <= place < len(content) - 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


# Formats whose decoders reduce any depth to 8 bits -> reads the depth from the start of a file.
_BITS = {"JPEG2000": _jpeg2000_bits, "AVIF": _avif_bits}
