"""Splits: numbered examples, in memory or read record by record."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from thanos_jax.checks import check_labels
from thanos_jax.errors import UserError

Batch = dict[str, np.ndarray]
Result = TypeVar("Result")
# Decodes a stored record to (image [h, w, c], fine label, coarse label).
Decode = Callable[[bytes], tuple[np.ndarray, int, int]]

# Options of `check_labels` for the int32 labels of splits.
INT32: dict[str, Any] = {"num_classes": 2**31 - 1, "dtype": np.int32}

_CHUNK = 256  # records per task when a split is read into memory


class DataError(UserError, ValueError):
    """Stored data cannot be used; for a record, the message names set, split, record and file."""


class Split(Protocol):
    """Numbered examples.

    Attributes:
      in_memory: whether examples are in memory, so that `read` needs no threads.
    """

    in_memory: bool

    @property
    def fine(self) -> np.ndarray | None:
        """int32 [len(self)], the fine labels; None if they can only be read with the images."""
        ...

    @property
    def names(self) -> np.ndarray:
        """[len(self)], the file name of each example, str; or its number as stored, int64."""
        ...

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def read(self, indices: np.ndarray) -> Batch:
        """Returns examples by number.

        Args:
          indices: integer [b], each in [0, len(self)).

        Returns:
          {"image": uint8 [b, h, w, c], "fine": int32 [b], "coarse": int32 [b]}.

        Raises:
          DataError: an example cannot be read or does not fit its data set.
          IndexError: an index is out of range.
          TypeError: indices are not integers.
        """
        ...

    def subset(self, indices: np.ndarray) -> Split:
        """Returns the split of the given examples, in the given order.

        Args:
          indices: integer [n], each in [0, len(self)).

        Returns:
          A split of length n.

        Raises:
          IndexError: an index is out of range.
          TypeError: indices are not integers.
        """
        ...


def _check_indices(indices: np.ndarray, size: int) -> np.ndarray:
    indices = np.asarray(indices)
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise TypeError(f"indices: expected integers [b], got {indices.dtype} {indices.shape}")
    # NumPy would count negative numbers from the end.
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        raise IndexError(
            f"indices: expected numbers in [0, {size}), got {indices.min()} to {indices.max()}"
        )
    return indices.astype(np.int64, copy=False)


class ArraySplit:
    """A split held in memory.

    Args:
      images: uint8 [n, h, w, c].
      fine: integer [n].
      coarse: integer [n].
      names: [n], as `Split.names`; None: 0 to n - 1.

    Raises:
      TypeError: an array has the wrong dtype.
      ValueError: images have the wrong rank, lengths differ, or a label is negative.
    """

    in_memory = True

    def __init__(
        self,
        images: np.ndarray,
        fine: np.ndarray,
        coarse: np.ndarray,
        names: np.ndarray | None = None,
    ) -> None:
        images = np.asarray(images)
        if images.dtype != np.uint8:
            raise TypeError(f"images: expected uint8, got {images.dtype}")
        if images.ndim != 4:
            raise ValueError(f"images: expected shape [n, h, w, c], got {images.shape}")
        # Contiguous rows make indexing several times as fast.
        self.images = np.ascontiguousarray(images)
        self.fine = check_labels(fine, "fine labels", **INT32)
        self.coarse = check_labels(coarse, "coarse labels", **INT32)
        if not len(images) == len(self.fine) == len(self.coarse):
            raise ValueError(
                "images, fine and coarse: expected one length, got"
                f" {len(images)}, {len(self.fine)} and {len(self.coarse)}"
            )
        self.names = np.arange(len(images)) if names is None else names
        if len(self.names) != len(images):
            raise ValueError(f"names: expected {len(images)}, got {len(self.names)}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def nbytes(self) -> int:
        """Bytes of images and labels."""
        return self.images.nbytes + self.fine.nbytes + self.coarse.nbytes

    def read(self, indices: np.ndarray) -> Batch:
        """Returns examples by number; see `Split.read`."""
        indices = _check_indices(indices, len(self))
        return {
            "image": np.take(self.images, indices, axis=0),
            "fine": np.take(self.fine, indices),
            "coarse": np.take(self.coarse, indices),
        }

    def subset(self, indices: np.ndarray) -> ArraySplit:
        """Returns a copy of the given examples; see `Split.subset`."""
        part = self.read(indices)
        return ArraySplit(part["image"], part["fine"], part["coarse"], self.names[indices])


class RecordSplit:
    """A split whose records are fetched and decoded on each read.

    Several threads may read at the same time.

    Args:
      records: random access to the stored bytes: `len`, `[i]`, and optionally `__getitems__`.
      decode: bytes -> (image uint8 [h, w, c], fine label, coarse label).
      image_shape: (h, w, c) of a decoded image.
      num_fine: fine labels lie in [0, num_fine).
      num_coarse: coarse labels lie in [0, num_coarse).
      dataset: name of the data set, for messages.
      split: name of the split, for messages.
      file_of: record number -> name of the file that holds it, for messages.
      fine: int32 [len(records)], the fine labels; None if they are known from the records only.
      names: [len(records)], as `Split.names`; None: the numbers of the records.
    """

    in_memory = False

    def __init__(
        self,
        records: Any,
        decode: Decode,
        *,
        image_shape: tuple[int, int, int],
        num_fine: int,
        num_coarse: int,
        dataset: str,
        split: str,
        file_of: Callable[[int], str],
        fine: np.ndarray | None = None,
        names: np.ndarray | None = None,
    ) -> None:
        self.names = np.arange(len(records)) if names is None else names
        self.image_shape, self.dataset, self.split, self.fine = image_shape, dataset, split, fine
        self._records, self._decode, self._file_of = records, decode, file_of
        self._classes = {"fine": num_fine, "coarse": num_coarse}

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: np.ndarray) -> Batch:
        """Returns examples by number; see `Split.read`."""
        numbers = _check_indices(indices, len(self))
        images = np.empty((len(numbers), *self.image_shape), np.uint8)
        labels = np.empty((2, len(numbers)), np.int32)
        for row, (number, record) in enumerate(zip(numbers, self._fetch(numbers), strict=True)):
            images[row], labels[0, row], labels[1, row] = self._example(int(number), record)
        return {"image": images, "fine": labels[0], "coarse": labels[1]}

    def subset(self, indices: np.ndarray) -> DerivedSplit:
        """Returns the split of the given records, without reading them; see `Split.subset`."""
        return DerivedSplit(self, numbers=_check_indices(indices, len(self)))

    def _fetch(self, numbers: np.ndarray) -> Sequence[bytes]:
        many = getattr(self._records, "__getitems__", None)
        try:
            if many is None or not len(numbers):
                return [self._records[number] for number in numbers.tolist()]
            return many(numbers.tolist())
        except Exception as error:
            # A record cannot be read: fetch them one by one, to name it.
            for number in numbers.tolist():
                try:
                    self._records[number]
                except Exception as single:
                    raise self._error(number, single) from single
            raise self._error(int(numbers[0]), error) from error

    def _example(self, number: int, record: bytes) -> tuple[np.ndarray, int, int]:
        try:
            image, fine, coarse = self._decode(record)
            if image.shape != self.image_shape or image.dtype != np.uint8:
                raise ValueError(
                    f"image: expected uint8 {self.image_shape}, got {image.dtype} {image.shape}"
                )
            for kind, label in (("fine", fine), ("coarse", coarse)):
                if not 0 <= label < self._classes[kind]:
                    raise ValueError(
                        f"{kind} label: expected one in [0, {self._classes[kind]}), got {label}"
                    )
        except Exception as error:
            raise self._error(number, error) from error
        return image, fine, coarse

    def _error(self, number: int, error: Exception) -> DataError:
        where = f"{self.dataset}, split {self.split!r}, record {number} ({self._file_of(number)})"
        return DataError(f"{where}: {error}")


class DerivedSplit:
    """A split derived from another one: other columns, a choice of examples, or changed batches.

    Args:
      split: n examples.
      columns: name -> [n, ...]; `read` adds them to a batch or replaces columns of the same name.
      numbers: integer [r], each in [0, n): the examples of this split, in order; None: each once.
      change: (batch, int64 [b] numbers of its examples in `split`) -> changed batch, with the same
        fine labels; None: batches are not changed.
    """

    def __init__(
        self,
        split: Split,
        columns: Mapping[str, np.ndarray] | None = None,
        numbers: np.ndarray | None = None,
        change: Callable[[Batch, np.ndarray], Batch] | None = None,
    ) -> None:
        self.split, self.columns, self.change = split, dict(columns or {}), change
        self.in_memory = split.in_memory and change is None
        self.numbers = np.arange(len(split)) if numbers is None else numbers

    @property
    def fine(self) -> np.ndarray | None:
        """int32 [len(self)], the fine labels; None if they can only be read with the images."""
        fine = self.columns.get("fine", self.split.fine)
        return None if fine is None else fine[self.numbers]

    @property
    def names(self) -> np.ndarray:
        """[len(self)], the file name of each example, or its number as stored."""
        return self.split.names[self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, indices: np.ndarray) -> Batch:
        """Returns examples by number, with columns and changes; see `Split.read`."""
        numbers = self.numbers[_check_indices(indices, len(self))]
        own = {name: np.take(column, numbers, axis=0) for name, column in self.columns.items()}
        batch = {**self.split.read(numbers), **own}
        return batch if self.change is None else self.change(batch, numbers)

    def subset(self, indices: np.ndarray) -> Self:
        """Returns the split of the given examples, without reading them; see `Split.subset`."""
        part = copy.copy(self)
        part.numbers = self.numbers[_check_indices(indices, len(self))]
        return part


def to_memory(split: Split, *, threads: int | None = None) -> ArraySplit:
    """Reads every example of a split once, in order.

    Args:
      split: the split to read.
      threads: number of threads that decode; None: one per processor, at most 16.

    Returns:
      The same examples in memory.

    Raises:
      DataError: a record cannot be used.
    """
    size = len(split)
    images = np.empty((size, *split.read(np.zeros(0, np.int64))["image"].shape[1:]), np.uint8)
    labels = np.empty((2, size), np.int32)

    def fill(start: int) -> None:
        rows = slice(start, min(start + _CHUNK, size))
        part = split.read(np.arange(rows.start, rows.stop))
        images[rows], labels[0, rows], labels[1, rows] = part["image"], part["fine"], part["coarse"]

    in_threads(fill, range(0, size, _CHUNK), threads)
    return ArraySplit(images, labels[0], labels[1], split.names)


def in_threads(
    function: Callable[[int], Result], numbers: Iterable[int], threads: int | None = None
) -> list[Result]:
    """Maps a function over numbers with threads; returns the results in order.

    The first error ends the map and is raised.

    Args:
      function: called in several threads.
      numbers: the arguments.
      threads: number of threads; None: one per processor, at most 16.
    """
    pool = ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 16))
    try:
        return list(pool.map(function, numbers))
    finally:
        pool.shutdown(cancel_futures=True)
