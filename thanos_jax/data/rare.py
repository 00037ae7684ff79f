"""Rare strata: fine classes with few training images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from thanos_jax.data.splits import DataError
from thanos_jax.permutations import SUBSAMPLE, permutation

# Share of the fine classes of each coarse class that become rare: the last two of five.
_SHARE = 0.4


def rare_counts(
    fine: np.ndarray, coarse: np.ndarray, fraction: float, names: tuple[str, ...]
) -> dict[int, int]:
    """Returns the number of training images that each rare fine class keeps.

    Rare are the last 40 % of the fine classes of each coarse class, rounded, in the order of their
    ids: the digits 3, 4, 8 and 9. Every coarse class thus has common strata too.

    Args:
      fine: int32 [n], fine labels of the training images.
      coarse: int32 [n], coarse labels.
      fraction: share of the images that is kept, in (0, 1].
      names: names of the fine classes.

    Returns:
      rare fine class -> number of images that it keeps, rounded.

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
    """Reduces the number of images of some fine classes.

    Images are drawn without replacement from the classes in `kept`; other classes keep all images.

    Args:
      fine: int32 [n], fine labels of the training images.
      kept: fine class -> number of images that it keeps.
      seed: seed of the draw.

    Returns:
      int64, ascending: numbers of the images that are kept.

    Raises:
      DataError: a class has fewer images than it should keep.
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
