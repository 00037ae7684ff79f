"""Batches as a pure function of seed and step.

The training stream is an endless concatenation of seeded epoch permutations. Step s takes positions
s * B to (s + 1) * B of it. The step is thus the whole state of the data: nothing is lost or
repeated when a run is stopped and resumed, also with another number of processes. Each process
reads its rows of a batch (`thanos_jax.sharding.LocalRows`). Class-balanced batches have a similar
stream; see `thanos_jax.data.balanced`.
"""

import functools
import operator
from collections.abc import Iterator
from typing import Any

import numpy as np

from thanos_jax.checks import check_at_least
from thanos_jax.data.balanced import ClassBalance
from thanos_jax.data.splits import Batch, Split
from thanos_jax.errors import MissingDependencyError
from thanos_jax.permutations import permutation, stretch


def sample_indices(
    *, seed: int, step: int, batch_size: int, size: int, balance: ClassBalance | None = None
) -> np.ndarray:
    """Returns the examples of one training step, as positions in the split.

    Args:
      seed: integer in [0, 2**64); orders the epochs.
      step: the training step, from 0.
      batch_size: examples per step, over all processes.
      size: number of examples of the split.
      balance: draws class-balanced batches; None: examples are drawn regardless of class.

    Returns:
      int64 [batch_size].

    Raises:
      TypeError: an argument is not an integer.
      ValueError: an argument is out of range, or `balance` cannot draw a batch of this size.
    """
    check_at_least("batch_size", operator.index(batch_size), 1)
    check_at_least("step", operator.index(step), 0)
    check_at_least("size", operator.index(size), 1)
    if balance is not None:
        return balance.draw(seed=seed, step=step, batch_size=batch_size, size=size)
    return stretch(
        lambda epoch: permutation(seed, epoch, size),
        size,
        step * batch_size,
        (step + 1) * batch_size,
    )


def train_batches(
    split: Split,
    *,
    seed: int,
    batch_size: int,
    first_step: int,
    last_step: int,
    balance: ClassBalance | None = None,
    read_threads: int = 8,
) -> Iterator[Batch]:
    """Returns the batches of steps first_step .. last_step - 1.

    A split in memory is indexed directly. A split on disk is prefetched by Grain, whole steps at a
    time. The values are the same.

    Args:
      split: the training split.
      seed: integer in [0, 2**64); orders the epochs.
      batch_size: examples per step, over all processes.
      first_step: the first step; a checkpoint stores it.
      last_step: the step after the last one.
      balance: as for `sample_indices`.
      read_threads: threads that prefetch from disk; 0: none.

    Returns:
      An iterator of {"image": uint8 [b, h, w, c], "fine": int32 [b], "coarse": int32 [b]}.

    Raises:
      ImportError: grain, which prefetches, is not installed.
      TypeError: an argument is not an integer.
      ValueError: an argument is out of range.
    """
    check_at_least("batch_size", operator.index(batch_size), 1)
    if not 0 <= operator.index(first_step) <= operator.index(last_step):
        raise ValueError(
            f"steps: expected 0 <= first_step <= last_step, got {first_step} and {last_step}"
        )
    draw = functools.partial(
        sample_indices, seed=seed, batch_size=batch_size, size=len(split), balance=balance
    )

    def read(step: int) -> Batch:
        return split.read(draw(step=step))

    if first_step < last_step:
        # An error in seed, size or balance is raised here, not at the first `next`.
        draw(step=first_step)
    return _each(read, first_step, last_step, split.in_memory, read_threads)


def evaluation_batches(
    split: Split,
    *,
    batch_size: int,
    parts: int = 1,
    read_threads: int = 8,
) -> Iterator[Batch]:
    """Returns batches that have every example once; padding repeats example 0 and is marked.

    With one part, examples come in order. With several, the split is cut into contiguous parts of
    equal length, and each batch has the next piece of every part. The results of one device are
    then a contiguous part of the split. Padding stands after the last example.

    Args:
      split: the split to evaluate.
      batch_size: examples per batch, over all processes; a multiple of `parts`.
      parts: number of contiguous parts, at least 1.
      read_threads: threads that prefetch from disk; 0: none.

    Returns:
      An iterator of {"image": uint8 [b, h, w, c], "fine": int32 [b], "coarse": int32 [b],
      "where": bool [b], False on padding, "index": int64 [b], the position in the split}.

    Raises:
      ImportError: grain, which prefetches, is not installed.
      TypeError: an argument is not an integer.
      ValueError: an argument is out of range, or the split has no examples.
    """
    check_at_least("batch_size", operator.index(batch_size), 1)
    check_at_least("parts", operator.index(parts), 1)
    if batch_size % parts:
        raise ValueError(f"batch_size: expected a multiple of {parts} parts, got {batch_size}")
    size = len(split)
    if size < 1:
        raise ValueError("split: expected at least one example, got 0")
    count, piece = -(-size // batch_size), batch_size // parts
    starts = np.arange(parts, dtype=np.int64)[:, None] * (count * piece)

    def read(number: int) -> Batch:
        position = (starts + number * piece + np.arange(piece)).reshape(-1)
        where = position < size
        index = np.where(where, position, 0)
        return {**split.read(index), "where": where, "index": index}

    return _each(read, 0, count, split.in_memory, read_threads)


def _each(read: Any, first: int, last: int, in_memory: bool, read_threads: int) -> Iterator[Batch]:
    check_at_least("read_threads", operator.index(read_threads), 0)
    if in_memory or read_threads == 0 or first == last:
        return map(read, range(first, last))
    try:
        import grain
    except ImportError as error:
        raise MissingDependencyError(
            "a split on disk is prefetched by grain, which is not installed. Install it with:"
            " pip install '.[tfds]' in the project's folder, or pass read_threads=0"
        ) from error
    options = grain.ReadOptions(num_threads=read_threads, prefetch_buffer_size=read_threads + 2)
    source = grain.MapDataset.range(first, last).map(read)
    return _closing(iter(source.to_iter_dataset(options)))


def _closing(batches: Any) -> Iterator[Batch]:
    """Yields the batches; the reading threads end when this generator is closed."""
    try:
        yield from batches
    finally:
        batches.close()
