"""Compares runs on one page: maps at one scale, and the numbers and config keys that differ."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from thanos_jax.config import flatten
from thanos_jax.errors import ConfigError
from thanos_jax.report import html, map_page, numbers, plots
from thanos_jax.report.folder import Reported
from thanos_jax.report.image_map import Column, ImageMap
from thanos_jax.workdir import write_atomically

# Largest number of maps on a page: each needs room, and data for its points.
MOST_MAPS = 8
_HOW_TO_READ = (
    "Embeddings of length 1 along their first two principal components, all at one scale. A class "
    "that is a small dense spot has collapsed; a class that is spread keeps the differences of its "
    "images."
)


def titles(folders: Sequence[pathlib.Path], runs: Sequence[Reported]) -> list[str]:
    """Returns a name for each run: its method, with its folder if methods are not unique.

    Raises:
      ConfigError: a folder is named twice.
    """
    places = [folder.resolve() for folder in folders]
    for place in places:
        if places.count(place) > 1:
            raise ConfigError(f"report: expected each folder once, got {place} twice")
    methods = [str(run.results.get("method", "run")) for run in runs]
    if len(set(methods)) == len(methods):
        return methods
    root = os.path.commonpath([place.parent for place in places])
    return [
        f"{method} ({os.path.relpath(place, root)})"
        for method, place in zip(methods, places, strict=True)
    ]


def write(path: str | os.PathLike[str], runs: Mapping[str, Reported]) -> None:
    """Writes the page that compares runs, atomically.

    Args:
      path: of the page; an older one is replaced.
      runs: title -> run, at least two.
    """
    maps = {title: run.image_map for title, run in runs.items() if run.image_map is not None}
    left_out = list(maps)[MOST_MAPS:]
    maps = {title: one for title, one in maps.items() if title not in left_out}
    heading = " beside ".join(runs) if len(runs) < 4 else f"{len(runs)} runs beside each other"
    sets = dict.fromkeys(str(run.results.get("dataset", "")) for run in runs.values())
    parts = [f"<h1>{escape(heading)}</h1>", f'<p class="quiet">{escape(", ".join(sets))}</p>']
    style = policy = ""
    if maps:
        part = map_page.part(maps)
        parts.append(f"<h2>Maps of images</h2>\n{part.html}")
        style, policy = part.style, part.script
        if (drawn := figure(maps)) is not None:
            flat = html.picture(0, "Maps of images", drawn, _HOW_TO_READ)
            parts.append(f"<details><summary>The maps as a flat picture</summary>{flat}</details>")
    if left_out:
        parts.append(f"<p>Maps of more than {MOST_MAPS} runs: {escape(', '.join(left_out))} are "
                     "left out.</p>")  # fmt: skip
    if without := [title for title, run in runs.items() if run.image_map is None]:
        parts.append(f"<p>Runs without a map: {escape(', '.join(without))}.</p>")
    results = {title: flatten(run.results) for title, run in runs.items()}
    head, rest = differing_numbers(results)
    columns = ("name", *runs, "meaning")
    parts.append(f"<h2>Numbers that differ</h2>\n{html.table(columns, _cells(head))}")
    if rest:
        more = html.table(columns, _cells(rest))
        parts.append(f"<details><summary>All others that differ</summary>\n{more}</details>")
    configs = differing({title: flatten(run.config) for title, run in runs.items()})
    keys = [(escape(key), *(escape(_text(v)) for v in values)) for key, values in configs]
    parts.append("<h2>Config that differs</h2>")
    same = "<p>Nothing differs.</p>"
    parts.append(html.table(("key", *runs), keys) if keys else same)
    write_atomically(path, html.document(heading, "\n".join(parts), style=style, script=policy))


def differing(values: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Returns (key, values) for keys whose values differ between runs; None where a key is absent.

    Args:
      values: title -> key -> value.
    """
    keys = dict.fromkeys(key for one in values.values() for key in one)
    rows = [(key, [one.get(key) for one in values.values()]) for key in keys]
    return [(key, found) for key, found in rows if any(_text(v) != _text(found[0]) for v in found)]


def differing_numbers(
    results: Mapping[str, Mapping[str, Any]],
) -> tuple[list[tuple[str, list[Any]]], list[tuple[str, list[Any]]]]:
    """Returns rows of `differing`: first of headline numbers in their order, then of all others."""
    order = [key for key, entry in numbers.NUMBERS.items() if entry.card or entry.printed]
    found = {key: (key, values) for key, values in differing(results)}
    # The collapse index of the test split is a headline.
    heads = {key: found.get(key) or found.get(f"geometry.test.{key}") for key in order}
    head = [row for row in heads.values() if row]
    taken = {key for key, _ in head}
    return head, [row for key, row in found.items() if key not in taken]


def figure(maps: Mapping[str, ImageMap]) -> Figure | None:
    """Draws maps side by side at one scale, coloured by a column that all have; None without one.

    Args:
      maps: title -> map, at least one.
    """
    first, *others = maps.values()
    shared = [
        column
        for column in first.columns
        if column.names and all(_of(other, column) is not None for other in others)
    ]
    if not shared:
        return None
    points = {
        title: one.layout.plane
        if not map_page.same_images(one, first)
        else map_page.turned(one.layout.plane, first.layout.plane)
        for title, one in maps.items()
    }
    labels = {title: _of(one, shared[0]) for title, one in maps.items()}
    return plots.maps_beside(points, labels, shared[0].names, shared[0].name)


def save_figure(path: str | os.PathLike[str], runs: Mapping[str, Reported]) -> None:
    """Saves `figure` of runs as PNG, on white.

    Raises:
      ConfigError: a run has no map, or the maps have no column of classes in common.
    """
    maps = {title: run.image_map for title, run in runs.items() if run.image_map is not None}
    drawn = figure(maps) if len(maps) == len(runs) else None
    if drawn is None:
        raise ConfigError(
            "report: expected runs with maps that share a kind of label for --picture, got "
            + ", ".join(runs)
        )
    drawn.savefig(path, dpi=150, facecolor="white")


def _of(one: ImageMap, column: Column) -> np.ndarray | None:
    """Returns the values of a map's column with the same name and classes, or None."""
    same = (c.values for c in one.columns if (c.name, c.names) == (column.name, column.names))
    return next(same, None)


def _cells(rows: Sequence[tuple[str, list[Any]]]) -> list[tuple[str, ...]]:
    cells = []
    for key, values in rows:
        path = key.split(".")
        entry = numbers.find(path)
        shown = ("" if v is None else numbers.shown(path, v) for v in values)
        name = escape(key).replace("_", "_<wbr>").replace(".", ".<wbr>")
        cells.append((name, *map(escape, shown), escape(entry.meaning) if entry else ""))
    return cells


def _text(value: Any) -> str:
    return "" if value is None else str(value)
