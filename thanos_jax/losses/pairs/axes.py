"""What the axes of devices are asked for: rows of all of them, and which axes a shard_map left."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType

AxisName = Any  # one mesh or pmap axis name, or a tuple of them


def left_by_shard_map(kind: AxisType) -> bool:
    """Whether a shard_map over some axes of a mesh is around, and others are of that kind."""
    return {kind, AxisType.Manual} <= set(jax.sharding.get_abstract_mesh().axis_types)


def gather(array: jax.Array, axis_name: AxisName) -> jax.Array:
    """Collects the rows of all devices, in their order."""
    # jax 0.12 cannot lower the transpose of all_gather beside Explicit axes.
    if left_by_shard_map(AxisType.Explicit):
        everyone = gather_same(array, axis_name)
        # To shard_map's checks, the result of all_gather varies over the devices; so must this one.
        return jnp.where(lax.axis_index(axis_name) < 0, jnp.zeros_like(everyone), everyone)
    return lax.all_gather(array, axis_name, tiled=True)


def gather_same(array: jax.Array, axis_name: AxisName) -> jax.Array:
    """Collects the rows of all devices, in their order, known to be the same on every device.

    A sum in which each device has its rows where the others have zeros, and not `lax.all_gather`,
    of whose result shard_map's checks do not know that it is the same everywhere.
    """
    rows = len(array)
    shape = (lax.axis_size(axis_name) * rows, *array.shape[1:])
    summed = jnp.int32 if array.dtype == bool else array.dtype
    mine = lax.dynamic_update_slice_in_dim(
        jnp.zeros(shape, summed), array.astype(summed), lax.axis_index(axis_name) * rows, axis=0
    )
    return lax.psum(mine, axis_name).astype(array.dtype)
