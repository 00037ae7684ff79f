"""The log of a run, for all backends: measures the time they take, and catches their errors."""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from thanos_jax import agree, workdir
from thanos_jax.errors import MissingDependencyError
from thanos_jax.live import tensorboard, weights_biases
from thanos_jax.live.contract import Backend, Ending, Logger, Points

# Key of config.log, and extra of setup.py -> backend.
BACKENDS: dict[str, Backend] = {
    "tensorboard": tensorboard.BACKEND,
    "wandb": weights_biases.BACKEND,
}
Pictures = Mapping[str, np.ndarray]


def asked(config: Any) -> list[str]:
    """Returns the names of the backends that config.log asks for; the same in every process."""
    return [name for name in BACKENDS if config[name]]


def require(config: Any) -> None:
    """Raises MissingDependencyError if a package of a backend that config.log asks for is missing.

    Args:
      config: config.log.
    """
    for name in asked(config):
        backend = BACKENDS[name]
        try:
            backend.load()
        except ImportError as error:
            raise MissingDependencyError(
                f"config.log.{name}: True needs {backend.package}: {error}. Install it with: pip "
                f"install '.[{name}]' in the project's folder, or set the key to False"
            ) from error


class Log:
    """Passes the log of a run to its loggers; does nothing without loggers. Made by `opened`.

    After an error in a logger, a warning is printed and the logger is closed. An error in making
    pictures only prints a warning.

    Args:
      loggers: by the names of their backends.

    Attributes:
      seconds: spent in each logger; under "pictures", spent waiting for pictures and the ending.
      errors: errors of loggers that were turned off, by name.
      beside: processor seconds spent on making pictures in parallel with the training.
    """

    def __init__(self, loggers: Mapping[str, Logger] | None = None) -> None:
        self._loggers = dict(loggers or {})
        self.seconds: dict[str, float] = dict.fromkeys(self._loggers, 0.0)
        self.errors: dict[str, str] = {}
        self.beside = 0.0
        # Pictures are made in parallel with the training, because that may compile a program.
        self._maker = ThreadPoolExecutor(1, "thanos_jax_pictures") if self._loggers else None
        self._made: list[tuple[str, int, Future[Pictures]]] = []

    def open(self, name: str, opens: Callable[[], Logger]) -> None:
        """Adds a logger, unless it cannot be opened."""
        self.seconds[name] = 0.0
        logger = self._call(name, opens)
        if logger is not None:
            self._loggers[name] = logger
            self._maker = self._maker or ThreadPoolExecutor(1, "thanos_jax_pictures")

    def replay(self, training: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Passes loggers the records of earlier starts of the run, which they may already have."""
        now = time.time()
        for record in records:
            self._each(
                "scalars", training, record, now - (records[-1]["seconds"] - record["seconds"])
            )

    def scalars(self, training: str, record: Mapping[str, Any]) -> None:
        """Logs a record of metrics.jsonl as it is written."""
        self._each("scalars", training, record, time.time())
        self._write_pictures(wait=False)

    def images(self, training: str, step: int, make: Callable[[], Pictures]) -> None:
        """Logs pictures that another thread makes, once they are ready.

        Args:
          training: its name.
          step: of the training.
          make: returns name -> uint8 [h, w, 1 or 3]; not called without loggers.
        """
        if self._maker is not None and self._loggers:
            self._made.append((training, step, self._maker.submit(self._measured, make)))

    def finish(
        self, make: Callable[[], Ending], make_points: Callable[[], Points] | None = None
    ) -> None:
        """Logs the end of a run, and closes the loggers.

        Args:
          make: returns the ending; not called without loggers.
          make_points: returns its points; after an error, the ending is logged without points.
        """
        if not self._loggers:
            return
        self._write_pictures(wait=True)
        ending = self._prepared(make)
        if ending is not None and make_points is not None:
            ending = ending._replace(points=self._prepared(make_points))
        self._each("finish", ending)
        self._loggers.clear()

    def close(self) -> None:
        """Closes loggers that `finish` has not closed, when the run stops early."""
        if self._loggers:
            self._write_pictures(wait=True)
        self._each("finish", None)
        self._loggers.clear()
        if self._maker is not None:
            self._maker.shutdown()

    def _write_pictures(self, *, wait: bool) -> None:
        """Passes loggers the pictures that are ready, or waits for all of them."""
        ready = [item for item in self._made if wait or item[2].done()]
        self._made = [item for item in self._made if item not in ready]
        for training, step, future in ready:
            pictures = self._prepared(future.result)
            if pictures is not None:
                self._each("images", training, step, pictures)

    def _measured(self, make: Callable[[], Pictures]) -> Pictures:
        """Calls `make` in the thread for pictures, and measures its processor time."""
        started = time.thread_time()
        try:
            return make()
        finally:
            self.beside += time.thread_time() - started

    def _prepared(self, make: Callable[[], Any]) -> Any:
        """Returns the result of `make`; None, with a warning, after an error."""
        started = time.perf_counter()
        try:
            return make()
        except Exception as error:
            _warn(
                f"pictures or results to log could not be made: {_words(error)}. The run continues."
            )
            return None
        finally:
            spent = time.perf_counter() - started
            self.seconds["pictures"] = self.seconds.get("pictures", 0.0) + spent

    def _each(self, function: str, *arguments: Any) -> None:
        for name, logger in list(self._loggers.items()):
            self._call(name, getattr(logger, function), *arguments)

    def _call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function of a logger, measures it, and turns the logger off if it raises."""
        started = time.perf_counter()
        try:
            return function(*arguments)
        except Exception as error:
            self.errors[name] = _words(error)
            _warn(
                f"config.log.{name} is turned off after an error: {self.errors[name]}. The run "
                "continues, and metrics.jsonl has all numbers."
            )
            logger = self._loggers.pop(name, None)
            if logger is not None:
                with contextlib.suppress(Exception):
                    logger.finish(None)
            return None
        finally:
            self.seconds[name] += time.perf_counter() - started


# The log of a run without live logging.
NONE = Log()


@contextlib.contextmanager
def opened(folder: pathlib.Path, config: Any, flat: Mapping[str, Any]) -> Iterator[Log]:
    """Opens the log of a run, closes it, and prints how much of the run's time it took.

    Only the first process logs. log.json keeps the time that logging took in this start.

    Args:
      folder: of the run.
      config: config.log.
      flat: the whole config by flat key.
    """
    log, started = Log(), time.perf_counter()
    names = asked(config) if agree.is_first() else []
    for name in names:
        log.open(name, functools.partial(BACKENDS[name].open, folder, flat))
    try:
        yield log
    finally:
        log.close()
        if names:
            _record(folder, log, time.perf_counter() - started)


def _record(folder: pathlib.Path, log: Log, whole: float) -> None:
    """Prints and stores the time that logging took, out of `whole` seconds."""
    spent = sum(log.seconds.values())
    each = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in log.seconds.items())
    print(f"logging: {each}; {spent / whole:.1%} of {whole:.1f} s", flush=True)
    found = {
        "seconds": log.seconds,
        "run_seconds": whole,
        "share": spent / whole,
        "beside_seconds": log.beside,
        "errors": log.errors,
    }
    with contextlib.suppress(OSError):  # the run has ended; log.json is not worth an error
        workdir.write_atomically(folder / workdir.LOG, json.dumps(found) + "\n")


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _warn(message: str) -> None:
    print(f"WARNING: {message}", file=sys.stderr, flush=True)
