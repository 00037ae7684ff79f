"""One run, from a config to results.json: checks the config, loads data, claims the folder."""

from __future__ import annotations

import os
import pathlib
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from thanos_jax import agree, interruption, resume, sharding
from thanos_jax import config as schema
from thanos_jax.data import fingerprint, sources
from thanos_jax.downstream import projection
from thanos_jax.errors import ConfigError
from thanos_jax.live import log as live
from thanos_jax.tasks import (
    coreset,
    fits,
    groups,
    noise,
    predicted_spread,
    stages,
    tracing,
    transfer,
)
from thanos_jax.train import build

# config.task -> its module; `thanos_jax.tasks` describes the interface.
TASKS: dict[str, Any] = {
    "transfer": transfer,
    "groups": groups,
    "noise": noise,
    "coreset": coreset,
}


def run(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    load: Callable[[ml_collections.ConfigDict], sources.Dataset] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Trains, evaluates and reports; the same call on the same folder resumes.

    SIGTERM and SIGINT end training with a checkpoint, and anything else at once. With several
    processes, all make the same call on a shared folder, and the first process writes.

    Args:
      config: all keys of `thanos_jax.config.FIELDS`.
      workdir: gets config.json, metrics.jsonl, checkpoints/, results.json and report.html; a task
        with several trainings has a folder for each.
      load: config.data -> data set; `thanos_jax.data.sources.load` if None.
      overwrite: whether to remove the files of a run of another config, or on other data, from the
        folder once this run can start. The same run still resumes.

    Returns:
      The content of results.json. A finished run is not run again.

    Raises:
      ConfigError: the config does not fit its schema, the data or the devices, or the folder holds
        a run of another config or on other data.
      DatasetNotFound: the data are missing; says how to prepare them.
      MissingDependencyError: a package that config.log or config.report.projection asks for is
        not installed.
      NonFiniteError: training diverged.
      CheckpointError: a checkpoint could not be saved, or no existing checkpoint can be used.
      WorkdirError: another run is using the folder, or it cannot be written.
      Interrupted: the run was asked to stop, and has saved its state.
    """
    with interruption.watch():
        folder = pathlib.Path(workdir).expanduser()
        return _run(config, folder, load or sources.load, overwrite)


def _run(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    load: Callable[[ml_collections.ConfigDict], sources.Dataset],
    overwrite: bool,
) -> dict[str, Any]:
    check(config)
    if (folder / "table.json").exists():
        raise ConfigError(
            f"workdir: {folder} holds a comparison by thanos_jax.compare; choose another folder"
        )

    def data() -> fingerprint.Fingerprint | None:
        return sources.known(config.data) if load is sources.load else None

    other, results = agree.value_of_first(
        lambda: resume.standing(folder, config, data, overwrite=overwrite)
    )
    if results is not None:
        print(f"{folder} holds a finished run; nothing to do", flush=True)
        return results
    dataset = load_data(config, load)
    other |= agree.value_of_first(
        lambda: bool(resume.data_changes(folder, config, dataset.fingerprint))
    )
    if other and not overwrite:
        resume.same_data(folder, config, dataset.fingerprint)
    fits.require(config, dataset)
    task = TASKS[config.task]
    asked = stages.Run(config, dataset, sharding.make_mesh(), folder, resumes=not other)
    prepared = task.prepare(asked)
    # The folder is claimed only after everything else has been checked.
    tracing.trace(prepared.first)
    _warn_of_collapse(prepared.first.training)
    with (
        resume.claimed(folder, config, dataset.fingerprint, overwrite=overwrite),
        live.opened(folder, config.log, schema.flatten(config)) as log,
    ):
        return task.perform(asked._replace(resumes=True, log=log), prepared)


def check(config: ml_collections.ConfigDict) -> None:
    """Checks a config against its schema, the devices and installed packages.

    Raises:
      ConfigError: a value does not fit the schema, or a batch cannot be split over the devices.
      MissingDependencyError: a package that config.log or config.report.projection asks for is
        not installed.
    """
    schema.check(config)
    live.require(config.log)
    projection.require(config.report.projection)
    devices = jax.device_count()
    for key, least in (("batch_size", ""), ("micro_batch_size", "0 or ")):
        if config.train[key] % devices:
            raise ConfigError(
                f"config.train.{key}: expected {least}a multiple of the {devices} devices, "
                f"got {config.train[key]}"
            )


def _warn_of_collapse(training: build.Training) -> None:
    """Warns on stderr, in the first process, if the classes of a training will hardly spread."""
    prediction = predicted_spread.predict(training.config, training.dataset)
    words = prediction and predicted_spread.warning(prediction)
    if words and agree.is_first():
        print(words, file=sys.stderr, flush=True)


def load_data(
    config: ml_collections.ConfigDict,
    load: Callable[[ml_collections.ConfigDict], sources.Dataset] = sources.load,
) -> sources.Dataset:
    """Loads config.data, and prints the sizes of its splits.

    Raises:
      DataError: processes do not read the same examples; or as `load`.
    """
    started = time.perf_counter()
    dataset = load(config.data)
    _require_same_data(dataset)
    sizes = ", ".join(f"{name} {len(split)}" for name, split in _every_split(dataset).items())
    print(f"{dataset.name}: {sizes} ({time.perf_counter() - started:.1f} s)", flush=True)
    return dataset


def _every_split(dataset: sources.Dataset) -> dict[str, Any]:
    """Returns the splits by name, and images without labels if there are any."""
    unlabelled = dataset.unlabelled
    return {**dataset.splits, **({} if unlabelled is None else {"unlabelled": unlabelled})}


def _require_same_data(dataset: sources.Dataset) -> None:
    """Raises DataError, in every process, unless all processes read the same examples."""
    if jax.process_count() == 1:
        return
    splits = _every_split(dataset)
    sizes = [len(split) for split in splits.values()]
    seen = np.array([*sizes, zlib.crc32(" ".join(dataset.skipped).encode())], np.uint32)
    every = multihost_utils.process_allgather(seen)
    if (every != every[0]).any():
        raise sources.DataError(
            f"{dataset.name}: expected all processes to read the same examples; by process, they "
            f"have {', '.join('/'.join(map(str, one[:-1])) for one in every)} in "
            f"{'/'.join(splits)}"
        )
