"""Images to embed: a folder of files, a CSV with file names, or a prepared TFDS data set."""

from __future__ import annotations

import functools
import io
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from thanos_jax.data import prepared
from thanos_jax.data.dataset import read_table
from thanos_jax.data.preprocess import Rule, preprocess
from thanos_jax.data.splits import DataError, RecordSplit
from thanos_jax.data.tfds_sets import PATTERN
from thanos_jax.errors import require_one_of

ON_DAMAGED = ("stop", "skip")
_TFDS = "tfds:"
_EXPECTED = (
    "a folder of images, a CSV with the column filename, or tfds:NAME[/CONFIG][:VERSION] of a "
    "prepared set"
)


class Source(NamedTuple):
    """Numbered images, each with a name.

    Attributes:
      names: names of n images, in the order of their numbers.
      records: the stored images, for `read`.
      root: the folder that file names are relative to; "" if names are not files.
    """

    names: Sequence[str]
    records: RecordSplit
    root: str


class Part(NamedTuple):
    """Some images of a source.

    Attributes:
      rows: int64 [b], the numbers of the images that could be read.
      images: uint8 [b, h, w, c].
      damaged: number of an image that could not be read -> the reason.
    """

    rows: np.ndarray
    images: np.ndarray
    damaged: dict[int, str]


class _Files:
    """The bytes of files, by number."""

    def __init__(self, paths: Sequence[pathlib.Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> bytes:
        return self._paths[number].read_bytes()


def open_source(where: str, to: Rule, *, split: str = "test", data_dir: str = "") -> Source:
    """Opens a source of images without reading them.

    Args:
      where: a folder, of which all images are taken, at any depth, in any format that Pillow reads;
        one image; a CSV with the column filename, of paths relative to its folder; or
        tfds:NAME[/CONFIG][:VERSION].
      to: how images are converted.
      split: of the TFDS data set.
      data_dir: of TFDS; "": its own default.

    Returns:
      The images. Files are sorted by name (as text); TFDS records keep their order.

    Raises:
      DataError: `where` is none of these, there is no image, or, as `read_table`, a CSV cannot be
        used.
      DatasetNotFound: there is no such prepared set.
    """
    path = pathlib.Path(where).expanduser()
    if where.startswith(_TFDS):
        return _of_tfds(where.removeprefix(_TFDS), to, split, data_dir)
    if path.is_dir():
        return _of_files(path, sorted(_images_below(path)), to)
    if path.is_file() and path.suffix.lower() in _suffixes():
        return _of_files(path.parent, [path.name], to)
    if path.is_file():
        return _of_files(path.parent, _names_in(path), to)
    raise DataError(f"images: expected {_EXPECTED}, got {where!r}, which is not there")


def read(source: Source, rows: Sequence[int], *, on_damaged: str) -> Part:
    """Reads images of a source.

    Args:
      source: from `open_source`.
      rows: their numbers.
      on_damaged: "stop", or "skip", which leaves out images that cannot be read.

    Raises:
      DataError: with "stop", an image cannot be read; names it.
    """
    require_one_of("on_damaged", on_damaged, ON_DAMAGED)
    numbers = np.asarray(rows, np.int64)
    try:
        return Part(numbers, source.records.read(numbers)["image"], {})
    except DataError:
        if on_damaged == "stop":
            raise
    damaged = {}
    for number in numbers.tolist():  # find out which are damaged
        try:
            source.records.read(np.array([number]))
        except DataError as error:
            damaged[number] = str(error)
    sound = np.setdiff1d(numbers, list(damaged))
    return Part(sound, source.records.read(sound)["image"], damaged)


def _of_files(root: pathlib.Path, names: list[str], to: Rule) -> Source:
    if not names:
        raise DataError(f"images: expected {_EXPECTED}, got {root}, in which there is no image")
    records = RecordSplit(
        _Files([root / name for name in names]),
        lambda content: (preprocess(io.BytesIO(content), to), 0, 0),
        image_shape=to.shape,
        num_fine=1,
        num_coarse=1,
        dataset=str(root),
        split="images",
        file_of=names.__getitem__,
    )
    return Source(names, records, os.path.abspath(root))


def _images_below(folder: pathlib.Path) -> list[str]:
    """Returns the relative names, with slashes, of files that Pillow may read; not hidden ones."""
    suffixes = _suffixes()
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            pathlib.Path(place, name).relative_to(folder).as_posix()
            for name in files
            if not name.startswith(".") and pathlib.Path(name).suffix.lower() in suffixes
        ]
    return found


@functools.cache
def _suffixes() -> frozenset[str]:
    from PIL import Image

    # Some formats can only be written.
    every = Image.registered_extensions()
    return frozenset(suffix for suffix, name in every.items() if name in Image.OPEN)


def _names_in(table: pathlib.Path) -> list[str]:
    """Returns the file names of a CSV, sorted as text."""
    line_of: dict[str, int] = {}
    for line, cells in read_table(str(table), ("filename",)):
        name = pathlib.PurePath(os.path.normpath(cells["filename"])).as_posix()
        if not cells["filename"]:
            raise DataError(f"{table}, line {line}: filename is empty")
        if name in line_of:
            raise DataError(
                f"{table}, line {line}: filename: {name!r} was there before, in line "
                f"{line_of[name]}"
            )
        line_of[name] = line
    return sorted(line_of)


def _of_tfds(name: str, to: Rule, split: str, data_dir: str) -> Source:
    match = re.fullmatch(PATTERN, name)
    if not match:
        raise DataError(f"images: expected {_EXPECTED}, got {_TFDS + name!r}")
    stored = prepared.find(match[1], data_dir, match[2] or "")
    opened = prepared.open_split(
        stored,
        split,
        lambda record: (preprocess(prepared.encoded_image(record), to), 0, 0),
        image_shape=to.shape,
        num_fine=1,
        num_coarse=1,
        dataset=name,
        stream=False,
        check_ends=False,
    )
    digits = len(str(len(opened) - 1))
    return Source([f"{split}/{n:0{digits}d}" for n in range(len(opened))], opened, "")
