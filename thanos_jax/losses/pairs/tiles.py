"""Layout of entries in tiles, and the pairs of tiles that have candidates.

Entries of a batch are laid out as [tiles, size, ...]. With views="cross", entries of the same view
are not candidates of each other; each view then has its own tiles, so that whole pairs of tiles are
skipped. With views="all" the entries are in the order of images.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Layout(NamedTuple):
    """The tiles of one device's N entries.

    Attributes:
      groups: number of groups of entries with separate tiles.
      members: entries in a group; groups * members = N.
      per_group: tiles of a group; the last may have padding.
      size: entries in a tile.
    """

    groups: int
    members: int
    per_group: int
    size: int

    @property
    def total(self) -> int:
        """Number of tiles."""
        return self.groups * self.per_group


def layout(entries: int, *, groups: int, largest: int, even: bool = False) -> Layout:
    """Cuts entries into tiles of nearly equal size.

    Args:
      entries: N, a multiple of `groups`.
      groups: the number of views if views have separate tiles, otherwise 1.
      largest: largest number of entries in a tile.
      even: whether each group must have an even number of tiles.
    """
    members = entries // groups
    per_group = math.ceil(members / largest)
    if even:
        per_group += per_group % 2
    # A multiple of 8 fills vector registers and adds little padding.
    size = math.ceil(members / per_group / 8) * 8
    return Layout(groups, members, per_group, size)


def split(array: jax.Array, tiles: Layout, fill: float) -> jax.Array:
    """Returns [N, ...] in the order (image, view) as [tiles, size, ...]; pads with `fill`."""
    rest = array.shape[1:]
    grouped = jnp.moveaxis(array.reshape(tiles.members, tiles.groups, *rest), 1, 0)
    missing = tiles.per_group * tiles.size - tiles.members
    padding = [(0, 0), (0, missing)] + [(0, 0)] * len(rest)
    padded = jnp.pad(grouped, padding, constant_values=fill) if missing else grouped
    return padded.reshape(tiles.total, tiles.size, *rest)


def join(array: jax.Array, tiles: Layout) -> jax.Array:
    """Inverts `split`: [tiles, size, ...] -> [N, ...], without the padding."""
    rest = array.shape[2:]
    grouped = array.reshape(tiles.groups, -1, *rest)[:, : tiles.members]
    return jnp.moveaxis(grouped, 0, 1).reshape(-1, *rest)


def triangle(tiles: Layout) -> np.ndarray:
    """Returns the pairs of different tiles of one device, each once: int32 [pairs, 2]."""
    first, second = np.triu_indices(tiles.total, k=1)
    return _admitted(tiles, tiles, first, second)


def diagonal(tiles: Layout) -> np.ndarray:
    """Returns the pairs of tiles with themselves: int32 [pairs, 2]; none if views are separate."""
    numbers = np.arange(tiles.total if tiles.groups == 1 else 0)
    return np.stack([numbers, numbers], axis=1).astype(np.int32)


def rectangle(rows: Layout, columns: Layout) -> np.ndarray:
    """Returns the pairs of any tile of `rows` with any tile of `columns`: int32 [pairs, 2]."""
    first, second = np.indices((rows.total, columns.total)).reshape(2, -1)
    return _admitted(rows, columns, first, second)


def halves(tiles: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Divides the pairs of two devices' tiles into two lists of equal length.

    One device visits the first list and the other device the second, each with its own tiles as
    rows. Together they visit every pair once. The number of tiles in each group must be even.
    """
    pairs = rectangle(tiles, tiles)
    early = pairs % tiles.per_group < tiles.per_group // 2
    return pairs[early[:, 0]], pairs[~early[:, 1]]


def _admitted(rows: Layout, columns: Layout, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Removes pairs of tiles of the same view, if views are separate."""
    pairs = np.stack([first, second], axis=1).astype(np.int32)
    if rows.groups == 1 or columns.groups == 1:
        return pairs
    return pairs[first // rows.per_group != second // columns.per_group]
