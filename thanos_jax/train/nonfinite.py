"""Handling of steps whose loss or gradient is not finite: stop the run, or skip and count."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from thanos_jax.data.balanced import ClassBalance
from thanos_jax.data.batches import sample_indices
from thanos_jax.train.metrics import NonFiniteError, require_finite
from thanos_jax.workdir import write_atomically

OPTIONS = ("stop", "skip")
FILE = "nonfinite.json"
SKIPPED = "skipped_steps"


class Guard:
    """Checks the metrics of every step, and stops the run as its config says."""

    def __init__(
        self,
        config: Any,
        split: Any,
        folder: pathlib.Path,
        *,
        epoch_size: int,
        balance: ClassBalance | None = None,
    ) -> None:
        """Stores the config, and the arguments from which batches are drawn.

        Args:
          config: the whole config.
          split: the training split.
          folder: folder of the training.
          epoch_size: number of images of an epoch.
          balance: as for `thanos_jax.data.batches.sample_indices`.
        """
        self._config, self._folder, self._epoch_size = config, folder, epoch_size
        self._balance = balance
        # A split that repeats or leaves out images has their numbers in `rows`.
        self._rows = getattr(split, "rows", np.arange(len(split)))
        self._in_a_row = 0

    def check(
        self, first: int, metrics: Mapping[str, np.ndarray], last_record: Mapping[str, Any] | None
    ) -> None:
        """Raises NonFiniteError if the run must stop, after writing nonfinite.json.

        Args:
          first: number of the first step, from 1.
          metrics: name -> float [steps].
          last_record: the last record in metrics.jsonl.

        Raises:
          NonFiniteError: with on_nonfinite="stop", a metric is not finite; with "skip",
            train.nonfinite_limit steps in a row were skipped.
        """
        if not metrics:  # no step since the last record
            return
        if self._config.train.on_nonfinite == "stop":
            try:
                require_finite(first, metrics)
            except NonFiniteError as error:
                finite = np.all([np.isfinite(values) for values in metrics.values()], axis=0)
                self._report(int(np.argmin(finite)), first, metrics, last_record)
                raise NonFiniteError(f"{error} Its images are in {self._folder / FILE}.") from None
            return
        limit = self._config.train.nonfinite_limit
        for index, skipped in enumerate(metrics[SKIPPED]):
            self._in_a_row = self._in_a_row + 1 if skipped else 0
            if self._in_a_row == limit:
                self._report(index, first, metrics, last_record)
                raise NonFiniteError(
                    f"step {first + index}: {limit} steps in a row had a loss or gradient that is "
                    "not finite, as many as config.train.nonfinite_limit. No update was applied. "
                    f"The images of the last are in {self._folder / FILE}."
                )

    def _report(
        self,
        index: int,
        first: int,
        metrics: Mapping[str, np.ndarray],
        last_record: Mapping[str, Any] | None,
    ) -> None:
        if jax.process_index():
            return
        step, config = first + index, self._config
        batch_size = config.train.batch_size
        drawn = sample_indices(
            seed=config.seed,
            step=step - 1,
            batch_size=batch_size,
            size=len(self._rows),
            balance=self._balance,
        )
        values = {name: float(array[index]) for name, array in metrics.items()}
        report = {
            "step": step,
            "epoch": (step - 1) * batch_size / self._epoch_size,
            # JSON has no NaN and no infinity.
            "metrics": {n: v if math.isfinite(v) else str(v) for n, v in values.items()},
            "train_indices": self._rows[drawn].tolist(),
            "last_record": last_record,
        }
        write_atomically(self._folder / FILE, json.dumps(report, indent=2) + "\n")


def as_configured(metrics: Mapping[str, np.ndarray], config: Any) -> dict[str, np.ndarray]:
    """Converts metrics of an earlier start to this config's on_nonfinite, which may differ.

    Args:
      metrics: name -> float [steps], at least one step; without "skipped_steps", no step was
        skipped.
      config: the whole config.
    """
    found = {name: values for name, values in metrics.items() if name != SKIPPED}
    if config.train.on_nonfinite == "skip":
        found[SKIPPED] = metrics.get(SKIPPED, np.zeros_like(metrics["loss"]))
    return found


def averages(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the mean of each metric over steps not skipped, and the number of skipped steps.

    Args:
      metrics: name -> float [steps]; with "skipped_steps" if steps may be skipped.
    """
    skipped = metrics.get(SKIPPED)
    if skipped is None:
        return {n: float(np.mean(v, dtype=np.float64)) for n, v in metrics.items()}
    taken = skipped == 0
    means = {
        name: float(np.mean(values[taken], dtype=np.float64))
        for name, values in metrics.items()
        if name != SKIPPED and taken.any()
    }
    return means | {SKIPPED: float(skipped.sum())}
