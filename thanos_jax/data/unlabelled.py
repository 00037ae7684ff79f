"""Training images with labels and without, as one split."""

from __future__ import annotations

import numpy as np

from thanos_jax.data.splits import Batch, Split

NO_LABEL = -1
_LABELS = ("fine", "coarse")


class WithUnlabelled:
    """The images of a training split, and after them those that have no label, which is -1.

    Args:
      labelled: n images.
      unlabelled: m images of the same shape; their labels as read are not looked at.
    """

    def __init__(self, labelled: Split, unlabelled: Split) -> None:
        self.parts = (labelled, unlabelled)

    @property
    def in_memory(self) -> bool:
        """Whether `read` is a mere gather."""
        return all(part.in_memory for part in self.parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def read(self, indices: np.ndarray) -> Batch:
        """Examples by number; see `Split.read`."""
        numbers = np.asarray(indices)
        size = len(self.parts[0])
        has_label = numbers < size
        first = self.parts[0].read(numbers[has_label])
        second = self.parts[1].read(numbers[~has_label] - size)
        images = np.empty((len(numbers), *first["image"].shape[1:]), np.uint8)
        images[has_label], images[~has_label] = first["image"], second["image"]
        batch = {"image": images}
        for name in _LABELS:
            batch[name] = np.full(len(numbers), NO_LABEL, np.int32)
            batch[name][has_label] = first[name]
        return batch

    # What the devices hold where the whole training set lies on them.

    @property
    def images(self) -> np.ndarray:
        """Uint8 [n + m, h, w, c]."""
        return self.read(np.arange(len(self)))["image"]

    @property
    def coarse(self) -> np.ndarray:
        """Int32 [n + m]."""
        return self.read(np.arange(len(self)))["coarse"]
