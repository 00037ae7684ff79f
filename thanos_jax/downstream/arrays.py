"""What every evaluation asks of its embeddings and labels before it computes anything."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def check_embeddings(embeddings: Any, what: str) -> np.ndarray:
    """Returns embeddings as float32 [n, d] in this process's memory.

    Args:
      embeddings: floating point [n, d], any precision (bfloat16 too), n and d at least 1.
      what: the argument's name, with the split, for messages.

    Raises:
      TypeError: not floating point.
      ValueError: wrong rank, empty, or not finite in float32; names the first such row.
    """
    array = np.asarray(embeddings)
    # jnp: numpy alone does not take bfloat16 for a floating point type.
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{what}: expected floating point [n, d], got dtype {array.dtype}")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{what}: expected [n, d] with n, d >= 1, got shape {array.shape}")
    with np.errstate(over="ignore"):  # becomes inf, which is refused below
        array = array.astype(np.float32, copy=False)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        value = array[row][~np.isfinite(array[row])][0]
        raise ValueError(
            f"{what}: expected finite numbers, got {value} in row {row} "
            f"({np.count_nonzero(~finite)} of {len(array)} rows are not finite)"
        )
    return array


def check_labels(labels: Any, what: str, *, length: int, num_classes: int | None) -> np.ndarray:
    """Returns labels as int64 [length] in this process's memory.

    Args:
      labels: integer [length].
      what: the argument's name, with the split, for messages.
      length: the number of embeddings that the labels belong to.
      num_classes: labels must lie in 0 .. num_classes - 1; None: any values.

    Raises:
      TypeError: not integers.
      ValueError: another shape, or a label out of range; names the first such row.
    """
    array = np.asarray(labels)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{what}: expected integers [{length}], got dtype {array.dtype}")
    if array.shape != (length,):
        raise ValueError(
            f"{what}: expected shape ({length},), one label for each embedding, "
            f"got shape {array.shape}"
        )
    if num_classes is not None:
        outside = (array < 0) | (array >= num_classes)
        if outside.any():
            row = int(np.argmax(outside))
            raise ValueError(
                f"{what}: expected labels 0 to {num_classes - 1}, got {array[row]} in row {row}"
            )
    return array.astype(np.int64, copy=False)


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Divides each row of float [n, d] by its Euclidean length; a zero row stays zero."""
    # First by the largest magnitude, so that lengths neither overflow nor vanish.
    largest = np.max(np.abs(embeddings), axis=1, keepdims=True)
    scaled = embeddings / np.where(largest > 0, largest, 1)
    # A row's largest entry is 1 now, so that only a zero row is shorter than 1.
    return scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1)


def check_labelled(
    split: str, embeddings: Any, labels: Any, *, num_classes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `check_embeddings` and `check_labels` of a split's two arguments."""
    embeddings = check_embeddings(embeddings, f"{split}_embeddings")
    what = f"{split}_labels"
    return embeddings, check_labels(labels, what, length=len(embeddings), num_classes=num_classes)


def check_width(reference: np.ndarray, embeddings: np.ndarray, what: str) -> None:
    """Raises ValueError where embeddings [m, d] are not as wide as reference [n, d]."""
    if reference.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"{what}: expected width {reference.shape[1]} as in training, "
            f"got shape {embeddings.shape}"
        )


def check_floats(values: Any, what: str, *, length: int) -> np.ndarray:
    """Returns numbers, one for each embedding, as float64 [length] in this process's memory.

    Args:
      values: floating point [length], length at least 1.
      what: the argument's name, for messages.
      length: the number of embeddings that they belong to.

    Raises:
      TypeError: not floating point.
      ValueError: another shape, empty, or not finite; names the first such row.
    """
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"{what}: expected floating point [{length}], got dtype {array.dtype}")
    if array.shape != (length,) or length == 0:
        raise ValueError(f"{what}: expected shape ({length},), got shape {array.shape}")
    if not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array)))
        raise ValueError(f"{what}: expected finite numbers, got {array[row]} in row {row}")
    return array.astype(np.float64)
