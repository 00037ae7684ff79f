"""Splits with other coarse labels than those stored: the fine labels, or corrupted ones."""

from __future__ import annotations

import numpy as np

from thanos_jax.checks import check_labels
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.splits import INT32, ArraySplit, DerivedSplit, Split


def relabel(split: Split, coarse: np.ndarray | None) -> Split:
    """Returns the split with other coarse labels; images are not copied.

    Args:
      split: n examples.
      coarse: integer [n], none negative: the new coarse labels; None: the fine labels.

    Raises:
      TypeError: labels are not integers.
      ValueError: a label is negative, or there are not n labels.
    """
    labels = split.fine if coarse is None else check_labels(coarse, "coarse labels", **INT32)
    if labels is None:
        return DerivedSplit(split, change=lambda batch, _: {**batch, "coarse": batch["fine"]})
    if labels.shape != (len(split),):
        raise ValueError(f"coarse labels: expected shape ({len(split)},), got {labels.shape}")
    if isinstance(split, ArraySplit):
        return ArraySplit(split.images, split.fine, labels, split.names)
    return DerivedSplit(split, {"coarse": labels})


def with_fine_classes(dataset: Dataset) -> Dataset:
    """Returns the data set with the fine labels as coarse labels too."""
    splits = {name: relabel(split, None) for name, split in dataset.splits.items()}
    return dataset._replace(splits=splits, coarse_names=dataset.fine_names)
