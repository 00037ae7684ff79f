"""Argument checks of data and evaluations; messages read "NAME: expected ..., got ..."."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thanos_jax.errors import nearest


def check_option(what: str, value: Any, known: Sequence[str]) -> None:
    """Raises ValueError if value is not one of the known options."""
    if value not in known:
        raise ValueError(
            f"{what}: expected one of {tuple(known)}, got {value!r}{nearest(str(value), known)}"
        )


def check_at_least(what: str, value: float | None, low: int) -> None:
    """Raises ValueError if value is below low; None, an option that is not set, is accepted."""
    if value is not None and value < low:
        raise ValueError(f"{what}: expected at least {low}, got {value}")


def check_share(what: str, value: float) -> None:
    """Raises ValueError if value is not in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{what}: expected a share in [0, 1], got {value}")


def check_seed(seed: int, bits: int = 64) -> None:
    """Raises ValueError if seed is not in [0, 2**bits)."""
    if not 0 <= seed < 2**bits:
        raise ValueError(f"seed: expected at least 0 and below 2**{bits}, got {seed}")


def check_labels(
    labels: Any,
    what: str,
    *,
    length: int | None = None,
    num_classes: int | None = None,
    least: int = 0,
    dtype: type[np.signedinteger] = np.int64,
) -> np.ndarray:
    """Returns labels as a NumPy array, int64 [n], after checking them.

    Args:
      labels: integer [n].
      what: the argument's name, with the split, for messages.
      length: n, the number of examples that the labels belong to; None: any number.
      num_classes: labels are 0 to num_classes - 1; None: any values.
      least: the smallest n that is accepted if `length` is None.
      dtype: dtype of the result.

    Raises:
      TypeError: labels are not integers.
      ValueError: the shape is wrong, or a label is out of range; the message names the first such
        row.
    """
    array = _check_vector(labels, what, np.integer, "integers", length, least)
    if num_classes is not None:
        outside = (array < 0) | (array >= num_classes)
        if outside.any():
            row = int(np.argmax(outside))
            raise ValueError(
                f"{what}: expected labels 0 to {num_classes - 1}, got {array[row]} in row {row} "
                f"({np.count_nonzero(outside)} of {len(array)} are out of range)"
            )
    return array.astype(dtype, copy=False)


def check_floats(values: Any, what: str, *, length: int | None = None) -> np.ndarray:
    """Returns floating point numbers as float64 [n], n at least 1, after checking them.

    Raises:
      TypeError: values are not floating point numbers.
      ValueError: the shape is wrong, or a number is not finite; the message names the first such
        row.
    """
    array = _check_vector(values, what, np.floating, "floating point", length, 1)
    if not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array)))
        raise ValueError(f"{what}: expected finite numbers, got {array[row]} in row {row}")
    return array.astype(np.float64)


def check_flags(values: Any, what: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Returns a bool array; raises TypeError for another dtype, ValueError for another shape."""
    array = np.asarray(values)
    if array.dtype != np.bool_:
        of = "" if shape is None else f" {list(shape)}"
        raise TypeError(f"{what}: expected bool{of}, got dtype {array.dtype}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{what}: expected shape {shape}, got shape {array.shape}")
    return array


def _check_vector(
    values: Any, what: str, kind: type, words: str, length: int | None, least: int
) -> np.ndarray:
    """Returns a one-dimensional array after checking its length and the kind of its dtype."""
    array = np.asarray(values)
    if length is None and (array.ndim != 1 or len(array) < least):
        bound = f" with n >= {least}" if least else ""
        raise ValueError(f"{what}: expected [n]{bound}, got shape {array.shape}")
    if not np.issubdtype(array.dtype, kind):
        n = "n" if length is None else length
        raise TypeError(f"{what}: expected {words} [{n}], got dtype {array.dtype}")
    if length is not None and array.shape != (length,):
        raise ValueError(
            f"{what}: expected shape ({length},), one for each example, got shape {array.shape}"
        )
    return array
