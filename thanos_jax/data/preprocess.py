"""Any picture as a trained model takes it: upright, in the channels and the size of training."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from thanos_jax.data.folder import upright
from thanos_jax.data.image_files import open_image
from thanos_jax.data.prepared import fit

# What `preprocess` does, for those who do it elsewhere.
RULE = (
    "upright by its Exif orientation; as many channels as in training; the largest centred box of "
    "the shape of the training images, resized to their height and width, bilinear, with support "
    "over all source pixels where it shrinks"
)
_MODES = {1: "L", 3: "RGB"}


def preprocess(picture: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Brings a picture to the shape of the training images, as training does.

    Args:
      picture: a path, an open binary file, a PIL image, or uint8 [h, w, c] or [h, w] of any size,
        with one, three or four channels.
      shape: (height, width, channels) of the training images; one or three channels.

    Returns:
      uint8 of this shape.

    Raises:
      TypeError: something else, or an array of another dtype.
      ValueError: an array of another rank or number of channels, or a file that is no image.
      OSError: a file cannot be read.
    """
    from PIL import Image

    if isinstance(picture, np.ndarray):
        picture = _from_array(picture)
    if isinstance(picture, Image.Image):
        return _convert(picture, shape)
    if not (isinstance(picture, str | os.PathLike) or hasattr(picture, "read")):
        raise TypeError(
            "image: expected a path, a PIL image or an array uint8 [h, w, c], got "
            f"{type(picture).__name__}"
        )
    with open_image(picture) as opened:
        return _convert(opened, shape)


def _convert(image: Any, shape: tuple[int, int, int]) -> np.ndarray:
    height, width, channels = shape
    image = fit(upright(image, _MODES[channels]), height, width)
    return np.asarray(image).reshape(shape)


def _from_array(array: np.ndarray) -> Any:
    from PIL import Image

    if array.dtype != np.uint8:
        raise TypeError(f"image: expected uint8 [h, w, c], got {array.dtype}")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or not array.size:
        raise ValueError(
            f"image: expected uint8 [h, w, c] with c one of 1, 3 and 4, got shape {array.shape}"
        )
    return Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)
