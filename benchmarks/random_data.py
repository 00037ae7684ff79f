"""Random images in place of a data set, for what depends on shapes alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from thanos_jax.data import labels, sources


def random_dataset(config: Any, *, size: int, side: int) -> sources.Dataset:
    """Returns `size` random images, the same for all splits, with the labels of config.data.name.

    Args:
      config: the whole config.
      size: number of images.
      side: in pixels; one channel for digits and mnist, else three.
    """
    name, rng = config.data.name, np.random.default_rng(0)
    coarse_of_fine = labels.coarse_of_fine(name)
    channels = 1 if name in ("digits", "mnist") else 3
    fine = rng.integers(len(coarse_of_fine), size=size, dtype=np.int32)
    images = rng.integers(256, size=(size, side, side, channels), dtype=np.uint8)
    split = sources.ArraySplit(images, fine, coarse_of_fine[fine])
    return sources.Dataset(
        name=name,
        splits=dict.fromkeys(("train", "validation", "test"), split),
        coarse_names=labels.coarse_names(name),
        fine_names=labels.fine_names(name),
        image_shape=(side, side, channels),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )
