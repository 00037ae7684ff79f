"""Concatenation of splits, without copying them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thanos_jax.data.dataset import labels
from thanos_jax.data.splits import Batch, DerivedSplit, Split


class JoinedSplit:
    """The concatenation of several splits.

    Args:
      parts: one or more splits whose images have the same shape.
    """

    def __init__(self, parts: Sequence[Split]) -> None:
        self.parts = tuple(parts)
        self.in_memory = all(part.in_memory for part in parts)
        self._ends = np.cumsum([len(part) for part in parts])

    @property
    def fine(self) -> np.ndarray | None:
        """int32 [len(self)], the fine labels; None if they can only be read with the images."""
        found = [part.fine for part in self.parts]
        known = [fine for fine in found if fine is not None]
        return np.concatenate(known) if len(known) == len(found) else None

    @property
    def names(self) -> np.ndarray:
        """[len(self)], the file name of each example, or its number as stored."""
        return np.concatenate([part.names for part in self.parts])

    # Arrays that are put on the devices if the training set is kept there.

    @property
    def images(self) -> np.ndarray:
        """uint8 [len(self), h, w, c], all images."""
        return self.read(np.arange(len(self)))["image"]

    @property
    def coarse(self) -> np.ndarray:
        """int32 [len(self)], the coarse labels."""
        return np.concatenate([labels(part)[1] for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, indices: np.ndarray) -> Batch:
        """Returns examples by number; see `Split.read`."""
        numbers = np.asarray(indices)
        owner = np.searchsorted(self._ends, numbers, side="right").clip(max=len(self.parts) - 1)
        batch: Batch = {}
        for place, (part, end) in enumerate(zip(self.parts, self._ends, strict=True)):
            mine = owner == place
            found = part.read(numbers[mine] - (int(end) - len(part)))
            for name in ("image", "fine", "coarse"):
                if name not in batch:
                    shape = (len(numbers), *found[name].shape[1:])
                    batch[name] = np.empty(shape, found[name].dtype)
                batch[name][mine] = found[name]
        return batch

    def subset(self, indices: np.ndarray) -> DerivedSplit:
        """Returns the split of some examples, without reading them; see `Split.subset`."""
        return DerivedSplit(self, numbers=np.arange(len(self))[indices])
