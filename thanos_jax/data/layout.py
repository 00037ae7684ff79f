"""How a set of image files is stored: a table with a line for each image, and its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from thanos_jax.data.splits import DataError

SPLITS = ("train", "validation", "test")


class Row(NamedTuple):
    """An image file with its labels and split.

    Attributes:
      filename: path relative to the folder of the set.
      where: file and line of its entry, as in "DIR/labels.csv, line 3"; "" for class folders.
      coarse: name of the coarse class; "" for an image without labels.
      fine: name of the fine class; "" for an image without labels.
      split: "train", "validation" or "test"; "" if it is not given.
      size: size of the file in bytes.
    """

    filename: str
    where: str
    coarse: str
    fine: str
    split: str
    size: int

    @property
    def source(self) -> str:
        """The file and the place of its entry, for messages."""
        return f"{self.filename}, {self.where}" if self.where else self.filename


class Layout(NamedTuple):
    """How a set of image files is stored: a table in a folder, one line for each image.

    Attributes:
      name: name of the data set.
      table: file name of the table.
      expected: what `config.data.data_dir` should be, for messages.
      column: the column with the paths of images, relative to the folder of the table.
      required: the other required columns; or a function that returns them for a header.
      classify: (column -> cell, file and line for messages) -> (coarse class, fine class, split),
        as in `Row`; raises DataError.
      pairs: (coarse, fine) names of each fine class, in the order of the fine ids; (): classes are
        numbered in the order of their names, as coarse classes always are.
      inside: name of the folder of the table if the set is distributed with it; "" for any.
      mode: mode that images are converted to, "L" or "RGB"; None: "L" if all files are grey, else
        "RGB".
      units: (mean, std) of each channel; empty: measured on the training images.
      own: whether the images are a user's own; class folders may then replace the table, and images
        may be unlabelled.
    """

    name: str
    table: str
    expected: str
    column: str
    required: tuple[str, ...] | Callable[[Sequence[str]], Sequence[str]]
    classify: Callable[[Mapping[str, str], str], tuple[str, str, str]]
    pairs: Sequence[tuple[str, str]] = ()
    inside: str = ""
    mode: str | None = None
    units: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    own: bool = False


def one_of(cells: Mapping[str, str], column: str, options: Sequence[str], where: str) -> str:
    """Returns the cell of a column after checking that it is one of the options.

    Args:
      cells: column -> cell.
      column: name of the column.
      options: the accepted values.
      where: file and line, for the message.

    Raises:
      DataError: the cell is not one of the options.
    """
    if cells[column] not in options:
        raise DataError(
            f"{where}: {column}: expected one of {', '.join(options)}, got {cells[column]!r}"
        )
    return cells[column]
