"""Sets of image files: a folder, and a table in it with a line for each image.

OWN is the layout of a user's own images. Its labels.csv has the columns filename (below its
folder), coarse, fine and perhaps split. Classes are numbered in the order of their names. A fine
class is a pair of a coarse and a fine name; where a fine name occurs below several coarse names, it
is shown as "coarse / fine".
"""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from thanos_jax.data.dataset import Dataset, draw_test, read_table
from thanos_jax.data.image_files import ImageFiles, open_image, open_splits
from thanos_jax.data.prepared import DatasetNotFound
from thanos_jax.data.splits import DataError, in_threads

SPLITS = ("train", "validation", "test")
_GREY_MODES = ("1", "L", "LA")
_ORIENTATION = 0x0112  # of Exif; from 5 on, the picture lies on its side


class Row(NamedTuple):
    """A line of the table.

    Attributes:
      line: its number in the file, from 1.
      filename: path below the folder.
      coarse: name of the coarse class.
      fine: name of the fine class.
      split: "train", "validation" or "test"; "" where the table has no such column.
    """

    line: int
    filename: str
    coarse: str
    fine: str
    split: str


class Layout(NamedTuple):
    """How a set of image files is stored: a table in a folder, one line for each image.

    Attributes:
      name: of the data set.
      table: name of the table's file.
      expected: what `config.data.data_dir` should be, for messages.
      column: the column that has the files, below the folder of the table.
      required: the other columns that are needed.
      classify: (column -> cell, file and line for messages) -> coarse class, fine class and split,
        as in `Row`; raises DataError.
      pairs: (coarse, fine), as `classify` has them, of each fine class in the order of their ids;
        (): in the order of their names, as coarse classes always are.
      inside: name of the folder of the table where that is distributed; "" for any.
      mode: "L" or "RGB", what images become; None for "L" if all files are grey, "RGB" otherwise.
      units: (mean, std) of each channel; empty for those of the training images.
    """

    name: str
    table: str
    expected: str
    column: str
    required: tuple[str, ...]
    classify: Callable[[Mapping[str, str], str], tuple[str, str, str]]
    pairs: Sequence[tuple[str, str]] = ()
    inside: str = ""
    mode: str | None = None
    units: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())


def load(layout: Layout, config_data: ConfigDict) -> Dataset:
    """Loads a set of image files that a table names.

    Where the table has no split, a fifth of each fine class (at least one image) is the test split,
    the same for every seed; without validation rows, a seeded share of the training rows is held
    out. Images are turned upright by their Exif orientation (transparency is dropped). Mean and
    standard deviation are those of the training images, or of 10,000 drawn from them, unless the
    layout has them.

    Args:
      layout: of the set.
      config_data: `config.data`. image_size may be 0 only if all images have one size.

    Returns:
      The data set.

    Raises:
      DatasetNotFound: there is no such table.
      DataError: a table or an image that cannot be used; names the line and the file.
    """
    name, size = layout.name, config_data.image_size
    table = find(config_data.data_dir, layout.table, layout.expected, inside=layout.inside)
    folder = os.path.dirname(table)
    rows = _read_rows(table, layout)
    pairs, fine_names = layout.pairs, tuple(fine for _, fine in layout.pairs)
    if not pairs:
        pairs, fine_names = _name_classes(rows)
    coarse_names = tuple(sorted({coarse for coarse, _ in pairs}))
    fine_of = {pair: number for number, pair in enumerate(pairs)}
    coarse_of = {coarse: number for number, coarse in enumerate(coarse_names)}
    files = ImageFiles(
        [os.path.join(folder, row.filename) for row in rows],
        np.array([fine_of[row.coarse, row.fine] for row in rows], np.int32),
        np.array([coarse_of[row.coarse] for row in rows], np.int32),
        [f"{row.filename}, {table}, line {row.line}" for row in rows],
    )
    split_of = _split(table, rows, files.fine, fine_names)
    numbers = {name: np.flatnonzero(split_of == name) for name in SPLITS if name in split_of}
    _check_classes(table, rows, files.fine, fine_names, numbers)

    height, width, found_mode = _inspect(files, size, name, config_data.on_damaged)
    mode = layout.mode or found_mode
    image_shape = (size or height, size or width, len(mode))
    splits, skipped = open_splits(
        config_data,
        {split: files.take(members) for split, members in numbers.items()},
        lambda image: upright(image, mode),
        dataset=name,
        num_fine=len(fine_names),
        num_coarse=len(coarse_names),
        image_shape=image_shape,
    )
    return Dataset(name, splits, coarse_names, fine_names, image_shape, *layout.units, skipped)


