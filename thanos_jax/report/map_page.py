"""Interactive maps of images as a part of a page: HTML, data and script.

The script consists of the files in map/, the style of map.css. Maps of the same images are linked:
an image that is pointed at or selected in one map is highlighted in the others. All maps of a page
have one scale.
"""

from __future__ import annotations

import base64
import hashlib
import json
import pathlib
from collections.abc import Mapping
from html import escape
from typing import Any, NamedTuple

import matplotlib.colors
import numpy as np

from thanos_jax.report import numbers, plots
from thanos_jax.report.image_map import Column, ImageMap, split_word

_HERE = pathlib.Path(__file__).parent
# In this order, because later files use definitions of earlier ones.
SCRIPTS = ("data", "drawing", "panel", "acts", "events")
LAYOUTS = {
    "points": "neighbourhoods (t-SNE)",
    "plane": "distances (PCA)",
}
_HELP = (
    "Point at a dot, or walk with the arrow keys; n and p go to the next and the previous image. "
    "Click or press Enter to keep an image and see the images nearest to it in the embedding. Draw "
    "around dots to select them, press s to add an image, Escape to deselect, + and - to zoom, 0 "
    "for the whole map, / to search. Shift adds to the selection."
)
_NEIGHBOURHOODS = (
    "t-SNE keeps neighbourhoods, not distances or sizes: the size of an island means nothing."
)
_DISTANCES = (
    "Principal components keep distances on the unit sphere as far as a plane can; classes that "
    "have collapsed are small dense spots."
)


class Part(NamedTuple):
    """A part of a page.

    Attributes:
      html: its HTML, with data and script.
      style: CSS.
      script: the source expression of the script for the page's content security policy.
    """

    html: str
    style: str
    script: str


