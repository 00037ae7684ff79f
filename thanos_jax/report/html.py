"""Writes report.html: one self-contained file that needs no network, with a script for its map."""

from __future__ import annotations

import io
import os
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from thanos_jax.config import flatten
from thanos_jax.report import map_page, meaning, numbers, plots
from thanos_jax.report.image_map import ImageMap, split_word
from thanos_jax.report.plots import INK
from thanos_jax.workdir import write_atomically

# Nothing may be fetched and no script may run, even if a value slipped through unescaped. On a page
# with a map, only the script with that hash may run.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
_LOOK = pathlib.Path(__file__).with_name("page.css")
# Title -> (figure or finished HTML, how to read it).
Pictures = Mapping[str, tuple[Figure | str, str]]
# The command for any run, whatever file its config came from.
AGAIN = (
    'python -c \'from thanos_jax import config, run; run.run(config.read("config.json"), "again")\''
)


def write(
    path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    figures: Pictures,
    image_map: ImageMap | None = None,
) -> None:
    """Writes the report of a run: headline figures, map, pictures, tables, config.

    The file is self-contained: it fetches nothing, and runs no script but the map's. Every value is
    escaped. It is written atomically, and depends on the arguments only.

    Args:
      path: of the report; an older one is replaced.
      config: the run's config, possibly nested.
      results: the content of results.json, possibly nested; any number may be absent.
      records: lines of metrics.jsonl; the last is shown.
      figures: title -> (figure, how to read it), in the order of the report; may be empty.
      image_map: map of the run's images; None: the report has none.
    """
    title = name_of(results) or "Training run"
    parts = [f"<h1>{escape(title)}</h1>", _summary(results), _cards(results)]
    parts.append(meaning.collapse(results))
    style, policy = meaning.STYLE, ""
    if image_map is not None:
        part = map_page.part({title: image_map})
        flat = flat_pictures({"": image_map}, first=len(figures))
        parts.append(f"<h2>Map of images</h2>\n{part.html}\n{flat}")
        style, policy = style + part.style, part.script
    for number, (name, (figure, sentence)) in enumerate(figures.items()):
        parts.append(f"<h2>{escape(name)}</h2>\n{picture(number, name, figure, sentence)}")
    parts.append("<h2>Numbers</h2>")
    flat_results = {key: value for key, value in results.items() if not isinstance(value, Mapping)}
    if flat_results:
        parts.append(table(("name", "value", "meaning"), _rows(flat_results)))
    elif not results:
        parts.append("<p>No results were given.</p>")
    for key, value in results.items():
        if isinstance(value, Mapping):
            words = key.replace("_", " ")
            parts.append(f"<h2>{escape(words[:1].upper() + words[1:])}</h2>\n{_nested(key, value)}")
    if records:
        last = table(("name", "value", "meaning"), _rows(records[-1]))
        parts.append(f"<details><summary>Last line of the log</summary>\n{last}</details>")
    keys = [(escape(k), escape(str(v))) for k, v in flatten(config).items()]
    again = (
        "<p>The same run again, from the folder of this one:</p>"
        f'<pre class="wide">{escape(AGAIN)}</pre>'
    )
    parts.append(
        f"<details><summary>Config</summary>\n{again if keys else ''}"
        f"{table(('key', 'value'), keys)}</details>"
    )
    write_atomically(path, document(title, "\n".join(parts), style=style, script=policy))


def name_of(results: Mapping[str, Any]) -> str:
    """Returns the title of a run, as "thanos on digits"; empty if results do not have it."""
    return " on ".join(str(results[key]) for key in ("method", "dataset") if key in results)


def drawn(figures: Pictures) -> dict[str, tuple[str, str]]:
    """Converts figures to HTML; ids contain the figure's number, so that they do not clash."""
    return {
        name: (_ready(number, name, figure), sentence)
        for number, (name, (figure, sentence)) in enumerate(figures.items())
    }


