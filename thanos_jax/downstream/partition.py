"""Sums and means over groups of rows: coarse classes, and the strata within them."""

from __future__ import annotations

import numpy as np


def add_groups(sums: np.ndarray, rows: np.ndarray, index: np.ndarray) -> None:
    """Adds the rows [n, d] of each index, integer [n], to its sum in [count, d]."""
    order = np.argsort(index, kind="stable")
    counts = np.bincount(index, minlength=len(sums))
    present = np.flatnonzero(counts)
    starts = (np.cumsum(counts) - counts)[present]
    sums[present] += np.add.reduceat(rows[order], starts, axis=0)


def strata(fine: np.ndarray, coarse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the strata, a stratum being the rows of one fine label within one coarse class.

    Args:
      fine: integer [n].
      coarse: integer [n].

    Returns:
      The strata present as (coarse, fine) [strata, 2], ascending; each row's stratum [n].
    """
    found, stratum = np.unique(np.stack([coarse, fine]), axis=1, return_inverse=True)
    return found.T, stratum.reshape(-1)


def in_groups(order: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists the rows group by group, keeping their order within each group.

    Args:
      order: integer [n], a permutation of the rows.
      group: integer [n], each row's group, from 0.

    Returns:
      The rows [n]; the place [n] of each among the rows of its group, from 0.
    """
    rows = order[np.argsort(group[order], kind="stable")]
    counts = np.bincount(group)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)


def indexed_sums(rows: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """Returns float64 [count, d]: the sum of the rows [n, d] of each index in 0 .. count - 1."""
    sums = np.zeros((count, rows.shape[1]))
    # In float64 and row by row: `add_groups` adds in the rows' type and another order, and rounds
    # differently.
    np.add.at(sums, index, rows)
    return sums


def indexed_means(values: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """Returns [count]: the mean of each index's values that are not nan; nan for none."""
    known = ~np.isnan(values)
    number = np.bincount(index[known], minlength=count)
    with np.errstate(invalid="ignore"):
        return np.bincount(index[known], weights=values[known], minlength=count) / number
