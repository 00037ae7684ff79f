"""Runs many steps in one program, with the training set kept on the devices.

A step of a small model takes less time than the host needs to gather a batch, send it and start the
step. Here the host sends only the indices of the images of each step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from thanos_jax import sharding
from thanos_jax.data.balanced import ClassBalance
from thanos_jax.data.batches import sample_indices
from thanos_jax.data.splits import ArraySplit, DerivedSplit
from thanos_jax.train.state import TrainState
from thanos_jax.train.update import Metrics, Step

# (state, first step, end step, exclusive) -> (state, metrics [steps]).
Window = Callable[[TrainState, int, int], tuple[TrainState, Metrics]]


def make_window(
    step: Step,
    split: ArraySplit | DerivedSplit,
    mesh: Mesh,
    *,
    seed: int,
    batch_size: int,
    longest: int,
    inputs: Sequence[str],
    balance: ClassBalance | None = None,
) -> Window:
    """Copies a split to every device and returns the function that runs steps there.

    The steps and their batches are the same as in the host's loop.

    Args:
      step: from `thanos_jax.train.update.make_step`.
      split: a split in memory; its images are uint8 on the devices too.
      mesh: mesh with one axis, "data"; each device has the whole split and gathers its part of a
        batch.
      seed: orders the epochs, as in `thanos_jax.data.batches`, and is passed to the step.
      batch_size: images in a step, over all devices.
      longest: largest number of steps of a call.
      inputs: names of the batch entries that the step needs.
      balance: as for `thanos_jax.data.batches.sample_indices`.

    Returns:
      A function (state, first, last) -> (state, metrics), which runs the steps first .. last - 1;
      metrics are arrays [last - first]. The given state is donated.
    """
    stored = sharding.replicate(mesh, {name: _array(split, name) for name in inputs})
    # Row of each image in the stored arrays.
    rows = split.numbers if isinstance(split, DerivedSplit) else np.arange(len(split))
    over_devices = NamedSharding(mesh, P(None, "data"))

    compiled = make_program(step, longest=longest)

    def run(state: TrainState, first: int, last: int) -> tuple[TrainState, Metrics]:
        if not 0 < last - first <= longest:
            raise ValueError(f"a window has 1 to {longest} steps; got {first} to {last}")
        indices = np.zeros((longest, batch_size), np.int32)
        for row, number in enumerate(range(first, last)):
            drawn = sample_indices(
                seed=seed, step=number, batch_size=batch_size, size=len(split), balance=balance
            )
            indices[row] = rows[drawn]
        state, records = compiled(
            state,
            stored,
            np.uint32(seed),
            sharding.put(indices, over_devices),
            np.int32(last - first),
        )
        return state, {name: rows[: last - first] for name, rows in records.items()}

    return run


def make_program(step: Step, *, longest: int) -> Any:
    """Returns the jitted program that `make_window` calls.

    Args:
      step: as for `make_window`.
      longest: as for `make_window`.

    Returns:
      A function (state, stored, seed, indices, count) -> (state, metrics [longest]), which runs
      `count` steps; indices, int32 [longest, batch], select the rows of the stored arrays. The
      state is donated.
    """

    # A while loop, not a scan, so that one program serves windows of every length.
    def window(
        state: TrainState, stored: Any, seed: Any, indices: jax.Array, count: jax.Array
    ) -> Any:
        def body(number: jax.Array, carry: Any) -> Any:
            state, records = carry
            batch = {
                name: jnp.take(array, indices[number], axis=0) for name, array in stored.items()
            }
            state, found = step(state, batch, seed)
            records = jax.tree.map(lambda rows, row: rows.at[number].set(row), records, found)
            return state, records

        batch = {name: jnp.take(x, indices[0], axis=0) for name, x in stored.items()}
        shapes = jax.eval_shape(step, state, batch, seed)[1]
        records = jax.tree.map(lambda x: jnp.zeros((longest, *x.shape), x.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (state, records))

    return jax.jit(window, donate_argnums=0)


def program_shapes(
    split: Any, mesh: Mesh, batch: Mapping[str, jax.ShapeDtypeStruct], *, longest: int
) -> tuple[dict[str, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]:
    """Returns shape, dtype and sharding of the program's stored arrays and of its indices.

    Args:
      split: as for `make_window`; its images are not read.
      mesh: as for `make_window`.
      batch: name -> shape and dtype of the batch entries of a step.
      longest: as for `make_window`.
    """
    everywhere, over_devices = (NamedSharding(mesh, spec) for spec in (P(), P(None, "data")))
    stored = {
        name: jax.ShapeDtypeStruct(
            (_stored_rows(split, name), *x.shape[1:]), x.dtype, sharding=everywhere
        )
        for name, x in batch.items()
    }
    size = next(iter(batch.values())).shape[0]
    return stored, jax.ShapeDtypeStruct((longest, size), jnp.int32, sharding=over_devices)


# Batch entry -> attribute of a split.
_ARRAYS = {"image": "images", "coarse": "coarse", "fine": "fine"}


def _array(split: Any, name: str) -> np.ndarray:
    """Returns the array from which a batch entry is gathered."""
    if not isinstance(split, DerivedSplit):
        return getattr(split, _ARRAYS[name])
    if name in split.columns:
        return split.columns[name]
    inner = _array(split.split, name)
    return inner[split.split.numbers] if isinstance(split.split, DerivedSplit) else inner


def _stored_rows(split: Any, name: str) -> int:
    """Returns the number of rows of the array from which a batch entry is gathered."""
    if isinstance(split, DerivedSplit):
        return len(split.columns[name]) if name in split.columns else len(split.split)
    return len(split)
