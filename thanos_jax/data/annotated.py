"""A split with extra columns per example, and with examples repeated or left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from thanos_jax.data.splits import DerivedSplit, Split


class AnnotatedSplit(DerivedSplit):
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
        columns = {name: np.asarray(column) for name, column in columns.items()}
        for name, column in columns.items():
            if name in ("image", "fine", "coarse") or len(column) != len(split):
                raise ValueError(
                    f"columns: expected arrays of length {len(split)} other than image, fine and "
                    f"coarse, got {name!r} of length {len(column)}"
                )
        super().__init__(split, columns, None if rows is None else np.asarray(rows))
        if self.rows.size and not 0 <= self.rows.min() <= self.rows.max() < len(split):
            raise ValueError(
                f"rows: expected numbers from 0 to {len(split) - 1}, got {self.rows.min()} to "
                f"{self.rows.max()}"
            )

    @property
    def rows(self) -> np.ndarray:
        """Integer [len(self)], for each example its number in `split`."""
        return self.numbers
