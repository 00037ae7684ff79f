"""Splits whose classes are other labels than those stored: fine labels, or wrong ones."""

from __future__ import annotations

import numpy as np

from thanos_jax.checks import check_labels
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.splits import INT32, ArraySplit, DerivedSplit, Split


def relabel(split: Split, coarse: np.ndarray | None) -> Split:
    """Returns the split with other coarse labels, its images not copied.

    Args:
      split: n examples.
      coarse: integer [n], none negative; None: the fine labels.

    Raises:
      TypeError: labels are not integers.
      ValueError: negative labels, or not n of them.
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
    """Returns the data set whose classes are the fine labels: nothing is hidden within them."""
    splits = {name: relabel(split, None) for name, split in dataset.splits.items()}
    return dataset._replace(splits=splits, coarse_names=dataset.fine_names)
