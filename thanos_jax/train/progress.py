"""How a long run shows itself: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import rich.progress

SHOWN = ("loss", "coarse_accuracy", "validation_coarse_accuracy", "images_per_second")


class Progress:
    """Reports steps and records; made by `progress`."""

    def __init__(self, bar: rich.progress.Progress | None, total: int, first: int) -> None:
        self._bar = bar
        self._total = total
        self._task = bar.add_task("training", total=total, completed=first) if bar else None

    def advance(self, steps: int) -> None:
        """Counts steps."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, steps)

    def show(self, record: Mapping[str, float]) -> None:
        """Shows a record of metrics; elsewhere than on a terminal only those of an evaluation."""
        text = "  ".join(f"{name} {record[name]:.4g}" for name in SHOWN if name in record)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text)
        elif "validation_coarse_accuracy" in record:
            print(f"step {record['step']}/{self._total}  {text}", flush=True)


@contextmanager
def open_bar() -> Iterator[rich.progress.Progress | None]:
    """Opens a bar on a terminal; None elsewhere."""
    if not sys.stdout.isatty():
        yield None
        return
    columns = (
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.description}"),
    )
    with rich.progress.Progress(*columns) as bar:
        yield bar


@contextmanager
def progress(total: int, first: int) -> Iterator[Progress]:
    """Opens a bar of `total` steps, of which `first` are done."""
    with open_bar() as bar:
        yield Progress(bar, total, first)
