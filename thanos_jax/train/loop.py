"""The training loop, from the first step or the last checkpoint to the end."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from thanos_jax import interruption, sharding, workdir
from thanos_jax.data import batches
from thanos_jax.data.splits import Split
from thanos_jax.errors import ConfigError
from thanos_jax.live import log as live
from thanos_jax.train import profiling, resident
from thanos_jax.train.build import Training
from thanos_jax.train.checkpoint import Checkpoints
from thanos_jax.train.ledger import Ledger
from thanos_jax.train.progress import progress
from thanos_jax.train.state import TrainState
from thanos_jax.train.update import Step

# (state, first step, end step, exclusive) -> (state, metrics: scalars of one step, or arrays [n]).
Advance = Callable[[TrainState, int, int], tuple[TrainState, Any]]
# (epochs between evaluations, function from a state to numbers for the record).
Evaluation = tuple[float, Callable[[TrainState], dict[str, float]]]


class Stage(NamedTuple):
    """A training of a run, ready to start.

    Attributes:
      name: name of its folder in the run's folder; "": the run's folder.
      training: model, optimizer, schedule and data.
      step: the update, (state, batch entries named in `inputs`, seed) -> (state, metrics).
      inputs: names of the batch entries that `step` needs.
      split: the training split.
      state: state before the first step.
      network: selects the network of a state that is evaluated.
    """

    name: str
    training: Training
    step: Step
    inputs: tuple[str, ...]
    split: Any
    state: TrainState
    network: Callable[[TrainState], TrainState] = lambda state: state


class Calendar(NamedTuple):
    """Decides which steps are followed by records, evaluations and checkpoints.

    Steps are numbered from 1; the last step is followed by all.

    Attributes:
      config: config.train.
      steps: number of steps of the whole training.
      steps_per_epoch: steps per epoch, not necessarily whole.
      periods: for each evaluation, the epochs between two evaluations.
    """

    config: Any
    steps: int
    steps_per_epoch: float
    periods: tuple[float, ...]

    def due(self, step: int, epochs: float) -> bool:
        """Returns whether something with a period of `epochs` is due after a step."""
        period = epochs * self.steps_per_epoch
        return step == self.steps or int(step / period) != int((step - 1) / period)

    def saves(self, step: int) -> bool:
        """Returns whether a checkpoint is saved after a step."""
        return self.due(step, self.config.checkpoint_every_epochs)

    def records(self, step: int) -> bool:
        """Returns whether a record is written after a step; always true if a checkpoint is."""
        return (
            any(self.due(step, epochs) for epochs in self.periods)
            or self.saves(step)
            or step % self.config.log_every == 0
        )

    def window(self, begin: int, longest: int) -> int:
        """Returns the end of the window of steps: the next record, or `longest` steps later."""
        end = begin + 1
        while end - begin < longest and not self.records(end):
            end += 1
        return end


def train(
    stage: Stage,
    folder: pathlib.Path,
    *,
    checkpoints: Checkpoints,
    evaluations: Sequence[Evaluation],
    constants: Mapping[str, float] | None = None,
    log: live.Log = live.NONE,
) -> tuple[TrainState, list[dict[str, Any]]]:
    """Runs the remaining steps of a training, with records, evaluations and checkpoints.

    Args:
      stage: the training; the newest checkpoint, if there is one, replaces its state.
      folder: folder of the training, for metrics.jsonl and files of a stopped run.
      checkpoints: the checkpoints of the training.
      evaluations: evaluations with their periods; all of them follow the last step.
      constants: numbers that are added to every record.
      log: further logs that get the records.

    Returns:
      The last state, and all records of the training. "seconds" of the last record is the time of
      the training over all starts.

    Raises:
      Interrupted: this process or another one of the run got SIGTERM or SIGINT; the state is saved.
      NonFiniteError: a loss or gradient was not finite, and train.on_nonfinite is "stop" or
        train.nonfinite_limit steps in a row were skipped; the message names the step.
      CheckpointError: a checkpoint could not be saved, or no existing checkpoint can be used.
      WorkdirError: a record could not be written, or processes see different folders.
    """
    training, config = stage.training, stage.training.config
    steps, state, first = training.steps, stage.state, 0
    restored = checkpoints.restore_latest(state)
    if restored:
        state, first = restored
        print(f"continuing from the checkpoint of step {first} of {steps}", flush=True)
    _require_same_step(first, folder)
    calendar = Calendar(
        config.train, steps, training.steps_per_epoch, tuple(epochs for epochs, _ in evaluations)
    )
    ledger = Ledger(training, stage.split, folder, first=first, constants=constants or {})
    advance, longest = make_advance(stage, first=first)
    log.replay(stage.name, ledger.records)
    ledger.restart_clock()
    step = first
    with (
        interruption.watch() as watch,
        watch.deferred(),
        progress(steps, first, stage.name) as shown,
        # The first step of a start compiles.
        profiling.trace(folder, config.train.profile_steps, begin=first + 1) as trace,
    ):
        while True:
            if watch.asked():
                ledger.leave(state, step, checkpoints)
            if ledger.open and calendar.records(step):
                record = ledger.close(step)
                for epochs, evaluate in evaluations:
                    if calendar.due(step, epochs):
                        record |= evaluate(state)
                ledger.write(record)
                shown.show(record)
                log.scalars(stage.name, record)
                if calendar.saves(step):
                    checkpoints.save(state, step, _measured(record))
                ledger.restart_clock()
            elif step < steps:
                # The first call is one step, because it compiles: it is left out of the speed.
                most = trace.most(step, longest) if step > first else 1
                begin, step = step, calendar.window(step, most)
                checkpoints.check()
                ledger.leave_out(trace.before(begin))
                state, metrics = advance(state, begin, step)
                ledger.add(metrics, begin)
                ledger.leave_out(trace.after(step, metrics))
                shown.advance(step - begin)
            else:
                break
    return state, ledger.records


def _measured(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the numbers of a record that are saved with a checkpoint."""
    return {k: v for k, v in record.items() if k == "loss" or k.startswith("validation_")}


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


