"""Collectives over device axes: rows of all devices, and checks of the axes of a mesh."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType

AxisName = Any  # one mesh or pmap axis name, or a tuple of them


def left_by_shard_map(kind: AxisType) -> bool:
    """Returns whether a shard_map around this call leaves out axes of the mesh of this kind."""
    return {kind, AxisType.Manual} <= set(jax.sharding.get_abstract_mesh().axis_types)


def gather(array: jax.Array, axis_name: AxisName) -> jax.Array:
    """Gathers the rows of all devices, in the order of devices."""
    # jax 0.12 cannot lower the transpose of all_gather beside Explicit axes.
    if left_by_shard_map(AxisType.Explicit):
        everyone = gather_same(array, axis_name)
        # shard_map's checks take the result of all_gather as varying over devices; so must this be.
        return jnp.where(lax.axis_index(axis_name) < 0, jnp.zeros_like(everyone), everyone)
    return lax.all_gather(array, axis_name, tiled=True)


def gather_same(array: jax.Array, axis_name: AxisName) -> jax.Array:
    """Gathers the rows of all devices; shard_map's checks see that the result is replicated.

    It is a sum to which each device contributes its rows and zeros elsewhere. shard_map's checks do
    not accept the result of `lax.all_gather` as the same on every device.
    """
    rows = len(array)
    shape = (lax.axis_size(axis_name) * rows, *array.shape[1:])
    summed = jnp.int32 if array.dtype == bool else array.dtype
    mine = lax.dynamic_update_slice_in_dim(
        jnp.zeros(shape, summed), array.astype(summed), lax.axis_index(axis_name) * rows, axis=0
    )
    return lax.psum(mine, axis_name).astype(array.dtype)
