"""A table with its results: a line for each row, and statistics over the runs of a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from thanos_jax.config import flatten
from thanos_jax.tables.papers import Number
from thanos_jax.tables.rows import shown
from thanos_jax.tables.table import Column


class Line(NamedTuple):
    """A row of a comparison and its results.

    Attributes:
      labels: axis -> value; the first axis is the method.
      results: seed -> the content of the run's results.json.
      errors: seed -> why the run failed.
      reported: key of results.json, nested by dots -> the paper's number, in the column's units.
      folder: of its runs, next to the page; empty: the page has no links to them.
    """

    labels: Mapping[str, Any]
    results: Mapping[int, Mapping[str, Any]]
    errors: Mapping[int, str]
    reported: Mapping[str, Number]
    folder: str = ""


class Comparison(NamedTuple):
    """A table with the results so far.

    Attributes:
      caption: the title, one sentence.
      columns: the numbers shown for every line.
      lines: in order, all with the same axes. Lines with neither results nor errors are not shown.
      notes: paragraphs under the table.
    """

    caption: str
    columns: Sequence[Column]
    lines: Sequence[Line]
    notes: Sequence[str]


class Summary(NamedTuple):
    """Statistics of a column over the runs of a line that have the number.

    The deviation is None for a single run.
    """

    mean: float
    deviation: float | None
    runs: int


def summarize(line: Line, column: Column) -> Summary | None:
    """Returns the mean and sample standard deviation of a column over a line's runs.

    Both are in the units of the table. Returns None if no run has the number.
    """
    found = (flatten(result).get(column.path) for result in line.results.values())
    values = np.array(
        [column.number.scale * value for value in found if value is not None], np.float64
    )
    if not values.size:
        return None
    deviation = float(np.std(values, ddof=1)) if values.size > 1 else None
    return Summary(float(np.mean(values)), deviation, values.size)


def along_training(line: Line) -> dict[str, np.ndarray]:
    """Returns "epoch" [times] and numbers [seeds, times], at the times that all seeds have."""
    found = [r["along_training"] for r in line.results.values() if "along_training" in r]
    if not found:
        return {}
    times = min(len(curves["epoch"]) for curves in found)
    together = {name: np.array([curves[name][:times] for curves in found]) for name in found[0]}
    return {**together, "epoch": together["epoch"][0]}


def axes_of(comparison: Comparison) -> list[str]:
    """Returns the names of the settings of a line; the first is the method."""
    return list(comparison.lines[0].labels) if comparison.lines else []


def begun(comparison: Comparison) -> list[Line]:
    """Returns the lines with runs, finished or failed."""
    return [line for line in comparison.lines if line.results or line.errors]


def name_of(labels: Mapping[str, Any]) -> str:
    """Returns the method, and "axis value" of every setting."""
    return ", ".join(
        shown(value) if axis == "method" else f"{axis} {shown(value)}"
        for axis, value in labels.items()
    )