def make_advance(stage: Stage, *, first: int) -> tuple[Advance, int]:
    """Returns the function that runs steps, and the largest number of steps in one call.

    Args:
      stage: the training; its state is not used.
      first: the first step.
    """
    training, config, split = stage.training, stage.training.config, stage.split
    if on_devices(config.train.resident, split):
        longest = longest_window(training)
        window = resident.make_window(
            stage.step,
            split,
            training.mesh,
            seed=config.seed,
            batch_size=config.train.batch_size,
            longest=longest,
            inputs=stage.inputs,
            balance=training.balance,
        )
        return window, longest
    stream = batches.train_batches(
        cast(Split, sharding.LocalRows(split, training.mesh)),
        seed=config.seed,
        batch_size=config.train.batch_size,
        first_step=first,
        last_step=training.steps,
        balance=training.balance,
        read_threads=config.data.read_threads,
    )
    seed = np.uint32(config.seed)

    def advance(state: TrainState, begin: int, end: int) -> tuple[TrainState, Any]:
        batch = next(stream)
        given = {name: batch[name] for name in stage.inputs}
        return stage.step(state, sharding.shard(training.mesh, given), seed)

    return advance, 1


def longest_window(training: Training) -> int:
    """Returns the largest number of steps in one program, for a training set on the devices."""
    return min(training.config.train.log_every, training.steps, 1000)


def on_devices(choice: str, split: Any) -> bool:
    """Returns whether the training set is kept on the devices and many steps run in one program.

    Args:
      choice: config.train.resident. "auto" means "yes" for a split in memory, except on CPUs, where
        it gains nothing and XLA's convolutions are slow inside a loop.
      split: the training split.

    Raises:
      ConfigError: the choice is "yes" and the split is on disk.
    """
    if choice == "auto":
        return split.in_memory and jax.default_backend() != "cpu"
    if choice == "yes" and not split.in_memory:
        raise ConfigError(
            "config.train.resident: expected 'auto' or 'no' for a training set that is read from "
            "disk, got 'yes'; a higher data.memory_limit_gib keeps it in memory"
        )
    return choice == "yes"
