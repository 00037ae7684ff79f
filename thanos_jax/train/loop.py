"""From the first step, or the last checkpoint, to the end."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from thanos_jax import interruption, sharding, workdir
from thanos_jax.data import batches
from thanos_jax.data.splits import Split
from thanos_jax.errors import ConfigError
from thanos_jax.train import metrics, nonfinite, resident, unlogged
from thanos_jax.train.checkpoint import Checkpoints
from thanos_jax.train.progress import progress
from thanos_jax.train.state import TrainState
from thanos_jax.train.step import INPUTS, Step


def count_steps(config: Any, size: int) -> tuple[int, float]:
    """Returns the steps of the whole run, and of an epoch (not a whole number).

    Args:
      config: config.train.
      size: images in the training split.
    """
    steps_per_epoch = size / config.batch_size
    steps = max(1, round(config.epochs * steps_per_epoch))
    return (min(steps, config.max_steps) if config.max_steps else steps), steps_per_epoch


# How many calls may wait for the devices: enough to keep them busy, few enough to stop soon.
_AHEAD = 4

# (state, first step, step to stop before) -> (state, metrics: scalars of one step, or arrays [n]).
Advance = Callable[[TrainState, int, int], tuple[TrainState, Any]]


def train(
    state: TrainState,
    step_fn: Step,
    split: Any,
    mesh: Mesh,
    config: Any,
    *,
    checkpoints: Checkpoints,
    metrics_path: str,
    evaluations: Sequence[tuple[float, Callable[[TrainState], dict[str, float]]]],
    inputs: Sequence[str] = INPUTS,
    epoch_size: int | None = None,
    constants: Mapping[str, float] | None = None,
) -> tuple[TrainState, float]:
    """Runs the steps that are left, logging, evaluating and saving on the way.

    Args:
      state: before the first step; replaced by the newest checkpoint if there is one.
      step_fn: from `thanos_jax.train.step.make_step`.
      split: the training split.
      mesh: devices.
      config: the whole config.
      checkpoints: where states are saved.
      metrics_path: where records go; beside it what a stopped run leaves for the next.
      evaluations: of each the epochs between two of it, and state -> named numbers for the record.
        The last step has all of them.
      inputs: what of a batch the step is given.
      epoch_size: images that count as an epoch; None: those of the split.
      constants: what every record says too.

    Returns:
      The last state, and the seconds that training took over all starts of the run.

    Raises:
      Interrupted: this process or another of the run got SIGTERM or SIGINT; the state is saved.
      NonFiniteError: a loss or gradient was not finite, and the config does not say to go on; names
        the step.
      CheckpointError: a checkpoint could not be saved, or none of those there can be used.
      WorkdirError: a record could not be written, or not all processes see the same folder.
    """
    steps, steps_per_epoch = count_steps(config.train, epoch_size or len(split))
    first = 0
    restored = checkpoints.restore_latest(state)
    if restored:
        state, first = restored
        print(f"continuing from the checkpoint of step {first} of {steps}", flush=True)
    folder = pathlib.Path(metrics_path).parent
    _require_same_step(first, folder)
    writes = jax.process_index() == 0
    with workdir.writing(folder):
        file = metrics.MetricsFile(metrics_path, resume_step=first) if writes else None
    earlier = metrics.read(metrics_path)
    record = earlier[-1] if earlier else None
    seconds = record["seconds"] if record else 0.0
    pending: list[Any] = []
    kept = unlogged.read(folder, first)
    # Unless the record it waited for was written before the run ended again.
    if kept and not (record and record["step"] == first):
        found, seconds = kept
        pending = [nonfinite.as_configured(found, config)] if found else []
    guard = nonfinite.Guard(config, split, folder, epoch_size=epoch_size or len(split))

    def due(step: int, epochs: float) -> bool:
        period = epochs * steps_per_epoch
        return step == steps or int(step / period) != int((step - 1) / period)

    def saving(step: int) -> bool:
        return due(step, config.train.checkpoint_every_epochs)

    def logging(step: int) -> bool:
        # A window of the record also ends where a resumed run would begin one.
        evaluating = any(due(step, epochs) for epochs, _ in evaluations)
        return evaluating or saving(step) or step % config.train.log_every == 0

    advance, longest = _make_advance(
        step_fn, split, mesh, config, first=first, steps=steps, inputs=inputs
    )
    step, logged = first, first
    start = time.perf_counter()
    with interruption.watch() as watch, watch.deferred(), progress(steps, first) as shown:
        while True:
            if watch.asked():
                numbers = _fetch(pending)
                guard.check(step - _count(numbers) + 1, numbers, record)
                if step > first:
                    if writes:
                        seconds += time.perf_counter() - start
                        with workdir.writing(folder):
                            unlogged.write(folder, step, numbers, seconds=seconds)
                    checkpoints.save(state, step)
                    checkpoints.wait()
                raise interruption.Interrupted(_farewell(step, steps))
            if not (pending and logging(step)):
                if step == steps:
                    break
                begin, step = step, step + 1
                # The first call compiles, which says nothing about speed: it is one step.
                while begin > first and step - begin < longest and not logging(step):
                    step += 1
                checkpoints.check()
                state, found = advance(state, begin, step)
                pending.append(found)
                shown.advance(step - begin)
                if begin == first:
                    jax.block_until_ready(found)
                    seconds += time.perf_counter() - start
                    start = time.perf_counter()
                elif len(pending) > _AHEAD:
                    jax.block_until_ready(pending[-_AHEAD])
                # Round again: a run that is to stop does not evaluate first.
                continue
            numbers = _fetch(pending)
            pending.clear()
            elapsed = time.perf_counter() - start
            seconds += elapsed
            guard.check(step - _count(numbers) + 1, numbers, record)
            record = {
                "step": step,
                "epoch": step / steps_per_epoch,
                **nonfinite.averages(numbers),
                **(constants or {}),
                "seconds": seconds,
            }
            timed = step - logged - (logged == first)
            logged = step
            if timed > 0:
                record["images_per_second"] = timed * config.train.batch_size / elapsed
            for epochs, evaluate in evaluations:
                if due(step, epochs):
                    record |= evaluate(state)
            if file:
                with workdir.writing(folder):
                    file.append(record)
            shown.show(record)
            if saving(step):
                measured = {
                    k: v for k, v in record.items() if k == "loss" or k.startswith("validation_")
                }
                checkpoints.save(state, step, measured)
            start = time.perf_counter()
    return state, seconds


def _require_same_step(first: int, folder: pathlib.Path) -> None:
    """Raises WorkdirError, in every process, if they found different checkpoints."""
    if jax.process_count() == 1:
        return
    found = multihost_utils.process_allgather(np.array(first, np.int32)).ravel().tolist()
    if len(set(found)) > 1:
        raise workdir.WorkdirError(
            f"workdir: expected all processes to see one folder, but {folder} has checkpoints up "
            f"to different steps: {', '.join(map(str, found))}, by process"
        )


def _fetch(pending: Sequence[Any]) -> dict[str, np.ndarray]:
    """Waits for metrics, scalars of a step or arrays of several; returns name -> [steps], or {}."""
    windows = jax.device_get(list(pending))
    return {
        name: np.concatenate([np.atleast_1d(window[name]) for window in windows])
        for name in (windows[0] if windows else ())
    }


def _count(numbers: dict[str, np.ndarray]) -> int:
    return len(numbers["loss"]) if numbers else 0


def _farewell(step: int, steps: int) -> str:
    if step == 0:
        return "stopped before the first step. The same command begins again."
    return f"stopped after step {step} of {steps}, which is saved. The same command goes on there."


def _make_advance(
    step_fn: Step,
    split: Any,
    mesh: Mesh,
    config: Any,
    *,
    first: int,
    steps: int,
    inputs: Sequence[str],
) -> tuple[Advance, int]:
    """Returns the function that runs steps, and the most steps that it runs in one call."""
    if on_devices(config.train.resident, split):
        longest = min(config.train.log_every, steps, 1000)
        window = resident.make_window(
            step_fn,
            split,
            mesh,
            seed=config.seed,
            batch_size=config.train.batch_size,
            longest=longest,
            inputs=inputs,
        )
        return window, longest
    stream = batches.train_batches(
        cast(Split, sharding.LocalRows(split, mesh)),
        seed=config.seed,
        batch_size=config.train.batch_size,
        first_step=first,
        last_step=steps,
        read_threads=config.data.read_threads,
    )

    def advance(state: TrainState, begin: int, end: int) -> tuple[TrainState, Any]:
        batch = next(stream)
        return step_fn(state, sharding.shard(mesh, {name: batch[name] for name in inputs}))

    return advance, 1


def on_devices(choice: str, split: Any) -> bool:
    """Whether the training set lies on the devices, and many steps are one program.

    Args:
      choice: config.train.resident. "auto" is yes for a split in memory, except on CPUs, where
        there is nothing to gain and XLA's convolutions are slow inside a loop.
      split: the training split.

    Raises:
      ConfigError: "yes" for a split on disk.
    """
    if choice == "auto":
        return split.in_memory and jax.default_backend() != "cpu"
    if choice == "yes" and not split.in_memory:
        raise ConfigError(
            "config.train.resident: 'yes' needs a training set in memory, and this one is read "
            "from disk; raise data.memory_limit_gib, or choose 'auto'"
        )
    return choice == "yes"
