"""Seeded permutations that are the same on every machine and NumPy version."""

import functools
import operator

import numpy as np

# Streams of the one-off draws. Epochs count up from zero and never reach them.
HOLD_OUT = 2**64 - 1
SUBSAMPLE = 2**63
TEST_SPLIT = 2**62


@functools.lru_cache(maxsize=4)
def permutation(seed: int, stream: int, size: int) -> np.ndarray:
    """A uniformly random order of 0 .. size - 1, keyed by (seed, stream).

    The order sorts `size` 64-bit words of a Philox counter generator. NumPy promises those words
    for good, which it does not for `Generator.permutation`: an interrupted run may be continued
    under another NumPy.

    Args:
      seed: integer in [0, 2**64).
      stream: integer in [0, 2**64); an epoch number, or one of this module's constants.
      size: number of elements, at least 1.

    Returns:
      int64 [size], read-only, because it is shared by all callers.

    Raises:
      TypeError: an argument is not an integer.
      ValueError: an argument is out of its range.
    """
    for name, value in (("seed", seed), ("stream", stream)):
        if not 0 <= operator.index(value) < 2**64:
            raise ValueError(f"{name} must be in [0, 2**64), got {value}")
    if operator.index(size) < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    words = np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(size)
    order = np.argsort(words, kind="stable").astype(np.int64, copy=False)
    order.flags.writeable = False
    return order
