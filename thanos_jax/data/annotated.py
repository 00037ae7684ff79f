"""A split with extra columns per example, and with examples repeated or left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from thanos_jax.data.splits import DerivedSplit, Split


class AnnotatedSplit(DerivedSplit):
    """A split of `annotate`, whose images are known by their numbers in another one."""

    @property
    def rows(self) -> np.ndarray:
        """Int [len(self)], the number in `split` of each example."""
        return self.numbers


def annotate(
    split: Split, columns: Mapping[str, Any], rows: np.ndarray | None = None
) -> AnnotatedSplit:
    """Returns some or all examples of a split, each any number of times, with further columns.

    Args:
      split: n examples.
      columns: name -> [n, ...], what `read` adds to a batch.
      rows: integer [r], each in [0, n): the examples of the result, in order; None: all, once.

    Raises:
      ValueError: a column of another length, the name of one that examples have, or rows that are
        not of the split.
    """
    columns = {name: np.asarray(column) for name, column in columns.items()}
    for name, column in columns.items():
        if name in ("image", "fine", "coarse") or len(column) != len(split):
            raise ValueError(
                f"columns: expected arrays of length {len(split)} other than image, fine and "
                f"coarse, got {name!r} of length {len(column)}"
            )
    rows = np.arange(len(split)) if rows is None else np.asarray(rows)
    if rows.size and not 0 <= rows.min() <= rows.max() < len(split):
        raise ValueError(
            f"rows: expected numbers from 0 to {len(split) - 1}, got {rows.min()} to {rows.max()}"
        )
    return AnnotatedSplit(split, columns, rows)
