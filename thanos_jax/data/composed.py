"""A data set with backgrounds: the background of each image, and the groups that result."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from thanos_jax.data import backgrounds, spurious
from thanos_jax.data.absent import AbsentSplit
from thanos_jax.data.dataset import BACKGROUND_CHANNELS, Dataset, labels
from thanos_jax.data.splits import ArraySplit, DataError, DerivedSplit, Split


def over_background(dataset: Dataset, config_data: ConfigDict) -> Dataset:
    """Lays the images of a set over the background `config_data.background`.

    Args:
      dataset: from a loader, with rare classes already reduced.
      config_data: `config.data`.

    Returns:
      The set, with mean and std still to be measured. If backgrounds go with classes, its fine
      labels are the groups. With background "none", the set itself.

    Raises:
      DataError: the images of the set cannot be laid over a background.
    """
    background, splits = config_data.background, dict(dataset.splits)
    if background == "none":
        return dataset
    if dataset.unlabelled is not None:
        raise DataError(
            f"data.background: expected 'none' for {dataset.name}, some of whose images have no"
            f" label, or data.unlabelled_use 'drop', got {background!r}"
        )
    if dataset.image_shape[2] != 1:
        raise DataError(
            f"data.background: expected 'none' for {dataset.name}, got {background!r}; only images"
            f" of one channel can be laid over a background, and it has {dataset.image_shape[2]}"
        )
    # A stored validation split is numbered after the training images. The test split is the same
    # for every seed, and balanced.
    for split, parts, seed, correlation in (
        ("train", ("train", "validation"), config_data.split_seed, config_data.correlation),
        ("test", ("test",), 0, 0.5),
    ):
        present = [part for part in parts if part in splits]
        ends = np.cumsum([0, *(len(splits[part]) for part in present)])
        behind = group = None
        if background in spurious.BACKGROUNDS:
            coarse = np.concatenate([labels(splits[part])[1] for part in present])
            behind = spurious.assign(coarse, correlation=correlation, seed=seed, split=split)
            group = (2 * coarse + behind).astype(np.int32)
        change = functools.partial(_compose, kind=background, seed=seed, split=split, behind=behind)
        for part, start, end in zip(present, ends, ends[1:], strict=False):
            fine = None if group is None else group[start:end]
            splits[part] = with_images(splits[part], change, fine, first=int(start))
    fine_names = dataset.fine_names
    if background in spurious.BACKGROUNDS:
        fine_names = spurious.group_names(dataset.coarse_names, background)
    shape = (*dataset.image_shape[:2], BACKGROUND_CHANNELS[background])
    return dataset._replace(
        splits=splits, fine_names=fine_names, image_shape=shape, mean=(), std=()
    )


def _compose(
    images: np.ndarray,
    numbers: np.ndarray,
    *,
    kind: str,
    seed: int,
    split: str,
    behind: np.ndarray | None,
) -> np.ndarray:
    """Lays numbered images over photographs, or over the backgrounds assigned to them."""
    if behind is None:
        return backgrounds.over_photographs(images, seed, split, numbers=numbers)
    return spurious.over_backgrounds(
        images, behind[numbers], kind=kind, seed=seed, split=split, numbers=numbers
    )


def with_images(
    split: Split,
    change: Callable[[np.ndarray, np.ndarray], np.ndarray],
    fine: np.ndarray | None = None,
    *,
    first: int = 0,
) -> Split:
    """Returns a split with changed images; images in memory are changed at once.

    Args:
      split: n examples.
      change: (uint8 [b, h, w, c], int64 [b] their numbers) -> uint8 [b, h, w, other].
      fine: int32 [n], the new fine labels; None: they stay the same.
      first: number of the first image.

    Returns:
      A split of the changed images.
    """
    if isinstance(split, ArraySplit):
        images = change(split.images, first + np.arange(len(split)))
        fine = split.fine if fine is None else fine
        return ArraySplit(images, fine, split.coarse, split.names)
    if isinstance(split, AbsentSplit):
        none = np.zeros(0, np.int64)
        return split.changed(change(split.read(none)["image"], none).shape[1:], fine)
    return DerivedSplit(
        split,
        {} if fine is None else {"fine": fine},
        change=lambda batch, rows: {**batch, "image": change(batch["image"], first + rows)},
    )
