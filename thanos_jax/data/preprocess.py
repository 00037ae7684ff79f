"""Converts any image to the input of a trained model: upright, with its channels and size."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from thanos_jax.data import pixels
from thanos_jax.data.fitting import KEPT, bring
from thanos_jax.data.image_files import open_image

_IN_WORDS = (
    "upright by its Exif orientation; transparent pixels over a {matte} background; as many "
    "channels as in training; the largest centred box of the shape of the training images, resized "
    "to their height and width, bilinear, with support over all source pixels where it shrinks"
)
_SCALED = (
    "; a JPEG file is decoded at the smallest of a half, a quarter and an eighth of its size that "
    "leaves at least {kept} times that height and width"
)
_MODES = {1: "L", 3: "RGB"}


class Rule(NamedTuple):
    """How images are converted to the input of a trained model.

    Attributes:
      shape: (height, width, channels) of the training images; one or three channels.
      matte, deep_images, max_megapixels, decode: as in `config.data`.
    """

    shape: tuple[int, int, int]
    matte: str
    deep_images: str
    max_megapixels: float
    decode: str = "full"


def rule(config_data: ConfigDict, shape: tuple[int, int, int]) -> Rule:
    """Returns the rule of a training, from its `config.data` and the shape of its images."""
    return Rule(
        shape,
        config_data.matte,
        config_data.deep_images,
        config_data.max_megapixels,
        config_data.decode,
    )


def in_words(config_data: ConfigDict) -> str:
    """Describes in words what `preprocess` does, for implementations in other programs."""
    scaled = _SCALED.format(kept=KEPT) if config_data.decode == "scaled" else ""
    return _IN_WORDS.format(matte=config_data.matte) + scaled


def preprocess(picture: Any, to: Rule) -> np.ndarray:
    """Converts an image to the shape of the training images, as training does.

    Args:
      picture: a path, an open binary file, a PIL image, or uint8 [h, w, c] or [h, w] of any size,
        with one, three or four channels. A PIL image is decoded in full, because scaled decoding
        would change the caller's object; files are decoded as the rule says.
      to: the rule of the training.

    Returns:
      uint8 [height, width, channels], the shape in the rule.

    Raises:
      TypeError: `picture` is none of these, or an array of another dtype.
      ValueError: an array has another rank or number of channels, a file is not an image, or an
        image has too many pixels or too many bits in a channel.
      OSError: a file cannot be read.
    """
    from PIL import Image

    if isinstance(picture, np.ndarray):
        picture = _from_array(picture)
    if isinstance(picture, Image.Image):
        return _convert(picture, to._replace(decode="full"))
    if not (isinstance(picture, str | os.PathLike) or hasattr(picture, "read")):
        raise TypeError(
            "image: expected a path, a PIL image or an array uint8 [h, w, c], got "
            f"{type(picture).__name__}"
        )
    with open_image(picture, to.max_megapixels) as opened:
        return _convert(opened, to)


def _convert(image: Any, to: Rule) -> np.ndarray:
    height, width, channels = to.shape
    pixels.require_depth(pixels.header(image, with_size=False), to.deep_images)

    def convert(image: Any) -> Any:
        return pixels.convert(image, _MODES[channels], matte=to.matte)

    return np.asarray(bring(image, convert, (height, width), to.decode)).reshape(to.shape)


def _from_array(array: np.ndarray) -> Any:
    from PIL import Image

    if array.dtype != np.uint8:
        raise TypeError(f"image: expected uint8 [h, w, c], got {array.dtype}")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or not array.size:
        raise ValueError(
            f"image: expected uint8 [h, w, c] with c one of 1, 3 and 4, got shape {array.shape}"
        )
    return Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)
