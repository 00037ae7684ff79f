"""Traces steps with jax's profiler, for TensorBoard's profile plugin, XProf or Perfetto."""

from __future__ import annotations

import contextlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from thanos_jax import agree
from thanos_jax.workdir import PROFILE


class Trace:
    """Traces `count` steps from `begin` on; made by `trace`.

    Steps are counted from 0. An error of the profiler causes a warning, and there is no trace.
    """

    def __init__(self, folder: pathlib.Path, count: int, begin: int) -> None:
        self._folder, self._begin, self._end = folder, begin, begin + count
        # Only the first process traces.
        self._wanted, self._open = count > 0 and agree.is_first(), False

    def most(self, step: int, longest: int) -> int:
        """Returns the largest number of steps in one call, so that the trace ends in time.

        It is the same in every process, tracing or not, because processes take steps together.
        """
        return min(longest, self._end - step) if step < self._end else longest

    def before(self, step: int) -> float:
        """Starts the trace if this is its first step; returns the seconds this took."""
        if not self._wanted or self._open or step != self._begin:
            return 0.0
        return self._timed(self._start)

    def after(self, step: int, metrics: Any) -> float:
        """Ends the trace if the step before this one was its last.

        Args:
          step: the next step.
          metrics: metrics of the last step; the call waits for them to complete the trace.

        Returns:
          The seconds spent on writing the trace.
        """
        if not self._open or step < self._end:
            return 0.0
        jax.block_until_ready(metrics)
        return self._timed(self.close)

    def close(self) -> None:
        """Writes the trace, if one is open."""
        if self._open:
            self._open = self._wanted = False
            if self._guarded(jax.profiler.stop_trace):
                print(f"profile: {self._folder}", flush=True)

    def _start(self) -> None:
        self._open = self._guarded(lambda: jax.profiler.start_trace(self._folder))
        self._wanted = self._open

    def _timed(self, function: Callable[[], None]) -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    def _guarded(self, function: Callable[[], Any]) -> bool:
        """Calls a function of the profiler; returns whether it succeeded."""
        try:
            function()
        except Exception as error:
            print(
                f"WARNING: config.train.profile_steps: no trace in {self._folder}: "
                f"{type(error).__name__}: {error}. The run continues.",
                file=sys.stderr,
                flush=True,
            )
            return False
        return True


@contextlib.contextmanager
def trace(folder: pathlib.Path, count: int, *, begin: int) -> Iterator[Trace]:
    """Returns a context manager that traces steps of a training, in the first process.

    Args:
      folder: folder of the training; the trace is written to its folder "profile".
      count: number of steps; 0: none. Fewer are traced if the training ends before.
      begin: the first step, counted from 0.
    """
    traced = Trace(folder / PROFILE, count, begin)
    try:
        yield traced
    finally:
        traced.close()
