"""Reads the rows of a table of image files and checks them against the existing files."""

from __future__ import annotations

import functools
import os
import pathlib
import unicodedata
from collections.abc import Callable, Mapping

from thanos_jax.data.csv_table import read_table
from thanos_jax.data.layout import SPLITS, Layout, Row, one_of
from thanos_jax.data.splits import DataError

# Columns of labels in a user's own table.
LABELS = ("coarse", "fine", "label")


def read_rows(table: str, layout: Layout, unlabelled: str = "") -> list[Row]:
    """Returns the rows of a table after checking them, in order; at least one.

    A filename in the table may have backslashes, or another Unicode normal form than the file.

    Args:
      table: path of the table.
      layout: layout of the set.
      unlabelled: the label that, like an empty one, marks unlabelled images in a user's own table.

    Raises:
      DataError: a row cannot be used, a path leaves the folder, a file is in two rows, or a file is
        missing.
    """
    column, folder = layout.column, os.path.dirname(table)
    files = _Files(folder)
    rows: list[Row] = []
    line_of: dict[str, int] = {}
    for line, cells in read_table(
        table,
        lambda header: (
            column,
            *(layout.required(header) if callable(layout.required) else layout.required),
        ),
    ):
        where = f"{table}, line {line}"
        if layout.own and _has_no_label(cells, unlabelled, where):
            coarse, fine = "", ""
            split = one_of(cells, "split", (*SPLITS, ""), where) if "split" in cells else ""
        else:
            coarse, fine, split = layout.classify(cells, where)
        if not cells[column]:
            raise DataError(f"{where}: {column} is empty")
        if _escapes(cells[column]):
            raise DataError(
                f"{where}: {column}: expected a path below {folder}, without '..', got"
                f" {cells[column]!r}"
            )
        filename, size = files.find(cells[column], where)
        if filename in line_of:
            raise DataError(
                f"{where}: {column}: {filename!r} is listed before, in line {line_of[filename]}"
            )
        line_of[filename] = line
        rows.append(Row(filename, where, coarse, fine, split, size))
    if not rows:
        raise DataError(f"{table}: expected a line for each image below the header, got none")
    return rows


def _has_no_label(cells: Mapping[str, str], mark: str, where: str) -> bool:
    """Returns whether all labels of a row are empty or the mark of unlabelled images.

    Raises:
      DataError: one label is the mark and another one is not.
    """
    found = {name: cells[name] for name in LABELS if name in cells}
    if all(label in ("", mark) for label in found.values()):
        return True
    if mark and mark in found.values():
        raise DataError(
            f"{where}: expected data.unlabelled={mark!r} in all columns of labels, or in none, got"
            f" {found}"
        )
    return False


def _escapes(filename: str) -> bool:
    windows = pathlib.PureWindowsPath(filename)  # knows both kinds of slashes
    return bool(windows.anchor) or ".." in windows.parts


class _Files:
    """Finds files below a folder, also if their names are spelt in another way."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        # Normal form -> the names in a folder that have it; each folder is read once.
        self._names = functools.lru_cache(maxsize=None)(self._read)

    def find(self, filename: str, where: str) -> tuple[str, int]:
        """Returns the normalized relative path of a file, and its size in bytes.

        Raises:
          DataError: there is no such file.
        """
        for spelling in (filename, filename.replace("\\", "/")):
            path = os.path.normpath(spelling)
            if os.path.isfile(os.path.join(self._folder, path)):
                return path, os.path.getsize(os.path.join(self._folder, path))
        found = self._spelt_otherwise(path, str)
        if found:
            return found, os.path.getsize(os.path.join(self._folder, found))
        hint = self._spelt_otherwise(path, str.casefold)
        hint = f"; there is {hint!r}, spelt differently" if hint else self._other_ending(path)
        raise DataError(f"{where}: no file {os.path.join(self._folder, path)}{hint}")

    def _spelt_otherwise(self, path: str, fold: Callable[[str], str]) -> str:
        """Returns the only file whose folded normal form equals the path's; "" if there is none."""
        found = ""
        for part in pathlib.PurePath(path).parts:
            names = self._names(found, fold).get(fold(_normal(part)), [])
            if len(names) != 1:
                return ""
            found = os.path.join(found, names[0])
        return found if os.path.isfile(os.path.join(self._folder, found)) else ""

    def _other_ending(self, path: str) -> str:
        """Returns a hint at a file with the same name and another extension, or ""."""
        parent, name = os.path.split(path)
        stem = os.path.splitext(name)[0]
        for names in self._names(parent, str).values():
            for other in names:
                if os.path.splitext(other)[0] == stem and other != name:
                    return f"; there is {os.path.join(parent, other)!r}"
        return ""

    def _read(self, below: str, fold: Callable[[str], str]) -> dict[str, list[str]]:
        path = os.path.join(self._folder, below)
        names: dict[str, list[str]] = {}
        for name in os.listdir(path) if os.path.isdir(path) else ():
            names.setdefault(fold(_normal(name)), []).append(name)
        return names


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)
