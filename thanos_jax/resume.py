"""Decides whether a folder holds the run that is asked for, and claims the folder for a run."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections

from thanos_jax import agree, workdir
from thanos_jax import config as schema
from thanos_jax.data import fingerprint
from thanos_jax.errors import ConfigError

# Keys that may change between two starts of one run: where data lies, how fast it is read, and what
# is logged, drawn and kept.
_MAY_CHANGE = (
    "data.data_dir",
    "data.cache",
    "data.read_threads",
    "data.memory_limit_gib",
    "data.on_damaged",
    "data.max_megapixels",
    "train.resident",
    "train.log_every",
    "train.checkpoint_every_epochs",
    "train.checkpoints_kept",
    "train.checkpoints_kept_every",
    "train.on_nonfinite",
    "train.nonfinite_limit",
    "train.profile_steps",
    "log.tensorboard",
    "log.wandb",
    "report.map_points",
    "report.projection",
    "report.thumbnail_pixels",
    "report.keep_embeddings",
)
_LENGTH = ("train.epochs", "train.restart_epochs")


def standing(
    folder: pathlib.Path,
    config: ml_collections.ConfigDict,
    data: Callable[[], fingerprint.Fingerprint | None] = lambda: None,
    *,
    overwrite: bool = False,
) -> tuple[bool, dict[str, Any] | None]:
    """Returns whether a folder holds another run, and the results of this one if it has finished.

    Args:
      folder: of the run, which need not exist.
      config: of the run.
      data: returns the fingerprint of its data; called if the run has finished and stored one.
      overwrite: whether the folder may hold another run.

    Raises:
      ConfigError: the folder holds another run, or a run on other data, and overwrite is False.
      WorkdirError: a run is using the folder.
    """
    other, path = bool(differences(folder, config)), folder / "results.json"
    if not overwrite:
        same_run(folder, config)
    if not other and path.exists() and not more_epochs(folder, config):
        known = _known(folder, data)
        other = bool(data_changes(folder, config, known))
        if not overwrite:
            same_data(folder, config, known)
        if not other:
            return False, json.loads(path.read_text(encoding="utf-8"))
    workdir.require_free(folder)
    return other, None


def _known(
    folder: pathlib.Path, data: Callable[[], fingerprint.Fingerprint | None]
) -> fingerprint.Fingerprint | None:
    """Returns the current fingerprint of the data of a finished run; None if they are gone."""
    if not (folder / workdir.DATA).exists():
        return None
    try:
        return data()
    except FileNotFoundError as error:
        print(f"{folder}: the data are not where they were: {error}", flush=True)
        return None


@contextlib.contextmanager
def claimed(
    folder: pathlib.Path,
    config: ml_collections.ConfigDict,
    data: fingerprint.Fingerprint | None = None,
    *,
    overwrite: bool = False,
) -> Iterator[None]:
    """Claims a work folder for this run: makes it, locks it, and writes config.json.

    The first process does this; the others wait for it.

    Args:
      folder: of the run, which must not be finished.
      config: of the run.
      data: the fingerprint of its data; None: data are not compared.
      overwrite: whether to remove a run of another config, or on other data, from the folder.

    Raises:
      ConfigError: the folder holds another run.
      WorkdirError: the folder is in use, or cannot be written.
    """
    with contextlib.ExitStack() as held:

        def claim_first() -> bytes:
            with workdir.writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(workdir.locked(folder))
            claim(folder, config, data, overwrite=overwrite)
            return b""

        agree.from_first(claim_first)
        yield


def claim(
    folder: pathlib.Path,
    config: ml_collections.ConfigDict,
    data: fingerprint.Fingerprint | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Writes config.json, and data.json, to a locked folder; arguments and errors as `claimed`."""
    if overwrite:
        others = "another config" if differences(folder, config) else ""
        others = others or ("other data" if data_changes(folder, config, data) else "")
        if others:
            print(f"{folder}: a run of {others} is removed", flush=True)
            workdir.empty(folder)
    same_run(folder, config)
    same_data(folder, config, data)
    if _other_keys(folder, config):
        workdir.empty(folder)  # remains of another run without a checkpoint, which must not count
    with workdir.writing(folder):
        if more_epochs(folder, config):
            print(
                f"{folder}: the run continues, from {_read(folder)['train.epochs']:g} to "
                f"{config.train.epochs:g} epochs",
                flush=True,
            )
            workdir.reopen(folder)
        if data is not None:
            workdir.write_atomically(folder / workdir.DATA, json.dumps(data) + "\n")
        text = json.dumps(_plain(config), indent=2) + "\n"
        workdir.write_atomically(folder / "config.json", text)


