"""Class-balanced batches: some classes a batch, as many images of each.

The order of the classes is the endless concatenation of passes, each a permutation of all classes.
The images of each class have an order of the same kind. A step takes the next classes, and the next
images of each. The pass that a class is in says how often it was drawn before, so that a batch is a
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
    """One pass of a stream that is read `width` elements at a time.

    Every pass has each of 0 .. size - 1 once. A reading of the stream, which may begin in one pass
    and end in the next, has no element twice if `size` is at least `width`, and else each either
    floor(width / size) or ceil(width / size) times.

    Args:
      seed: integer in [0, 2**64).
      stream: with the numbers of passes added, a stream of `thanos_jax.permutations`.
      number: of the pass, from 0.
      size: elements of a pass, at least 1.
      width: elements of a reading, at least 1.

    Returns:
      int64 [size].
    """
    if size < 2 * width - 1:
        # One order, gone through again and again, until a reading and a pass end together.
        return permutation(seed, stream + number // (width // math.gcd(size, width)), size)
    order = permutation(seed, stream + number, size)
    begun = number * size % width  # elements of the first reading that are in the pass before
    if not begun:
        return order
    # Those of them that come again at once are put off, within `width` places: the end of a pass,
    # which is further on, stays as it was drawn, and no pass depends on more than the one before.
    head = order[:width]
    last = permutation(seed, stream + number - 1, size)[-begun:]
    put_off = np.argsort(np.isin(head, last), kind="stable")
    return np.concatenate([head[put_off], order[width:]])


class ClassBalance:
    """The classes of a split, and how many images of each a batch has.

    At any step, two classes differ by one draw at most, and so do two images of a class. A batch
    has a class once. It has an image once too, unless the class has fewer than `images_per_class`:
    it then has each of them equally often, but for one more of some. Classes without images are not
    drawn.

    Args:
      labels: integer [n], none negative: the class of each example.
      images_per_class: of each class in a batch.

    Raises:
      TypeError: labels or number are not integers.
      ValueError: no labels, negative ones, or a number below 1.

    Attributes:
      images_per_class: as given.
      sizes: int64 [classes with images], how many images each has.
    """

    def __init__(self, labels: Any, *, images_per_class: int) -> None:
        check_at_least("images_per_class", operator.index(images_per_class), 1)
        labels = check_labels(labels, "labels", least=1, **INT32)
        self.images_per_class, self._length = images_per_class, len(labels)
        self._classes, self.sizes = np.unique(labels, return_counts=True)
        by_class = np.argsort(labels, kind="stable").astype(np.int64, copy=False)
        self._members = np.split(by_class, np.cumsum(self.sizes)[:-1])
        # The pass that each class is in: the next step most often needs the same.
        self._passes: dict[int, tuple[tuple[int, int], np.ndarray]] = {}

    def draw(self, *, seed: int, step: int, batch_size: int, size: int) -> np.ndarray:
        """The examples of one training step.

        Args:
          seed: integer in [0, 2**64).
          step: the training step, from 0.
          batch_size: examples per step, over all processes.
          size: number of examples of the split.

        Returns:
          int64 [batch_size], positions in the split, class by class.

        Raises:
          ValueError: another size than there are labels, or a batch size that is no multiple of
            images_per_class or takes more classes than have images.
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
        """Returns what the draw of that number takes of a class, positions in the split."""
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
    """Counts the images of a class in batches.

    Args:
      batches: the labels of each batch, integer [b]; at least one. Negative labels are of images
        without a class, and not counted.

    Returns:
      "classes_in_batch", the mean number of classes in a batch, and "class_images_min",
      "class_images_mean" and "class_images_max": images of a class, over the classes of each batch.
    """
    counts = [np.unique(labels[labels >= 0], return_counts=True)[1] for labels in batches]
    images = np.concatenate(counts)
    return {
        "classes_in_batch": len(images) / len(counts),
        "class_images_min": int(images.min()),
        "class_images_mean": float(images.mean()),
        "class_images_max": int(images.max()),
    }
