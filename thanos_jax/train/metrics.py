"""metrics.jsonl: one line of JSON for each record."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from thanos_jax.errors import UserError
from thanos_jax.workdir import write_atomically


class NonFiniteError(UserError, FloatingPointError):
    """A loss or gradient is NaN or infinite; the step was not applied."""


def require_finite(first: int, metrics: Mapping[str, np.ndarray]) -> None:
    """Raises NonFiniteError if a metric is not finite; the message names the first such step.

    Args:
      first: number of the first step.
      metrics: name -> floating point [steps].
    """
    finite = np.all([np.isfinite(values) for values in metrics.values()], axis=0)
    if not finite.all():
        index = int(np.argmin(finite))
        step = first + index
        values = {name: float(array[index]) for name, array in metrics.items()}
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        found = ", ".join(f"{name} = {value}" for name, value in bad.items())
        raise NonFiniteError(
            f"step {step}: {found}. The update was not applied and nothing was saved after it. "
            "A lower train.learning_rate, a higher loss.temperature or, with model.dtype="
            "'bfloat16', float32 often mends this."
        )


class MetricsFile:
    """Appends records to a file; a resumed run first drops records after its restored step."""

    def __init__(self, path: str | os.PathLike[str], *, resume_step: int) -> None:
        """Opens the file, keeping complete lines of steps up to `resume_step`."""
        self._path = pathlib.Path(path)
        kept = [r for r in read(self._path) if r["step"] <= resume_step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self._path, text)

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one line immediately, so that readers can follow the run."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the records of a file; [] if it is missing. An incomplete last line is left out."""
    path = pathlib.Path(path)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    # Text after the last newline was being written when the run was stopped.
    return [json.loads(line) for line in lines[:-1]]
