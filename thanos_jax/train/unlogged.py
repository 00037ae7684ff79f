"""Metrics that a stopped run had measured since its last record, kept in unlogged.json.

They make the next record the same as if the run had not been stopped. The file maps the step of
each checkpoint that was saved at a stop to these metrics.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from thanos_jax import agree
from thanos_jax.workdir import write_atomically

FILE = "unlogged.json"


def write(
    folder: pathlib.Path, step: int, metrics: Mapping[str, np.ndarray], *, seconds: float
) -> None:
    """Writes the metrics of steps that are in no record yet; keeps the entries of earlier stops.

    Args:
      folder: folder of the training.
      step: the last step.
      metrics: name -> float32 [steps]; may be empty.
      seconds: time of the training so far.
    """
    kept = _read(folder)
    kept[str(step)] = {
        "seconds": seconds,
        "metrics": {name: [float(v) for v in values] for name, values in metrics.items()},
    }
    write_atomically(folder / FILE, json.dumps(kept) + "\n")


def read(folder: pathlib.Path, step: int) -> tuple[dict[str, np.ndarray], float] | None:
    """Returns the metrics and seconds given to `write` for a step; None if there are none."""
    kept = agree.value_of_first(lambda: _read(folder).get(str(step)))
    if kept is None:
        return None
    metrics = {name: np.array(values, np.float32) for name, values in kept["metrics"].items()}
    return metrics, kept["seconds"]


def _read(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
