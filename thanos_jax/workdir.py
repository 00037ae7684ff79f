"""The folder of a run: file names, locking, atomic writes, and removal of a run's files."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import glob
import json
import os
import pathlib
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from thanos_jax.errors import UserError

LOCK = "lock"
# Folders of the trainings of a run with several, as patterns.
TRAININGS = (
    *("representation", "identification", "sample_[0-9]", "sample_[0-9][0-9]"),
    "classifier",
)
# Per-image results of the tasks, each a file of arrays.
FINDINGS = ("groups.npz", "labels.npz", "coreset.npz")
# Which training images were classified correctly at each evaluation of a training.
CORRECT = "correct.npz"
# Description of a training's model: names, shapes, preprocessing.
MODEL = "model.json"
_RECORDS = ("metrics.jsonl", "unlogged.json", "nonfinite.json", MODEL, CORRECT)
# Fingerprint of the data of a run.
DATA = "data.json"
# Per-image results as a table for people: a row for each image.
TABLE = "findings.csv"
# Outputs of the run's model on each split, if report.keep_embeddings is set.
EMBEDDINGS = tuple(f"embeddings_{split}.npz" for split in ("train", "validation", "test"))
# Content of the report, so that it can be made again without the data.
MAP, PICTURES = "map.npz", "pictures.json"
# The time that logging took.
LOG = "log.json"
_REPORTS = (
    *("geometry.json", "neighbours.html", "report.html", DATA, TABLE, MAP, PICTURES, LOG),
    *EMBEDDINGS,
)
# Folders of live logs: event files, wandb's own files, profiler traces. Folders of these names may
# also hold files of others, so a run's own files are identified by more than the folder.
TENSORBOARD, WANDB, PROFILE = "tensorboard", "wandb", "profile"
EVENTS = ".thanos_jax"  # suffix of an event file
PROJECTOR, PROJECTOR_CONFIG = "projector", "projector_config.pbtxt"
PROJECTOR_FILES = ("tensors.tsv", "metadata.tsv", "sprite.png")
WANDB_STATE = "wandb.json"
_TRACES = pathlib.Path("plugins", "profile")  # where jax's profiler puts them
# Files that identify the folder of a run: they are removed last.
_MARKS = ("results.json", "config.json")
_CHECKPOINT = re.compile(r"\d+(\.tmp|\.damaged)?")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class WorkdirError(UserError):
    """The workdir is used by another run, or cannot be written."""


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Locks a folder against other runs, in any process or on any machine.

    The system releases the lock when the process ends, however it ends: a lock file that is left
    behind locks nothing.

    Raises:
      WorkdirError: another run is using the folder, or it cannot be written.
    """
    descriptor = _lock(folder, create=True)
    try:
        if descriptor is not None:
            text = f"process {os.getpid()} on {platform.node()}\n"
            os.truncate(descriptor, 0)
            os.write(descriptor, text.encode())
        yield
    finally:
        if descriptor is not None:
            # Removed while it is locked, so that nobody else can have locked it; see `_lock`.
            (folder / LOCK).unlink(missing_ok=True)
            os.close(descriptor)


def require_free(folder: pathlib.Path) -> None:
    """Raises WorkdirError if another run is using the folder; leaves no trace."""
    if (folder / LOCK).exists():
        descriptor = _lock(folder, create=False)
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def writing(folder: pathlib.Path) -> Iterator[None]:
    """Turns an OSError, such as a full disk or a missing permission, into a WorkdirError."""
    try:
        yield
    except OSError as error:
        raise WorkdirError(
            f"workdir: {error.filename or folder} cannot be written: "
            f"{error.strerror or error}. Fix that, or choose another folder; the same command "
            "resumes from the last checkpoint."
        ) from error


def require_listed(name: str, names: Sequence[str]) -> None:
    """Raises ValueError unless a name matches one of the patterns, which `empty` removes."""
    if not any(fnmatch.fnmatch(name, pattern) for pattern in names):
        raise ValueError(f"name: expected one that thanos_jax.workdir lists, {names}, got {name!r}")