def flat_pictures(maps: Mapping[str, ImageMap], *, first: int = 0) -> str:
    """Returns the maps as static pictures, for print and browsers without scripts; may be empty.

    Args:
      maps: title -> map.
      first: number of the first picture; ids in a page contain these numbers.
    """
    found: list[str] = []
    for title, one in maps.items():
        kind = split_word(one.split).capitalize()
        for column in one.columns:
            if column.reading:
                name = f"{title and f'{title}: '}{kind} embeddings by {column.name}"
                figure = plots.embedding_map(
                    one.layout.points, column.values, column.names, column.name
                )
                shown = picture(first + len(found), name, figure, column.reading)
                found.append(f"<h3>{escape(name)}</h3>\n{shown}")
    if not found:
        return ""
    pictures = "\n".join(found)
    return f"<details><summary>The map as flat pictures</summary>\n{pictures}</details>"


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Returns an HTML page in the style of the reports, which may fetch nothing.

    Args:
      title: plain text; it is escaped.
      body: HTML.
      style: CSS to add to the reports' own.
      script: source expression of the only script that may run; empty: no script may run.
    """
    look = _LOOK.read_text(encoding="utf-8")
    policy = f"{_POLICY}; script-src {script}" if script else _POLICY
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{look}{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _summary(results: Mapping[str, Any]) -> str:
    words = {"steps": "{} steps", "train_seconds": "{} of training", "seed": "seed {}"}
    facts = [
        text.format(_value(results[key], key)) for key, text in words.items() if key in results
    ]
    return f'<p class="quiet">{" · ".join(facts)}</p>' if facts else ""


def _cards(results: Mapping[str, Any]) -> str:
    known = {**results.get("geometry", {}).get("test", {}), **results}
    ranked = sorted((entry.card, key) for key, entry in numbers.NUMBERS.items() if entry.card)
    cards = [
        f'<div class="card">{_words(key)}<b>{_value(known[key], key)}</b>'
        f'<p class="quiet">{_meaning(key)}</p></div>'
        for _, key in ranked
        if key in known
    ]
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def picture(number: int, name: str, figure: Figure | str, sentence: str) -> str:
    """Returns a figure and how to read it as HTML; `number` makes its ids unique in the page."""
    ready = _ready(number, name, figure)
    return f"<figure>{ready}<figcaption>{escape(sentence)}</figcaption></figure>"


def _ready(number: int, name: str, figure: Figure | str) -> str:
    if isinstance(figure, str):
        return figure
    return f'<div role="img" aria-label="{escape(name)}">{_svg(number, figure)}</div>'


def _svg(number: int, figure: Figure) -> str:
    """Returns a figure as an SVG element whose text takes the page's colour."""
    buffer = io.StringIO()
    # Text stays text; a fixed salt makes the same figure the same bytes.
    options: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "thanos_jax"}
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(options), warnings.catch_warnings():
        # matplotlib only measures text; the browser finds a font that has the letters.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    # Each figure of a page needs its own ids. Ids that it does not refer to are dropped.
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))

    def rename(match: re.Match[str]) -> str:
        return f' id="f{number}-{match[1]}"' if match[1] in used else ""

    # Inside tags only: in text, < and > are escaped.
    text = re.sub(r"<[^<>]*>", lambda tag: re.sub(r'\sid="([^"]*)"', rename, tag[0]), text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>f{number}-", text)
    return text.replace(INK, "currentColor").strip()


def _nested(name: str, value: Mapping[str, Any]) -> str:
    """Returns a table; a mapping of mappings (numbers by split) gets a column for each."""
    if value and all(isinstance(inner, Mapping) for inner in value.values()):
        rows = []
        for key in dict.fromkeys(key for inner in value.values() for key in inner):
            cells = (_value(v[key], name, key) if key in v else "" for v in value.values())
            rows.append((_words(key), *cells, _meaning(name, key)))
        return table(("name", *map(str, value), "meaning"), rows)
    rows = []
    for key, inner in flatten(value).items():
        path = (name, *key.split("."))
        rows.append((escape(key), _value(inner, *path), _meaning(*path)))
    return table(("name", "value", "meaning"), rows)


def _rows(values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [(_words(key), _value(value, key), _meaning(key)) for key, value in values.items()]


def table(head: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    """Returns an HTML table; `head` is plain text, the cells of `rows` are HTML."""
    kinds = ["name", *("meaning" if name == "meaning" else "value" for name in head[1:])]
    columns = "".join(
        f'<th scope="col" class="{kind}">{escape(name)}</th>'
        for name, kind in zip(head, kinds, strict=True)
    )
    lines = []
    for name, *cells in rows:
        line = "".join(
            f'<td class="{kind}">{cell}</td>' for cell, kind in zip(cells, kinds[1:], strict=True)
        )
        lines.append(f'<tr><th scope="row">{name}</th>{line}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table><thead><tr>{columns}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _words(key: str) -> str:
    # The key as in results.json, with line breaks allowed between words.
    return escape(str(key)).replace("_", "_<wbr>")


def _value(value: Any, *path: str) -> str:
    return escape(numbers.shown(path, value)).replace("\N{NO-BREAK SPACE}", "&nbsp;")


def _meaning(*path: str) -> str:
    entry = numbers.find(path)
    return escape(entry.meaning) if entry else ""
