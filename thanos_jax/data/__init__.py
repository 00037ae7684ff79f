"""Images with a coarse and a fine label: what they are, where they come from, how they are batched.

Nothing here needs TensorFlow, and neither tensorflow_datasets nor grain is imported before a
data set asks for it: the digits run without them.
"""

from thanos_jax.data.dataset import group_counts
from thanos_jax.data.prepared import DatasetNotFound
from thanos_jax.data.sources import load
from thanos_jax.data.splits import DataError

__all__ = ["DataError", "DatasetNotFound", "group_counts", "load"]
