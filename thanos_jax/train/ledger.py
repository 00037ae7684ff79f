"""Bookkeeping of a training: metrics of steps, records in metrics.jsonl, and time."""

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

# Number of calls in flight: enough to keep the devices busy, few enough to stop soon.
_AHEAD = 4


class Ledger:
    """The metrics since the last record, all records, and the clock of a training.

    Every process keeps it; only the first one writes files.

    Args:
      training: the training.
      split: the training split.
      folder: folder of the training.
      first: the step from which this start continues.
      constants: numbers that are added to every record.

    Attributes:
      records: all records of the training, including earlier starts.

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
        # Unless the next record was written before the run ended again.
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
        """Whether there are steps that are in no record yet."""
        return bool(self._pending)

    def restart_clock(self) -> None:
        """Restarts the clock, to exclude the time since the last record (evaluating, saving)."""
        self._start = time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Excludes some seconds, in which no step was taken, from the measured time."""
        self._start += seconds

    def add(self, found: Any, begin: int) -> None:
        """Adds the metrics of the steps from `begin` on; waits if too many calls are in flight."""
        self._pending.append(found)
        if begin == self._first:
            jax.block_until_ready(found)
            self._count_seconds()
        elif len(self._pending) > _AHEAD:
            jax.block_until_ready(self._pending[-_AHEAD])

    def close(self, step: int) -> dict[str, Any]:
        """Returns the record of the steps up to `step`, with the averages of their metrics.

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
        # Without the first step of a start, which includes compilation.
        timed = step - self._last_record - (self._last_record == self._first)
        self._last_record = step
        if timed > 0:
            record["images_per_second"] = timed * self._config.train.batch_size / elapsed
        return record

    def write(self, record: dict[str, Any]) -> None:
        """Appends a record to metrics.jsonl.

        Raises:
          WorkdirError: the file cannot be written.
        """
        self.records.append(record)
        if self._file:
            with workdir.writing(self._folder):
                self._file.append(record)

    def leave(self, state: TrainState, step: int, checkpoints: Checkpoints) -> None:
        """Saves the state and the metrics that are in no record yet, and raises Interrupted.

        Raises:
          Interrupted: unless another error is raised; the message says how to continue.
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
                "stopped before the first step. The same command starts again."
            )
        raise interruption.Interrupted(
            f"stopped after step {step} of {self._steps}, which is saved. The same command resumes "
            "there."
        )

    def _count_seconds(self) -> float:
        """Adds the time since the clock was started, restarts the clock, and returns the time."""
        now = time.perf_counter()
        elapsed, self._start = now - self._start, now
        self._seconds += elapsed
        return elapsed

    def _fetch(self, step: int) -> dict[str, np.ndarray]:
        """Waits for the metrics of the steps up to `step`, checks them, returns name -> [steps]."""
        windows = jax.device_get(self._pending)
        numbers = {
            name: np.concatenate([np.atleast_1d(window[name]) for window in windows])
            for name in (windows[0] if windows else ())
        }
        count = len(numbers["loss"]) if numbers else 0
        last = self.records[-1] if self.records else None
        self._guard.check(step - count + 1, numbers, last)
        return numbers
