"""Handling of stored examples that cannot be read: stop, or leave them out with a warning."""

from __future__ import annotations

import contextlib
import sys

import numpy as np

from thanos_jax.data.splits import DataError, RecordSplit, Split, in_threads, to_memory

OPTIONS = ("stop", "skip")

# If more than this share cannot be read, the files are probably the wrong ones.
_MOST = 0.5
_CHUNK = 64  # records read at a time
_NAMED = 10


def open_records(
    records: RecordSplit, *, stream: bool, on_damaged: str, threads: int | None = None
) -> tuple[Split, tuple[str, ...]]:
    """Opens a split, in memory or on disk, and handles unreadable records.

    With "skip", a split that stays on disk is read once in full, and keeps only the readable
    examples. Every process and every start of a run thus see the same examples, as with a split in
    memory.

    Args:
      records: all records of the split.
      stream: whether they stay on disk.
      on_damaged: "stop" or "skip".
      threads: number of threads that decode; None: one per processor, at most 16.

    Returns:
      The split; and the split and number of each example left out, as in "train 17". The latter are
      reported on stderr too.

    Raises:
      DataError: with "stop", a record cannot be read and the split is in memory; with "skip", more
        than half of the records cannot be read.
    """

    def opened(split: Split) -> Split:
        return split if stream else to_memory(split, threads=threads)

    if on_damaged == "stop":
        return opened(records), ()
    if not stream:
        # In the usual case nothing is damaged, and this reads everything only once.
        with contextlib.suppress(DataError):
            return opened(records), ()
    errors = _errors(records, threads)
    if not errors:
        return opened(records), ()
    count = f"{records.dataset}, split {records.split!r}: {len(errors)} of {len(records)} examples"
    first = "\n".join(f"  {error}" for error in list(errors.values())[:_NAMED])
    if len(errors) > _MOST * len(records):
        raise DataError(
            f"{count} cannot be read, more than the half that data.on_damaged='skip' leaves out; "
            f"the first:\n{first}"
        )
    print(
        f"WARNING: {count} cannot be read and are left out; the first:\n{first}",
        file=sys.stderr,
        flush=True,
    )
    sound = records.subset(np.setdiff1d(np.arange(len(records)), list(errors)))
    return opened(sound), tuple(f"{records.split} {number}" for number in errors)


def _errors(records: RecordSplit, threads: int | None) -> dict[int, DataError]:
    """Reads every example; returns number -> error of the unreadable ones, ascending."""

    def look(start: int) -> dict[int, DataError]:
        numbers = np.arange(start, min(start + _CHUNK, len(records)))
        try:
            records.read(numbers)
        except DataError:
            pass  # read one by one below
        else:
            return {}
        found = {}
        for number in numbers.tolist():
            try:
                records.read(np.array([number]))
            except DataError as error:
                found[number] = error
        return found

    found = in_threads(look, range(0, len(records), _CHUNK), threads)
    return {number: error for part in found for number, error in part.items()}
