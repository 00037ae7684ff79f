"""From the first step, or the last checkpoint, to the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from thanos_jax import sharding
from thanos_jax.data import batches
from thanos_jax.train import metrics
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


def train(
    state: TrainState,
    step_fn: Step,
    split: Any,
    mesh: Mesh,
    config: Any,
    *,
    checkpoints: Checkpoints,
    metrics_path: str,
    evaluate: Callable[[TrainState], dict[str, float]],
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
      evaluate: state -> named numbers for the record of an evaluation.

    Returns:
      The last state, and the seconds that training took over all starts of the run.

    Raises:
      NonFiniteError: a loss or gradient was not finite; names the step.
    """
    steps, steps_per_epoch = count_steps(config.train, len(split))
    first = checkpoints.latest_step() or 0
    if first:
        print(f"continuing from the checkpoint of step {first} of {steps}", flush=True)
        state = checkpoints.restore(state, first)
    file = metrics.MetricsFile(metrics_path, resume_step=first)
    earlier = metrics.read(metrics_path)
    seconds = earlier[-1]["seconds"] if earlier else 0.0

    def due(step: int, epochs: float) -> bool:
        period = epochs * steps_per_epoch
        return step == steps or int(step / period) != int((step - 1) / period)

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
    pending: list[metrics.Record] = []
    start = time.perf_counter()
    with progress(steps, first) as shown:
        for step, batch in enumerate(stream, start=first + 1):
            inputs = sharding.shard(mesh, {name: batch[name] for name in INPUTS})
            state, found = step_fn(state, inputs)
            pending.append(found)
            shown.advance()
            if step == first + 1:
                # The first call compiled the step, which says nothing about its speed.
                jax.block_until_ready(found)
                seconds += time.perf_counter() - start
                start = time.perf_counter()
            evaluating = due(step, config.train.evaluate_every_epochs)
            saving = due(step, config.train.checkpoint_every_epochs)
            # A window of the record also ends where a resumed run would begin one.
            if step % config.train.log_every and not evaluating and not saving:
                continue
            window = jax.device_get(pending)
            pending.clear()
            elapsed = time.perf_counter() - start
            seconds += elapsed
            numbers = [{name: float(value) for name, value in m.items()} for m in window]
            for number, values in enumerate(numbers, start=step - len(numbers) + 1):
                metrics.require_finite(number, values)
            record = {
                "step": step,
                "epoch": step / steps_per_epoch,
                **metrics.mean(numbers),
                "seconds": seconds,
            }
            timed = len(numbers) - (step - len(numbers) == first)
            if timed:
                record["images_per_second"] = timed * config.train.batch_size / elapsed
            if evaluating:
                record |= evaluate(state)
            file.append(record)
            shown.show(record)
            if saving:
                checkpoints.save(state, step)
            start = time.perf_counter()
    return state, seconds
