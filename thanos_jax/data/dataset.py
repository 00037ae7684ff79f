"""What a loader hands over, and what loaders share: the hold-out, channel moments, tables."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from thanos_jax.data.splits import DataError, Split
from thanos_jax.permutations import HOLD_OUT, MOMENTS, permutation


class Dataset(NamedTuple):
    """A data set, ready to be batched.

    Attributes:
      name: as in the config.
      splits: "train", "validation" and "test".
      coarse_names: names of the coarse classes, in the order of their ids.
      fine_names: names of the fine classes, in the order of their ids.
      image_shape: (h, w, c).
      mean: mean of each channel of images in [0, 1].
      std: standard deviation of each channel of images in [0, 1].
      skipped: the stored examples left out because they cannot be read, as in "train 17"; see
        `thanos_jax.data.damaged`.
    """

    name: str
    splits: dict[str, Split]
    coarse_names: tuple[str, ...]
    fine_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: tuple[str, ...] = ()


def hold_out(size: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which training examples stay and which become the validation split.

    Args:
      size: number of training examples.
      fraction: share held out, in (0, 1).
      seed: the draw.

    Returns:
      Two int64 arrays, ascending and disjoint: for training, for validation.

    Raises:
      DataError: nothing would be left of one of the two.
    """
    held = round(size * fraction)
    if not 0 < held < size:
        raise DataError(
            f"data.validation_fraction {fraction} of {size} training examples leaves"
            f" {size - held} for training and {held} for validation; both need at least one"
        )
    order = permutation(seed, HOLD_OUT, size)
    return np.sort(order[held:]), np.sort(order[:held])


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
    pool = ThreadPoolExecutor(1 if split.in_memory else min(os.cpu_count() or 1, 16))
    try:
        counts = sum(pool.map(count, starts), np.zeros(1, np.int64))
    finally:
        pool.shutdown(cancel_futures=True)
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum(axis=1)
    variance = (counts * (levels - mean[:, None]) ** 2).sum(axis=1) / counts.sum(axis=1)
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def fine_labels(split: Split, chunk: int = 1024) -> np.ndarray:
    """The fine label of every example.

    Args:
      split: the split; one whose labels are not known otherwise is read whole.
      chunk: examples read at a time.

    Returns:
      int32 [n].

    Raises:
      DataError: an example cannot be read.
    """
    if split.fine is not None:
        return split.fine
    starts = range(0, len(split), chunk)
    ranges = (np.arange(start, min(start + chunk, len(split))) for start in starts)
    return np.concatenate([split.read(indices)["fine"] for indices in ranges])


def group_counts(dataset: Dataset) -> dict[str, np.ndarray]:
    """How many examples of each fine class (group, stratum) the splits have.

    No image is read: a split whose labels come with its images, and which stays on disk, is left
    out. Only sets prepared by TFDS have such splits.

    Args:
      dataset: the data set.

    Returns:
      split -> int64 [num_fine].
    """
    known = {name: split.fine for name, split in dataset.splits.items()}
    return {
        name: np.bincount(fine, minlength=len(dataset.fine_names)).astype(np.int64)
        for name, fine in known.items()
        if fine is not None
    }


def read_table(path: str, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, one by one.

    Args:
      path: a file in UTF-8, with or without a byte order mark.
      required: columns that the header must have, in any order and among others.

    Yields:
      (number of the row's last line in the file, column -> cell without surrounding spaces).
      Empty lines are skipped.

    Raises:
      DataError: not UTF-8, not CSV, a required column that is missing or there twice, or a row
        of another length than the header.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            header = [cell.strip() for cell in next(reader, [])]
            for column in required:
                if header.count(column) != 1:
                    raise DataError(
                        f"{path}, line 1: expected one column {column!r}, got the header {header}"
                    )
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num}: expected {len(header)} cells as in the"
                        f" header, got {len(cells)}"
                    )
                stripped = (cell.strip() for cell in cells)
                yield reader.line_num, dict(zip(header, stripped, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8, got {error}") from error
