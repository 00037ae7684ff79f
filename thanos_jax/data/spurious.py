"""Grey images on backgrounds that correlate with their class: a spurious feature, and its groups.

Most training images of a class are on the background of that class. A classifier may rely on the
background alone, and then fails on the few others. The groups, class x background, are known, and
in the test split the two groups of a class are of equal size. This is the setting of Waterbirds
(Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020), on images
that train in minutes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thanos_jax.data.backgrounds import check_grey, check_split, white_over
from thanos_jax.permutations import BACKGROUND, STRIPES, permutation

# Kind -> its two backgrounds. They alternate between classes: class c has background c % 2.
BACKGROUNDS = {
    "colour": ("red", "green"),
    "texture": ("horizontal stripes", "vertical stripes"),
}

_LEVEL = 128  # half brightness: white stands out
_COLOURS = np.array([[_LEVEL, 0, 0], [0, _LEVEL, 0]], np.uint8)
_STRIPE = 2  # pixels; the period, twice this, divides the image sides of both data sets


def assign(coarse: np.ndarray, *, correlation: float, seed: int, split: str) -> np.ndarray:
    """Draws the background of every image.

    The own background of class c is c % 2. In a class of n images, exactly round(correlation * n),
    with halves rounded up, are on the own background and the rest on the other one. (seed, split)
    determines an order of all images; the first ones of a class get the own background.

    Args:
      coarse: integer [n], not negative: the coarse labels of a whole split, in order.
      correlation: share of each class on its own background, in [0, 1].
      seed: integer in [0, 2**64).
      split: "train" (validation included) or "test".

    Returns:
      int32 [n], the background of each image, 0 or 1.

    Raises:
      ValueError: correlation, split or a class is out of range.
    """
    check_split(split)
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation: expected a number from 0 to 1, got {correlation}")
    if (np.asarray(coarse) < 0).any():
        raise ValueError(f"coarse: expected no negative numbers, got {np.unique(coarse)}")
    background = 1 - coarse.astype(np.int32) % 2
    if len(coarse):
        order = permutation(seed, BACKGROUND[split], len(coarse))
        for label in np.unique(coarse):
            members = order[coarse[order] == label]
            background[members[: int(correlation * len(members) + 0.5)]] = label % 2
    return background


def over_backgrounds(
    images: np.ndarray,
    background: np.ndarray,
    *,
    kind: str,
    seed: int,
    split: str,
    numbers: np.ndarray | None = None,
) -> np.ndarray:
    """Lays grey images, in white, over backgrounds.

    A pixel of level a becomes a / 255 white plus (1 - a / 255) background. Colours are red or green
    at half brightness, the same for all images. Textures are horizontal or vertical stripes of two
    pixels, alternately black and grey. Their phase is drawn uniformly for each image by (seed,
    split, number). In both textures any pixel is thus grey with probability 1/2, so that neither
    the levels of an image nor their mean distinguish the textures. If four divides the side of the
    images, half the pixels of every background are grey.

    Args:
      images: uint8 [n, h, w, 1].
      background: integer [n], 0 or 1: red or green, horizontal or vertical.
      kind: "colour" or "texture".
      seed: integer in [0, 2**64).
      split: "train" (validation included) or "test".
      numbers: integer [n], numbers of the images in their split; 0 .. n - 1 if None.

    Returns:
      uint8 [n, h, w, 3] of kind "colour", [n, h, w, 1] of kind "texture".

    Raises:
      TypeError: images are not uint8.
      ValueError: kind or split is unknown, or images have another shape.

    Example:
      >>> digits = np.zeros((2, 4, 4, 1), np.uint8)
      >>> over_backgrounds(digits, np.array([0, 1]), kind="colour", seed=0, split="test")[:, 0, 0]
      array([[128,   0,   0],
             [  0, 128,   0]], dtype=uint8)
    """
    if kind not in BACKGROUNDS:
        raise ValueError(f"kind: expected one of {', '.join(BACKGROUNDS)}, got {kind!r}")
    check_split(split)
    check_grey(images)
    if background.shape != images.shape[:1]:
        raise ValueError(f"background: expected shape {images.shape[:1]}, got {background.shape}")
    if kind == "colour":
        behind = _COLOURS[background][:, None, None]
    else:
        numbers = np.arange(len(images)) if numbers is None else np.asarray(numbers)
        behind = _stripes(background, _phases(seed, split, numbers), *images.shape[1:3])
    return white_over(images, behind.__getitem__, channels=behind.shape[-1])


def group_names(coarse_names: Sequence[str], kind: str) -> tuple[str, ...]:
    """Returns the names of the groups, in the order of their ids.

    Args:
      coarse_names: names of the classes.
      kind: "colour" or "texture".

    Returns:
      Two names for each class, as in "0 to 4, red".
    """
    return tuple(
        f"{name}, {background}" for name in coarse_names for background in BACKGROUNDS[kind]
    )


def _phases(seed: int, split: str, numbers: np.ndarray) -> np.ndarray:
    """Returns the phase of the stripes of each image, int64 [n], in [0, period)."""
    # Philox is counter-based: word i does not depend on how many words are drawn.
    generator = np.random.Philox(key=np.array([seed, STRIPES[split]], np.uint64))
    words = generator.random_raw(int(numbers.max(initial=-1)) + 1)
    return (words[numbers] % np.uint64(2 * _STRIPE)).astype(np.int64)


def _stripes(background: np.ndarray, phases: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns stripes, uint8 [n, h, w, 1]."""
    along = np.arange(max(height, width))
    grey = (along[None] + phases[:, None]) // _STRIPE % 2 == 1
    rows, columns = grey[:, :height, None], grey[:, None, :width]
    stripes = np.where((background == 0)[:, None, None], rows, columns)
    return (stripes * np.uint8(_LEVEL))[..., None]
