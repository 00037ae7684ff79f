"""Progress display of a training: a bar on a terminal, plain lines elsewhere.

It shows numbers that were fetched for metrics.jsonl, so that it never waits for a device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import rich.console
import rich.live
import rich.progress
import rich.text

# Metrics in their order on a line; a training shows those that it has.
_TERMS = (
    *("loss", "contrastive", "cross_entropy", "reconstruction", "early_learning_regularization"),
    *("largest_group_weight", "coarse_accuracy", "validation_coarse_accuracy"),
    *("validation_fine_accuracy", "validation_collapse_index"),
)
# Longest time without a line in seconds, if there is no terminal.
_SILENCE = 30.0


def words(record: Mapping[str, float]) -> str:
    """Returns a line with the loss terms, accuracies and throughput of a record."""
    shown = [f"{name} {record[name]:.4g}" for name in _TERMS if name in record]
    if "images_per_second" in record:
        shown.append(f"{record['images_per_second']:,.0f} images/s")
    return "  ".join(shown)


def time_left(done: int, left: int, seconds: float) -> str:
    """Returns the remaining time, as in "1:02:03 left"; "" if it is unknown.

    Args:
      done: number of steps taken so far.
      left: number of steps still to take.
      seconds: time of the steps taken so far, including everything between them.
    """
    if done < 1 or left < 1:
        return ""
    minutes, rest = divmod(round(seconds / done * left), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} left"


class Progress:
    """Reports steps and records; made by `progress`.

    Args:
      bar: the bar on a terminal; None elsewhere.
      line: the text below the bar.
      total: number of steps of the training.
      first: number of steps already done.
      name: name of the training; "" if there is only one.
      clock: returns the time in seconds.
    """

    def __init__(
        self,
        bar: rich.progress.Progress | None,
        line: rich.text.Text,
        total: int,
        first: int,
        name: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bar, self._line, self._name = bar, line, name
        self._total, self._step, self._clock = total, first, clock
        # The step after which the pace is measured; the first step of a start compiles.
        self._paced: tuple[int, float] | None = None
        self._said = clock()
        self._task = bar.add_task(name, total=total, completed=first) if bar else None

    def advance(self, steps: int) -> None:
        """Counts steps."""
        self._step += steps
        self._paced = self._paced or (self._step, self._clock())
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, steps)

    def show(self, record: Mapping[str, float]) -> None:
        """Shows a record of metrics.

        Without a terminal, records with evaluations are shown, and others only if no line was
        written for half a minute.
        """
        text = words(record)
        if self._bar is not None:
            self._line.plain = text
            return
        evaluated = any(name.startswith("validation_") for name in record)
        if not evaluated and self._clock() - self._said < _SILENCE:
            return
        self._said = self._clock()
        left = ""
        if self._paced is not None:
            begin, started = self._paced
            step = int(record["step"])
            left = time_left(step - begin, self._total - step, self._said - started)
        which = f"{self._name} " if self._name else ""
        parts = [f"{which}step {record['step']}/{self._total}", text, left]
        print("  ".join(part for part in parts if part), flush=True)


@contextmanager
def open_bar(below: rich.text.Text | None = None) -> Iterator[rich.progress.Progress | None]:
    """Opens a bar on a terminal, with a line of text below it; yields None elsewhere."""
    if not sys.stdout.isatty():
        yield None
        return
    bar = rich.progress.Progress(
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.description}"),
    )
    group = rich.console.Group(bar, *([] if below is None else [below]))
    with rich.live.Live(group, console=bar.console, refresh_per_second=4):
        yield bar


@contextmanager
def progress(total: int, first: int, name: str = "") -> Iterator[Progress]:
    """Opens the progress display of a training of `total` steps, of which `first` are done."""
    line = rich.text.Text()
    with open_bar(line) as bar:
        yield Progress(bar, line, total, first, name)
