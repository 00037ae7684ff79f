"""Images with a coarse and a fine label: what they are, where they come from, how they are batched.

Nothing here needs TensorFlow, and neither tensorflow_datasets nor grain is imported before a
data set asks for it: the digits run without them.
"""

from thanos_jax.data.batches import evaluation_batches, sample_indices, train_batches
from thanos_jax.data.dataset import group_counts
from thanos_jax.data.labels import check_labels, coarse_names, coarse_of_fine, fine_names
from thanos_jax.data.sources import Dataset, DatasetNotFound, load
from thanos_jax.data.splits import ArraySplit, DataError, RecordSplit, Split

__all__ = [
    "ArraySplit",
    "DataError",
    "Dataset",
    "DatasetNotFound",
    "RecordSplit",
    "Split",
    "check_labels",
    "coarse_names",
    "coarse_of_fine",
    "evaluation_batches",
    "fine_names",
    "group_counts",
    "load",
    "sample_indices",
    "train_batches",
]
