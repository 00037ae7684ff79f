"""Rows of embeddings split over devices: placement, iteration in blocks, sums and gathering."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from thanos_jax import agree, sharding

AXIS = "data"
# The fewest rows that are worth one more device: fewer do not pay for transfer and communication.
_ROWS_OF_A_DEVICE = 4096
_NUMBERS_OF_A_BLOCK = 2**20  # rows x columns, in this process's memory
_ALIGNMENT = 64  # bytes; XLA reads memory so aligned in place
_TAKEN = 1024  # rows fetched from devices at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Placed:
    """Embeddings [n, d] whose rows are split evenly over the devices of a mesh.

    Attributes:
      mesh: a mesh with the one axis "data".
      rows: floating point [devices x r, d], split over their first axis. Rows past `known` are
        padding: finite, and without effect.
      known: n, the number of rows without padding.
    """

    mesh: Mesh
    rows: jax.Array
    known: int

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return self.known, self.rows.shape[1]

    def __len__(self) -> int:
        return self.known

    def split(self, values: np.ndarray) -> jax.Array:
        """Splits values [n, ...] over devices like the rows.

        A process needs the values of its own rows only; it may have anything in place of the rest.
        """
        missing = len(self.rows) - self.known
        padded = np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))
        return sharding.put(padded, NamedSharding(self.mesh, P(AXIS)))

    def of_first(self, numbers: Sequence[float]) -> list[float]:
        """Returns the first process's numbers, in every process that shares the rows.

        Processes may round differently. Decisions must be made on the same numbers: a process that
        took another branch would leave the others waiting.
        """
        return self.array_of_first(np.asarray(numbers, np.float64)).tolist()

    def array_of_first(self, values: np.ndarray) -> np.ndarray:
        """As `of_first`, for an array of the same shape and dtype in every process."""
        if self.rows.is_fully_addressable:
            return values
        return np.frombuffer(agree.from_first(values.tobytes), values.dtype).reshape(values.shape)


# Embeddings [n, d] that have been checked: in this process's memory, or on devices.
Rows = np.ndarray | Placed


def is_sharded(embeddings: Any) -> bool:
    """Whether an array lies on several devices, its rows split between them."""
    return (
        isinstance(embeddings, jax.Array)
        and embeddings.ndim == 2
        and len(embeddings.sharding.device_set) > 1
        and embeddings.sharding.shard_shape(embeddings.shape)
        == (len(embeddings) // len(embeddings.sharding.device_set), embeddings.shape[1])
    )


def place(embeddings: np.ndarray | jax.Array | Placed) -> Placed:
    """Puts NumPy rows [n, d] on this process's devices; rows on devices stay there.

    Small arrays go to one device. Rows become float32.
    """
    if isinstance(embeddings, Placed):
        return dataclasses.replace(embeddings, rows=embeddings.rows.astype(jnp.float32))
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


def host_blocks(embeddings: Rows, *, columns: int = 1) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (slice, rows) for the rows that this process holds, block by block.

    It holds all rows of a NumPy array.

    Args:
      embeddings: [n, d].
      columns: numbers that the caller computes for a row; blocks are shorter if it exceeds d.
    """
    pieces: list[tuple[int, Any]] = [(0, embeddings)]
    if isinstance(embeddings, Placed):
        shards = embeddings.rows.addressable_shards
        pieces = [(shard.index[0].start or 0, shard.data) for shard in shards]
    count, width = embeddings.shape
    block = max(1, _NUMBERS_OF_A_BLOCK // max(width, columns))
    for first, rows in pieces:
        known = min(len(rows), count - first)
        for start in range(0, known, block):
            # A slice of a device's rows: no more than a block comes to this process's memory.
            some = np.asarray(rows[start : min(start + block, known)])
            yield slice(first + start, first + start + len(some)), some


def add_up(embeddings: Rows, values: np.ndarray, by: np.ufunc = np.add) -> np.ndarray:
    """Adds up float64 values over the processes that share the rows.

    Every process of the job then makes this call. `by` is the ufunc that combines values.
    """
    if isinstance(embeddings, np.ndarray) or embeddings.rows.is_fully_addressable:
        return values
    # As pairs of 32 bits: jax makes float32 of float64.
    bits = np.ascontiguousarray(values).view(np.uint32)
    gathered = np.ascontiguousarray(multihost_utils.process_allgather(bits))
    return by.reduce(gathered.view(np.float64).reshape(-1, *values.shape), axis=0)


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns an uninitialized array, aligned so that a CPU device uses it without a copy."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)


def of_all_rows(embeddings: Rows, values: np.ndarray) -> np.ndarray:
    """Gathers values [n] from processes that have each computed the values of their own rows.

    Every process that shares the rows makes this call. Values have 32 or 64 bits.
    """
    if isinstance(embeddings, np.ndarray) or embeddings.rows.is_fully_addressable:
        return values
    # In words of 32 bits: jax makes float32 of float64.
    words = np.ascontiguousarray(values).view(np.uint32).reshape(len(values), -1)
    found = whole(dataclasses.replace(embeddings, rows=embeddings.split(words)))
    return np.ascontiguousarray(found).view(values.dtype).reshape(values.shape)


def whole(embeddings: Any) -> Any:
    """Returns all rows [n, d] of a `Placed` in this process's memory; other arrays as they are.

    Every process that shares the rows makes this call.
    """
    if not isinstance(embeddings, Placed):
        return embeddings
    rows = embeddings.rows
    if rows.is_fully_addressable:
        return np.asarray(rows)[: embeddings.known]
    return np.asarray(multihost_utils.process_allgather(rows, tiled=True))[: embeddings.known]


def take(embeddings: Rows, index: np.ndarray) -> np.ndarray:
    """Returns the rows at index [m] as float32 [m, d], in this process's memory.

    Every process that shares the rows makes this call, with the same index. Processes exchange
    the indexed rows only.
    """
    if isinstance(embeddings, np.ndarray):
        return embeddings[index]
    everywhere = NamedSharding(embeddings.mesh, P())
    found = np.empty((len(index), embeddings.shape[1]), np.float32)
    for start in range(0, len(index), _TAKEN):
        some = index[start : start + _TAKEN].astype(np.int32)
        padded = sharding.put(np.pad(some, (0, _TAKEN - len(some))), everywhere)
        taken = _take(embeddings.rows, padded, mesh=embeddings.mesh)
        found[start : start + _TAKEN] = np.asarray(taken)[: len(some)]
    return found


@functools.partial(jax.jit, static_argnames="mesh")
def _take(rows: jax.Array, index: jax.Array, *, mesh: Mesh) -> jax.Array:
    def local(rows: Any, index: Any) -> Any:
        place = index - lax.axis_index(AXIS) * len(rows)
        mine = (place >= 0) & (place < len(rows))
        # `where`, not a product with 0: each row comes from one device, bit by bit.
        return lax.psum(jnp.where(mine[:, None], rows[place], 0), AXIS)

    return jax.shard_map(local, mesh=mesh, in_specs=(P(AXIS), P()), out_specs=P())(rows, index)
