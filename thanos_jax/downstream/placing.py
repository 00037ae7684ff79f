"""Rows of embeddings on devices: where programs that go through them in blocks find them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from thanos_jax import agree, sharding

AXIS = "data"
# So many rows are worth a device; fewer are not worth a transfer and a program of several parts.
_ROWS_OF_A_DEVICE = 4096
_NUMBERS_OF_A_BLOCK = 2**20  # of rows in this process's memory


class Placed(NamedTuple):
    """Rows split over the devices of a mesh, each with as many, the last ones padded with zeros.

    Attributes:
      mesh: its one axis is "data".
      rows: float32 [devices x r, d], split over their first axis; only the first `known` count.
      known: how many rows there are.
    """

    mesh: Mesh
    rows: jax.Array
    known: int

    def split(self, values: np.ndarray) -> jax.Array:
        """Puts values [known, ...], the same in every process, where their rows are."""
        missing = len(self.rows) - self.known
        padded = np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))
        return sharding.put(padded, NamedSharding(self.mesh, P(AXIS)))

    def of_first(self, numbers: Sequence[float]) -> list[float]:
        """Returns numbers as the first process has them, where several processes share the rows.

        Processes may round differently. What is decided by such numbers must be decided alike: a
        process that went another way would leave the others waiting.
        """
        return self.array_of_first(np.asarray(numbers, np.float64)).tolist()

    def array_of_first(self, values: np.ndarray) -> np.ndarray:
        """As `of_first`, of an array of the same shape and dtype in every process."""
        if self.rows.is_fully_addressable:
            return values
        return np.frombuffer(agree.from_first(values.tobytes), values.dtype).reshape(values.shape)


def is_sharded(embeddings: Any) -> bool:
    """Whether an array lies on several devices, its rows split between them."""
    return (
        isinstance(embeddings, jax.Array)
        and embeddings.ndim == 2
        and len(embeddings.sharding.device_set) > 1
        and embeddings.sharding.shard_shape(embeddings.shape)
        == (len(embeddings) // len(embeddings.sharding.device_set), embeddings.shape[1])
    )


def place(embeddings: np.ndarray | jax.Array) -> Placed:
    """Puts NumPy rows [n, d] on this process's devices; sharded ones stay where they are.

    Small arrays go to one device.
    """
    if isinstance(embeddings, jax.Array) and is_sharded(embeddings):
        starts = embeddings.sharding.devices_indices_map(embeddings.shape)
        devices = sorted(starts, key=lambda device: starts[device][0].start or 0)
        mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
        rows = jax.device_put(embeddings.astype(jnp.float32), NamedSharding(mesh, P(AXIS)))
        return Placed(mesh, rows, len(rows))
    rows = np.asarray(embeddings)
    local = jax.local_devices()
    number = max(1, min(len(local), len(rows) // _ROWS_OF_A_DEVICE))
    mesh = Mesh(np.array(local[:number]), (AXIS,), axis_types=(AxisType.Auto,))
    missing = -len(rows) % number
    padded = np.pad(rows, [(0, missing), (0, 0)]) if missing else rows
    return Placed(mesh, jax.device_put(padded, NamedSharding(mesh, P(AXIS))), len(rows))


def host_blocks(embeddings: np.ndarray | jax.Array) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields where and what: float32 rows of an array, some at a time, that this process has.

    Of a NumPy array it has all.
    """
    pieces: list[tuple[int, Any]]
    if isinstance(embeddings, jax.Array) and is_sharded(embeddings):
        pieces = [
            (shard.index[0].start or 0, shard.data) for shard in embeddings.addressable_shards
        ]
    else:
        pieces = [(0, embeddings)]
    block = max(1, _NUMBERS_OF_A_BLOCK // embeddings.shape[1])
    for first, rows in pieces:
        for start in range(0, len(rows), block):
            # A slice of a device's rows: no more than a block comes to this process's memory.
            some = np.asarray(rows[start : start + block])
            yield slice(first + start, first + start + len(some)), some


def add_up(embeddings: np.ndarray | jax.Array, sums: np.ndarray) -> np.ndarray:
    """Adds float64 sums of `host_blocks` over processes, where several share an array.

    Every process of the job then makes this call.
    """
    if not isinstance(embeddings, jax.Array) or embeddings.is_fully_addressable:
        return sums
    # As pairs of 32 bits: jax makes float32 of float64.
    bits = np.ascontiguousarray(sums).view(np.uint32)
    gathered = np.ascontiguousarray(multihost_utils.process_allgather(bits))
    return gathered.view(np.float64).reshape(-1, *sums.shape).sum(axis=0)
