"""The rows of a table of image files, each checked against the files that are there."""

from __future__ import annotations

import functools
import os
import pathlib
import unicodedata
from collections.abc import Callable, Mapping

from thanos_jax.data.csv_table import read_table
from thanos_jax.data.layout import SPLITS, Layout, Row, one_of
from thanos_jax.data.splits import DataError

# What a user's own table may say of an image.
LABELS = ("coarse", "fine", "label")


def read_rows(table: str, layout: Layout, unlabelled: str = "") -> list[Row]:
    """The rows of a table, checked, in order; at least one.

    A filename may have backslashes, and its letters another normal form of Unicode than the file's.

    Args:
      table: path of the table.
      layout: of the set.
      unlabelled: what a label is where there is none, besides empty; in a user's own table.

    Raises:
      DataError: a row that cannot be used, a path that leaves the folder, a file in two rows, or
        one that is not there.
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
                f"{where}: {column}: {filename!r} was labelled before, in line {line_of[filename]}"
            )
        line_of[filename] = line
        rows.append(Row(filename, where, coarse, fine, split, size))
    if not rows:
        raise DataError(f"{table}: expected a line for each image below the header, got none")
    return rows


def _has_no_label(cells: Mapping[str, str], mark: str, where: str) -> bool:
    """Whether all labels are empty or the mark.

    Raises:
      DataError: one is the mark, and another is a label.
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
    """The files below a folder, found by names that need not be spelt as theirs are."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        # Normal form of a name -> the names of a folder that have it; each folder is read once.
        self._names = functools.lru_cache(maxsize=None)(self._read)

    def find(self, filename: str, where: str) -> tuple[str, int]:
        """Returns the path below the folder of a file, normalized, and its size.

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
        hint = f"; there is {hint!r}, in other letters" if hint else self._other_ending(path)
        raise DataError(f"{where}: no file {os.path.join(self._folder, path)}{hint}")

    def _spelt_otherwise(self, path: str, fold: Callable[[str], str]) -> str:
        """The file whose path is this one in normal form and folded; "" if there is not one."""
        found = ""
        for part in pathlib.PurePath(path).parts:
            names = self._names(found, fold).get(fold(_normal(part)), [])
            if len(names) != 1:
                return ""
            found = os.path.join(found, names[0])
        return found if os.path.isfile(os.path.join(self._folder, found)) else ""

    def _other_ending(self, path: str) -> str:
        """Words on a file that has this name and another ending."""
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
