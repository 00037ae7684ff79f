"""Joins labelled and unlabelled training images into one split."""

from __future__ import annotations

import numpy as np

from thanos_jax.data.joined import JoinedSplit
from thanos_jax.data.splits import DerivedSplit, Split

NO_LABEL = -1


def with_unlabelled(labelled: Split, unlabelled: Split) -> JoinedSplit:
    """Returns a training split followed by the unlabelled images, whose labels are -1.

    Args:
      labelled: n images.
      unlabelled: m images of the same shape; the labels that it reads are ignored.
    """
    none = np.full(len(unlabelled), NO_LABEL, np.int32)
    return JoinedSplit([labelled, DerivedSplit(unlabelled, {"fine": none, "coarse": none})])
