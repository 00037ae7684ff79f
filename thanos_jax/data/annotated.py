"""A split whose examples carry more than their labels, drawn as often as one likes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from thanos_jax.data.splits import Batch, Split


class AnnotatedSplit:
    """Some or all examples of a split, each any number of times, with further columns.

    Args:
      split: n examples.
      columns: name -> [n, ...], what `read` adds to a batch.
      rows: integer [r], each in [0, n): the examples of this split, in order; None: all, once.

    Raises:
      ValueError: a column of another length, the name of one that examples have, or rows that are
        not of the split.
    """

    def __init__(
        self, split: Split, columns: Mapping[str, Any], rows: np.ndarray | None = None
    ) -> None:
        self.split, self.in_memory = split, split.in_memory
        self.columns = {name: np.asarray(column) for name, column in columns.items()}
        for name, column in self.columns.items():
            if name in ("image", "fine", "coarse") or len(column) != len(split):
                raise ValueError(
                    f"columns: expected arrays of length {len(split)} other than image, fine and "
                    f"coarse, got {name!r} of length {len(column)}"
                )
        self.rows = np.arange(len(split)) if rows is None else np.asarray(rows)
        if self.rows.size and not 0 <= self.rows.min() <= self.rows.max() < len(split):
            raise ValueError(
                f"rows: expected numbers from 0 to {len(split) - 1}, got {self.rows.min()} to "
                f"{self.rows.max()}"
            )

    @property
    def fine(self) -> np.ndarray | None:
        """int32 [len(self)], the fine labels, if the split knows them without reading."""
        return None if self.split.fine is None else self.split.fine[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: np.ndarray) -> Batch:
        """Examples by number, with their columns; see `Split.read`."""
        rows = self.rows[indices]
        return {
            **self.split.read(rows),
            **{name: np.take(column, rows, axis=0) for name, column in self.columns.items()},
        }

    def subset(self, indices: np.ndarray) -> AnnotatedSplit:
        """The examples named, nothing read; see `Split.subset`."""
        return AnnotatedSplit(self.split, self.columns, self.rows[indices])
