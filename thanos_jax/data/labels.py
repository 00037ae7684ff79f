"""The check of labels."""

import numpy as np


def check_labels(labels: np.ndarray, num_classes: int, what: str) -> np.ndarray:
    """Labels as int32, refused when one of them names no class.

    Out of range labels pass through one_hot, segment_sum and indexing without a sound, so they are
    stopped here.

    Args:
      labels: integer [n].
      num_classes: labels must lie in [0, num_classes).
      what: what the labels are, for the message, as in "mnist train fine labels".

    Returns:
      int32 [n].

    Raises:
      TypeError: the labels are not integers.
      ValueError: wrong rank, or a label out of range; the message has the first such index.
    """
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"{what} must be integers, got dtype {labels.dtype}")
    if labels.ndim != 1:
        raise ValueError(f"{what} must have shape [n], got {labels.shape}")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        raise ValueError(
            f"{what} must lie in [0, {num_classes}), got {labels[wrong[0]]} at index {wrong[0]}"
            f" ({wrong.size} of {labels.size} are out of range)"
        )
    return labels.astype(np.int32)
