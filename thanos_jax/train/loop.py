"""From the first step, or the last checkpoint, to the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from thanos_jax import sharding
from thanos_jax.config import ConfigError
from thanos_jax.data import batches
from thanos_jax.train import metrics, resident
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
) -> tuple[TrainState, float]:
    """Runs the steps that are left, logging, evaluating and saving on the way.

    Args:
      state: before the first step; replaced by the newest checkpoint if there is one.
      step_fn: from `thanos_jax.train.step.make_step`.
      split: the training split.
      mesh: devices.
      config: the whole config.
      checkpoints: where states are saved.
      metrics_path: where records go.
      evaluations: of each the epochs between two of it, and state -> named numbers for the record.
        The last step has all of them.

    Returns:
      The last state, and the seconds that training took over all starts of the run.

    Raises:
      NonFiniteError: a loss or gradient was not finite; names the step.
      CheckpointError: a checkpoint could not be saved, or none of those there can be used.
    """
    steps, steps_per_epoch = count_steps(config.train, len(split))
    first = 0
    restored = checkpoints.restore_latest(state)
    if restored:
        state, first = restored
        print(f"continuing from the checkpoint of step {first} of {steps}", flush=True)
    file = metrics.MetricsFile(metrics_path, resume_step=first)
    earlier = metrics.read(metrics_path)
    seconds = earlier[-1]["seconds"] if earlier else 0.0

    def due(step: int, epochs: float) -> bool:
        period = epochs * steps_per_epoch
        return step == steps or int(step / period) != int((step - 1) / period)

    def saving(step: int) -> bool:
        return due(step, config.train.checkpoint_every_epochs)

    def logging(step: int) -> bool:
        # A window of the record also ends where a resumed run would begin one.
        evaluating = any(due(step, epochs) for epochs, _ in evaluations)
        return evaluating or saving(step) or step % config.train.log_every == 0

    advance, longest = _make_advance(step_fn, split, mesh, config, first=first, steps=steps)
    pending: list[Any] = []
    step = first
    start = time.perf_counter()
    with progress(steps, first) as shown:
        while step < steps:
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
            if not logging(step):
                continue
            windows = jax.device_get(pending)
            pending.clear()
            elapsed = time.perf_counter() - start
            seconds += elapsed
            numbers = {
                name: np.concatenate([np.atleast_1d(window[name]) for window in windows])
                for name in windows[0]
            }
            count = len(numbers["loss"])
            metrics.require_finite(step - count + 1, numbers)
            record = {
                "step": step,
                "epoch": step / steps_per_epoch,
                **{
                    name: float(np.mean(values, dtype=np.float64))
                    for name, values in numbers.items()
                },
                "seconds": seconds,
            }
            timed = count - (step - count == first)
            if timed:
                record["images_per_second"] = timed * config.train.batch_size / elapsed
            for epochs, evaluate in evaluations:
                if due(step, epochs):
                    record |= evaluate(state)
            file.append(record)
            shown.show(record)
            if saving(step):
                measured = {k: v for k, v in record.items() if k.startswith("validation_")}
                checkpoints.save(state, step, {"loss": record["loss"], **measured})
            start = time.perf_counter()
    return state, seconds


def _make_advance(
    step_fn: Step, split: Any, mesh: Mesh, config: Any, *, first: int, steps: int
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
        )
        return window, longest
    stream = batches.train_batches(
        split,
        seed=config.seed,
        batch_size=config.train.batch_size,
        first_step=first,
        last_step=steps,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        read_threads=config.data.read_threads,
    )

    def advance(state: TrainState, begin: int, end: int) -> tuple[TrainState, Any]:
        batch = next(stream)
        return step_fn(state, sharding.shard(mesh, {name: batch[name] for name in INPUTS}))

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
