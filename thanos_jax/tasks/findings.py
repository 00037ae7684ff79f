"""What a run has found out about images: a file of arrays, whole or not at all, of these images."""

from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from thanos_jax import workdir
from thanos_jax.errors import ConfigError

_LABELS = "labels_of_"  # a split's


def write(path: pathlib.Path, arrays: Mapping[str, Any], labels: Mapping[str, np.ndarray]) -> None:
    """Writes what a run has found out about images, whole or not at all: an .npz without pickles.

    Args:
      path: of the file.
      arrays: by name.
      labels: split -> integer [n], by which its images are known again.

    Raises:
      WorkdirError: it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    known = {f"{_LABELS}{split}": values for split, values in labels.items()}
    with workdir.writing(path.parent):
        with open(temporary, "wb") as file:  # a name would get .npz appended
            np.savez(file, allow_pickle=False, **arrays, **known)
        os.replace(temporary, path)


def read(path: pathlib.Path, what: str, labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays that `write` wrote.

    Args:
      path: of the file.
      what: it is, as in "groups".
      labels: as now.

    Raises:
      ConfigError: it is of other images or labels than there are now.
      WorkdirError: it is damaged.
    """
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise workdir.WorkdirError(
            f"workdir: {path} cannot be read: {error}. Remove it to have it made again"
        ) from error
    for split, now in labels.items():
        then = arrays.pop(f"{_LABELS}{split}", np.zeros(0))
        if len(then) != len(now):
            raise ConfigError(
                f"workdir: {path} has {what} of {len(then)} {split} images, and now there are "
                f"{len(now)}: more or fewer could be read. Mend the data, or begin in another "
                "folder"
            )
        if not np.array_equal(then, now):
            raise ConfigError(
                f"workdir: {path} has {what} of {split} images of which "
                f"{np.count_nonzero(then != now)} have other labels now. Mend the data, or begin "
                "in another folder"
            )
    return arrays