def find(data_dir: str, table: str, expected: str, *, inside: str = "") -> str:
    """The path of a table.

    Args:
      data_dir: `config.data.data_dir`: the folder that holds the table, or `inside`.
      table: name of the table's file.
      expected: what data_dir should be, for the message.
      inside: name of the folder of the table where that is distributed; "" for any.

    Raises:
      DatasetNotFound: it is not there.
    """
    given = os.path.expanduser(data_dir)
    for root in (os.path.join(given, inside), given):
        if given and os.path.isfile(os.path.join(root, table)):
            return os.path.join(root, table)
    raise DatasetNotFound(f"data.data_dir: expected {expected}, got {data_dir!r}")


def _read_rows(table: str, layout: Layout) -> list[Row]:
    """The rows of a table, checked, in order; at least one.

    Raises:
      DataError: a row that cannot be used, a path that leaves the folder, a file in two rows, or
        one that is not there.
    """
    column = layout.column
    folder = os.path.dirname(table)
    rows: list[Row] = []
    line_of: dict[str, int] = {}
    for line, cells in read_table(table, (column, *layout.required)):
        where = f"{table}, line {line}"
        coarse, fine, split = layout.classify(cells, where)
        if not cells[column]:
            raise DataError(f"{where}: {column} is empty")
        filename = os.path.normpath(cells[column])
        if _escapes(cells[column]):
            raise DataError(
                f"{where}: {column}: expected a path below {folder}, without '..', got"
                f" {cells[column]!r}"
            )
        if filename in line_of:
            raise DataError(
                f"{where}: {column}: {filename!r} was labelled before, in line {line_of[filename]}"
            )
        if not os.path.isfile(os.path.join(folder, filename)):
            raise DataError(f"{where}: no file {os.path.join(folder, filename)}")
        line_of[filename] = line
        rows.append(Row(line, filename, coarse, fine, split))
    if not rows:
        raise DataError(f"{table}: expected a line for each image below the header, got none")
    return rows


def one_of(cells: Mapping[str, str], column: str, options: Sequence[str], where: str) -> str:
    """The cell of a column, if it is one of the options; `where` is for the message.

    Raises:
      DataError: it is something else.
    """
    if cells[column] not in options:
        raise DataError(
            f"{where}: {column}: expected one of {', '.join(options)}, got {cells[column]!r}"
        )
    return cells[column]


def _classify(cells: Mapping[str, str], where: str) -> tuple[str, str, str]:
    for column in ("filename", "coarse", "fine"):
        if not cells[column]:
            raise DataError(f"{where}: {column} is empty")
    split = one_of(cells, "split", SPLITS, where) if "split" in cells else ""
    return cells["coarse"], cells["fine"], split


def _escapes(filename: str) -> bool:
    windows = pathlib.PureWindowsPath(filename)  # knows both kinds of slashes
    return bool(windows.anchor) or ".." in windows.parts


def _name_classes(rows: list[Row]) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """The (coarse, fine) pair of each fine class and the name it is shown by, in order of names."""
    pairs = {(row.coarse, row.fine) for row in rows}
    count = collections.Counter(fine for _, fine in pairs)
    name_of = {pair: f"{pair[0]} / {pair[1]}" if count[pair[1]] > 1 else pair[1] for pair in pairs}
    ordered = sorted(pairs, key=lambda pair: (name_of[pair], pair))
    return ordered, tuple(name_of[pair] for pair in ordered)


