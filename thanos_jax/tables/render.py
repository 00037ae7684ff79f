"""Renders a comparison of runs as Markdown, CSV and one HTML page; pure functions of results."""

from __future__ import annotations

import csv
import io
import numbers
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from matplotlib.figure import Figure

from thanos_jax.config import flatten
from thanos_jax.report import html
from thanos_jax.tables.lines import Comparison, Line, axes_of, begun, name_of, summarize
from thanos_jax.tables.rows import shown

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
    lines = begun(comparison)
    rows = [axes_of(comparison), *(list(line.labels.values()) for line in lines)]
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
    axes = axes_of(comparison)
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


def page(comparison: Comparison, figures: Mapping[str, Figure], *, beside: str = "") -> str:
    """Returns the table with notes, failures and pictures as one self-contained HTML page.

    Args:
      comparison: the table.
      figures: title -> figure; from `figures.draw`.
      beside: file name of a page with the maps of its rows, to link to; empty: there is none.
    """
    head, rows = _grid(comparison)
    labels = len(axes_of(comparison))
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = []
    for line, row in zip(begun(comparison), rows, strict=True):
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
    for number, (name, figure) in enumerate(figures.items()):
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


def _grid(comparison: Comparison) -> tuple[list[str], list[tuple[str, ...]]]:
    """Returns the titles and the cells of the table, as plain text."""
    lines = begun(comparison)
    grid = [(axis, [shown(line.labels[axis]) for line in lines]) for axis in axes_of(comparison)]
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


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
