"""Splits whose classes are other labels than those stored: fine labels, or wrong ones."""

from __future__ import annotations

import numpy as np

from thanos_jax.data.dataset import Dataset
from thanos_jax.data.labels import check_labels
from thanos_jax.data.splits import ArraySplit, Batch, Split


class RelabelledSplit:
    """A split with other coarse labels; its images are read as they were.

    Args:
      split: n examples.
      coarse: integer [n], none negative; None: the fine labels, whatever they are.

    Raises:
      TypeError: labels are not integers.
      ValueError: negative labels, or not n of them.
    """

    def __init__(self, split: Split, coarse: np.ndarray | None) -> None:
        self.split, self.in_memory = split, split.in_memory
        self.coarse = None if coarse is None else _checked(coarse, len(split))

    @property
    def fine(self) -> np.ndarray | None:
        """int32 [n], the fine labels, if the split knows them without reading."""
        return self.split.fine

    def __len__(self) -> int:
        return len(self.split)

    def read(self, indices: np.ndarray) -> Batch:
        """Examples by number; see `Split.read`."""
        batch = self.split.read(indices)
        coarse = batch["fine"] if self.coarse is None else np.take(self.coarse, indices)
        return {**batch, "coarse": coarse}

    def subset(self, indices: np.ndarray) -> RelabelledSplit:
        """The examples named, nothing read; see `Split.subset`."""
        coarse = None if self.coarse is None else np.take(self.coarse, indices)
        return RelabelledSplit(self.split.subset(indices), coarse)


def relabel(split: Split, coarse: np.ndarray | None) -> Split:
    """Returns the split with other coarse labels, its images not copied.

    Args:
      split: n examples.
      coarse: integer [n], none negative; None: the fine labels.

    Raises:
      TypeError: labels are not integers.
      ValueError: negative labels, or not n of them.
    """
    if isinstance(split, ArraySplit):
        labels = split.fine if coarse is None else _checked(coarse, len(split))
        return ArraySplit(split.images, split.fine, labels)
    return RelabelledSplit(split, coarse)


def with_fine_classes(dataset: Dataset) -> Dataset:
    """Returns the data set whose classes are the fine labels: nothing is hidden within them."""
    splits = {name: relabel(split, None) for name, split in dataset.splits.items()}
    return dataset._replace(splits=splits, coarse_names=dataset.fine_names)


def _checked(coarse: np.ndarray, length: int) -> np.ndarray:
    labels = check_labels(coarse, 2**31 - 1, "coarse labels")
    if labels.shape != (length,):
        raise ValueError(f"coarse labels: expected shape ({length},), got {labels.shape}")
    return labels