def _split(
    table: str, rows: list[Row], fine: np.ndarray, fine_names: tuple[str, ...]
) -> np.ndarray:
    """The split of every row, before the hold-out."""
    if rows[0].split:
        split_of = np.array([row.split for row in rows], object)
        for name in ("train", "test"):
            if name not in split_of:
                raise DataError(
                    f"{table}: split: expected rows for train and test, got none for {name}"
                )
        return split_of
    for number, name in enumerate(fine_names):
        members = np.flatnonzero(fine == number)
        if len(members) == 1:
            raise DataError(
                f"{table}, line {rows[members[0]].line}: the only image of fine class {name!r};"
                " expected two or more, for training and test"
            )
    return np.where(draw_test(fine, fine_names), "test", "train").astype(object)


def _check_classes(
    table: str,
    rows: list[Row],
    fine: np.ndarray,
    fine_names: tuple[str, ...],
    numbers: dict[str, np.ndarray],
) -> None:
    for number, name in enumerate(fine_names):
        if number not in fine:
            raise DataError(f"{table}: expected lines of fine class {name!r}, got none")
    for split in ("train", "test"):
        absent = np.setdiff1d(np.arange(len(fine_names)), fine[numbers[split]])
        if absent.size:
            members = np.flatnonzero(fine == absent[0])
            held_out = np.isin(members, numbers.get("validation", ())).sum()
            raise DataError(
                f"{table}, line {rows[members[0]].line}: fine class {fine_names[absent[0]]!r} has"
                f" {len(members)} images, none of them in the {split} split ({held_out} in"
                " validation); training and test need every class"
            )


def _inspect(
    files: ImageFiles, image_size: int, dataset: str, on_damaged: str
) -> tuple[int, int, str]:
    """(height, width, mode) of all images; the size only matters if image_size is 0."""

    def header(number: int) -> tuple[int, int, str] | DataError:
        try:
            with open_image(files.paths[number]) as image:
                width, height = image.size
                # Of a PNG, reading Exif data means decoding the image.
                if not image_size and image.getexif().get(_ORIENTATION, 1) >= 5:
                    width, height = height, width
                return height, width, image.mode
        except Exception as error:
            damage = DataError(f"{dataset}: {files.sources[number]}: {error}")
            if on_damaged == "stop":
                raise damage from error
            return damage

    found = in_threads(header, range(len(files)))
    # The others are left out when they are read.
    headers = {n: one for n, one in enumerate(found) if not isinstance(one, DataError)}
    if not headers:
        raise DataError(f"no image can be read; the first: {found[0]}")
    first = min(headers)
    height, width = headers[first][:2]
    for number, (other_height, other_width, mode) in headers.items():
        if mode[0] in "IF":
            raise DataError(
                f"{dataset}: {files.sources[number]}: pixels of mode {mode}, expected 8 bits in "
                "each channel"
            )
        if not image_size and (other_height, other_width) != (height, width):
            raise DataError(
                f"{dataset}: data.image_size: expected the side to which images are resized,"
                f" because they differ in size, got 0: {files.sources[number]}, is {other_width} x"
                f" {other_height} pixels, {files.sources[first]}, {width} x {height}"
            )
    grey = all(mode in _GREY_MODES for _, _, mode in headers.values())
    return height, width, "L" if grey else "RGB"


def upright(image: Any, mode: str) -> Any:
    """Returns a PIL image turned upright by its Exif orientation, in mode "L" or "RGB"."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode == "P" and "transparency" in image.info:
        # Pillow warns of what it loses when this is done at once.
        image = image.convert("RGBA")
    return image.convert(mode)


OWN = Layout(
    name="folder",
    table="labels.csv",
    expected="a folder that holds labels.csv, with the columns filename, coarse, fine and perhaps"
    " split",
    column="filename",
    required=("coarse", "fine"),
    classify=_classify,
)
