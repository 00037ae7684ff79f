"""Seeded permutations that are the same on every machine and NumPy version, and their streams.

A draw is keyed by a seed and a stream. Training uses the number of the epoch as the stream; every
other draw has its own stream here, so that different draws of one seed are independent.
"""

import functools
import operator
from collections.abc import Callable

import numpy as np

# Epochs count up from zero and never reach these. Class-balanced batches: the order of classes
# (plus the number of the pass over them), and the order of a class's images (plus 2**32 times the
# class, plus the number of the pass over them), for up to 2**26 classes.
CLASS_ORDER, IMAGE_ORDER = 2**57, 2**58
# Data; by split where a split is named:
BACKGROUND = {"train": 2**59, "test": 2**59 + 1}  # colour or texture of each image
STRIPES = {"train": 2**59 + 2, "test": 2**59 + 3}  # where each image's stripes begin
PHOTOGRAPH = {"train": 2**60, "test": 2**60 + 1}  # the crop behind each image
MOMENTS = 2**61
TEST_SPLIT = 2**62
SUBSAMPLE = 2**63  # plus the fine class
HOLD_OUT = 2**64 - 1
# Noisy labels: which are changed, the new labels, and ties between equally suspicious labels.
CHANGED_LABELS, NEW_LABELS, FLAG_TIES = 2**61 + 1, 2**61 + 2, 2**61 + 3
# Coresets: the halves to train on (plus the number of the pair of runs), and ties between scores.
HALVES, CORESET_TIES = 2**61 + 4, 2**61 + 2**32
AUDIT_FOLDS = 2**61 + 2**33  # the folds of an audit of labels


@functools.lru_cache(maxsize=4)
def permutation(seed: int, stream: int, size: int) -> np.ndarray:
    """Returns a uniformly random permutation of 0 .. size - 1, keyed by (seed, stream).

    The permutation sorts `size` 64-bit words of a Philox counter generator. NumPy guarantees these
    words for all versions, unlike `Generator.permutation`, so that an interrupted run can be
    resumed with another NumPy.

    Args:
      seed: integer in [0, 2**64).
      stream: integer in [0, 2**64); an epoch number, or a constant of this module.
      size: number of elements, at least 1.

    Returns:
      int64 [size], read-only, because it is shared by all callers.

    Raises:
      TypeError: an argument is not an integer.
      ValueError: an argument is out of its range.
    """
    for name, value in (("seed", seed), ("stream", stream)):
        if not 0 <= operator.index(value) < 2**64:
            raise ValueError(f"{name}: expected at least 0 and below 2**64, got {value}")
    if operator.index(size) < 1:
        raise ValueError(f"size: expected at least 1, got {size}")
    words = np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(size)
    order = np.argsort(words, kind="stable").astype(np.int64, copy=False)
    order.flags.writeable = False
    return order


def stretch(passes: Callable[[int], np.ndarray], size: int, start: int, stop: int) -> np.ndarray:
    """Returns a part of the endless concatenation of passes.

    Args:
      passes: number of a pass, from 0 -> [size], a permutation of 0 .. size - 1.
      size: length of a pass, at least 1.
      start: position of the first element of the part, from 0.
      stop: position after its last, above `start`.

    Returns:
      int64 [stop - start].
    """
    parts = []
    while start < stop:
        number, within = divmod(start, size)
        part = passes(number)[within : within + stop - start]
        parts.append(part)
        start += len(part)
    return np.concatenate(parts)
