"""The interface of logging backends: the data they receive, and the three functions of a logger."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Points(NamedTuple):
    """Some images and their embeddings.

    Attributes:
      embedding: float32 [m, d].
      columns: labels of the images: name of a column -> str [m].
      thumbnails: uint8 [m, s, s, 3].
    """

    embedding: np.ndarray
    columns: Mapping[str, np.ndarray]
    thumbnails: np.ndarray


class Ending(NamedTuple):
    """The end of a run.

    Attributes:
      step: the last step of the training that the results are about.
      results: numbers of results.json by name, "a/b" for "b" within "a".
      points: images with their embeddings; None: the report has no map.
    """

    step: int
    results: Mapping[str, float]
    points: Points | None


class Logger(NamedTuple):
    """Writes the log of a run; every function may raise anything.

    Attributes:
      scalars: (training, record, when): writes a record of metrics.jsonl; `when` is its time in
        seconds since 1970. A training is named by its folder; "" is the run's own.
      images: (training, step, pictures): writes pictures, name -> uint8 [h, w, 1 or 3].
      finish: writes an `Ending` and closes the logger; with None, only closes it.
    """

    scalars: Callable[[str, Mapping[str, Any], float], None]
    images: Callable[[str, int, Mapping[str, np.ndarray]], None]
    finish: Callable[[Ending | None], None]


class Backend(NamedTuple):
    """A kind of logger; its key in config.log and its extra in setup.py have the same name.

    Attributes:
      package: the package that it needs, as pip names it.
      load: imports the package.
      open: (folder of the run, config by flat key) -> logger.
    """

    package: str
    load: Callable[[], Any]
    open: Callable[[pathlib.Path, Mapping[str, Any]], Logger]


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Returns the numbers of a nested mapping, "a/b" for b within a; other values are left out."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + name] = value
    return found


def terms(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of a record except its step."""
    return {name: value for name, value in numbers(record).items() if name != "step"}
