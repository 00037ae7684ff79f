"""What a stopped run had measured since its last record.

With it the next record is as if the run had not been stopped. In unlogged.json, by the step of the
checkpoint that was saved when it stopped.
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
    """Keeps the metrics of steps that no record has yet, beside those of earlier stops.

    Args:
      folder: of the run.
      step: the last one.
      metrics: name -> float32 [steps]; may be empty.
      seconds: that training took so far.
    """
    kept = _read(folder)
    kept[str(step)] = {
        "seconds": seconds,
        "metrics": {name: [float(v) for v in values] for name, values in metrics.items()},
    }
    write_atomically(folder / FILE, json.dumps(kept) + "\n")


def read(folder: pathlib.Path, step: int) -> tuple[dict[str, np.ndarray], float] | None:
    """Returns what `write` was given for a step, exactly; None if no run was stopped there."""
    kept = agree.value_of_first(lambda: _read(folder).get(str(step)))
    if kept is None:
        return None
    metrics = {name: np.array(values, np.float32) for name, values in kept["metrics"].items()}
    return metrics, kept["seconds"]


def _read(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
