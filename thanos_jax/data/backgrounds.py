"""Grey images laid over photographs: two features that compete.

On a plain background, images differ by the digit only. Over photographs an instance-wise
contrastive loss can be minimized from the background alone, and the digit may not be learned. This
is feature suppression (Chen, Luo and Li, "Intriguing Properties of Contrastive Losses", NeurIPS
2021).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from thanos_jax.permutations import PHOTOGRAPH

_CHUNK = 4096  # images composed at a time


@functools.cache
def _photographs() -> np.ndarray:
    """Returns scikit-learn's two photographs at half brightness, uint8 [2, 427, 640, 3]."""
    from sklearn.datasets import load_sample_image

    # White digits would be invisible in front of a white sky.
    return np.stack([load_sample_image(name) // 2 for name in ("china.jpg", "flower.jpg")])


def over_photographs(
    images: np.ndarray, seed: int, split: str, *, numbers: np.ndarray | None = None
) -> np.ndarray:
    """Lays grey images, in white, over random crops of two photographs.

    A pixel of level a becomes a / 255 white plus (1 - a / 255) background. The background is the
    photograph at half its brightness, so that white stands out everywhere. Crops keep the original
    pixels and are drawn uniformly for each image by (seed, split, number); they do not depend on
    the other images or their order. Crops for "train" are from the left half of the photographs
    and crops for "test" from the right half, so that no test background is seen in training.

    Args:
      images: uint8 [n, h, w, 1].
      seed: integer in [0, 2**64).
      split: "train" (validation included) or "test".
      numbers: integer [n], numbers of the images in their split; 0 .. n - 1 if None.

    Returns:
      uint8 [n, h, w, 3].

    Raises:
      TypeError: images are not uint8.
      ValueError: the split is unknown, or images have another shape or are larger than half a
        photograph, 427 x 320 pixels.

    Example:
      >>> over_photographs(np.zeros((2, 8, 8, 1), np.uint8), seed=0, split="train").shape
      (2, 8, 8, 3)
    """
    check_grey(images)
    check_split(split)
    size, height, width, _ = images.shape
    photographs = _photographs()
    middle = photographs.shape[2] // 2
    half = photographs[:, :, :middle] if split == "train" else photographs[:, :, middle:]
    if height > half.shape[1] or width > half.shape[2]:
        raise ValueError(
            f"images: expected at most {half.shape[1]} x {half.shape[2]} pixels, half of a"
            f" photograph, got {height} x {width}"
        )
    numbers = np.arange(size) if numbers is None else np.asarray(numbers)
    # [photograph, top, left, channel, h, w], a view.
    crops = np.lib.stride_tricks.sliding_window_view(half, (height, width), axis=(1, 2))
    words = np.random.Philox(key=np.array([seed, PHOTOGRAPH[split]], np.uint64)).random_raw(
        3 * (int(numbers.max(initial=-1)) + 1)
    )
    # 64 random bits modulo a few hundred are uniform for all practical purposes.
    places = (words.reshape(-1, 3)[numbers] % np.array(crops.shape[:3], np.uint64)).astype(np.int64)

    def behind(rows: slice) -> np.ndarray:
        photograph, top, left = places[rows].T
        return np.moveaxis(crops[photograph, top, left], 1, -1)

    return white_over(images, behind, channels=3)


def white_over(
    images: np.ndarray, behind: Callable[[slice], np.ndarray], *, channels: int
) -> np.ndarray:
    """Lays grey images, in white, over backgrounds; a pixel of level a is a / 255 white.

    Args:
      images: uint8 [n, h, w, 1].
      behind: slice of the images -> their backgrounds, uint8, broadcastable to [b, h, w, channels].
      channels: number of channels of the backgrounds.

    Returns:
      uint8 [n, h, w, channels], rounded.
    """
    result = np.empty((*images.shape[:3], channels), np.uint8)
    for start in range(0, len(images), _CHUNK):
        rows = slice(start, start + _CHUNK)
        alpha = images[rows].astype(np.uint16)
        result[rows] = (alpha * 255 + (255 - alpha) * behind(rows) + 127) // 255
    return result


def check_grey(images: np.ndarray) -> None:
    """Raises TypeError or ValueError unless images are uint8 [n, h, w, 1]."""
    if images.dtype != np.uint8:
        raise TypeError(f"images: expected uint8, got {images.dtype}")
    if images.ndim != 4 or images.shape[-1] != 1:
        raise ValueError(f"images: expected shape [n, h, w, 1], got {images.shape}")


def check_split(split: str) -> None:
    """Raises ValueError unless the split is "train" or "test"."""
    if split not in PHOTOGRAPH:
        raise ValueError(f"split: expected one of {', '.join(PHOTOGRAPH)}, got {split!r}")
