"""A split with extra columns per example, and with examples repeated or left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from thanos_jax.data.splits import DerivedSplit, Split


class AnnotatedSplit(DerivedSplit):
    """A split made by `annotate`; each example is a row of another split."""

    @property
    def rows(self) -> np.ndarray:
        """Integer [len(self)], the row in `split` of each example."""
        return self.numbers


def annotate(
    split: Split, columns: Mapping[str, Any], rows: np.ndarray | None = None
) -> AnnotatedSplit:
    """Returns examples of a split with extra columns; examples may be repeated or left out.

    Args:
      split: n examples.
      columns: name -> [n, ...]; `read` adds them to a batch.
      rows: integer [r], each in [0, n): the examples of the result, in order; None: each once.

    Raises:
      ValueError: a column has another length or the name of an existing column, or a row is out of
        range.
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
