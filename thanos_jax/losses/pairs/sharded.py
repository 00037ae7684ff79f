"""The order in which pairs of entries are visited: one sweep over all, on one device or many.

A sweep is a function of two tiles of entries that adds up something for the entries of each (sums
of exponentials, gradients); here it is applied to every pair of tiles of the global batch.

One device takes each pair of its tiles once, for rows and columns alike. Several devices:

  gather  every device collects all entries and meets its own with them, for its own alone. Half
          as much work again and more memory, but one exchange: for small shards.
  ring    blocks of entries travel half way around the ring of devices, each with what its
          hosts have added up for it, then one leap home. Every pair of devices meets once.

Neither sends gradients of candidates around: a gradient is swept like any other sum.
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
# Entries on a device from which a hop's compute outlasts its transfer on fast links; fewer are
# better gathered at once (docs/scaling.md).
RING_FROM = 1024


class Sweep(NamedTuple):
    """What is done with a pair of tiles.

    Attributes:
      name: "sums", "one_positive" or "gradient"; kernels written for each go by it.
      choice: what the sweep was made of, a `streaming.Choice`, for them too.
      meet: (rows, columns, exclude_self) -> what each adds up of the other, two trees [size, ...].
        Of tiles paired with themselves, and of a gathered batch, rows alone are used.
      combine: (sum, addition) -> sum; associative.
      initial: tile of entries -> the empty sum.
      fills: the values of padding, a tree like the entries.
    """

    name: str
    choice: Any
    meet: Callable[[Tree, Tree, bool], tuple[Tree, Tree]]
    combine: Callable[[Tree, Tree], Tree]
    initial: Callable[[Tree], Tree]
    fills: Tree


class Visits(NamedTuple):
    """How a list of pairs of tiles is gone through: the loops that a kernel replaces.

    Blocks are trees of [tiles, size, ...], pairs int32 [pairs, 2] (row tile, column tile) with the
    pairs of one row tile one after the other, sums trees of [tiles, size, ...]; each returns new
    sums.

    Attributes:
      rows: (what, rows, columns, pairs, sums, exclude_self) -> sums; adds up for the rows alone.
      both: (what, block, pairs, sums) -> sums; for both tiles of each pair, which are different
        tiles of one block.
      two: (what, rows, columns, pairs, sums) -> sums, guests; for both tiles of each pair, which
        come from two blocks. The columns' sums begin empty.
    """

    rows: Callable[..., Tree]
    both: Callable[..., Tree]
    two: Callable[..., tuple[Tree, Tree]]


class Plan(NamedTuple):
    """How one device's entries are swept; static.

    Attributes:
      visits: the loops over tiles.
      groups: the number of views if entries of one view never meet, otherwise 1; 0 if none do.
      tile: entries in a tile, at most.
      axis_name: the axis over which entries are sharded, or None.
      schedule: "auto", "gather" or "ring".
    """

    visits: Visits
    groups: int
    tile: int
    axis_name: AxisName | None
    schedule: str


def sweep(what: Sweep, entries: Tree, plan: Plan) -> Tree:
    """Meets every entry of this device with its candidates in the global batch.

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
    """Meets every entry of this device with a bank of further candidates.

    Args:
      what: the sweep; nothing is added up for the bank.
      entries: arrays [N, ...]; this device's.
      bank: arrays [M, ...], the same on every device.
      plan: static choices; the bank's entries are of no view.

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
    """Blocks visit the floor(devices / 2) devices after their own."""

    def move(tree: Tree, by: int) -> Tree:
        order = [(device, (device + by) % devices) for device in range(devices)]
        return _bundled(lambda x: lax.ppermute(x, plan.axis_name, order), tree)

    def host(guest: Tree, luggage: Tree, sums: Tree, pairs: Any) -> tuple[Tree, Tree]:
        # What earlier hosts added up travels while this one computes, so it is joined afterwards.
        arrived = move(luggage, 1)
        sums, addition = plan.visits.two(what, rows, guest, pairs, sums)
        return sums, what.combine(arrived, addition)

    def hop(carry: Tree, _: None) -> tuple[Tree, None]:
        guest, luggage, sums = carry
        following = move(guest, 1)  # nothing below depends on it
        sums, luggage = host(guest, luggage, sums, tiles.rectangle(layout, layout))
        return (following, luggage, sums), None

    # A guest's number tells entries from themselves, which never meet here.
    travelling = {name: x for name, x in rows.items() if name != "number"}
    guest, luggage = move(travelling, 1), what.initial(rows)
    carry = (guest, luggage, sums)
    if (devices - 1) // 2:
        carry, _ = lax.scan(hop, carry, None, length=(devices - 1) // 2)
    guest, luggage, sums = carry
    if devices % 2 == 0:
        # Opposite devices hold each other's block: each takes half of the pairs.
        first, second = tiles.halves(layout)
        early = lax.axis_index(plan.axis_name) < devices // 2
        sums, luggage = host(guest, luggage, sums, jnp.where(early, first, second))
    return what.combine(sums, move(luggage, -(devices // 2)))


def _split(what: Sweep, entries: Tree, layout: tiles.Layout) -> Tree:
    return jax.tree.map(lambda x, fill: tiles.split(x, layout, fill), entries, what.fills)


def _bundled(send: Callable[[jax.Array], jax.Array], tree: Tree) -> Tree:
    """Sends arrays of equal shape and width as one: few transfers can be under way at once."""
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
    # Sums of a tile as row and as column are kept apart. One array for both would have two reads
    # and two writes in a step, and XLA would copy all of it every time.
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
