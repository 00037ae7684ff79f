"""Sweeps over all pairs of entries, on one device or several.

A sweep is a function of two tiles of entries that returns sums for the entries of each (sums of
exponentials, gradients). This module applies it to every pair of tiles of the global batch.

One device visits each pair of its tiles once, and adds to the sums of both rows and columns. For
several devices there are two schedules:

  gather  every device gathers all entries and computes the sums of its own entries only. This takes
          1.5 times the work and more memory, but one exchange: for small shards.
  ring    blocks of entries travel half way around the ring of devices, together with the sums that
          were computed for them, then back in one hop. Every pair of devices meets once.

Neither exchanges gradients of candidates: a gradient is computed by a sweep like any other sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thanos_jax.losses.pairs import tiles
from thanos_jax.losses.pairs.axes import AxisName, gather

Tree = Any  # arrays whose leading axes are [entries] or [tiles, size]; of entries, a dictionary

SCHEDULES = ("auto", "gather", "ring")
# From this number of entries per device, computing a hop takes longer than its transfer on fast
# links; smaller shards are better gathered at once (docs/scaling.md).
RING_FROM = 1024


class Sweep(NamedTuple):
    """The computation for a pair of tiles.

    Attributes:
      name: "sums", "one_positive" or "gradient"; selects the kernel of `pallas`.
      choice: the `streaming.Choice` of the sweep, for these kernels.
      meet: (rows, columns, exclude_self) -> the sums that each tile gets from the other, two trees
        [size, ...]. For a tile paired with itself, and for a gathered batch, only the sums of rows
        are used.
      combine: (sum, addition) -> sum; associative.
      initial: tile of entries -> the empty sum.
      fills: the values of padding, a tree with the structure of the entries.
    """

    name: str
    choice: Any
    meet: Callable[[Tree, Tree, bool], tuple[Tree, Tree]]
    combine: Callable[[Tree, Tree], Tree]
    initial: Callable[[Tree], Tree]
    fills: Tree


class Visits(NamedTuple):
    """Loops over a list of pairs of tiles; a kernel may replace them.

    Blocks and sums are trees of [tiles, size, ...]. Pairs are int32 [pairs, 2], (row tile, column
    tile), with the pairs of a row tile consecutive. Each loop returns new sums.

    Attributes:
      rows: (what, rows, columns, pairs, sums, exclude_self) -> sums, of the rows only.
      both: (what, block, pairs, sums) -> sums of both tiles of each pair, which are different tiles
        of one block.
      two: (what, rows, columns, pairs, sums) -> (sums, guests), of both tiles of each pair, which
        are from two blocks; guests are the sums of the columns, which start empty.
    """

    rows: Callable[..., Tree]
    both: Callable[..., Tree]
    two: Callable[..., tuple[Tree, Tree]]


class Plan(NamedTuple):
    """How one device's entries are swept; static.

    Attributes:
      visits: the loops over tiles.
      groups: the number of views if entries of the same view are never paired, otherwise 1; 0 if no
        entries are paired.
      tile: largest number of entries in a tile.
      axis_name: the axis over which entries are sharded, or None.
      schedule: "auto", "gather" or "ring".
    """

    visits: Visits
    groups: int
    tile: int
    axis_name: AxisName | None
    schedule: str


def sweep(what: Sweep, entries: Tree, plan: Plan) -> Tree:
    """Sums over the candidates in the global batch, for every entry of this device.

    Args:
      what: the sweep.
      entries: arrays [N, ...]; this device's.
      plan: static choices.

    Returns:
      The sums of this device's entries, arrays [N, ...].
    """
    if not plan.groups:
        return what.initial(entries)
    number = len(jax.tree.leaves(entries)[0])
    devices = 1 if plan.axis_name is None else lax.axis_size(plan.axis_name)
    schedule = plan.schedule
    if schedule == "auto":
        schedule = "ring" if number >= RING_FROM else "gather"
    ring = devices == 1 or schedule == "ring"
    layout = tiles.layout(
        number, groups=plan.groups, largest=plan.tile, even=ring and devices % 2 == 0
    )
    rows = _split(what, entries, layout)
    sums = what.initial(rows)
    if ring:
        sums = plan.visits.rows(what, rows, rows, tiles.diagonal(layout), sums, True)
        sums = plan.visits.both(what, rows, tiles.triangle(layout), sums)
        if devices > 1:
            sums = _ring(what, rows, layout, sums, plan, devices)
    else:
        everyone = jax.tree.map(lambda x: gather(x, plan.axis_name), entries)
        others = tiles.layout(number * devices, groups=plan.groups, largest=plan.tile)
        columns = _split(what, everyone, others)
        pairs = tiles.rectangle(layout, others)
        sums = plan.visits.rows(what, rows, columns, pairs, sums, plan.groups == 1)
    return jax.tree.map(lambda x: tiles.join(x, layout), sums)


def sweep_bank(what: Sweep, entries: Tree, bank: Tree, plan: Plan) -> Tree:
    """Sums over a bank of further candidates, for every entry of this device.

    Args:
      what: the sweep; the bank has no sums.
      entries: arrays [N, ...]; this device's.
      bank: arrays [M, ...], the same on every device.
      plan: static choices; the bank's entries have no view.

    Returns:
      The sums of this device's entries, arrays [N, ...].
    """
    own, theirs = (
        tiles.layout(len(jax.tree.leaves(tree)[0]), groups=1, largest=plan.tile)
        for tree in (entries, bank)
    )
    rows, columns = _split(what, entries, own), _split(what, bank, theirs)
    pairs = tiles.rectangle(own, theirs)
    sums = plan.visits.rows(what, rows, columns, pairs, what.initial(rows), False)
    return jax.tree.map(lambda x: tiles.join(x, own), sums)


def _ring(
    what: Sweep,
    rows: Tree,
    layout: tiles.Layout,
    sums: Tree,
    plan: Plan,
    devices: int,
) -> Tree:
    """Adds the pairs between devices; blocks visit the next floor(devices / 2) devices."""

    def move(tree: Tree, by: int) -> Tree:
        order = [(device, (device + by) % devices) for device in range(devices)]
        return _bundled(lambda x: lax.ppermute(x, plan.axis_name, order), tree)

    def host(guest: Tree, luggage: Tree, sums: Tree, pairs: Any) -> tuple[Tree, Tree]:
        # The sums of earlier devices travel while this one computes, and are added afterwards.
        arrived = move(luggage, 1)
        sums, addition = plan.visits.two(what, rows, guest, pairs, sums)
        return sums, what.combine(arrived, addition)

    def hop(carry: Tree, _: None) -> tuple[Tree, None]:
        guest, luggage, sums = carry
        following = move(guest, 1)  # nothing below depends on it
        sums, luggage = host(guest, luggage, sums, tiles.rectangle(layout, layout))
        return (following, luggage, sums), None

    # "number" excludes pairs of an entry with itself, which do not occur between devices.
    travelling = {name: x for name, x in rows.items() if name != "number"}
    guest, luggage = move(travelling, 1), what.initial(rows)
    carry = (guest, luggage, sums)
    if (devices - 1) // 2:
        carry, _ = lax.scan(hop, carry, None, length=(devices - 1) // 2)
    guest, luggage, sums = carry
    if devices % 2 == 0:
        # Opposite devices have each other's block; each computes half of the pairs.
        first, second = tiles.halves(layout)
        early = lax.axis_index(plan.axis_name) < devices // 2
        sums, luggage = host(guest, luggage, sums, jnp.where(early, first, second))
    return what.combine(sums, move(luggage, -(devices // 2)))


def _split(what: Sweep, entries: Tree, layout: tiles.Layout) -> Tree:
    return jax.tree.map(lambda x, fill: tiles.split(x, layout, fill), entries, what.fills)


def _bundled(send: Callable[[jax.Array], jax.Array], tree: Tree) -> Tree:
    """Sends arrays of equal shape and width as one, because concurrent transfers are limited."""
    leaves, structure = jax.tree.flatten(tree)
    bundles: dict[Any, list[int]] = {}
    for index, leaf in enumerate(leaves):
        bundles.setdefault((leaf.shape, leaf.dtype.itemsize), []).append(index)
    for (_, itemsize), members in bundles.items():
        if len(members) == 1:
            leaves[members[0]] = send(leaves[members[0]])
            continue
        bits = jnp.dtype(f"uint{8 * itemsize}")
        sent = send(jnp.stack([lax.bitcast_convert_type(leaves[i], bits) for i in members]))
        for index, part in zip(members, sent, strict=True):
            leaves[index] = lax.bitcast_convert_type(part, leaves[index].dtype)
    return jax.tree.unflatten(structure, leaves)


def _at(tree: Tree, index: jax.Array) -> Tree:
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, index, keepdims=False), tree)


def _add(what: Sweep, sums: Tree, index: jax.Array, addition: Tree) -> Tree:
    new = what.combine(_at(sums, index), addition)
    return jax.tree.map(
        lambda x, y: lax.dynamic_update_index_in_dim(x, y, index, axis=0), sums, new
    )


def _rows(
    what: Sweep, rows: Tree, columns: Tree, pairs: Any, sums: Tree, exclude_self: bool
) -> Tree:
    def body(sums: Tree, pair: jax.Array) -> tuple[Tree, None]:
        addition, _ = what.meet(_at(rows, pair[0]), _at(columns, pair[1]), exclude_self)
        return _add(what, sums, pair[0], addition), None

    return _scan(body, sums, pairs)


def _both(what: Sweep, block: Tree, pairs: Any, sums: Tree) -> Tree:
    # The sums of a tile as row and as column are separate arrays. One array would be read and
    # written twice in a step, and XLA would copy all of it every time.
    return what.combine(*_two(what, block, block, pairs, sums))


def _two(what: Sweep, rows: Tree, columns: Tree, pairs: Any, sums: Tree) -> tuple[Tree, Tree]:
    def body(carry: tuple[Tree, Tree], pair: jax.Array) -> tuple[tuple[Tree, Tree], None]:
        sums, guests = carry
        first, second = what.meet(_at(rows, pair[0]), _at(columns, pair[1]), False)
        return (_add(what, sums, pair[0], first), _add(what, guests, pair[1], second)), None

    return _scan(body, (sums, what.initial(columns)), pairs)


def _scan(body: Callable[..., Any], carry: Tree, pairs: np.ndarray | jax.Array) -> Tree:
    return lax.scan(body, carry, jnp.asarray(pairs))[0] if len(pairs) else carry


LOOPS = Visits(_rows, _both, _two)
