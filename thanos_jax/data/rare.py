"""Rare strata: digits of which training has few images."""

from __future__ import annotations

import numpy as np

from thanos_jax.data.splits import DataError
from thanos_jax.permutations import SUBSAMPLE, permutation

# The last two of each class, 0 to 4 and 5 to 9: both classes have rare and common strata.
DIGITS = (3, 4, 8, 9)


def thin_out(fine: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Which training images stay where the digits 3, 4, 8 and 9 are made rare.

    Of each of them, the whole number of images nearest to the fraction is drawn without
    replacement; all images of the other digits stay.

    Args:
      fine: int32 [n], digits.
      fraction: share of the images that stays, in (0, 1].
      seed: the draw.

    Returns:
      int64, ascending: numbers of the images that stay.

    Raises:
      DataError: no image of a digit would be left.
    """
    stays = ~np.isin(fine, DIGITS)
    for digit in DIGITS:
        members = np.flatnonzero(fine == digit)
        count = round(fraction * len(members))
        if not count:
            raise DataError(
                f"data.rare_fraction: {fraction} of {len(members)} training images of digit {digit}"
                " leaves none; expected a share that leaves at least one"
            )
        order = permutation(seed, SUBSAMPLE + digit, len(members))
        stays[members[order[:count]]] = True
    return np.flatnonzero(stays)
