"""A memory bank and the batch that meets it."""

import numpy as np

from thanos_jax import losses

LABELS = np.array([1, 0, 1, 2, 0, 1], np.int32)
WHERE = np.array([True, True, True, True, False, True])
DIM = 5


def bank_of(labels=(1, 7, 0, 0, 1, 2, 5, 1, 2, -1), filled=None, seed=30, dtype=np.float32):
    """A bank with a gap, in which there is nothing but harm."""
    labels = np.array(labels, np.int32)
    filled = np.arange(len(labels)) % 4 != 2 if filled is None else np.asarray(filled)
    embeddings = np.random.default_rng(seed).normal(size=(len(labels), DIM))
    embeddings[~filled] = np.nan
    position = np.zeros((), np.int32)
    return losses.memory_bank.MemoryBank(embeddings.astype(dtype), labels, filled, position)
