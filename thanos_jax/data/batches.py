"""Batches as a pure function of seed and step.

The training stream is the endless concatenation of seeded epoch permutations. Step s takes its
positions s * B to (s + 1) * B. So the state of the data is the step: nothing is lost or repeated
when a run is stopped, or when it goes on with another number of processes, each of which reads its
rows of a batch (`thanos_jax.sharding.LocalRows`). Class-balanced batches have another stream, of
the same kind; see `thanos_jax.data.balanced`.
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
    """The examples of one training step, as positions in the split.

    Args:
      seed: integer in [0, 2**64); orders the epochs.
      step: the training step, from 0.
      batch_size: examples per step, over all processes.
      size: number of examples of the split.
      balance: the classes of the split, from which every batch takes as many images; None: all
        examples are drawn alike.

    Returns:
      int64 [batch_size].

    Raises:
      TypeError: an argument is not an integer.
      ValueError: an argument out of range, or a batch that the balance does not fit.
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
    """The batches of steps first_step .. last_step - 1.

    A split in memory is gathered on the spot. A split on disk is read ahead by Grain, whole steps
    at a time; the values are the same.

    Args:
      split: where the examples are.
      seed: integer in [0, 2**64); orders the epochs.
      batch_size: examples per step, over all processes.
      first_step: the step to begin with; what a checkpoint stores.
      last_step: the step to stop before.
      balance: as for `sample_indices`.
      read_threads: threads that read ahead from disk; 0 for none.

    Returns:
      An iterator of {"image": uint8 [b, h, w, c], "fine": int32 [b], "coarse": int32 [b]}.

    Raises:
      ImportError: grain, which reads ahead, is not installed.
      TypeError: an argument is not an integer.
      ValueError: an argument out of range.
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
        # What is wrong with seed, size or balance shows here, not at the first `next`.
        draw(step=first_step)
    return _each(read, first_step, last_step, split.in_memory, read_threads)


def evaluation_batches(
    split: Split,
    *,
    batch_size: int,
    parts: int = 1,
    read_threads: int = 8,
) -> Iterator[Batch]:
    """Every example once; where there are too few, example 0 fills up a batch, marked as padding.

    Examples come in order, or in order within each of several stretches of the split: part i of
    each batch is the next piece of stretch i. What a device makes of its part of the batches is
    then a stretch of its own. Stretches are as long as all batches need; padding is past the end.

    Args:
      split: where the examples are.
      batch_size: examples per batch, over all processes; a multiple of `parts`.
      parts: stretches, at least 1.
      read_threads: threads that read ahead from disk; 0 for none.

    Returns:
      An iterator of {"image": uint8 [b, h, w, c], "fine": int32 [b], "coarse": int32 [b],
      "where": bool [b], False on padding, "index": int64 [b], the position in the split}.

    Raises:
      ImportError: grain, which reads ahead, is not installed.
      TypeError: an argument is not an integer.
      ValueError: an argument out of range, or a split without examples.
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
            "a split on disk is read ahead by grain, which is not installed. Install it with:"
            " pip install '.[tfds]' in the project's folder, or pass read_threads=0"
        ) from error
    options = grain.ReadOptions(num_threads=read_threads, prefetch_buffer_size=read_threads + 2)
    source = grain.MapDataset.range(first, last).map(read)
    return _closing(iter(source.to_iter_dataset(options)))


def _closing(batches: Any) -> Iterator[Batch]:
    """The same batches; the reading threads end when the consumer does."""
    try:
        yield from batches
    finally:
        batches.close()
