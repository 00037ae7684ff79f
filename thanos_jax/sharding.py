"""The mesh, and how arrays lie on it: batches split over its one axis "data", states everywhere."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def make_mesh() -> Mesh:
    """Returns a mesh of all devices of all processes, with the axis "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def shard(mesh: Mesh, batch: Any) -> Any:
    """Puts this process's rows of a global batch on its devices.

    Args:
      mesh: from `make_mesh`.
      batch: pytree of NumPy arrays [global batch / processes, ...].

    Returns:
      The pytree of global arrays, sharded over their first axis.
    """
    placement = NamedSharding(mesh, P("data"))
    if jax.process_count() == 1:
        return jax.device_put(batch, placement)  # half the time of the general way
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(placement, np.asarray(x)), batch
    )


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Puts a pytree of arrays on every device."""
    return jax.device_put(tree, NamedSharding(mesh, P()))
