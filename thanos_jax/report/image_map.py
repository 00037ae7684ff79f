"""The content of a map of images, and the file that stores it, so that the data are not needed."""

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
    """A value for every image of a map, by which images can be coloured.

    Attributes:
      name: for people, as "fine label".
      values: int32 [m], indices of names; or float32 [m], a score, nan where it is unknown.
      names: of the classes; () for a score.
      reading: how to read the static picture of this column; empty: there is none.
    """

    name: str
    values: np.ndarray
    names: tuple[str, ...] = ()
    reading: str = ""


class ImageMap(NamedTuple):
    """A map of images of a split, placed by their embeddings.

    Attributes:
      split: "train" or "test"; "audited" for the images of all splits.
      size: number of images in the split, of which the map may show some.
      layout: positions of the m images.
      files: str [m], names of the images, mostly files; or their numbers as stored.
      named: whether `files` are names.
      columns: values to colour images by; the first is used at the start.
      sprite: thumbnails of the images.
    """

    split: str
    size: int
    layout: Layout
    files: np.ndarray
    named: bool
    columns: tuple[Column, ...]
    sprite: sprite.Sprite


def split_word(split: str) -> str:
    """Returns a page's word for a split: "training" for "train", otherwise its name."""
    return {"train": "training"}.get(split, split)


def classes(name: str, values: Any, names: Sequence[str], reading: str = "") -> Column:
    """Returns a column of classes; values are integer [n], indices of names.

    Raises:
      TypeError: values are not integers.
      ValueError: a value has no name.
    """
    checked = check_labels(values, name, num_classes=len(names), dtype=np.int32)
    return Column(name, checked, tuple(map(str, names)), reading)


def score(name: str, values: Any) -> Column:
    """Returns a column of scores, floating point [n]; values that are not finite are unknown."""
    values = np.asarray(values, np.float32)
    return Column(name, np.where(np.isfinite(values), values, np.float32(np.nan)))


def right_or_wrong(prediction: np.ndarray, label: np.ndarray) -> Column:
    """Returns a column of whether predictions, integer [n], equal the labels."""
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
      layout: positions of m images.
      columns: with values for all n images of the split.
      read: rows -> images uint8 [b, h, w, 1 or 3].
      names: [n], str, or integers: numbers of the images as stored; None: 0 to n - 1.
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
    """Writes a map atomically to an .npz without pickles."""
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
    """Reads a map that `write` wrote.

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
