"""Finds the images most similar to query images, exactly, by the embeddings of a run's model."""

from __future__ import annotations

import base64
import io
import os
import pathlib
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from thanos_jax.checks import check_at_least
from thanos_jax.downstream.arrays import check_embeddings, check_width, unit_rows
from thanos_jax.errors import ConfigError
from thanos_jax.report import html
from thanos_jax.trained import embeddings, images
from thanos_jax.trained.model import Model
from thanos_jax.trained.tables import Table
from thanos_jax.workdir import write_atomically

_BLOCK = 2**24  # similarities held in memory at a time
_SIDE = 160  # pixels of a picture on the sheet, at most
_STYLE = """
.row { display: flex; gap: .75rem; overflow-x: auto; padding: .3rem 0 1rem; }
.row figure { flex: 0 0 8rem; }
.row img { width: 8rem; height: 8rem; object-fit: contain; background: var(--card);
  border: 1px solid var(--line); border-radius: .4rem; image-rendering: auto; }
.row figcaption { overflow-wrap: anywhere; font-size: .8rem; }
"""


class Nearest(NamedTuple):
    """The nearest of n embeddings to each of q queries, nearest first.

    Attributes:
      indices: int64 [q, k], rows; -1 where there are fewer.
      similarities: float64 [q, k], the cosine; NaN where there are fewer.
    """

    indices: np.ndarray
    similarities: np.ndarray


class Neighbour(NamedTuple):
    """An image near a query.

    Attributes:
      name: as in the embeddings.
      similarity: the cosine of the two embeddings.
      path: of its file; "" if the image is not a file.
    """

    name: str
    similarity: float
    path: str


def nearest(
    queries: Any, among: Any, k: int, *, excluded: Sequence[Sequence[int]] | None = None
) -> Nearest:
    """Finds the k nearest embeddings by cosine, exactly.

    Time O(q n d), in blocks of bounded memory. Ties come in the order of rows. A zero embedding has
    cosine 0 with all others.

    Args:
      queries: floating point [q, d].
      among: floating point [n, d].
      k: at least 1; clipped to n.
      excluded: for each query, the rows that are not its neighbours; None: none.

    Returns:
      Rows and similarities.

    Raises:
      TypeError: not floating point.
      ValueError: wrong shapes, numbers that are not finite, or k below 1.
    """
    check_at_least("k", k, 1)
    known = unit_rows(check_embeddings(among, "among").astype(np.float64))
    asked = unit_rows(check_embeddings(queries, "queries").astype(np.float64))
    check_width(asked, known.shape[1], "queries")
    k, block = min(k, len(known)), max(1, _BLOCK // len(known))
    indices = np.empty((len(asked), k), np.int64)
    similarities = np.empty((len(asked), k))
    for start in range(0, len(asked), block):
        rows = slice(start, start + block)
        cosines = np.clip(asked[rows] @ known.T, -1, 1)
        for row, left_out in enumerate(() if excluded is None else excluded[rows]):
            cosines[row, list(left_out)] = np.nan
        # Stable; NaN goes last.
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        similarities[rows] = np.take_along_axis(cosines, order, axis=1)
        indices[rows] = np.where(np.isnan(similarities[rows]), -1, order)
    return Nearest(indices, similarities)


def neighbours(
    model: Model,
    queries: Sequence[str | os.PathLike[str]],
    among: str | os.PathLike[str],
    k: int = 10,
    *,
    settings: embeddings.Settings | None = None,
) -> list[list[Neighbour]]:
    """Finds the images most similar to each query.

    Args:
      model: from `thanos_jax.load`.
      queries: image files; a query that is in `among` is not its own neighbour.
      among: the images to search: a folder of images or a CSV, which are embedded now; or
        embeddings of this model: a .npz or .parquet file, or a folder of shards.
      k: number of neighbours, at least 1.
      settings: how images are embedded; None: the defaults.

    Returns:
      For each query, its neighbours, nearest first.

    Raises:
      DataError: an image cannot be read, or there is none.
      TableError: a file of embeddings cannot be used.
      ConfigError: the embeddings come from another model.
      ValueError: k below 1.
    """
    check_at_least("k", k, 1)
    table = _table(model, os.fspath(among), settings or embeddings.Settings())
    names = table.filename.tolist()
    row_of = {_place(table, name): row for row, name in enumerate(names)} if table.root else {}
    own = [row_of.get(os.path.realpath(query)) for query in queries]
    found = nearest(
        model.encode(queries),
        table.embedding,
        k,
        excluded=[[] if row is None else [row] for row in own],
    )
    return [
        [
            Neighbour(names[row], float(similarity), _place(table, names[row]))
            for row, similarity in zip(*each, strict=True)
            if row >= 0
        ]
        for each in zip(*found, strict=True)
    ]


def _table(model: Model, among: str, settings: embeddings.Settings) -> Table:
    path = pathlib.Path(among).expanduser()
    stored = path.suffix in (".npz", ".parquet") or (path / embeddings.MANIFEST).exists()
    if not stored:
        source = images.open_source(among, model.rule)
        return embeddings.in_memory(model, source, settings)
    table = embeddings.read(path)
    if table.model != model.fingerprint:
        raise ConfigError(
            f"among: expected embeddings of this model, {model.fingerprint}, got embeddings of "
            f"{table.model} in {path}; embed the images again with thanos_jax.embed"
        )
    return table


def _place(table: Table, name: str) -> str:
    return os.path.join(os.path.realpath(table.root), name) if table.root else ""


def write_sheet(
    path: str | os.PathLike[str],
    queries: Sequence[str | os.PathLike[str]],
    found: Sequence[Sequence[Neighbour]],
) -> None:
    """Writes a self-contained HTML page that shows each query and its neighbours.

    Args:
      path: of the page; an existing file is replaced.
      queries: image files.
      found: from `neighbours`. An image that cannot be read is shown by its name alone.
    """
    parts = ["<h1>Most similar images</h1>"]
    for query, near in zip(queries, found, strict=True):
        shown = [_figure(os.fspath(query), "query", os.fspath(query))]
        shown += [_figure(one.path, f"{one.similarity:.4f}", one.name) for one in near]
        parts.append(f"<h2>{escape(os.fspath(query))}</h2>")
        parts.append(f'<div class="row">{"".join(shown)}</div>')
    body = "\n".join(parts)
    write_atomically(path, html.document("Most similar images", body, style=_STYLE))


def _figure(path: str, words: str, name: str) -> str:
    picture = _picture(path)
    shown = f'<img alt="{escape(name)}" src="{picture}">' if picture else ""
    return f"<figure>{shown}<figcaption>{words}<br>{escape(name)}</figcaption></figure>"


def _picture(path: str) -> str:
    """Returns a small copy of an image as a data URI; "" if it cannot be read."""
    from PIL import Image, ImageOps

    if not path:
        return ""
    try:
        with Image.open(path) as image:
            small = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError):
        return ""
    small.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
