"""Rare strata: fine classes of which training has few images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from thanos_jax.data.splits import DataError
from thanos_jax.permutations import SUBSAMPLE, permutation

# Of the fine classes of each coarse class, the share that becomes rare: of five, the last two.
_SHARE = 0.4


def rare_counts(
    fine: np.ndarray, coarse: np.ndarray, fraction: float, names: tuple[str, ...]
) -> dict[int, int]:
    """How many training images stay of the fine classes that are made rare.

    Those are the last 40 % of the fine classes of each coarse class, rounded, in the order of their
    ids: of the digits 3, 4, 8 and 9. So every coarse class has common strata.

    Args:
      fine: int32 [n], the labels of the training images.
      coarse: int32 [n].
      fraction: share of the images that stays, in (0, 1].
      names: of the fine classes.

    Returns:
      fine class -> the whole number of images nearest to the fraction.

    Raises:
      DataError: no fine class would be rare, or one would have no images.
    """
    kept = {}
    for label in np.unique(coarse):
        members = np.unique(fine[coarse == label])
        for rare in members[len(members) - round(_SHARE * len(members)) :].tolist():
            size = int((fine == rare).sum())
            kept[rare] = round(fraction * size)
            if not kept[rare]:
                raise DataError(
                    f"data.rare_fraction: expected a share that leaves images of fine class"
                    f" {names[rare]!r}, got {fraction} of {size} training images"
                )
    if not kept:
        raise DataError(
            f"data.rare_fraction: expected 1 where no coarse class has two fine classes, got"
            f" {fraction}"
        )
    return kept


def thin_out(fine: np.ndarray, kept: Mapping[int, int], seed: int) -> np.ndarray:
    """Which training images stay where fine classes are made smaller.

    Of each of these, images are drawn without replacement; all images of the others stay.

    Args:
      fine: int32 [n], the labels of the training images.
      kept: fine class -> how many of its images stay.
      seed: the draw.

    Returns:
      int64, ascending: numbers of the images that stay.

    Raises:
      DataError: a class has fewer images than are to stay.
    """
    stays = ~np.isin(fine, list(kept))
    for label, count in kept.items():
        members = np.flatnonzero(fine == label)
        if len(members) < count:
            raise DataError(
                f"fine class {label}: expected {count} or more training images, got {len(members)}"
            )
        order = permutation(seed, SUBSAMPLE + label, len(members))
        stays[members[order[:count]]] = True
    return np.flatnonzero(stays)
