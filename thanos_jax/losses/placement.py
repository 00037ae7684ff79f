"""Computes a loss on the devices that hold the batch; the only module that knows of meshes.

A loss is written as a function of one device's rows and the axis over which the batch is sharded.
Inside `jax.pmap`, `jax.shard_map` and `jax.vmap` the caller gives both. Elsewhere the arrays are
the global batch, and `place` wraps the function in a shard_map over the axes of their sharding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, reshard

from thanos_jax.losses.pairs.axes import AxisName
from thanos_jax.losses.pairs.entries import at_hand

# (form, rows, shared, axis_name) -> a tree of arrays
Compute = Callable[[Any, dict[str, Any], Any, AxisName | None], Any]


def place(
    compute: Compute,
    form: Hashable,
    rows: dict[str, Any],
    shared: Any,
    axis_name: AxisName | None,
    *,
    per_row: bool = False,
    divide: bool = False,
    check_vma: bool = True,
) -> Any:
    """Calls compute(form, rows, shared, axis_name) on the devices that hold the rows.

    Args:
      compute: a function of a module, not a closure, because outside `jax.jit` it is the cache key
        of the compiled program.
      form: static choices.
      rows: arrays [batch, ...]; the first one determines the sharding, "where" marks padding.
      shared: a pytree of arrays and numbers that are the same on every device.
      axis_name: the axis name that the caller gave.
      per_row: whether results are arrays [batch, ...]; otherwise they are the same on every device.
      divide: whether rows without a sharding are spread over all Auto axes of the mesh.
      check_vma: as in `jax.shard_map`.

    Raises:
      ValueError: axis_name is neither bound around this call nor an axis of the mesh in context.
    """
    names = _names(axis_name)
    if names and all(map(_is_bound, names)):
        rows, shared = jax.tree.map(_whole, (rows, shared))
        try:
            return compute(form, rows, shared, names if len(names) > 1 else names[0])
        except AssertionError as error:
            if len(names) == 1 or "axis size" not in str(error):
                raise
            raise ValueError(
                f"axis_name: expected one axis of jax.vmap, got {', '.join(map(repr, names))}; "
                "jax has collectives over several axes at once in shard_map alone"
            ) from error
    mesh, names = _home(names, rows, shared, divide)
    if mesh is None:
        return compute(form, rows, shared, None)
    return _mapped(compute, form, mesh, names, per_row, check_vma, rows, shared)


@functools.partial(jax.jit, static_argnums=range(6))
def _mapped(
    compute: Compute,
    form: Hashable,
    mesh: Any,
    names: tuple[Any, ...],
    per_row: bool,
    check_vma: bool,
    rows: dict[str, Any],
    shared: Any,
) -> Any:
    """Calls the function in a shard_map over all axes of the mesh; `names` shard the rows."""
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    batch = len(rows["where"])
    missing = -batch % math.prod(mesh.shape[name] for name in names)
    if missing:  # `where` is False for these rows, so that their other values do not matter
        rows = jax.tree.map(lambda x: jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)), rows)
    spec, everywhere = PartitionSpec(names or None), PartitionSpec()
    if AxisType.Explicit in kinds.values():
        explicit = tuple(name for name in names if kinds[name] == AxisType.Explicit)
        laid = NamedSharding(mesh, PartitionSpec(explicit or None))
        rows = jax.tree.map(lambda x: reshard(x, laid), rows)
        shared = jax.tree.map(lambda x: reshard(x, NamedSharding(mesh, everywhere)), shared)
    result = jax.shard_map(
        lambda rows, shared: compute(form, rows, shared, names or None),
        mesh=mesh,
        in_specs=(spec, everywhere),
        out_specs=spec if per_row else everywhere,
        axis_names={name for name, kind in kinds.items() if kind != AxisType.Manual},
        check_vma=check_vma,
    )(rows, shared)
    return jax.tree.map(lambda x: x[:batch], result) if per_row and missing else result


def _names(axis_name: AxisName | None) -> tuple[Any, ...]:
    if axis_name is None:
        return ()
    return tuple(axis_name) if isinstance(axis_name, tuple | list) else (axis_name,)


def _is_bound(name: Any) -> bool:
    """Returns whether a pmap, shard_map or vmap around this call has an axis of this name."""
    try:
        lax.axis_size(name)
    except NameError:
        return False
    return True


def _home(
    names: tuple[Any, ...], rows: dict[str, Any], shared: Any, divide: bool
) -> tuple[Any, tuple[Any, ...]]:
    """Returns the mesh of a global batch (None: no mesh), and the axes that shard its rows."""
    embeddings = next(iter(rows.values()))
    leaves = [x for x in jax.tree.leaves((rows, shared)) if isinstance(x, jax.Array)]
    meshes = [jax.sharding.get_abstract_mesh(), *(_type(x).mesh for x in leaves)]
    mesh = next((mesh for mesh in meshes if not mesh.empty), None)
    if names:
        there = () if mesh is None else mesh.axis_names
        if not set(names) <= set(there):
            found = ", ".join(map(repr, there)) or "none"
            raise ValueError(
                "axis_name: expected an axis of the pmap, shard_map or vmap around the call, or of "
                f"the mesh in context (jax.set_mesh; its axes: {found}), "
                f"got {', '.join(map(repr, names))}"
            )
        return mesh, names
    if mesh is None:
        return None, ()
    if any(map(_is_split, leaves)):
        return mesh, _split_over(_type(embeddings).spec)
    # A concrete array, also during differentiation, has its sharding over Auto axes.
    array = at_hand(embeddings)
    if array is not None:
        sharding = array.sharding
        names = _split_over(sharding.spec) if isinstance(sharding, NamedSharding) else ()
    elif divide and AxisType.Manual not in mesh.axis_types:
        kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
        names = tuple(name for name, kind in kinds if kind == AxisType.Auto)
    return (mesh, names) if math.prod(mesh.shape[name] for name in names) > 1 else (None, ())


def _type(array: Any) -> NamedSharding:
    return jax.typeof(array).sharding


def _is_split(array: Any) -> bool:
    return any(part is not None for part in _type(array).spec)


def _split_over(spec: PartitionSpec) -> tuple[Any, ...]:
    first = spec[0] if len(spec) else None
    return _names(None if first is PartitionSpec.UNCONSTRAINED else first)


def _whole(array: Any) -> Any:
    """Replicates the array over Explicit axes; a shard_map around it keeps its own axes."""
    if isinstance(array, jax.Array) and _is_split(array):
        return reshard(array, PartitionSpec())
    return array
