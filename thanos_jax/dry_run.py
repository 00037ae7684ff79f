"""Describes what a run would do and what it would cost; writes nothing.

`thanos_jax.main --dry_run` prints it line by line.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Sequence

import ml_collections

from thanos_jax import config as schema
from thanos_jax import rehearsal, sharding
from thanos_jax.data import sources
from thanos_jax.data.dataset import bytes_in_memory
from thanos_jax.data.prepared import DatasetNotFound
from thanos_jax.errors import MissingDependencyError, UserError
from thanos_jax.run import TASKS, check, load_data
from thanos_jax.tasks import fits, predicted_spread, stages
from thanos_jax.train import build, units

COSTS = ("shapes", "programs")


class NotThereError(UserError):
    """The run was described, but its data are missing."""


def describe(
    config: ml_collections.ConfigDict,
    load: Callable[[ml_collections.ConfigDict], sources.Dataset] | None = None,
    *,
    costs: Sequence[str] = COSTS,
) -> Iterator[str]:
    """Yields lines that describe what `thanos_jax.run.run` would do.

    They list the keys that differ from their defaults, the data, and each training: its protocol,
    the predicted spread of its classes, shapes, number of parameters, FLOPs, memory, size of a
    checkpoint, and an estimate of its time.

    Args:
      config: as for `run`.
      load: as for `run`; the data are read.
      costs: which costs of a training step are computed, of `COSTS`: "shapes" traces the step,
        "programs" compiles it for its memory and times it over a few steps.

    Raises:
      ConfigError: as `run`.
      DatasetNotFound, MissingDependencyError: as `run`, if the shapes are known from images only.
      NotThereError: the data are missing; raised after the last line.
    """
    check(config)
    for key, value in schema.flatten(config).items():
        if value != schema.FIELDS[key].default:
            yield f"config.{key} = {value!r}"
    missing: Exception | None = None
    try:
        dataset = load_data(config, load or sources.load)
    except (DatasetNotFound, MissingDependencyError) as error:
        published = sources.stand_in(config.data)
        if published is None:
            raise
        dataset, missing = published, error
        sizes = ", ".join(f"{name} {len(split)}" for name, split in dataset.splits.items())
        yield f"{dataset.name} is missing; published sizes and equal classes are assumed: {sizes}"
    fits.require(config, dataset)
    held = bytes_in_memory(dataset)
    on_disk = ", ".join(name for name, size in held.items() if not size)
    yield (
        f"data in memory: {units.in_bytes(sum(held.values()))}"
        f"{'; read from disk as needed: ' if on_disk else ''}{on_disk}"
    )
    run = stages.Run(
        config, dataset, sharding.make_mesh(), pathlib.Path(), resumes=False, shapes_only=True
    )
    yield from _trainings(run, costs, timed=missing is None)
    if missing is not None:
        raise NotThereError(f"the run cannot start: {missing}")


def _trainings(run: stages.Run, costs: Sequence[str], *, timed: bool) -> Iterator[str]:
    known: dict[str, rehearsal.Rehearsal] = {}  # name without its number -> the first such training
    total = 0.0
    for name, one in TASKS[run.config.task].trainings(run).items():
        yield f"training{name and ' '}{name}, {one.images:,} images:"
        lines = build.describe(one.config, one.dataset, images=one.images)
        lines += predicted_spread.lines(one.config, one.dataset)
        yield from _indented(lines)
        kind = name.rstrip("0123456789")
        if not costs or kind in known:
            fits.warn_of_large_batch(name, one.config, one.images)
        if not costs:
            continue
        if kind in known:
            yield f"    a step costs the same as one of {known[kind].name}"
        else:
            known[kind] = rehearsal.Rehearsal(run, name, one)  # warns of a large batch by itself
            if "shapes" in costs:
                yield from _indented(known[kind].shapes())
            if "programs" in costs:
                yield from _indented(known[kind].compiled(timed=timed))
        seconds = known[kind].seconds
        if seconds is not None:
            steps, _ = build.count_steps(one.config.train, one.images)
            total += steps * seconds
            yield f"    about {units.in_time(steps * seconds)} for {steps:,} steps"
    if total:
        yield (
            f"about {units.in_time(total)} of training in all, estimated from the steps timed here;"
            " compilation, evaluations, checkpoints and the report are not included"
        )
    elif "programs" in costs:
        yield "no estimate of the time, because no step was timed"


def _indented(lines: Iterator[str] | list[str]) -> Iterator[str]:
    for line in lines:
        yield f"    {line}"
