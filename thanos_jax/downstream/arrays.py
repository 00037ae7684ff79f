"""Validates embeddings and labels, and scales embeddings to unit length."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from thanos_jax.checks import check_labels
from thanos_jax.downstream.placing import Placed, Rows, host_blocks, is_sharded, place, whole


def check_embeddings(embeddings: Any, what: str, *, least: int = 1) -> np.ndarray:
    """Returns embeddings as float32 [n, d] in this process's memory.

    Args:
      embeddings: floating point [n, d], any precision (bfloat16 too), n and d at least 1. Rows
        that several processes share, as a jax array or `Placed`, are gathered, and every process of
        the job makes this call.
      what: the argument's name, with the split, for messages.
      least: the smallest n that is accepted.

    Raises:
      TypeError: not floating point.
      ValueError: wrong rank, too few rows, or not finite in float32; names the first such row.
    """
    embeddings = whole(embeddings)
    if isinstance(embeddings, jax.Array) and not embeddings.is_fully_addressable:
        embeddings = multihost_utils.process_allgather(embeddings, tiled=True)
    array = np.asarray(embeddings)
    # jnp: numpy alone does not take bfloat16 for a floating point type.
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{what}: expected floating point [n, d], got dtype {array.dtype}")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{what}: expected [n, d] with n, d >= 1, got shape {array.shape}")
    with np.errstate(over="ignore"):  # becomes inf, which is refused below
        array = array.astype(np.float32, copy=False)
    finite = np.empty(len(array), bool)
    for where, rows in host_blocks(array):
        finite[where] = np.isfinite(rows).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        value = array[row][~np.isfinite(array[row])][0]
        raise ValueError(
            f"{what}: expected finite numbers, got {value} in row {row} "
            f"({np.count_nonzero(~finite)} of {len(array)} rows are not finite)"
        )
    if len(array) < least:
        raise ValueError(f"{what}: expected at least {least} rows, got {len(array)}")
    return array


def check_on_devices(embeddings: Any, what: str, *, least: int = 1) -> Rows:
    """Returns embeddings as float32 [n, d], on the devices that hold them or in host memory.

    Rows that are split over devices stay there; other arrays become NumPy arrays. Arguments and
    errors as `check_embeddings`, but an error about rows on devices does not name the row.
    """
    if isinstance(embeddings, Placed):
        dtype = embeddings.rows.dtype
    elif is_sharded(embeddings):
        dtype = embeddings.dtype
    else:
        return check_embeddings(embeddings, what, least=least)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{what}: expected floating point [n, d], got dtype {dtype}")
    placed = place(embeddings)
    if not bool(_all_finite(placed.rows)):
        raise ValueError(f"{what}: expected finite numbers, got rows that are not")
    if len(placed) < least:
        raise ValueError(f"{what}: expected at least {least} rows, got {len(placed)}")
    return placed


@jax.jit
def _all_finite(rows: jax.Array) -> jax.Array:
    return jnp.isfinite(rows).all()


def check_labelled(
    embeddings: Any,
    labels: Any,
    prefix: str = "",
    *,
    num_classes: int | None = None,
    least: int = 1,
    on_devices: bool = False,
) -> tuple[Any, np.ndarray]:
    """Checks embeddings [n, d] and labels [n], and returns both.

    Their names in messages begin with `prefix`. With on_devices, embeddings that are split over
    devices stay there. Errors as `check_embeddings` and `check_labels`.
    """
    what = f"{prefix}embeddings"
    check = check_on_devices if on_devices else check_embeddings
    embeddings = check(embeddings, what, least=least)
    what = f"{prefix}labels"
    return embeddings, check_labels(labels, what, length=len(embeddings), num_classes=num_classes)


def check_strata(
    embeddings: Any, fine: Any, coarse: Any, *, least: int = 1
) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Checks embeddings [n, d] with n >= `least`, fine and coarse labels [n]; returns all three.

    Embeddings that are split over devices stay there.
    """
    embeddings = check_on_devices(embeddings, "embeddings", least=least)
    length = len(embeddings)
    return (
        embeddings,
        check_labels(fine, "fine", length=length),
        check_labels(coarse, "coarse", length=length),
    )


def check_width(embeddings: Rows, width: int, what: str) -> None:
    """Raises ValueError unless embeddings [n, d] have the width of the training embeddings."""
    if embeddings.shape[1] != width:
        raise ValueError(
            f"{what}: expected width {width} as in training, got shape {embeddings.shape}"
        )


def check_probabilities(
    probabilities: Any, *, length: int | None = None, runs: bool = False
) -> np.ndarray:
    """Returns probabilities of classes as a NumPy array, after checking them.

    Args:
      probabilities: floating point [n, classes], any precision (bfloat16 too); finite, at least 0,
        and the sum of a row is 1 (to 1 %).
      length: n; None: any number.
      runs: whether [runs, n, classes] is accepted too.

    Raises:
      TypeError: not floating point.
      ValueError: a wrong shape, or rows that are no probabilities; names the first such row.
    """
    array = np.asarray(probabilities)
    size = "n" if length is None else length
    expected = f"[{size}, classes]" + (f" or [runs, {size}, classes]" if runs else "")
    # jnp: numpy alone does not take bfloat16 for a floating point type.
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"probabilities: expected floating point {expected}, got {array.dtype}")
    ranks = (2, 3) if runs else (2,)
    if (
        array.ndim not in ranks
        or 0 in array.shape
        or array.shape[-2] != (length or array.shape[-2])
    ):
        raise ValueError(f"probabilities: expected {expected}, got shape {array.shape}")
    total, least = array.sum(axis=-1, dtype=np.float64), array.min(axis=-1)
    proper = (np.abs(total - 1) <= 0.01) & (least >= 0)
    if not proper.all():
        place = tuple(np.argwhere(~proper)[0])
        raise ValueError(
            "probabilities: expected rows of no negative numbers with a sum of 1, got a sum of "
            f"{total[place]:g} and a least of {least[place]:g} in row {place[-1]}"
            f"{f' of run {place[0]}' if array.ndim == 3 else ''}; logits need a softmax first"
        )
    return array


def as_points(embeddings: np.ndarray, *, normalize: bool) -> np.ndarray:
    """Returns checked embeddings as float64 [n, d], divided by their lengths if asked."""
    points = embeddings.astype(np.float64)
    return unit_rows(points) if normalize else points


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Divides each row of float [n, d] by its Euclidean length; a zero row stays zero."""
    # First by the largest magnitude, so that lengths neither overflow nor vanish.
    largest = np.max(np.abs(embeddings), axis=1, keepdims=True)
    scaled = embeddings / np.where(largest > 0, largest, 1)
    # A row's largest entry is 1 now, so that only a zero row is shorter than 1.
    return scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1)
