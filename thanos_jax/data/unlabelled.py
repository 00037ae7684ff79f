"""Training images with labels and without, as one split."""

from __future__ import annotations

import numpy as np

from thanos_jax.data.joined import JoinedSplit
from thanos_jax.data.splits import DerivedSplit, Split

NO_LABEL = -1


def with_unlabelled(labelled: Split, unlabelled: Split) -> JoinedSplit:
    """The images of a training split, and after them those that have no label, which is -1.

    Args:
      labelled: n images.
      unlabelled: m images of the same shape; their labels as read are not looked at.
    """
    none = np.full(len(unlabelled), NO_LABEL, np.int32)
    return JoinedSplit([labelled, DerivedSplit(unlabelled, {"fine": none, "coarse": none})])
