"""Renders a comparison of runs as Markdown, CSV and one HTML page; pure functions of results."""

from __future__ import annotations

import csv
import io
import math
import numbers
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thanos_jax.config import flatten
from thanos_jax.report import html
from thanos_jax.report.plots import INK, PALETTE, WIDTH, dress, legend_below
from thanos_jax.tables.papers import Number
from thanos_jax.tables.rows import shown
from thanos_jax.tables.table import Column

_HOW_TO_READ = (
    "Each dot or line is the mean over a row's runs; bars or bands reach one sample standard "
    "deviation to both sides. Open diamonds are the papers' numbers."
)
# A table of numbers keeps its columns on a narrow screen, and scrolls.
_STYLE = """
.comparison th, .comparison td { white-space: nowrap; }
.comparison .failed { color: #bd1f01; }
@media (prefers-color-scheme: dark) { .comparison .failed { color: #ff8a70; } }
@media (max-width: 36rem) { .comparison tr { display: table-row; }
  .comparison th, .comparison td { border-bottom: 1px solid var(--line); } }
pre { overflow-x: auto; font-size: .85rem; }
"""


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


def markdown(comparison: Comparison) -> str:
    """Returns the table as Markdown, as mean ± sample standard deviation, and its notes."""
    head, rows = _grid(comparison)
    lines = [
        "| " + " | ".join(map(_cell, head)) + " |",
        "|---" * len(head) + "|",
        *("| " + " | ".join(map(_cell, row)) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n" + "".join(f"\n{note}\n" for note in comparison.notes)


def summary_csv(comparison: Comparison) -> str:
    """Returns CSV with one line for each row of the table.

    The columns are the labels; mean, std, n and the paper's number (if there is any) of each
    column, in the units of the table; and the numbers of runs and failures.
    """
    lines = _begun(comparison)
    rows = [_axes(comparison), *(list(line.labels.values()) for line in lines)]
    for column in comparison.columns:
        key = column.path
        rows[0] += [f"{key} mean", f"{key} std", f"{key} n"]
        for row, line in zip(rows[1:], lines, strict=True):
            row += summarize(line, column) or (None, None, 0)
        if any(key in line.reported for line in lines):
            rows[0] += [f"{key} paper mean", f"{key} paper std", f"{key} paper"]
            for row, line in zip(rows[1:], lines, strict=True):
                row += line.reported.get(key, (None, None, None))
    rows[0] += ["runs", "failed"]
    for row, line in zip(rows[1:], lines, strict=True):
        row += [len(line.results), len(line.errors)]
    return _csv(rows)


def runs_csv(comparison: Comparison) -> str:
    """Returns CSV with one line for each run: labels, seed, numbers of results.json, error."""
    axes = _axes(comparison)
    runs: list[tuple[Line, int, dict[str, Any], str]] = []
    for line in comparison.lines:
        for seed in sorted(line.results.keys() | line.errors.keys()):
            values = {
                key: value
                for key, value in flatten(line.results.get(seed, {})).items()
                if key != "seed" and isinstance(value, numbers.Real) and not isinstance(value, bool)
            }
            runs.append((line, seed, values, line.errors.get(seed, "")))
    keys = list(dict.fromkeys(key for _, _, values, _ in runs for key in values))
    return _csv(
        [
            [*axes, "seed", *keys, "error"],
            *(
                [*(line.labels[axis] for axis in axes), seed, *map(values.get, keys), error]
                for line, seed, values, error in runs
            ),
        ]
    )


def page(comparison: Comparison, *, beside: str = "") -> str:
    """Returns the table with notes, failures and pictures as one self-contained HTML page.

    Args:
      comparison: the table.
      beside: file name of a page with the maps of its rows, to link to; empty: there is none.
    """
    head, rows = _grid(comparison)
    labels = len(_axes(comparison))
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = []
    for line, row in zip(_begun(comparison), rows, strict=True):
        cells = "".join(f'<th scope="row">{escape(cell)}</th>' for cell in row[:labels])
        cells += "".join(f'<td class="value">{escape(cell)}</td>' for cell in row[labels:-1])
        kind = "value failed" if line.errors else "value"
        body.append(f'<tr>{cells}<td class="{kind}">{escape(row[-1])}{_links(line)}</td></tr>')
    parts = [
        f"<h1>{escape(comparison.caption)}</h1>",
        f'<div class="wide comparison"><table><thead><tr>{columns}</tr></thead>\n<tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div>",
        *(f'<p class="quiet">{escape(note)}</p>' for note in comparison.notes),
    ]
    if beside:
        words = "Maps of the first seed of each row, side by side"
        parts.append(f'<p><a href="{escape(beside)}">{words}</a></p>')
    for number, (name, figure) in enumerate(figures(comparison).items()):
        parts.append(f"<h2>{escape(name)}</h2>\n{html.picture(number, name, figure, _HOW_TO_READ)}")
    failed = [
        f"<p>{escape(name_of(line.labels))}, seed {seed}</p><pre>{escape(error)}</pre>"
        for line in comparison.lines
        for seed, error in line.errors.items()
    ]
    if failed:
        parts.append("<h2>Failed runs</h2>\n" + "\n".join(failed))
    return html.document(comparison.caption, "\n".join(parts), style=_STYLE)


def _links(line: Line) -> str:
    """Returns links to the reports of a row's runs, each labelled with the seed."""
    if not line.folder or not line.results:
        return ""
    links = (
        f'<a href="{quote(line.folder)}/{seed}/report.html">{seed}</a>'
        for seed in sorted(line.results)
    )
    return f'<br><span class="quiet">seed {", ".join(links)}</span>'


def figures(comparison: Comparison) -> dict[str, Figure]:
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
        axis for axis in _axes(comparison)[1:] if len({line.labels[axis] for line in lines}) > 1
    ]
    drawn = (
        {f"Against {axis}": _curves(lines, columns, axis) for axis in settings}
        if settings
        else {"Rows": _dots(lines, columns)}
    )
    measured = {name_of(line.labels): curves for line in lines if (curves := _along_training(line))}
    return drawn | ({"Along training": _draw_along_training(measured)} if measured else {})


def _along_training(line: Line) -> dict[str, np.ndarray]:
    """Returns "epoch" [times] and numbers [seeds, times], at the times that all seeds have."""
    found = [r["along_training"] for r in line.results.values() if "along_training" in r]
    if not found:
        return {}
    times = min(len(curves["epoch"]) for curves in found)
    together = {name: np.array([curves[name][:times] for curves in found]) for name in found[0]}
    return {**together, "epoch": together["epoch"][0]}


def _draw_along_training(lines: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draws the validation split's fine accuracy and collapse index against the epoch."""
    names = ("validation_fine_accuracy", "validation_collapse_index")
    figure, panels = _panels(tuple(map(Column, names)), height=2.5, share_y=False)
    for axes, name in zip(panels, names, strict=True):
        for index, (label, curves) in enumerate(lines.items()):
            color = PALETTE[index % len(PALETTE)]
            mean = curves[name].mean(axis=0)
            axes.plot(curves["epoch"], mean, color=color, linewidth=1.4, label=label)
            if len(curves[name]) > 1:
                deviation = curves[name].std(axis=0, ddof=1)
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


def _grid(comparison: Comparison) -> tuple[list[str], list[tuple[str, ...]]]:
    """Returns the titles and the cells of the table, as plain text."""
    lines = _begun(comparison)
    grid = [(axis, [shown(line.labels[axis]) for line in lines]) for axis in _axes(comparison)]
    for column in comparison.columns:
        form = f".{column.number.digits}f"
        found = [summarize(line, column) for line in lines]
        cells = [_spread(one.mean, one.deviation, form) if one else "" for one in found]
        grid.append((column.head, cells))
        reported = [line.reported.get(column.path) for line in lines]
        for paper in dict.fromkeys(number.paper for number in reported if number):
            # With as many digits as the paper prints.
            cells = [_spread(*one[:2]) if one and one.paper == paper else "" for one in reported]
            grid.append((f"{column.head} ({paper})", cells))
    failed = [f" (failed: {len(line.errors)})" if line.errors else "" for line in lines]
    counts = [f"{len(line.results)}{text}" for line, text in zip(lines, failed, strict=True)]
    head, columns = zip(*grid, ("runs", counts), strict=True)
    return list(head), list(zip(*columns, strict=True))


def _spread(mean: float, deviation: float | None, form: str = "") -> str:
    return f"{mean:{form}}" + ("" if deviation is None else f" ± {deviation:{form}}")


def _axes(comparison: Comparison) -> list[str]:
    return list(comparison.lines[0].labels) if comparison.lines else []


def _begun(comparison: Comparison) -> list[Line]:
    return [line for line in comparison.lines if line.results or line.errors]


def name_of(labels: Mapping[str, Any]) -> str:
    """Returns the method, and "axis value" of every setting."""
    return ", ".join(
        shown(value) if axis == "method" else f"{axis} {shown(value)}"
        for axis, value in labels.items()
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
