"""What a map of images shows, and the file that keeps it for when the data are not there."""

from __future__ import annotations

import io
import os
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from thanos_jax.checks import check_labels
from thanos_jax.downstream.projection import Layout
from thanos_jax.report import sprite
from thanos_jax.workdir import WorkdirError

_LAYOUT = Layout._fields


class Column(NamedTuple):
    """What is known of every image of a map, and can colour it.

    Attributes:
      name: for people, as "fine label".
      values: int32 [m], indices of names; or float32 [m], a score, nan where it is not known.
      names: of the classes; () for a score.
      reading: how to read the flat picture that is drawn of it besides; empty: none is.
    """

    name: str
    values: np.ndarray
    names: tuple[str, ...] = ()
    reading: str = ""


class ImageMap(NamedTuple):
    """Images of a split as an embedding places them.

    Attributes:
      split: "train" or "test"; "audited" where it is all of them.
      size: images of the split, of which the map may show some.
      layout: where the m images are.
      files: str [m], their names, mostly files; or their numbers as stored.
      named: whether `files` are names.
      columns: what colours them; the first does at the start.
      sprite: their thumbnails.
    """

    split: str
    size: int
    layout: Layout
    files: np.ndarray
    named: bool
    columns: tuple[Column, ...]
    sprite: sprite.Sprite


def split_word(split: str) -> str:
    """Returns the word by which a page calls a split: "training" for "train", or its name."""
    return {"train": "training"}.get(split, split)


def classes(name: str, values: Any, names: Sequence[str], reading: str = "") -> Column:
    """Returns a column of classes; values integer [n], indices of names.

    Raises:
      TypeError, ValueError: values that have no name.
    """
    checked = check_labels(values, name, num_classes=len(names), dtype=np.int32)
    return Column(name, checked, tuple(map(str, names)), reading)


def score(name: str, values: Any) -> Column:
    """Returns a column of a score, floating point [n]; what is not finite is not known."""
    values = np.asarray(values, np.float32)
    return Column(name, np.where(np.isfinite(values), values, np.float32(np.nan)))


def right_or_wrong(prediction: np.ndarray, label: np.ndarray) -> Column:
    """Returns a column of whether integer [n] predictions are the labels."""
    return classes("right or wrong", (prediction != label).astype(np.int32), ("right", "wrong"))


def of_images(
    split: str,
    layout: Layout,
    columns: Sequence[Column],
    read: Callable[[np.ndarray], np.ndarray],
    *,
    names: np.ndarray | None = None,
    pixels: int = 32,
) -> ImageMap:
    """Makes the map of some images of a split.

    Args:
      split: its name.
      layout: of m images.
      columns: of all n images of the split.
      read: rows -> images uint8 [b, h, w, 1 or 3].
      names: [n], as str, or integers: numbers of the images as stored; None: 0 to n - 1.
      pixels: longer side of a thumbnail.

    Raises:
      ValueError: no column, columns of different length, a row beyond them, or images that
        `sprite.make` refuses.
    """
    rows = layout.mapped
    lengths = {len(column.values) for column in columns} | (
        {len(names)} if names is not None else set()
    )
    if len(lengths) != 1:
        raise ValueError(f"columns: expected one length, got {sorted(lengths)}")
    (size,) = lengths
    if rows.size and rows.max() >= size:
        raise ValueError(f"layout.mapped: expected rows below {size}, got {rows.max()}")
    stored = np.arange(size) if names is None else np.asarray(names)
    return ImageMap(
        split,
        size,
        layout,
        stored[rows].astype(str),
        not np.issubdtype(stored.dtype, np.integer),
        tuple(column._replace(values=column.values[rows]) for column in columns),
        sprite.make(read, rows, pixels),
    )


def write(path: str | os.PathLike[str], found: ImageMap) -> None:
    """Writes a map, whole or not at all: an .npz without pickles."""
    arrays: dict[str, Any] = found.layout._asdict()
    arrays |= {
        "split": np.array(found.split),
        "size": np.array(found.size),
        "files": found.files,
        "named": np.array(found.named),
        "column_names": np.array([column.name for column in found.columns]),
        "column_readings": np.array([column.reading for column in found.columns]),
        "sprite": np.frombuffer(found.sprite.data, np.uint8),
        "sprite_shape": np.array(found.sprite[1:]),
    }
    for number, column in enumerate(found.columns):
        arrays[f"column_{number}"] = column.values
        arrays[f"column_{number}_names"] = np.array(column.names, np.str_)
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:  # a name would get .npz appended
        np.savez_compressed(file, allow_pickle=False, **arrays)
    os.replace(temporary, path)


def read(path: str | os.PathLike[str]) -> ImageMap:
    """Returns the map that `write` wrote.

    Raises:
      WorkdirError: the file is damaged.
    """
    try:
        with np.load(io.BytesIO(pathlib.Path(path).read_bytes())) as file:
            arrays = dict(file)
        columns = tuple(
            Column(
                str(name),
                arrays[f"column_{number}"],
                tuple(arrays[f"column_{number}_names"].tolist()),
                str(reading),
            )
            for number, (name, reading) in enumerate(
                zip(arrays["column_names"], arrays["column_readings"], strict=True)
            )
        )
        width, height, across, asked = arrays["sprite_shape"].tolist()
        return ImageMap(
            str(arrays["split"]),
            int(arrays["size"]),
            Layout(**{name: arrays[name] for name in _LAYOUT}),
            arrays["files"],
            bool(arrays["named"]),
            columns,
            sprite.Sprite(arrays["sprite"].tobytes(), width, height, across, asked),
        )
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise WorkdirError(
            f"workdir: {path} cannot be read: {error or 'it is empty'}. Train again in another "
            "folder for a report with a map"
        ) from error