def script() -> str:
    """Returns the map's script as a page holds it: the files, concatenated."""
    texts = ((_HERE / "map" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    return '"use strict";\n(() => {\n' + "\n".join(texts) + "})();\n"


def part(maps: Mapping[str, ImageMap]) -> Part:
    """Returns one or several maps, side by side.

    Args:
      maps: title -> map, at least one.
    """
    data, sprites = payload(maps)
    code = script()
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    pictures = "".join(
        f'<img hidden alt="" data-sprite src="data:image/webp;base64,{_base64(picture)}">'
        for picture in sprites
    )
    one = " map-one" if len(maps) == 1 else ""
    # In JSON, "<" occurs only in strings. Escaped like this, it cannot begin or end a tag.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    body = (
        f'<section class="map{one}" id="map" aria-label="Map of images" hidden>\n'
        f"{_tools(data)}\n"
        '<div class="map-body"><div class="map-views">\n'
        + "\n".join(_view(one["title"], len(maps)) for one in data["maps"])
        + "\n</div>\n"
        '<div class="map-panel"><div data-image></div><div data-chosen hidden></div>'
        '<p class="quiet" data-note></p></div></div>\n'
        '<p class="quiet" data-hint hidden>Point at a dot, or walk over the map with the arrow '
        "keys, to see its image.</p>\n"
        f'<p class="quiet map-help" id="map-help">{escape(_HELP)}</p>\n'
        '<p class="map-said" role="status" aria-live="polite" data-status></p>\n'
        "</section>\n"
        + "".join(f'<p class="quiet">{escape(sentence)}</p>\n' for sentence in _notes(maps, data))
        + "<noscript><p>The map needs the script that this page holds; flat pictures of it are "
        "below.</p></noscript>\n"
        f'<script type="application/json" id="map-data">{text}</script>\n'
        # The pictures come last, so that the browser paints the dots first.
        f"<script>{code}</script>\n{pictures}"
    )
    style = (_HERE / "map.css").read_text(encoding="utf-8")
    return Part(body, style, f"'sha256-{digest}'")


def payload(maps: Mapping[str, ImageMap]) -> tuple[dict[str, Any], list[bytes]]:
    """Returns the script's data, ready for JSON, and the sprite of each set of images.

    Arrays are base64 of little-endian float32 or int32. Maps of the same images share a set; later
    maps of a set are rotated, and mirrored if needed, to match the first.
    """
    sets: list[ImageMap] = []
    entries = []
    for title, one in maps.items():
        number = next((k for k, known in enumerate(sets) if same_images(known, one)), len(sets))
        if number == len(sets):
            sets.append(one)
        layouts = []
        for name, xy in layouts_of(one).items():
            first = layouts_of(sets[number]).get(name)
            layouts.append(
                {
                    "name": LAYOUTS[name],
                    "xy": _base64(xy if first is None else turned(xy, first), "<f4"),
                }
            )
        entries.append(
            {
                "title": title,
                "set": number,
                "layouts": layouts,
                "k": one.layout.neighbours.shape[1],
                "neighbours": _base64(one.layout.neighbours, "<i4"),
                "columns": [_column(column) for column in one.columns],
            }
        )
    data = {
        # Several maps start with distances, for which a common scale means the most.
        "layout": LAYOUTS["plane" if len(maps) > 1 else next(iter(layouts_of(sets[0])))],
        "colour": sets[0].columns[0].name,
        "sets": [_set(one) for one in sets],
        "maps": entries,
    }
    return data, [one.sprite.data for one in sets]


def same_images(one: ImageMap, other: ImageMap) -> bool:
    """Whether two maps show the same images, in the same order."""
    return (
        one.split == other.split
        and np.array_equal(one.files, other.files)
        and one.sprite == other.sprite
    )


def layouts_of(one: ImageMap) -> dict[str, np.ndarray]:
    """Returns "points" and "plane", float32 [m, 2]; only "plane" if both are equal."""
    found = {"points": one.layout.points, "plane": one.layout.plane}
    if np.array_equal(one.layout.points, one.layout.plane):
        del found["points"]
    return found


def turned(points: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Rotates and mirrors points [m, 2] to lie as near as possible to others; distances stay.

    Solves the orthogonal Procrustes problem (Schönemann, 1966) after centring both.
    """
    centred = np.asarray(points, np.float64) - np.mean(points, axis=0, dtype=np.float64)
    goal = np.asarray(towards, np.float64) - np.mean(towards, axis=0, dtype=np.float64)
    left, _, right = np.linalg.svd(centred.T @ goal)
    return (centred @ (left @ right)).astype(np.float32)


def _base64(values: Any, dtype: str | None = None) -> str:
    raw = values if dtype is None else np.ascontiguousarray(values, dtype).tobytes()
    return base64.b64encode(raw).decode()


def _set(one: ImageMap) -> dict[str, Any]:
    return {
        "count": len(one.files),
        "split": split_word(one.split),
        "files": one.files.tolist(),
        "named": one.named,
        "columns": one.sprite.columns,
        "size": [one.sprite.width, one.sprite.height],
        "cell": one.sprite.cell,
    }


def _column(column: Column) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": column.name, "names": None}
    entry["values"] = _base64(column.values, "<i4" if column.names else "<f4")
    if column.names:
        colours = plots.colors(len(column.names))
        entry |= {
            "names": list(column.names),
            "colours": [matplotlib.colors.to_hex(colour) for colour in colours],
        }
    return entry


def _tools(data: Mapping[str, Any]) -> str:
    def options(names: Any, chosen: str) -> str:
        return "".join(
            f"<option{' selected' if name == chosen else ''}>{escape(name)}</option>"
            for name in dict.fromkeys(names)
        )

    colours = options(
        (column["name"] for one in data["maps"] for column in one["columns"]), data["colour"]
    )
    layouts = options(
        (layout["name"] for one in data["maps"] for layout in one["layouts"]), data["layout"]
    )
    modes = "".join(
        f'<button type="button" data-mode="{mode}" aria-pressed="false">{word}</button>'
        for mode, word in (("lasso", "Lasso"), ("box", "Box"), ("move", "Move"))
    )
    return (
        '<div class="map-tools">'
        f"<label>Colour <select data-colour>{colours}</select></label>"
        f"<label>Layout <select data-layout>{layouts}</select></label>"
        '<label>Search <input type="search" data-search placeholder="class or file"></label>'
        '<label><input type="checkbox" data-pictures> images</label>'
        f'<span class="map-group" role="group" aria-label="What dragging does">{modes}</span>'
        '<span class="map-group" role="group" aria-label="Zoom">'
        '<button type="button" data-in aria-label="Zoom in">+</button>'
        '<button type="button" data-out aria-label="Zoom out">&minus;</button>'
        '<button type="button" data-reset>Whole map</button></span></div>'
    )


def _view(title: str, count: int) -> str:
    caption = f"<figcaption><bdi>{escape(title)}</bdi></figcaption>" if count > 1 else ""
    return (
        f'<figure class="map-view" data-view>{caption}<div class="map-frame">'
        '<canvas aria-hidden="true"></canvas>'
        f'<canvas tabindex="0" role="application" aria-label="Map of images, {escape(title)}" '
        'aria-describedby="map-help"></canvas>'
        '<div class="map-tip" data-tip hidden></div></div>'
        '<div class="map-legend" data-legend></div></figure>'
    )


def _notes(maps: Mapping[str, ImageMap], data: Mapping[str, Any]) -> list[str]:
    """Returns notes on the images shown, and on what is left out or shrunk to save room."""
    notes = []
    for number, entry in enumerate(data["sets"]):
        (title, one), *more = [
            (title, maps[title])
            for title in maps
            if data["maps"][list(maps).index(title)]["set"] == number
        ]
        shown, kind = len(one.files), entry["split"]
        images = (
            f"All {shown:,} {kind} images"
            if shown == one.size
            else f"{shown:,} of {one.size:,} {kind} images, drawn at random"
        )
        of = (
            "" if len(data["sets"]) == 1 else f"{', '.join([title, *(name for name, _ in more)])}: "
        )
        longest = max(one.sprite.width, one.sprite.height)
        smaller = (
            f" Thumbnails have {longest} pixels and not {one.sprite.asked}, to keep the page small."
            if longest < one.sprite.asked
            else ""
        )
        notes.append(f"{of}{images}.{smaller}")
    if len(maps) > 1:
        linked = "Maps of the same images are linked. " if len(data["sets"]) < len(maps) else ""
        notes.append(f"{linked}All maps have one scale.")
    seconds = sum(float(one.layout.seconds) for one in maps.values())
    notes.append(f"Layouts and nearest images took {numbers.shown(('seconds',), seconds)}.")
    names = {layout["name"] for one in data["maps"] for layout in one["layouts"]}
    sentences = {LAYOUTS["points"]: _NEIGHBOURHOODS, LAYOUTS["plane"]: _DISTANCES}
    notes.append(" ".join(text for name, text in sentences.items() if name in names))
    return notes