def trainings(folder: pathlib.Path) -> list[str]:
    """Returns the names of the trainings that a run with several has begun, in their order."""
    return [path.name for name in TRAININGS for path in sorted(folder.glob(name)) if path.is_dir()]


def empty(folder: pathlib.Path) -> None:
    """Removes the files that a run has written to its folder, and no others.

    If it is interrupted, the folder still counts as that run's, or as empty.

    Raises:
      WorkdirError: a file cannot be removed.
    """
    with writing(folder):
        for training in (*(folder / name for name in trainings(folder)), folder):
            checkpoints = training / "checkpoints"
            for path in checkpoints.iterdir() if checkpoints.is_dir() else ():
                if path.is_dir() and _CHECKPOINT.fullmatch(path.name):
                    shutil.rmtree(path)
            _remove_files(training, _RECORDS)
            _remove_folder(training / PROFILE / _TRACES)
            _remove_if_empty(training / PROFILE / "plugins")
            _remove_if_empty(training / PROFILE)
            _remove_if_empty(checkpoints)
            if training != folder:
                _remove_if_empty(training)
        _remove_events(folder / TENSORBOARD)
        _remove_wandb(folder)
        _remove_files(folder, (*FINDINGS, *_REPORTS, WANDB_STATE, *_MARKS))


def reopen(folder: pathlib.Path) -> None:
    """Removes the final results and reports of a finished run, so that it can continue."""
    _remove_files(folder, ("results.json", *_REPORTS))


def _remove_files(folder: pathlib.Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / f"{name}.tmp").unlink(missing_ok=True)
        (folder / name).unlink(missing_ok=True)


def _remove_folder(folder: pathlib.Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)


def _remove_events(folder: pathlib.Path) -> None:
    """Removes the files that `thanos_jax.live.tensorboard` has written."""
    for path in list(folder.rglob(f"events.*{EVENTS}")):
        path.unlink()
        if path.parent != folder:
            _remove_if_empty(path.parent)
    _remove_files(folder / PROJECTOR, PROJECTOR_FILES)
    _remove_files(folder, (PROJECTOR_CONFIG,))
    _remove_if_empty(folder / PROJECTOR)
    _remove_if_empty(folder)


def _remove_wandb(folder: pathlib.Path) -> None:
    """Removes the files of the run that wandb.json names, and links that are then broken."""
    try:
        identity = json.loads((folder / WANDB_STATE).read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError):
        return
    for path in (folder / WANDB).glob(f"*run-*-{glob.escape(identity)}"):
        _remove_folder(path)
    for path in (folder / WANDB).glob("*"):
        if path.is_symlink() and not path.exists():
            path.unlink()
    _remove_if_empty(folder / WANDB)


def _remove_if_empty(folder: pathlib.Path) -> None:
    # It stays if it holds files of the user, or if it is a link.
    with contextlib.suppress(OSError):
        folder.rmdir()


def _lock(folder: pathlib.Path, *, create: bool) -> int | None:
    """Returns the descriptor of the locked file; None if it cannot be locked or does not exist."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    path = folder / LOCK
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
        except FileNotFoundError:
            if create:
                raise
            return None
        except OSError as error:
            raise WorkdirError(
                f"workdir: {path} cannot be written: {error.strerror}. Fix that, or choose "
                "another folder."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 300).decode(errors="replace").strip()
            os.close(descriptor)
            raise WorkdirError(
                f"workdir: {folder} is in use by another run, {holder or 'of an unknown process'}; "
                "wait for it, stop it, or choose another folder"
            ) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            print(
                f"WARNING: {folder} is on a file system without locks; a second run in it would "
                "not be noticed",
                file=sys.stderr,
                flush=True,
            )
            return None
        # Another run may have removed the file between opening and locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Writes an .npz without pickles, atomically.

    Args:
      path: of the file.
      arrays: by name, of numbers or text.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:  # a name would get .npz appended
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(temporary, path)


def write_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file atomically: readers see the old file or the whole new one."""
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
