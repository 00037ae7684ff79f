"""A trace of some steps by jax's profiler, for TensorBoard's profile plugin, XProf or Perfetto."""

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
    """Traces the steps from `begin` on, so many; made by `trace`.

    Steps are those that are taken: step 0 is the first. An error of the profiler is a warning, and
    there is no trace.
    """

    def __init__(self, folder: pathlib.Path, count: int, begin: int) -> None:
        self._folder, self._begin, self._end = folder, begin, begin + count
        # The first process writes.
        self._wanted, self._open = count > 0 and agree.is_first(), False

    def most(self, step: int, longest: int) -> int:
        """Returns how many steps may be taken at once, so that the trace ends where it should.

        The same in every process, whether it traces or not: they take their steps together.
        """
        return min(longest, self._end - step) if step < self._end else longest

    def before(self, step: int) -> float:
        """Starts the trace if this step is its first; returns the seconds that it took."""
        if not self._wanted or self._open or step != self._begin:
            return 0.0
        return self._timed(self._start)

    def after(self, step: int, metrics: Any) -> float:
        """Ends the trace if it has the step before this one last.

        Args:
          step: the next one.
          metrics: of the last one; waited for, for the trace to have all of it.

        Returns:
          The seconds that it took to write the trace.
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
        """Calls a function of the profiler; returns whether it went well."""
        try:
            function()
        except Exception as error:
            print(
                f"WARNING: config.train.profile_steps: no trace in {self._folder}: "
                f"{type(error).__name__}: {error}. The run goes on.",
                file=sys.stderr,
                flush=True,
            )
            return False
        return True


@contextlib.contextmanager
def trace(folder: pathlib.Path, count: int, *, begin: int) -> Iterator[Trace]:
    """Traces some steps of a training, in the first process.

    Args:
      folder: of the training; the trace goes into its folder "profile".
      count: of steps; 0: none are traced. Fewer are where the training ends before.
      begin: the first step, counted from 0.
    """
    traced = Trace(folder / PROFILE, count, begin)
    try:
        yield traced
    finally:
        traced.close()
