"""Random images in place of a data set, for measurements that depend on shapes alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from thanos_jax.data import sources
from thanos_jax.data.specs import SPECS


def random_dataset(config: Any, *, size: int, side: int) -> sources.Dataset:
    """Returns `size` random images, the same for all splits, with the labels of config.data.name.

    Args:
      config: the whole config.
      size: number of images.
      side: height and width in pixels.
    """
    name, rng = config.data.name, np.random.default_rng(0)
    spec = SPECS[name]
    coarse_of_fine, channels = spec.coarse_of_fine, len(spec.mean)
    assert coarse_of_fine is not None
    fine = rng.integers(len(coarse_of_fine), size=size, dtype=np.int32)
    images = rng.integers(256, size=(size, side, side, channels), dtype=np.uint8)
    split = sources.ArraySplit(images, fine, coarse_of_fine[fine])
    return sources.Dataset(
        name=name,
        splits=dict.fromkeys(("train", "validation", "test"), split),
        coarse_names=spec.coarse_names,
        fine_names=spec.fine_names,
        image_shape=(side, side, channels),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )
