"""The check of labels that come from a data set."""

import numpy as np

from thanos_jax import checks


def check_labels(labels: np.ndarray, num_classes: int, what: str) -> np.ndarray:
    """Returns labels as int32 [n], checked as `thanos_jax.checks.check_labels` does.

    Labels out of range would pass through one_hot, segment_sum and indexing without an error.
    """
    return checks.check_labels(labels, what, num_classes=num_classes).astype(np.int32)
