"""Seeded permutations that are the same on every machine and NumPy version, and their streams.

A draw is keyed by a seed and a stream. Training uses the number of the epoch as the stream; every
other draw has a stream here, so that no two draws of one seed are the same.
"""

import functools
import operator
from collections.abc import Callable

import numpy as np

# Epochs count up from zero and never reach these. Class-balanced batches: the order of the classes,
# plus the pass over them; that of a class's images, plus 2**32 times the class and the pass over
# them, for up to 2**26 classes.
CLASS_ORDER, IMAGE_ORDER = 2**57, 2**58
# Data, by split where both are drawn:
BACKGROUND = {"train": 2**59, "test": 2**59 + 1}  # colour or texture of each image
STRIPES = {"train": 2**59 + 2, "test": 2**59 + 3}  # where each image's stripes begin
PHOTOGRAPH = {"train": 2**60, "test": 2**60 + 1}  # the crop behind each image
MOMENTS = 2**61
TEST_SPLIT = 2**62
SUBSAMPLE = 2**63  # plus the fine class
HOLD_OUT = 2**64 - 1
# Labels made wrong: which, to what; which of equally suspicious ones are flagged.
CHANGED_LABELS, NEW_LABELS, FLAG_TIES = 2**61 + 1, 2**61 + 2, 2**61 + 3
# Coresets: the halves to train on, plus the pair of runs; which of equally scored images stay.
HALVES, CORESET_TIES = 2**61 + 4, 2**61 + 2**32
AUDIT_FOLDS = 2**61 + 2**33  # the parts of a data set that are judged without themselves


@functools.lru_cache(maxsize=4)
def permutation(seed: int, stream: int, size: int) -> np.ndarray:
    """A uniformly random order of 0 .. size - 1, keyed by (seed, stream).

    The order sorts `size` 64-bit words of a Philox counter generator. NumPy promises those words
    for good, which it does not for `Generator.permutation`: an interrupted run may be continued
    under another NumPy.

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
    """A part of the endless concatenation of passes.

    Args:
      passes: number from 0 -> [size], an order of 0 .. size - 1.
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
