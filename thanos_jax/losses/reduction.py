"""Reduces one value per item to the result of a loss, 0 if there are no items."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from thanos_jax.losses.pairs.axes import AxisName

OPTIONS = ("mean", "none")


def reduce(
    values: jax.Array, counted: jax.Array, *, reduction: str, axis_name: AxisName | None
) -> jax.Array:
    """Averages over the counted items of the global batch, or returns them item by item.

    Args:
      values: float [items].
      counted: bool [items]; other items have the value 0 and are left out of the mean.
      reduction: "mean" or "none".
      axis_name: the axis over which items are sharded, if any.

    Returns:
      "mean": scalar, the same on every device, 0 if no item is counted; "none": float [items].
    """
    values = jnp.where(counted, values, 0.0)
    if reduction == "none":
        return values
    total, count = jnp.sum(values), jnp.sum(counted, dtype=jnp.int32)
    if axis_name is not None:
        total, count = lax.psum(total, axis_name), lax.psum(count, axis_name)
    return total / jnp.maximum(count, 1).astype(total.dtype)
