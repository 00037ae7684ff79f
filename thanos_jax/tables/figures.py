"""Draws a comparison of runs: each number by row, against each setting, and along training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thanos_jax.report.plots import INK, PALETTE, WIDTH, dress, legend_below
from thanos_jax.tables.lines import Comparison, Line, along_training, axes_of, name_of, summarize
from thanos_jax.tables.rows import shown
from thanos_jax.tables.table import Column


def draw(comparison: Comparison) -> dict[str, Figure]:
    """Draws each column against each setting, or by row if only the method varies.

    Returns:
      Title -> figure; {} without results.
    """
    lines = [line for line in comparison.lines if line.results]
    columns = [
        column
        for column in comparison.columns
        if column.plotted and any(summarize(line, column) for line in lines)
    ]
    if not columns:
        return {}
    settings = [
        axis for axis in axes_of(comparison)[1:] if len({line.labels[axis] for line in lines}) > 1
    ]
    drawn = (
        {f"Against {axis}": _curves(lines, columns, axis) for axis in settings}
        if settings
        else {"Rows": _dots(lines, columns)}
    )
    measured = {name_of(line.labels): curves for line in lines if (curves := along_training(line))}
    return drawn | ({"Along training": _draw_along_training(measured)} if measured else {})


def _draw_along_training(lines: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draws the validation split's fine accuracy and collapse index against the epoch."""
    columns = (Column("validation_fine_accuracy"), Column("validation_collapse_index"))
    figure, panels = _panels(columns, height=2.5, share_y=False)
    for axes, column in zip(panels, columns, strict=True):
        for index, (label, curves) in enumerate(lines.items()):
            color = PALETTE[index % len(PALETTE)]
            values = column.number.scale * curves[column.path]
            mean = values.mean(axis=0)
            axes.plot(curves["epoch"], mean, color=color, linewidth=1.4, label=label)
            if len(values) > 1:
                deviation = values.std(axis=0, ddof=1)
                axes.fill_between(
                    curves["epoch"], mean - deviation, mean + deviation, color=color, alpha=0.25,
                    linewidth=0,
                )  # fmt: skip
        axes.set_xlabel("epoch", color=INK, fontsize=9)
    legend_below(figure, *panels[0].get_legend_handles_labels(), columns=3, fontsize=8)
    return figure


def _dots(lines: Sequence[Line], columns: Sequence[Column]) -> Figure:
    figure, panels = _panels(columns, height=0.5 + 0.21 * len(lines), share_y=True)
    places = range(len(lines))
    for axes, column in zip(panels, columns, strict=True):
        for place, line in zip(places, lines, strict=True):
            found = summarize(line, column)
            if found:
                axes.errorbar(
                    found.mean, place, xerr=found.deviation, fmt="o", color=PALETTE[0],
                    markersize=4, capsize=2, linewidth=1.2,
                )  # fmt: skip
            number = line.reported.get(column.path)
            if number:
                _diamond(axes, number.mean, place, PALETTE[2])
        _plain_ticks(axes, "y", places, [name_of(line.labels) for line in lines])
        axes.set_ylim(len(lines) - 0.5, -0.5)  # as in the table: the first row on top
    return figure


def _curves(lines: Sequence[Line], columns: Sequence[Column], axis: str) -> Figure:
    series: dict[str, list[Line]] = {}
    for line in lines:
        others = {name: value for name, value in line.labels.items() if name != axis}
        series.setdefault(name_of(others), []).append(line)
    # A sweep of another setting has a single point on this axis, which is no curve.
    longest = max(map(len, series.values()))
    series = {name: found for name, found in series.items() if len(found) > 1 or longest == 1}
    kept = [line.labels[axis] for found in series.values() for line in found]
    numeric = all(isinstance(value, int | float) for value in kept)
    ticks = sorted(set(kept)) if numeric else list(dict.fromkeys(kept))
    places = {value: float(value) if numeric else float(k) for k, value in enumerate(ticks)}
    figure, panels = _panels(columns, height=1.9, share_y=False)
    for axes, column in zip(panels, columns, strict=True):
        for index, found in enumerate(series.values()):
            color = PALETTE[index % len(PALETTE)]
            points = sorted(
                (places[line.labels[axis]], summary.mean, summary.deviation or 0.0)
                for line in found
                if (summary := summarize(line, column))
            )
            if points:
                xs, ys, deviations = zip(*points, strict=True)
                axes.errorbar(
                    xs, ys, yerr=deviations, fmt="o-", color=color, markersize=3.5, capsize=2,
                    linewidth=1.2,
                )  # fmt: skip
            for line in found:
                number = line.reported.get(column.path)
                if number:
                    _diamond(axes, places[line.labels[axis]], number.mean, color)
        if numeric and min(ticks) > 0 and max(ticks) >= 8 * min(ticks):
            axes.set_xscale("log")
            axes.minorticks_off()
        _plain_ticks(axes, "x", [places[value] for value in ticks], list(map(shown, ticks)))
        axes.set_xlabel(axis, color=INK, fontsize=9, parse_math=False)
    handles = [
        panels[0].plot([], [], "o-", color=PALETTE[index % len(PALETTE)], markersize=3.5)[0]
        for index in range(len(series))
    ]
    legend_below(figure, handles, list(series), columns=3, fontsize=8)
    return figure


def _panels(
    columns: Sequence[Column], *, height: float, share_y: bool
) -> tuple[Figure, list[Axes]]:
    across = min(2, len(columns))
    down = math.ceil(len(columns) / across)
    figure = Figure(figsize=(WIDTH, 0.5 + height * down), layout="constrained")
    every = list(figure.subplots(down, across, squeeze=False, sharey=share_y).flat)
    for axes in every[len(columns) :]:
        axes.set_axis_off()
    panels = every[: len(columns)]
    for axes, column in zip(panels, columns, strict=True):
        dress(axes)
        axes.set_title(column.head, loc="left", fontsize=10, color=INK, parse_math=False)
    return figure, panels


def _plain_ticks(axes: Axes, which: str, places: Sequence[float], names: Sequence[str]) -> None:
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_ticks(places, labels=names)
    for text in axis.get_ticklabels():
        text.set_parse_math(False)


def _diamond(axes: Axes, x: float, y: float, color: str) -> None:
    axes.plot(x, y, marker="D", markerfacecolor="none", color=color, markersize=6, linestyle="")
