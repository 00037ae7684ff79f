"""Data sets of images with a coarse and a fine label: loading, splits, batches, augmentation.

Nothing here needs TensorFlow. tensorflow_datasets and grain are imported only for data sets that
need them; the digits run without them.
"""

from thanos_jax.data.dataset import group_counts
from thanos_jax.data.prepared import DatasetNotFound
from thanos_jax.data.sources import load
from thanos_jax.data.splits import DataError

__all__ = ["DataError", "DatasetNotFound", "group_counts", "load"]
