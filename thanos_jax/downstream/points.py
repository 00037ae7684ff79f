"""Embeddings as float64 points, in blocks of rows, and sums over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from thanos_jax.downstream import partition, placing
from thanos_jax.downstream.arrays import as_points
from thanos_jax.downstream.placing import Rows

# Adds the contribution of a block of points in place: (sums, slice of rows, float64 [rows, d]).
Add = Callable[[np.ndarray, slice, np.ndarray], None]


class Groups(NamedTuple):
    """A partition of n rows into groups 0 .. groups - 1, none of them empty.

    Attributes:
      of_row: int64 [n], the group of each row.
      counts: int64 [groups], the number of rows of each.
    """

    of_row: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> Groups:
        """Returns the groups of equal labels, in ascending order of labels."""
        _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
        return cls(index, counts)


class Moments(NamedTuple):
    """The mean and the largest squared length of each group's points.

    Attributes:
      means: float64 [groups, d].
      largest: float64 [groups], the largest squared length.
    """

    means: np.ndarray
    largest: np.ndarray


class Points(NamedTuple):
    """Embeddings that are converted to float64 block by block.

    Rows on devices stay there. Each process goes through its own rows, and sums are added up over
    processes: every process that shares the rows makes the same calls.

    Attributes:
      embeddings: float32 [n, d], checked.
      normalize: whether a point is a row divided by its length.
    """

    embeddings: Rows
    normalize: bool

    def blocks(self, *, columns: int = 1) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields (slice, points), as `placing.host_blocks`."""
        for where, rows in placing.host_blocks(self.embeddings, columns=columns):
            yield where, as_points(rows, normalize=self.normalize)

    def take(self, index: np.ndarray) -> np.ndarray:
        """Returns the points at index [m] as float64 [m, d], in every process."""
        return as_points(placing.take(self.embeddings, index), normalize=self.normalize)

    def add_up(self, *wanted: tuple[tuple[int, ...], Add], columns: int = 1) -> list[np.ndarray]:
        """Goes through the points once and returns sums over all processes, float64.

        Args:
          *wanted: (shape, function) of each sum; the function adds a block to it.
          columns: as `placing.host_blocks`.
        """
        if not wanted:
            return []
        sums = [np.zeros(shape) for shape, _ in wanted]
        for where, rows in self.blocks(columns=columns):
            for total, (_, add) in zip(sums, wanted, strict=True):
                add(total, where, rows)
        # One message between processes, however many sums there are.
        flat = placing.add_up(self.embeddings, np.concatenate([total.ravel() for total in sums]))
        parts = np.split(flat, np.cumsum([total.size for total in sums])[:-1])
        return [part.reshape(shape) for part, (shape, _) in zip(parts, wanted, strict=True)]

    def of_first(self, values: np.ndarray) -> np.ndarray:
        """Returns the first process's array, in every process that shares the embeddings."""
        if isinstance(self.embeddings, np.ndarray):
            return values
        return self.embeddings.array_of_first(values)

    def moments(self, *groupings: Groups) -> tuple[np.ndarray, list[Moments]]:
        """Returns the mean [d] of all points, and the `Moments` of each grouping."""
        largest = [np.zeros(len(groups.counts)) for groups in groupings]

        def add_rows(sums: np.ndarray, where: slice, rows: np.ndarray) -> None:
            sums += np.sum(rows, axis=0)
            squares = np.sum(rows**2, axis=1)
            for found, groups in zip(largest, groupings, strict=True):
                np.maximum.at(found, groups.of_row[where], squares)

        def adder(groups: Groups) -> Add:
            return lambda sums, where, rows: partition.add_groups(sums, rows, groups.of_row[where])

        count, width = self.embeddings.shape
        total, *sums = self.add_up(
            ((width,), add_rows),
            *(((len(groups.counts), width), adder(groups)) for groups in groupings),
        )
        return total / count, [
            Moments(one / groups.counts[:, None], placing.add_up(self.embeddings, most, np.maximum))
            for one, groups, most in zip(sums, groupings, largest, strict=True)
        ]
