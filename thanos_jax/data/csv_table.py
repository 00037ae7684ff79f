"""Reads CSV files with a header, in the variants that people and spreadsheets write."""

from __future__ import annotations

import codecs
import csv
import io
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from thanos_jax.data.splits import DataError

_SEPARATORS = (",", ";", "\t")
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_table(
    path: str, required: Sequence[str] | Callable[[Sequence[str]], Sequence[str]]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the rows of a CSV file with a header.

    The separator is the comma, semicolon or tab that splits the header into the most cells; a first
    line "sep=;", as Excel writes it, sets the separator too. Lines end in LF, CR LF or CR. Column
    names are compared in lower case.

    Args:
      path: a file in UTF-8, with or without a byte order mark, or in UTF-16 with one.
      required: columns that the header must have, in any order and among others; or a function that
        returns them for a header.

    Yields:
      (number of the row's last line in the file, column -> cell without surrounding spaces).
      Empty lines, lines of empty cells, and empty cells beyond the header are skipped.

    Raises:
      DataError: the file has another encoding or is not CSV, a required column is missing or
        repeated, or a row has another number of cells than the header.
    """
    text, skipped, separator = _text(path), 0, ""
    first, _, rest = text.partition("\n")
    if first.lower().startswith("sep=") and len(first.rstrip("\r")) == len("sep=;"):
        text, skipped, separator = rest, 1, first[len("sep=")]
    reader = _reader(text, separator or max(_SEPARATORS, key=lambda one: _cells(text, one)))
    try:
        header = [cell.strip() for cell in next(reader, [])]
        names = [cell.lower() for cell in header]
        for column in required(names) if callable(required) else required:
            if names.count(column) != 1:
                raise DataError(
                    f"{path}, line {1 + skipped}: expected one column {column!r}, got the header"
                    f" {header}"
                )
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            while len(cells) > len(names) and not cells[-1]:
                cells.pop()
            if len(cells) != len(names):
                raise DataError(
                    f"{path}, line {reader.line_num + skipped}: expected {len(names)} cells as in"
                    f" the header, got {len(cells)}"
                )
            yield reader.line_num + skipped, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num + skipped}: not CSV: {error}") from error


def _cells(text: str, separator: str) -> int:
    """Returns the number of cells of the header for a separator; 0 if it does not fit."""
    try:
        return len(next(_reader(text, separator), []))
    except csv.Error:  # a quoted cell ends at another separator
        return 0


def _reader(text: str, separator: str) -> Any:
    # newline="": the reader splits lines itself, except within quotes.
    lines = io.StringIO(text, newline="")
    return csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)


def _text(path: str) -> str:
    content = pathlib.Path(path).read_bytes()
    encodings = (name for mark, name in _MARKS.items() if content.startswith(mark))
    try:
        return content.decode(next(encodings, "utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected text in UTF-8, got {error}; spreadsheets can save as CSV UTF-8"
        ) from error
