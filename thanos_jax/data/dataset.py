"""The data set that a loader returns, and helpers of loaders: splits, channel moments, labels."""

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

# Background of one-channel images -> number of channels of the resulting images.
BACKGROUND_CHANNELS = {"photographs": 3, "colour": 3, "texture": 1}


class Dataset(NamedTuple):
    """A data set, ready to be batched.

    Attributes:
      name: as in the config.
      splits: "train", "validation" and "test" -> split. A loader may leave out "validation"; it is
        then held out of "train".
      coarse_names: names of the coarse classes, in the order of their ids.
      fine_names: names of the fine classes, in the order of their ids.
      image_shape: (h, w, c).
      mean: mean of each channel of images in [0, 1]; a loader returns () if it must be measured.
      std: standard deviation of each channel of images in [0, 1].
      skipped: stored examples left out because they cannot be read, as in "train 17"; see
        `thanos_jax.data.damaged`.
      unlabelled: training images without labels; the labels that it reads are meaningless. None:
        there are none.
      unlabelled_dropped: number of images without labels that are left out.
      one_level: whether images have one label each, so that coarse and fine classes are the same.
      fingerprint: identifies the data, to detect changes between runs; see
        `thanos_jax.data.fingerprint`. None: data are not compared.
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
    """Draws the test split of a set that has none: a fifth of each fine class.

    Every class has at least one test image. The draw does not depend on a config's seed, so that
    the test split is the same for everybody.

    Args:
      fine: int32 [n], the fine label of each image.
      fine_names: names of all fine classes.

    Returns:
      bool [n], whether an image is in the test split.

    Raises:
      DataError: a fine class has fewer than two images.
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
    """Draws the validation split from the training examples.

    Args:
      size: number of training examples.
      fraction: share held out, in (0, 1).
      seed: seed of the draw.
      classes: integer [size], the class of each example. At least one example of each class then
        stays for training, and at least one example is held out; fewer than `fraction` may be held
        out. None: classes are ignored.

    Returns:
      Two int64 arrays of example numbers, ascending and disjoint: training, validation.

    Raises:
      DataError: one of the two would be empty.
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
        # In the order of the draw, without the last example of each class.
        _, last = np.unique(classes[order][::-1], return_index=True)
        free = np.delete(order, size - 1 - last)
        if not free.size:
            raise DataError(
                "data.validation_fraction: expected classes of which one image or more can be held"
                f" out for validation, got {size} training images of {size} classes; add images, or"
                " mark the validation images in a column split of labels.csv"
            )
        chosen[free[:held]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def moments(
    split: Split, *, seed: int, limit: int = 10_000, chunk: int = 64
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel, over all pixels of a split.

    Args:
      split: the split, not empty.
      seed: seed of the draw of images, if there are more than `limit`.
      limit: largest number of images used.
      chunk: images read at a time.

    Returns:
      (mean, std) of images in [0, 1]. The std of a constant channel is returned as 1, so that
      images can be divided by it.

    Raises:
      DataError: an image cannot be read.
    """
    chosen = np.sort(permutation(seed, MOMENTS, len(split))[:limit])
    starts = range(0, len(chosen), chunk)

    def count(start: int) -> np.ndarray:
        pixels = split.read(chosen[start : start + chunk])["image"]
        channels = pixels.reshape(-1, pixels.shape[-1]).T
        return np.stack([np.bincount(channel, minlength=256) for channel in channels])

    # Sums of integers do not depend on the order or the number of threads.
    counts = np.sum(in_threads(count, starts, 1 if split.in_memory else None), axis=0)
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum(axis=1)
    variance = (counts * (levels - mean[:, None]) ** 2).sum(axis=1) / counts.sum(axis=1)
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def labels(split: Split, chunk: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels of every example; a split on disk is read in full, by several threads.

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
    """Returns the coarse labels, int32 [n]; None if they can only be read with the images."""
    if isinstance(split, ArraySplit):
        return split.coarse
    if not isinstance(split, DerivedSplit) or split.change is not None:
        return None
    coarse = split.columns.get("coarse", known_coarse(split.split))
    return None if coarse is None else coarse[split.numbers]


def bytes_in_memory(dataset: Dataset) -> dict[str, int]:
    """Returns split -> bytes of its images and labels in memory; 0 if it is read from disk.

    A split that is a part of a stored split counts its share of the bytes.
    """
    held = {}
    for name, split in dataset.splits.items():
        stored = split
        while isinstance(stored, DerivedSplit):
            stored = stored.split
        held[name] = getattr(stored, "nbytes", 0) * len(split) // len(stored)
    return held


def exceeds_memory(size: int, image_shape: tuple[int, int, int], config_data: ConfigDict) -> bool:
    """Returns whether `size` images with their background exceed data.memory_limit_gib."""
    height, width, channels = image_shape
    channels = BACKGROUND_CHANNELS.get(config_data.background, channels)
    return size * height * width * channels / 2**30 > config_data.memory_limit_gib


def group_counts(dataset: Dataset) -> dict[str, np.ndarray]:
    """Counts the examples of each fine class (group, stratum) in each split.

    No image is read. Splits on disk whose labels are stored with the images are left out; only sets
    prepared by TFDS have such splits.

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
    """Reads the coarse class of each fine class from a CSV file, `data.coarse_map`.

    Args:
      path: a CSV with the columns `column` and coarse; other columns are ignored.
      column: name of the column with the fine classes.

    Returns:
      fine class -> name of its coarse class.

    Raises:
      DataError: the file is missing, a cell is empty, or a fine class is in two lines.
    """
    table = os.path.expanduser(path)
    if not os.path.isfile(table):
        raise DataError(
            f"data.coarse_map: expected a CSV with the columns {column} and coarse, got {path!r},"
            " which is not a file"
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
    """Returns the text of the file `data.coarse_map`.

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
      The names of the coarse classes; and int32 [num_fine], the coarse class of each fine class.
    """
    names, coarse_of_fine = np.unique(list(coarse_of), return_inverse=True)
    return tuple(names.tolist()), coarse_of_fine.astype(np.int32)
