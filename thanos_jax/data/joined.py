"""Several splits as one: one after the other, nothing copied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thanos_jax.data.dataset import labels
from thanos_jax.data.splits import Batch, DerivedSplit, Split


class JoinedSplit:
    """The examples of several splits, in their order.

    Args:
      parts: splits of images of one shape, one or more.
    """

    def __init__(self, parts: Sequence[Split]) -> None:
        self.parts = tuple(parts)
        self.in_memory = all(part.in_memory for part in parts)
        self._ends = np.cumsum([len(part) for part in parts])

    @property
    def fine(self) -> np.ndarray | None:
        """int32 [len(self)], the fine labels, if they are known without reading."""
        found = [part.fine for part in self.parts]
        known = [fine for fine in found if fine is not None]
        return np.concatenate(known) if len(known) == len(found) else None

    @property
    def names(self) -> np.ndarray:
        """[len(self)], the files of the examples, or their numbers as stored."""
        return np.concatenate([part.names for part in self.parts])

    # What lies on the devices, where a training set does.

    @property
    def images(self) -> np.ndarray:
        """uint8 [len(self), h, w, c]."""
        return self.read(np.arange(len(self)))["image"]

    @property
    def coarse(self) -> np.ndarray:
        """int32 [len(self)]."""
        return np.concatenate([labels(part)[1] for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, indices: np.ndarray) -> Batch:
        """Examples by number; see `Split.read`."""
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
        """The examples named, nothing read; see `Split.subset`."""
        return DerivedSplit(self, numbers=np.arange(len(self))[indices])
