"""Training images with labels and without, as one split."""

from __future__ import annotations

import numpy as np

from thanos_jax.data.splits import Batch, Split

NO_LABEL = -1


class WithUnlabelled:
    """The images of a training split, and after them those that have no label, which is -1.

    Args:
      labelled: n images.
      unlabelled: m images of the same shape; their labels as read are not looked at.
    """

    def __init__(self, labelled: Split, unlabelled: Split) -> None:
        self.parts = (labelled, unlabelled)
        self.in_memory = labelled.in_memory and unlabelled.in_memory

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def read(self, indices: np.ndarray) -> Batch:
        """Examples by number; see `Split.read`."""
        first, second = self.parts
        numbers = np.asarray(indices)
        mine = numbers < len(first)
        batches = (first.read(numbers[mine]), second.read(numbers[~mine] - len(first)))
        batches[1].update({name: np.full((~mine).sum(), NO_LABEL, np.int32) for name in _LABELS})
        # The place of each example in the two batches.
        place = np.empty(len(numbers), np.int64)
        place[mine] = np.arange(mine.sum())
        place[~mine] = mine.sum() + np.arange((~mine).sum())
        return {
            name: np.concatenate([batch[name] for batch in batches])[place]
            for name in ("image", *_LABELS)
        }


_LABELS = ("fine", "coarse")
