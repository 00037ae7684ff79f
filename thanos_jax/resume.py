"""Whether a folder holds the run that is asked for, and how a run makes a folder its own."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import ml_collections

from thanos_jax import agree, workdir
from thanos_jax import config as schema
from thanos_jax.errors import ConfigError

# Where data lies, how fast it is read and what is kept may change between two starts of one run.
_MAY_CHANGE = (
    "data.data_dir",
    "data.read_threads",
    "data.memory_limit_gib",
    "data.on_damaged",
    "train.resident",
    "train.checkpoints_kept",
    "train.checkpoints_kept_every",
    "train.on_nonfinite",
    "train.nonfinite_limit",
)


def standing(
    folder: pathlib.Path, config: ml_collections.ConfigDict, *, overwrite: bool = False
) -> tuple[bool, dict[str, Any] | None]:
    """Returns whether a folder holds another run, and the results of this one if it has finished.

    Args:
      folder: of the run, which need not exist.
      config: of the run.
      overwrite: whether another run may be there.

    Raises:
      ConfigError: it holds another run, which is not to be overwritten.
      WorkdirError: a run is in the folder.
    """
    other, path = bool(differences(folder, config)), folder / "results.json"
    if not overwrite:
        same_run(folder, config)
    if not other and path.exists():
        return False, json.loads(path.read_text(encoding="utf-8"))
    workdir.require_free(folder)
    return other, None


@contextlib.contextmanager
def claimed(
    folder: pathlib.Path, config: ml_collections.ConfigDict, *, overwrite: bool = False
) -> Iterator[None]:
    """Claims a work folder for this run: makes it, locks it, and writes config.json.

    The first process does; the others wait for it.

    Args:
      folder: not of a finished run.
      config: of the run.
      overwrite: whether a run of another config in the folder is removed.

    Raises:
      ConfigError: the folder is another run's.
      WorkdirError: it is in use, or cannot be written.
    """
    with contextlib.ExitStack() as held:

        def claim_first() -> bytes:
            with workdir.writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(workdir.locked(folder))
            claim(folder, config, overwrite=overwrite)
            return b""

        agree.from_first(claim_first)
        yield


def claim(
    folder: pathlib.Path, config: ml_collections.ConfigDict, *, overwrite: bool = False
) -> None:
    """Writes config.json to a locked folder; arguments and errors as `claimed`."""
    if overwrite and differences(folder, config):
        print(f"{folder}: a run of another config is removed", flush=True)
        workdir.empty(folder)
    same_run(folder, config)
    if _other_keys(folder, config):
        workdir.empty(folder)  # of what has nothing to lose, so that nothing of it is counted
    with workdir.writing(folder):
        text = json.dumps(_plain(config), indent=2) + "\n"
        workdir.write_atomically(folder / "config.json", text)


def same_run(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Checks that what a folder holds, if anything, is this run.

    Raises:
      ConfigError: the folder holds a run of another config; names every key that differs.
    """
    found = differences(folder, config)
    if found:
        raise ConfigError(
            f"workdir: {folder} holds a run of another config; choose another folder, give the "
            "same config to resume, or start thanos_jax.main with --overwrite to begin anew:\n"
            + "\n".join(found)
        )


def differences(folder: pathlib.Path, config: ml_collections.ConfigDict) -> list[str]:
    """Returns a line for each key that the run in a folder has otherwise.

    A folder without a checkpoint or results has nothing to lose and is free.
    """
    # A run of several trainings has checkpoints in folders of their own.
    trained = [*folder.glob("checkpoints/[0-9]*"), *folder.glob("*/checkpoints/[0-9]*")]
    made = any((folder / name).exists() for name in ("results.json", *workdir.FINDINGS))
    started = made or bool(trained)
    return _other_keys(folder, config) if started else []


def _other_keys(folder: pathlib.Path, config: ml_collections.ConfigDict) -> list[str]:
    """As `differences`, whether or not there is something to lose."""
    path = folder / "config.json"
    if not path.exists():
        return []
    now = schema.flatten(_plain(config))
    # A key younger than the run had no effect then, as its default has none now.
    defaults = schema.flatten(_plain(schema.default()))
    before = defaults | schema.flatten(json.loads(path.read_text(encoding="utf-8")))
    return [
        f"  {key}: {before.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in _MAY_CHANGE
    ]


def _plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    # Through JSON, so that tuples compare with the lists they are read back as.
    return json.loads(json.dumps(config.to_dict()))
