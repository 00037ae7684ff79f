"""The folder of a run: one run at a time, and words for what keeps it from being written."""

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
# The trainings of a run that has several, each in a folder of its own, as patterns.
TRAININGS = (
    *("representation", "identification", "sample_[0-9]", "sample_[0-9][0-9]"),
    "classifier",
)
# What they find out, each a file of arrays.
FINDINGS = ("groups.npz", "labels.npz", "coreset.npz")
# Of a training on the way: which training images were right at each evaluation.
CORRECT = "correct.npz"
# What the model of a training is: names, shapes, preprocessing.
MODEL = "model.json"
_RECORDS = ("metrics.jsonl", "unlogged.json", "nonfinite.json", MODEL, CORRECT)
# What the data of a run are known again by.
DATA = "data.json"
# What was found, for people: a row for each image.
TABLE = "findings.csv"
# Outputs of the run's model on each split, where report.keep_embeddings asks for them.
EMBEDDINGS = tuple(f"embeddings_{split}.npz" for split in ("train", "validation", "test"))
# What the report is made of besides, so that it can be made again without the data.
MAP, PICTURES = "map.npz", "pictures.json"
# What logging took of a run's time.
LOG = "log.json"
_REPORTS = (
    *("geometry.json", "neighbours.html", "report.html", DATA, TABLE, MAP, PICTURES, LOG),
    *EMBEDDINGS,
)
# Folders of what a run is watched by: event files, wandb's own files, profiler traces. Others may
# have something in folders of these names, so that a run's own files are known by more.
TENSORBOARD, WANDB, PROFILE = "tensorboard", "wandb", "profile"
EVENTS = ".thanos_jax"  # with which the name of an event file ends
PROJECTOR, PROJECTOR_CONFIG = "projector", "projector_config.pbtxt"
PROJECTOR_FILES = ("tensors.tsv", "metadata.tsv", "sprite.png")
WANDB_STATE = "wandb.json"
_TRACES = pathlib.Path("plugins", "profile")  # where jax's profiler puts them
# By these a folder is known to hold a run: they go last.
_MARKS = ("results.json", "config.json")
_CHECKPOINT = re.compile(r"\d+(\.tmp|\.damaged)?")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class WorkdirError(UserError):
    """A workdir that another run uses, or that cannot be written."""


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other runs, of any process or machine, out of a folder.

    The system gives the lock up when the process ends, however it ends: a lock file left behind
    keeps nobody out.

    Raises:
      WorkdirError: another run is in the folder, or it cannot be written.
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
            # While it is locked: nobody can have locked what is removed; see `_lock`.
            (folder / LOCK).unlink(missing_ok=True)
            os.close(descriptor)


def require_free(folder: pathlib.Path) -> None:
    """Raises WorkdirError if another run is in the folder, early; leaves no trace."""
    if (folder / LOCK).exists():
        descriptor = _lock(folder, create=False)
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def writing(folder: pathlib.Path) -> Iterator[None]:
    """Turns the system's words on a full disk or a missing permission into a WorkdirError."""
    try:
        yield
    except OSError as error:
        raise WorkdirError(
            f"workdir: {error.filename or folder} cannot be written: "
            f"{error.strerror or error}. Mend that, or choose another folder; the same command "
            "goes on from the last checkpoint."
        ) from error


def require_listed(name: str, names: Sequence[str]) -> None:
    """Raises ValueError for a folder or file of a run that `empty` would leave behind."""
    if not any(fnmatch.fnmatch(name, pattern) for pattern in names):
        raise ValueError(f"name: expected one that thanos_jax.workdir lists, {names}, got {name!r}")


def trainings(folder: pathlib.Path) -> list[str]:
    """Returns the names of the trainings that a run of several has begun, in their order."""
    return [path.name for name in TRAININGS for path in sorted(folder.glob(name)) if path.is_dir()]


def empty(folder: pathlib.Path) -> None:
    """Removes what a run has written to its folder, and nothing else that lies there.

    Emptying that was interrupted leaves a folder that still holds that run, or none.

    Raises:
      WorkdirError: something cannot be removed.
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
    """Removes what a finished run has found in the end, so that it is one that goes on."""
    _remove_files(folder, ("results.json", *_REPORTS))


def _remove_files(folder: pathlib.Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / f"{name}.tmp").unlink(missing_ok=True)
        (folder / name).unlink(missing_ok=True)


def _remove_folder(folder: pathlib.Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)


def _remove_events(folder: pathlib.Path) -> None:
    """Removes what `thanos_jax.live.tensorboard` has written."""
    for path in list(folder.rglob(f"events.*{EVENTS}")):
        path.unlink()
        if path.parent != folder:
            _remove_if_empty(path.parent)
    _remove_files(folder / PROJECTOR, PROJECTOR_FILES)
    _remove_files(folder, (PROJECTOR_CONFIG,))
    _remove_if_empty(folder / PROJECTOR)
    _remove_if_empty(folder)


def _remove_wandb(folder: pathlib.Path) -> None:
    """Removes the files of the run that wandb.json names, and links that then lead nowhere."""
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
    # It stays if there is something of the user's in it, or if it is a link to elsewhere.
    with contextlib.suppress(OSError):
        folder.rmdir()


def _lock(folder: pathlib.Path, *, create: bool) -> int | None:
    """Returns the locked file; None where files cannot be locked, or there is none to lock."""
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
                f"workdir: {path} cannot be written: {error.strerror}. Mend that, or choose "
                "another folder."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 300).decode(errors="replace").strip()
            os.close(descriptor)
            raise WorkdirError(
                f"workdir: {folder} is in use by another run, {holder or 'of unknown process'}; "
                "wait for it, stop it, or choose another folder"
            ) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            print(
                f"WARNING: {folder} lies on a file system without locks; nothing keeps a second "
                "run out of it",
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
    """Writes an .npz without pickles that is there whole or not at all.

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
    """Writes a text file that is there whole or not at all."""
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
