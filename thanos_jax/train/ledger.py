"""What a training writes down: the metrics of its steps, records, and the time it took."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from thanos_jax import agree, interruption, workdir
from thanos_jax.train import metrics, nonfinite, unlogged
from thanos_jax.train.build import Training
from thanos_jax.train.checkpoint import Checkpoints
from thanos_jax.train.state import TrainState

# How many calls may wait for the devices: enough to keep them busy, few enough to stop soon.
_AHEAD = 4


class Ledger:
    """The metrics since the last record, the records, and the clock of a training.

    Every process counts; the first one writes.

    Args:
      training: what is trained.
      split: what it is trained on.
      folder: of the training.
      first: the step from which this start goes on.
      constants: what every record says too.

    Attributes:
      records: all of the training, those of earlier starts too.

    Raises:
      WorkdirError: metrics.jsonl cannot be written.
    """

    def __init__(
        self,
        training: Training,
        split: Any,
        folder: pathlib.Path,
        *,
        first: int,
        constants: Mapping[str, float],
    ) -> None:
        self._config, self._folder, self._constants = training.config, folder, constants
        self._steps, self._steps_per_epoch = training.steps, training.steps_per_epoch
        self._first, self._last_record = first, first
        self._writes = jax.process_index() == 0
        path = folder / "metrics.jsonl"
        with workdir.writing(folder):
            self._file = metrics.MetricsFile(path, resume_step=first) if self._writes else None
        self.records: list[dict[str, Any]] = agree.value_of_first(lambda: metrics.read(path))
        self._seconds = self.records[-1]["seconds"] if self.records else 0.0
        self._pending: list[Any] = []
        kept = unlogged.read(folder, first)
        # Unless the record it waited for was written before the run ended again.
        if kept and not (self.records and self.records[-1]["step"] == first):
            found, self._seconds = kept
            self._pending = [nonfinite.as_configured(found, training.config)] if found else []
        size = round(training.steps_per_epoch * training.config.train.batch_size)
        self._guard = nonfinite.Guard(
            training.config, split, folder, epoch_size=size, balance=training.balance
        )
        self.restart_clock()

    @property
    def open(self) -> bool:
        """Whether there are steps that no record has yet."""
        return bool(self._pending)

    def restart_clock(self) -> None:
        """Leaves out the time since the last record was closed: evaluating and saving."""
        self._start = time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Leaves out time since the clock was started in which no step was taken."""
        self._start += seconds

    def add(self, found: Any, begin: int) -> None:
        """Takes the metrics of the steps from `begin` on; waits where too many are under way."""
        self._pending.append(found)
        if begin == self._first:
            jax.block_until_ready(found)
            self._count_seconds()
        elif len(self._pending) > _AHEAD:
            jax.block_until_ready(self._pending[-_AHEAD])

    def close(self, step: int) -> dict[str, Any]:
        """Returns the record of the steps up to `step`, averages of their metrics.

        Raises:
          NonFiniteError: as `thanos_jax.train.nonfinite.Guard.check`.
        """
        numbers = self._fetch(step)
        self._pending.clear()
        elapsed = self._count_seconds()
        record = {
            "step": step,
            "epoch": step / self._steps_per_epoch,
            **nonfinite.averages(numbers),
            **self._constants,
            "seconds": self._seconds,
        }
        # Without the first step of a start, which compiled.
        timed = step - self._last_record - (self._last_record == self._first)
        self._last_record = step
        if timed > 0:
            record["images_per_second"] = timed * self._config.train.batch_size / elapsed
        return record

    def write(self, record: dict[str, Any]) -> None:
        """Appends a record to metrics.jsonl.

        Raises:
          WorkdirError: it cannot be written.
        """
        self.records.append(record)
        if self._file:
            with workdir.writing(self._folder):
                self._file.append(record)

    def leave(self, state: TrainState, step: int, checkpoints: Checkpoints) -> None:
        """Saves the state and what no record has yet, and raises Interrupted.

        Raises:
          Interrupted: says how to go on.
          NonFiniteError, CheckpointError, WorkdirError: as in training.
        """
        numbers = self._fetch(step)
        if step > self._first:
            if self._writes:
                self._count_seconds()
                with workdir.writing(self._folder):
                    unlogged.write(self._folder, step, numbers, seconds=self._seconds)
            checkpoints.save(state, step)
            checkpoints.wait()
        if step == 0:
            raise interruption.Interrupted(
                "stopped before the first step. The same command begins again."
            )
        raise interruption.Interrupted(
            f"stopped after step {step} of {self._steps}, which is saved. The same command goes on "
            "there."
        )

    def _count_seconds(self) -> float:
        """Adds the time since the clock was started, starts it again and returns that time."""
        now = time.perf_counter()
        elapsed, self._start = now - self._start, now
        self._seconds += elapsed
        return elapsed

    def _fetch(self, step: int) -> dict[str, np.ndarray]:
        """Waits for the metrics of the steps up to `step`; returns name -> [steps], checked."""
        windows = jax.device_get(self._pending)
        numbers = {
            name: np.concatenate([np.atleast_1d(window[name]) for window in windows])
            for name in (windows[0] if windows else ())
        }
        count = len(numbers["loss"]) if numbers else 0
        last = self.records[-1] if self.records else None
        self._guard.check(step - count + 1, numbers, last)
        return numbers
