"""Per-image results of a stage: an .npz that is checked against the labels, and findings.csv."""

from __future__ import annotations

import csv
import io
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from thanos_jax import agree, workdir
from thanos_jax.errors import ConfigError

# Prefixes of array names; the name of a split follows.
_LABELS, _NAMES = "labels_of_", "filenames_of_"


def there(path: pathlib.Path) -> bool:
    """Whether the first process sees the file; the same in every process."""
    return agree.value_of_first(path.exists)


def once(
    path: pathlib.Path,
    what: str,
    labels: Mapping[str, np.ndarray],
    make: Callable[[], Mapping[str, Any]] | None = None,
    *,
    names: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Returns the arrays of a file, in every process; the first makes them if the file is missing.

    Args:
      path: of the file.
      what: the content of the file in a word, for messages, as "groups".
      labels: split -> integer [n], stored to recognize the images.
      make: returns the arrays by name; runs in the first process only, and not if the file exists.
        None: the file was written during training.
      names: split -> [n], names of its images, as `Split.names`; stored for readers of the file.

    Raises:
      ConfigError: the file belongs to other images or labels.
      WorkdirError: the file cannot be written, or is damaged.
    """

    def content() -> bytes:
        if make and not path.exists():
            write(path, make(), labels, names=names)
        return path.read_bytes() if path.exists() else b""

    mend = "Remove it to have it made again" if make else f"Remove {path.parent} to train again"
    return _checked(agree.from_first(content), path, what, labels, mend)


def write(
    path: pathlib.Path,
    arrays: Mapping[str, Any],
    labels: Mapping[str, np.ndarray],
    *,
    names: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes arrays and the labels of their images atomically to an .npz without pickles.

    Args:
      path: of the file.
      arrays: by name.
      labels: split -> integer [n], stored to recognize the images.
      names: split -> [n], names of its images; None: not stored.

    Raises:
      WorkdirError: the file cannot be written.
    """
    workdir.require_listed(path.name, (*workdir.FINDINGS, workdir.CORRECT))
    known = {f"{_LABELS}{split}": values for split, values in labels.items()}
    known |= {f"{_NAMES}{split}": values for split, values in (names or {}).items()}
    with workdir.writing(path.parent):
        workdir.write_arrays(path, {**arrays, **known})


def write_table(folder: pathlib.Path, columns: Mapping[str, Any]) -> None:
    """Writes findings.csv, a table for people with the most urgent rows first.

    The encoding is UTF-8 with a byte order mark, which spreadsheets recognize.

    Args:
      folder: of the run.
      columns: heading -> [n], in the order in which they are shown.

    Raises:
      WorkdirError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(np.asarray(one).tolist() for one in columns.values()), strict=True))
    with workdir.writing(folder):
        workdir.write_atomically(folder / workdir.TABLE, "\ufeff" + text.getvalue())


def read(path: pathlib.Path, what: str, labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays that `write` wrote; arguments and errors as `once`."""
    mend = f"Remove {path.parent} to train again"
    return _checked(path.read_bytes(), path, what, labels, mend)


def _checked(
    content: bytes, path: pathlib.Path, what: str, labels: Mapping[str, np.ndarray], mend: str
) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(content)) as file:
            arrays = dict(file)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise workdir.WorkdirError(
            f"workdir: {path} cannot be read: {error or 'it is empty'}. {mend}"
        ) from error
    arrays = {name: array for name, array in arrays.items() if not name.startswith(_NAMES)}
    for split, now in labels.items():
        then = arrays.pop(f"{_LABELS}{split}", np.zeros(0))
        if len(then) != len(now):
            raise ConfigError(
                f"workdir: {path} has {what} of {len(then)} {split} images, and now there are "
                f"{len(now)}: more or fewer could be read. Restore the data, or start in another "
                "folder"
            )
        if not np.array_equal(then, now):
            raise ConfigError(
                f"workdir: {path} has {what} of {split} images of which "
                f"{np.count_nonzero(then != now)} have other labels now. Restore the data, or "
                "start in another folder"
            )
    return arrays
