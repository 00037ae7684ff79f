"""Placeholders of data sets that are not on disk: shapes, classes and sizes, to plan a run.

Sizes are as published with each set. Images are black and labels cycle through the classes, so that
classes are of equal size. They serve for shapes only; nothing should be trained on them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from thanos_jax.data import isic, waterbirds
from thanos_jax.data.dataset import Dataset, exceeds_memory, number_coarse
from thanos_jax.data.specs import SPECS
from thanos_jax.data.splits import Batch, DerivedSplit, Split
from thanos_jax.data.tiny_imagenet import superclasses


class AbsentSplit:
    """Placeholder of a split that is not on disk.

    Args:
      image_shape: (h, w, c).
      fine: int32 [n].
      coarse: int32 [n].
      in_memory: whether the real split would be held in memory.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        fine: np.ndarray,
        coarse: np.ndarray,
        *,
        in_memory: bool,
    ) -> None:
        self.fine, self.names = fine, np.arange(len(fine))
        self.in_memory = in_memory
        self._image_shape, self._coarse = image_shape, coarse

    def __len__(self) -> int:
        return len(self.fine)

    @property
    def nbytes(self) -> int:
        """Bytes of the images and labels that the real split would hold in memory."""
        return len(self) * (math.prod(self._image_shape) + 8) if self.in_memory else 0

    def read(self, indices: np.ndarray) -> Batch:
        """Returns black images; see `Split.read`."""
        image = np.zeros((len(indices), *self._image_shape), np.uint8)
        return {"image": image, "fine": self.fine[indices], "coarse": self._coarse[indices]}

    def subset(self, indices: np.ndarray) -> DerivedSplit:
        """Returns the split of some examples; see `Split.subset`."""
        return DerivedSplit(self, numbers=np.asarray(indices))

    def changed(self, image_shape: tuple[int, ...], fine: np.ndarray | None = None) -> AbsentSplit:
        """Returns the same examples with another image shape, and other fine labels if given."""
        fine = self.fine if fine is None else fine
        return AbsentSplit(image_shape, fine, self._coarse, in_memory=self.in_memory)


class _Published(NamedTuple):
    """Published facts about a data set.

    Attributes:
      image_shape: (h, w, c) as stored; h and w are 0 if images differ in size.
      sizes: split -> number of images.
    """

    image_shape: tuple[int, int, int]
    sizes: dict[str, int]


_MNIST = _Published((28, 28, 1), {"train": 60_000, "test": 10_000})
_CIFAR = _Published((32, 32, 3), {"train": 50_000, "test": 10_000})
_PUBLISHED = {
    "mnist": _MNIST,
    "fashion_mnist": _MNIST,
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    # The training images of CIFAR100 that CIFAR100-U keeps.
    "cifar100_u": _Published((32, 32, 3), {"train": 19_000, "test": 10_000}),
    "celeb_a": _Published((218, 178, 3), {"train": 162_770, "validation": 19_867, "test": 19_962}),
    "tiny_imagenet": _Published((64, 64, 3), {"train": 100_000, "test": 10_000}),
    "waterbirds": _Published((0, 0, 3), {"train": 4_795, "validation": 1_199, "test": 5_794}),
    # Users assemble the set themselves; about the size in configs/isic.py, a fifth for testing.
    "isic": _Published((0, 0, 3), {"train": 17_600, "test": 4_400}),
}


def stand_in(config_data: ConfigDict) -> Dataset | None:
    """Returns a data set as its loader would return it, with black images.

    Args:
      config_data: `config.data`.

    Returns:
      The data set, without mean and std; None if shapes or classes are known from images only.

    Raises:
      DataError: data.coarse_map cannot be used.
    """
    name, size = config_data.name, config_data.image_size
    if name not in _PUBLISHED:
        return None
    (height, width, channels), sizes = _PUBLISHED[name]
    shape = (size or height, size or width, channels)
    if not shape[0]:
        return None
    coarse_names, fine_names, coarse_of_fine = _classes(config_data)
    in_memory = not exceeds_memory(sum(sizes.values()), shape, config_data)
    splits: dict[str, Split] = {}
    for split, count in sizes.items():
        fine = (np.arange(count) % len(coarse_of_fine)).astype(np.int32)
        splits[split] = AbsentSplit(shape, fine, coarse_of_fine[fine], in_memory=in_memory)
    return Dataset(name, splits, coarse_names, fine_names, shape, (), ())


def _classes(config_data: ConfigDict) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
    """Returns names of coarse and fine classes; int32 [num_fine], coarse class of each fine one."""
    name = config_data.name
    if name in SPECS:
        spec = SPECS[name]
        assert spec.coarse_of_fine is not None
        return spec.coarse_names, spec.fine_names, spec.coarse_of_fine
    if name == "tiny_imagenet":
        pairs = [(coarse, wnid) for wnid, coarse in superclasses(config_data.coarse_map).items()]
    else:
        layouts = {"waterbirds": waterbirds.LAYOUT, "isic": isic.LAYOUT}
        pairs = list(layouts[name].pairs)
    coarse, fine = zip(*pairs, strict=True)
    coarse_names, coarse_of_fine = number_coarse(coarse)
    return coarse_names, tuple(fine), coarse_of_fine
