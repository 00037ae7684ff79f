"""What a loader hands over, and what loaders share: draws of splits, channel moments."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from thanos_jax.data.csv_table import read_table
from thanos_jax.data.fingerprint import Fingerprint
from thanos_jax.data.splits import ArraySplit, DataError, DerivedSplit, Split, in_threads
from thanos_jax.permutations import HOLD_OUT, MOMENTS, TEST_SPLIT, permutation

# What one-channel images can be laid over -> channels of the images that result.
BACKGROUND_CHANNELS = {"photographs": 3, "colour": 3, "texture": 1}


class Dataset(NamedTuple):
    """A data set, ready to be batched.

    Attributes:
      name: as in the config.
      splits: "train", "validation" and "test". From a loader of one set, "validation" may be
        missing: it is then held out of "train".
      coarse_names: names of the coarse classes, in the order of their ids.
      fine_names: names of the fine classes, in the order of their ids.
      image_shape: (h, w, c).
      mean: mean of each channel of images in [0, 1]; from a loader, () if it is to be measured.
      std: standard deviation of each channel of images in [0, 1].
      skipped: the stored examples left out because they cannot be read, as in "train 17"; see
        `thanos_jax.data.damaged`.
      unlabelled: training images without labels, whose labels as read say nothing; None: there are
        none.
      unlabelled_dropped: how many images without labels are left out.
      one_level: whether images have one label each, so that coarse and fine classes are the same.
      fingerprint: what the data are known again by; see `thanos_jax.data.fingerprint`. None: they
        are not compared.
    """

    name: str
    splits: dict[str, Split]
    coarse_names: tuple[str, ...]
    fine_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: tuple[str, ...] = ()
    unlabelled: Split | None = None
    unlabelled_dropped: int = 0
    one_level: bool = False
    fingerprint: Fingerprint | None = None


def draw_test(fine: np.ndarray, fine_names: Sequence[str]) -> np.ndarray:
    """Which images are the test split where a set has none: a fifth of each fine class.

    At least one of each; the same for every config's seed, so that the test split is the same for
    everybody.

    Args:
      fine: int32 [n].
      fine_names: of all fine classes.

    Returns:
      bool [n].

    Raises:
      DataError: a fine class of fewer than two images.
    """
    test = np.zeros(len(fine), bool)
    for number, name in enumerate(fine_names):
        members = np.flatnonzero(fine == number)
        if len(members) < 2:
            raise DataError(
                f"fine class {name!r}: expected two or more images, for training and test, got"
                f" {len(members)}"
            )
        order = permutation(number, TEST_SPLIT, len(members))
        test[members[order[: max(1, round(len(members) / 5))]]] = True
    return test


def hold_out(
    size: int, fraction: float, seed: int, classes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Which training examples stay and which become the validation split.

    Args:
      size: number of training examples.
      fraction: share held out, in (0, 1).
      seed: the draw.
      classes: integer [size]: of each class one example stays at least, others or fewer being held
        out in place of it, and one example at least is held out; None: classes are not looked at.

    Returns:
      Two int64 arrays, ascending and disjoint: for training, for validation.

    Raises:
      DataError: nothing would be left of one of the two.
    """
    held = round(size * fraction) if classes is None else max(1, round(size * fraction))
    if not 0 < held < size:
        raise DataError(
            "data.validation_fraction: expected a share that leaves examples for training and for"
            f" validation, got {fraction}: of {size} training examples, {size - held} and {held}"
        )
    order = permutation(seed, HOLD_OUT, size)
    chosen = np.zeros(size, bool)
    if classes is None:
        chosen[order[:held]] = True
    else:
        # In the order of the draw, but for the last of each class in it.
        _, last = np.unique(classes[order][::-1], return_index=True)
        free = np.delete(order, size - 1 - last)
        if not free.size:
            raise DataError(
                "data.validation_fraction: expected classes of which one image or more can be held"
                f" out for validation, got {size} training images of {size} classes; add images, or"
                " say in labels.csv, by a column split, which images are for validation"
            )
        chosen[free[:held]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def moments(
    split: Split, *, seed: int, limit: int = 10_000, chunk: int = 64
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, over all pixels of a split.

    Args:
      split: the split, not empty.
      seed: draws the images that are looked at where there are more than `limit`.
      limit: how many images are looked at at most.
      chunk: images read at a time.

    Returns:
      (mean, std) of images in [0, 1]. The std of a channel without variation is given as 1, by
      which it can be divided.

    Raises:
      DataError: an image cannot be read.
    """
    chosen = np.sort(permutation(seed, MOMENTS, len(split))[:limit])
    starts = range(0, len(chosen), chunk)

    def count(start: int) -> np.ndarray:
        pixels = split.read(chosen[start : start + chunk])["image"]
        channels = pixels.reshape(-1, pixels.shape[-1]).T
        return np.stack([np.bincount(channel, minlength=256) for channel in channels])

    # Integers: neither the order nor the number of threads shows in the sum.
    counts = np.sum(in_threads(count, starts, 1 if split.in_memory else None), axis=0)
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum(axis=1)
    variance = (counts * (levels - mean[:, None]) ** 2).sum(axis=1) / counts.sum(axis=1)
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def labels(split: Split, chunk: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """The labels of every example of a split; one on disk is read whole, by several threads.

    Args:
      split: the split, not empty.
      chunk: examples read at a time.

    Returns:
      int32 [n], the fine labels, and int32 [n], the coarse labels.

    Raises:
      DataError: an example cannot be read.
    """
    if isinstance(split, ArraySplit):
        return split.fine, split.coarse

    def read(start: int) -> tuple[np.ndarray, np.ndarray]:
        batch = split.read(np.arange(start, min(start + chunk, len(split))))
        return batch["fine"], batch["coarse"]

    parts = in_threads(read, range(0, len(split), chunk), 1 if split.in_memory else None)
    fine, coarse = (np.concatenate(part) for part in zip(*parts, strict=True))
    return fine, coarse


def known_coarse(split: Split) -> np.ndarray | None:
    """Returns the coarse labels, int32 [n]; None if images would have to be read for them."""
    if isinstance(split, ArraySplit):
        return split.coarse
    if not isinstance(split, DerivedSplit) or split.change is not None:
        return None
    coarse = split.columns.get("coarse", known_coarse(split.split))
    return None if coarse is None else coarse[split.numbers]


def bytes_in_memory(dataset: Dataset) -> dict[str, int]:
    """Returns split -> the bytes of its images and labels in memory; 0: it is read from disk.

    A split that is part of a stored one has its share of the bytes.
    """
    held = {}
    for name, split in dataset.splits.items():
        stored = split
        while isinstance(stored, DerivedSplit):
            stored = stored.split
        held[name] = getattr(stored, "nbytes", 0) * len(split) // len(stored)
    return held


def exceeds_memory(size: int, image_shape: tuple[int, int, int], config_data: ConfigDict) -> bool:
    """Whether so many images stay on disk, by `memory_limit_gib`, with their background."""
    height, width, channels = image_shape
    channels = BACKGROUND_CHANNELS.get(config_data.background, channels)
    return size * height * width * channels / 2**30 > config_data.memory_limit_gib


def group_counts(dataset: Dataset) -> dict[str, np.ndarray]:
    """How many examples of each fine class (group, stratum) the splits have.

    No image is read: a split whose labels come with its images, and which stays on disk, is left
    out. Only sets prepared by TFDS have such splits.

    Args:
      dataset: the data set.

    Returns:
      split -> int64 [num_fine].
    """
    return {
        name: np.bincount(fine, minlength=len(dataset.fine_names)).astype(np.int64)
        for name, split in dataset.splits.items()
        if (fine := split.fine) is not None
    }


def read_coarse_map(path: str, column: str) -> dict[str, str]:
    """The coarse class of each fine class, from `data.coarse_map`.

    Args:
      path: a CSV with the columns `column` and coarse; others are ignored.
      column: the one that has the fine classes.

    Returns:
      cell of the column -> name of its coarse class.

    Raises:
      DataError: no such file, an empty cell, or a fine class in two lines.
    """
    table = os.path.expanduser(path)
    if not os.path.isfile(table):
        raise DataError(
            f"data.coarse_map: expected a CSV with the columns {column} and coarse, got {path!r},"
            " which is no file"
        )
    result: dict[str, str] = {}
    for line, cells in read_table(table, (column, "coarse")):
        fine, coarse = cells[column], cells["coarse"]
        if not fine or not coarse:
            raise DataError(
                f"{table}, line {line}: expected a {column} and a coarse name, got {fine!r} and"
                f" {coarse!r}"
            )
        if fine in result:
            raise DataError(
                f"{table}, line {line}: {column}: expected one line each, got {fine!r} again"
            )
        result[fine] = coarse
    return result


def coarse_map_text(config_data: ConfigDict) -> str:
    """Returns what the file `data.coarse_map` holds.

    Raises:
      DataError: it cannot be read, or is not UTF-8.
    """
    try:
        path = pathlib.Path(config_data.coarse_map).expanduser()
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"data.coarse_map: {error}") from error


def number_coarse(coarse_of: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Numbers coarse classes in the order of their names.

    Args:
      coarse_of: the name of the coarse class of each fine class.

    Returns:
      Their names, and int32 [num_fine], the coarse class of each fine class.
    """
    names, coarse_of_fine = np.unique(list(coarse_of), return_inverse=True)
    return tuple(names.tolist()), coarse_of_fine.astype(np.int32)