def same_run(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Checks that a folder holds this run, or none.

    Raises:
      ConfigError: the folder holds a run of another config; names every key that differs.
    """
    found = differences(folder, config)
    if found:
        raise ConfigError(
            f"workdir: {folder} holds a run of another config; choose another folder, give the "
            "same config to resume, or start thanos_jax.main with --overwrite to start again:\n"
            + "\n".join([*found, *_how_to_go_on(folder, config, found)])
        )


def same_data(
    folder: pathlib.Path, config: ml_collections.ConfigDict, data: fingerprint.Fingerprint | None
) -> None:
    """Checks that a folder holds a run on these data, or none.

    Raises:
      ConfigError: the data have changed since the run began; names the changes.
    """
    found = data_changes(folder, config, data)
    if found:
        raise ConfigError(
            f"workdir: {folder} holds a run of other data; choose another folder, give the same "
            "data to resume, or start thanos_jax.main with --overwrite to start again:\n"
            + "\n".join(f"  {line}" for line in found)
        )


def data_changes(
    folder: pathlib.Path, config: ml_collections.ConfigDict, data: fingerprint.Fingerprint | None
) -> list[str]:
    """Returns a line for each difference between data and the data of the run in a folder.

    There are none in a folder without a checkpoint, findings or results. With data.on_damaged
    "skip", files may change in size, as damaged files do.

    Args:
      folder: of the run.
      config: of the run.
      data: the fingerprint of the current data; None: data are not compared.
    """
    path = folder / workdir.DATA
    if data is None or not path.exists() or not _has_begun(folder):
        return []
    before = json.loads(path.read_text(encoding="utf-8"))
    return fingerprint.changes(before, data, sizes=config.data.on_damaged == "stop")


def differences(folder: pathlib.Path, config: ml_collections.ConfigDict) -> list[str]:
    """Returns a line for each key in which a config differs from the run in a folder.

    There are none in a folder without a checkpoint, findings or results.
    """
    return _other_keys(folder, config) if _has_begun(folder) else []


def _has_begun(folder: pathlib.Path) -> bool:
    """Whether a folder holds a checkpoint, findings or results."""
    # If a run has several trainings, each has its checkpoints in its own folder.
    trained = [*folder.glob("checkpoints/[0-9]*"), *folder.glob("*/checkpoints/[0-9]*")]
    made = any((folder / name).exists() for name in ("results.json", *workdir.FINDINGS))
    return made or bool(trained)


def more_epochs(folder: pathlib.Path, config: ml_collections.ConfigDict) -> bool:
    """Whether a config only adds epochs to the run in a folder, without changing earlier ones.

    This holds if the learning rate restarts at the old end (`train.restart_epochs`), or if the
    schedule does not depend on the end. It is possible only for a run with one training.
    """
    before, now = _read(folder), schema.flatten(_plain(config))
    every = before.keys() | now.keys()
    changed = {key for key in every if before.get(key) != now.get(key)} - set(_MAY_CHANGE)
    if not changed or not changed <= set(_LENGTH) or now["task"] != "transfer":
        return False
    end, known = before["train.epochs"], before["train.restart_epochs"]
    restarts = now["train.restart_epochs"]
    added = restarts[len(known) :]
    # A schedule without an end must have finished its warm-up.
    last = end - max(known, default=0)
    endless = now["train.schedule"] != "cosine" and last > now["train.warmup_epochs"]
    return (
        now["train.epochs"] > end
        and not before["train.max_steps"]
        and restarts[: len(known)] == known
        and (added[:1] == [end] or (endless and not added))
    )


def _how_to_go_on(
    folder: pathlib.Path, config: ml_collections.ConfigDict, found: list[str]
) -> list[str]:
    """Returns a line on how to extend a run, if only the number of epochs has changed."""
    before = _read(folder)
    anew = config.copy_and_resolve_references()
    anew.train.restart_epochs = (*before["train.restart_epochs"], before["train.epochs"])
    if len(found) > 1 or not more_epochs(folder, anew):
        return []
    return [
        f"To train on from its {before['train.epochs']:g} epochs, with a new schedule from the "
        f"last state, add '--config.train.restart_epochs={anew.train.restart_epochs}'"
    ]


def _read(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the flat config of the run in a folder; {} without a run."""
    path = folder / "config.json"
    if not path.exists():
        return {}
    # A key that is newer than the run had no effect then, as its default has none now.
    defaults = schema.flatten(_plain(schema.default()))
    return defaults | schema.flatten(json.loads(path.read_text(encoding="utf-8")))


def _other_keys(folder: pathlib.Path, config: ml_collections.ConfigDict) -> list[str]:
    """As `differences`, even if the folder has no checkpoint, findings or results."""
    before, now = _read(folder), schema.flatten(_plain(config))
    if not before or more_epochs(folder, config):
        return []
    return [
        f"  {key}: {before.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in _MAY_CHANGE
    ]


def _plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    # Through JSON, which turns tuples into lists, as in configs that are read back.
    return json.loads(json.dumps(config.to_dict()))
