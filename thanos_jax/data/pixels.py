"""From an image file as Pillow opens it to 8 bits in one or three channels, upright and opaque."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

# What transparent pixels lie over -> its level in every channel.
MATTES = {"white": 255, "grey": 128, "black": 0}
DEEP_OPTIONS = ("refuse", "scale")

_GREY_MODES = ("1", "L", "LA", "La")
_LOOKED_AT = 1 << 20  # bytes of a file in which its header is looked for
_ORIENTATION = 0x0112  # of Exif, 1 to 8; readers take other values for 1
_ON_ITS_SIDE = (5, 6, 7, 8)
# How Pillow's decoders name 16 bits a channel that it cuts to 8, as RGB;16B. RGB;15 and RGB;16 are
# bits of a pixel.
_CUT = re.compile(r"[A-Za-z]+;16[BLNR]")


class Header(NamedTuple):
    """What is known of an image before it is decoded.

    Attributes:
      height: in pixels, upright.
      width: in pixels, upright.
      grey: whether it has no colour.
      deep: how Pillow names its pixels if they have more than 8 bits in a channel; else "".
      scalable: whether `convert` keeps their upper 8 bits, which are those of 16-bit integers.
    """

    height: int
    width: int
    grey: bool
    deep: str
    scalable: bool


def header(image: Any, *, with_size: bool = True) -> Header:
    """Looks at a PIL image that was opened and not decoded.

    Args:
      image: as from `thanos_jax.data.image_files.open_image`.
      with_size: whether height and width must be those of the upright image.
    """
    width, height = image.size
    # Of a PNG, reading Exif data means decoding the image.
    deep, scalable = _depth(image)
    mode = image.mode
    if with_size and on_its_side(image):
        width, height = height, width
    return Header(height, width, mode in _GREY_MODES or mode[0] == "I", deep, scalable)


def on_its_side(image: Any) -> bool:
    """Whether the rows of a PIL image, as it is stored, are its columns once it is upright."""
    return image.getexif().get(_ORIENTATION, 1) in _ON_ITS_SIDE


def require_depth(found: Header, deep_images: str) -> None:
    """Raises ValueError for pixels that `convert` would cut, unless they are to be scaled.

    Args:
      found: of the image.
      deep_images: an element of `DEEP_OPTIONS`.
    """
    if found.deep and not (found.scalable and deep_images == "scale"):
        way = "; data.deep_images=scale keeps the upper 8 of 16 bits" if found.scalable else ""
        raise ValueError(f"pixels of mode {found.deep}, expected 8 bits in each channel{way}")


def convert(image: Any, mode: str, *, matte: str = "white") -> Any:
    """Turns an image upright, lays it over a background, and brings it to 8 bits a channel.

    Transparency is that of an alpha channel, of a palette's entries or of one colour. Of 16 bits
    the upper 8 are kept.

    Args:
      image: a PIL image, not decoded yet or as `ImageOps` leaves it.
      mode: "L" or "RGB", of the result.
      matte: what it is laid over, a key of `MATTES`.

    Returns:
      A PIL image.
    """
    from PIL import Image, ImageOps

    image.load()  # of a PNG, Exif data may come after the pixels
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
    """Returns a PIL image in a mode, itself if it has it: Pillow's `convert` would copy it."""
    return image if image.mode == mode else image.convert(mode)


def _depth(image: Any) -> tuple[str, bool]:
    """How more than 8 bits a channel are named, and whether they are 16 of an unsigned integer."""
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
    """The beginning of an open file, whose position stays."""
    place = file.tell()
    file.seek(0)
    content = file.read(_LOOKED_AT)
    file.seek(place)
    return content


def _jpeg2000_bits(content: bytes) -> int:
    """Bits of the deepest channel, by the SIZ marker of ISO 15444-1, A.5.1; 8 if there is none."""
    place = content.find(b"\xff\x4f\xff\x51") + 4
    channels = int.from_bytes(content[place + 36 : place + 38])
    depths = content[place + 38 : place + 38 + 3 * channels : 3]
    return max(((depth & 0x7F) + 1 for depth in depths), default=8) if place > 3 else 8


def _avif_bits(content: bytes) -> int:
    """Bits of a channel, by the box av1C of the AV1 codec's ISO binding, 2.3.3; 8 if none."""
    place = content.find(b"av1C")
    flags = content[place + 6] if 0 <= place < len(content) - 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


# Formats whose decoders give 8 bits of any number -> the number, by the beginning of a file.
_BITS = {"JPEG2000": _jpeg2000_bits, "AVIF": _avif_bits}
