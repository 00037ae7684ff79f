"""Class-balanced batches: some of the classes, with the same number of images of each.

The order of the classes is an endless concatenation of passes, each a permutation of all classes.
The images of each class are ordered in the same way. A step takes the next classes, and the next
images of each. The number of the pass is how often a class was drawn before, so that a batch is a
function of seed and step alone. Passes are arranged so that no batch has a class or an image twice.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from thanos_jax.checks import check_at_least, check_labels
from thanos_jax.data.splits import INT32
from thanos_jax.permutations import CLASS_ORDER, IMAGE_ORDER, permutation, stretch


def pass_order(seed: int, stream: int, number: int, *, size: int, width: int) -> np.ndarray:
    """Returns one pass of a stream that is read `width` elements at a time.

    Every pass has each of 0 .. size - 1 once. A read of the stream may begin in one pass and end in
    the next. It has no element twice if `size` is at least `width`; otherwise it has each element
    floor(width / size) or ceil(width / size) times.

    Args:
      seed: integer in [0, 2**64).
      stream: a stream of `thanos_jax.permutations`; the number of the pass is added to it.
      number: number of the pass, from 0.
      size: elements of a pass, at least 1.
      width: elements of a read, at least 1.

    Returns:
      int64 [size].
    """
    if size < 2 * width - 1:
        # One order is repeated until a read and a pass end together.
        return permutation(seed, stream + number // (width // math.gcd(size, width)), size)
    order = permutation(seed, stream + number, size)
    begun = number * size % width  # elements of the first read that are in the previous pass
    if not begun:
        return order
    # Elements that would be repeated in this read are moved back, within the first `width` places.
    # The end of the pass stays as drawn, so that a pass depends on the previous one only.
    head = order[:width]
    last = permutation(seed, stream + number - 1, size)[-begun:]
    put_off = np.argsort(np.isin(head, last), kind="stable")
    return np.concatenate([head[put_off], order[width:]])


class ClassBalance:
    """Draws class-balanced batches from a split.

    At any step, the numbers of draws of two classes differ by at most one. So do the numbers of
    draws of two images of a class. A batch has a class at most once. It has an image at most once
    too, unless the class has fewer than `images_per_class` images; each is then repeated, and the
    numbers of repeats differ by at most one. Classes without images are not drawn.

    Args:
      labels: integer [n], none negative: the class of each example.
      images_per_class: number of images of each class in a batch.

    Raises:
      TypeError: labels or images_per_class are not integers.
      ValueError: there are no labels, a label is negative, or images_per_class is below 1.

    Attributes:
      images_per_class: as given.
      sizes: int64 [number of classes with images], the number of images of each.
    """

    def __init__(self, labels: Any, *, images_per_class: int) -> None:
        check_at_least("images_per_class", operator.index(images_per_class), 1)
        labels = check_labels(labels, "labels", least=1, **INT32)
        self.images_per_class, self._length = images_per_class, len(labels)
        self._classes, self.sizes = np.unique(labels, return_counts=True)
        by_class = np.argsort(labels, kind="stable").astype(np.int64, copy=False)
        self._members = np.split(by_class, np.cumsum(self.sizes)[:-1])
        # The current pass of each class, kept because the next step usually needs the same one.
        self._passes: dict[int, tuple[tuple[int, int], np.ndarray]] = {}

    def draw(self, *, seed: int, step: int, batch_size: int, size: int) -> np.ndarray:
        """Returns the examples of one training step.

        Args:
          seed: integer in [0, 2**64).
          step: the training step, from 0.
          batch_size: examples per step, over all processes.
          size: number of examples of the split.

        Returns:
          int64 [batch_size], positions in the split, class by class.

        Raises:
          ValueError: size is not the number of labels, batch_size is not a multiple of
            images_per_class, or the batch needs more classes than have images.
        """
        each, classes = self.images_per_class, len(self._classes)
        if size != self._length:
            raise ValueError(f"size: expected {self._length}, one label each, got {size}")
        count, rest = divmod(batch_size, each)
        if rest or not 0 < count <= classes:
            raise ValueError(
                f"batch_size: expected {each} images of each of 1 to {classes} classes, got "
                f"{batch_size}"
            )
        first = step * count
        chosen = stretch(
            lambda number: pass_order(seed, CLASS_ORDER, number, size=classes, width=count),
            classes,
            first,
            first + count,
        )
        # A class was drawn once in each pass before its own.
        passes = np.arange(first, first + count) // classes
        parts = [
            self._images(seed, index, number)
            for index, number in zip(chosen.tolist(), passes.tolist(), strict=True)
        ]
        return np.concatenate(parts)

    def _images(self, seed: int, index: int, number: int) -> np.ndarray:
        """Returns the images in draw `number` of a class, as positions in the split."""
        members, each = self._members[index], self.images_per_class
        order = functools.partial(self._image_order, seed, index)
        return members[stretch(order, len(members), number * each, (number + 1) * each)]

    def _image_order(self, seed: int, index: int, number: int) -> np.ndarray:
        known = self._passes.get(index)
        if known is None or known[0] != (seed, number):
            stream = IMAGE_ORDER + 2**32 * int(self._classes[index])
            size = len(self._members[index])
            order = pass_order(seed, stream, number, size=size, width=self.images_per_class)
            self._passes[index] = known = (seed, number), order
        return known[1]


def class_counts(batches: Iterable[np.ndarray]) -> dict[str, float]:
    """Counts the classes in batches, and the images of each class.

    Args:
      batches: the labels of each batch, integer [b]; at least one batch. Images with a negative
        label have no class and are not counted.

    Returns:
      "classes_in_batch", the mean number of classes in a batch; and "class_images_min",
      "class_images_mean" and "class_images_max", the number of images of a class in a batch.
    """
    counts = [np.unique(labels[labels >= 0], return_counts=True)[1] for labels in batches]
    images = np.concatenate(counts)
    return {
        "classes_in_batch": len(images) / len(counts),
        "class_images_min": int(images.min()),
        "class_images_mean": float(images.mean()),
        "class_images_max": int(images.max()),
    }
