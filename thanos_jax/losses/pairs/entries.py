"""The entries of a batch: one row for each view of each image, with label, image and view."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from thanos_jax.losses.pairs.axes import AxisName


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("embedding", "label", "image", "view", "valid"),
    meta_fields=("num_views", "unit", "given"),
)
@dataclasses.dataclass(frozen=True)
class Entries:
    """N = batch * views entries, ordered by image, then view.

    Attributes:
      embedding: float [N, d], float32 or float64; rows of padding are zero.
      label: integer [N]; entries with equal labels are positives of each other.
      image: int32 [N], the image's number in the global batch.
      view: int32 [N], the number of the view.
      valid: bool [N]; False marks padding, which is neither anchor nor candidate.
      num_views: number of entries of an image.
      unit: whether rows have length 1 or are zero.
      given: dtype of the caller's embeddings.
    """

    embedding: jax.Array
    label: jax.Array
    image: jax.Array
    view: jax.Array
    valid: jax.Array
    num_views: int
    unit: bool
    given: Any


def at_hand(array: jax.Array) -> jax.Array | None:
    """Returns the concrete array, also during differentiation; None inside `jax.jit`."""
    return array.to_concrete_value() if isinstance(array, jax.core.Tracer) else array


def compute_dtype(*arrays: jax.Array) -> Any:
    """Returns float64 if any array is float64, else float32; also with strict promotion."""
    return jnp.float64 if any(array.dtype == jnp.float64 for array in arrays) else jnp.float32


def normalize(embedding: jax.Array) -> jax.Array:
    """Divides each row of float [..., d] by its Euclidean length; a zero row stays zero.

    Rows are first divided by their largest magnitude, so that lengths neither overflow nor vanish.
    The result and its derivatives do not depend on that divisor, which is therefore held constant.
    The gradient at a zero row is zero (the gradient of z / |z| is undefined there).
    """
    magnitudes = lax.stop_gradient(jnp.abs(embedding))
    largest = jnp.max(magnitudes, axis=-1, keepdims=True)
    # NaN must reach the loss. A row with NaN is not a zero row, even if its largest magnitude is 0:
    # on CPUs XLA ignores NaN in the maximum of a large array.
    zero = jnp.all(magnitudes < jnp.finfo(embedding.dtype).tiny, axis=-1, keepdims=True)
    scaled = jnp.where(zero, 0.0, embedding) / jnp.where(zero, 1.0, largest)
    squares = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    return scaled * lax.rsqrt(jnp.where(zero, 1.0, squares))


def make_entries(
    embeddings: jax.Array,
    labels: jax.Array | None,
    where: jax.Array,
    *,
    normalized: bool,
    axis_name: AxisName | None,
) -> Entries:
    """Flattens a batch to entries.

    Args:
      embeddings: float [batch, views, dim].
      labels: integer [batch], or None: every image is a class of its own.
      where: bool [batch] or [batch, views].
      normalized: whether rows are divided by their length.
      axis_name: the axis over which the global batch is sharded, if any.

    Returns:
      Entries with N = batch * views.
    """
    batch, views, dim = embeddings.shape
    given = embeddings.dtype
    embeddings = embeddings.astype(compute_dtype(embeddings))
    each = where if where.ndim == 2 else jnp.broadcast_to(where[:, None], (batch, views))
    # Before anything else touches them: 0 * NaN in a backward pass would reach real rows.
    embeddings = jnp.where(each[:, :, None], embeddings, 0.0)
    if normalized:
        embeddings = normalize(embeddings)
    image = jnp.arange(batch, dtype=jnp.int32)
    if axis_name is not None:
        image = image + lax.axis_index(axis_name).astype(jnp.int32) * batch
    label = image if labels is None else labels
    return Entries(
        embedding=embeddings.reshape(batch * views, dim),
        label=jnp.repeat(label, views),
        image=jnp.repeat(image, views),
        view=jnp.tile(jnp.arange(views, dtype=jnp.int32), batch),
        valid=each.reshape(-1),
        num_views=views,
        unit=normalized,
        given=given,
    )


def make_bank_entries(
    embeddings: jax.Array,
    labels: jax.Array | None,
    filled: jax.Array,
    *,
    dtype: Any,
    normalized: bool,
) -> Entries:
    """Makes the entries of a memory bank: candidates of every anchor, without image and view.

    Args:
      embeddings: float [size, dim]; they have no gradient.
      labels: integer [size], with the dtype of the batch's labels; None: a class of no image.
      filled: bool [size], whether a place has an entry.
      dtype: dtype of the batch's entries.
      normalized: whether rows are divided by their length, as in the batch.

    Returns:
      Entries with N = size.
    """
    given = embeddings.dtype
    embeddings = lax.stop_gradient(embeddings).astype(dtype)
    embeddings = jnp.where(filled[:, None], embeddings, 0.0)
    nowhere = jnp.full(filled.shape, -1, jnp.int32)  # images and views are numbered from 0
    return Entries(
        embedding=normalize(embeddings) if normalized else embeddings,
        label=nowhere if labels is None else labels,
        image=nowhere,
        view=nowhere,
        valid=filled,
        num_views=1,
        unit=normalized,
        given=given,
    )
