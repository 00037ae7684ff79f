"""How a set of image files is stored: a table with a line for each image, and its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from thanos_jax.data.splits import DataError

SPLITS = ("train", "validation", "test")


class Row(NamedTuple):
    """An image file, and what is said of it.

    Attributes:
      filename: path below the folder of the set.
      where: the place that says it, as in "DIR/labels.csv, line 3"; "" where folders do.
      coarse: name of the coarse class; "" of an image without labels.
      fine: name of the fine class; "" of an image without labels.
      split: "train", "validation" or "test"; "" where nothing says so.
      size: of the file, in bytes.
    """

    filename: str
    where: str
    coarse: str
    fine: str
    split: str
    size: int

    @property
    def source(self) -> str:
        """The file, and the place that says what it is, for messages."""
        return f"{self.filename}, {self.where}" if self.where else self.filename


class Layout(NamedTuple):
    """How a set of image files is stored: a table in a folder, one line for each image.

    Attributes:
      name: of the data set.
      table: name of the table's file.
      expected: what `config.data.data_dir` should be, for messages.
      column: the column that has the files, below the folder of the table.
      required: the other columns that are needed; or a function from the header to these.
      classify: (column -> cell, file and line for messages) -> coarse class, fine class and split,
        as in `Row`; raises DataError.
      pairs: (coarse, fine), as `classify` has them, of each fine class in the order of their ids;
        (): in the order of their names, as coarse classes always are.
      inside: name of the folder of the table where that is distributed; "" for any.
      mode: "L" or "RGB", what images become; None for "L" if all files are grey, "RGB" otherwise.
      units: (mean, std) of each channel; empty for those of the training images.
      own: whether it is a user's own: class folders do without a table, and images without labels.
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
    """The cell of a column, if it is one of the options; `where` is for the message.

    Raises:
      DataError: it is something else.
    """
    if cells[column] not in options:
        raise DataError(
            f"{where}: {column}: expected one of {', '.join(options)}, got {cells[column]!r}"
        )
    return cells[column]
