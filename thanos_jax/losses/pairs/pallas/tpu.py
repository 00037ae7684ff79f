"""The loops over pairs of tiles as one TPU kernel.

A step of the kernel's grid is a pair of tiles. The pipeline of Pallas copies the next pair's tiles
from HBM to VMEM during the computation of this pair. The kernel computes `Sweep.meet` itself, so
that one kernel serves every sweep, and a tile of similarities never leaves VMEM. A tile of rows is
processed strip by strip, because vector memory holds a strip of similarities but not a whole tile.

Sums of rows stay in VMEM as long as the row tile does. Sums of columns change at every step, and
are read and written by separate copies; the read for the next step and the write of the last one
overlap with the products of the present step.

The kernel was checked without a TPU: in both of Pallas' interpreters on CPU, one of which detects
races between copies (tests/losses/test_pallas.py), and by ahead-of-time compilation for TPU v5e and
v5p. Its speed has not been measured. The compiler rejects it for v4 and older, which cannot
transpose a row of numbers to a column in this way. It uses one of the two cores of a v5p.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import ManualAxisType

from thanos_jax.losses.pairs import sharded
from thanos_jax.losses.pairs.sharded import Sweep, Tree, Visits

# Vector registers are 8 x 128; tiles and rows of embeddings are padded to multiples of 128.
_LANES = 128
# Rows of a strip, and how many arrays of strip x size a sweep may hold at once: 256 x 1024 numbers
# are 1 MB.
_STRIP = 256
_ARRAYS = 8
# Largest number of pairs of a call; their numbers are in scalar memory, 16 KB in the oldest chips.
_PAIRS = 1024
# Assumed bytes of vector memory without a TPU, and the share of vector memory that a call may use.
_VMEM = 64 * 2**20
_SHARE = 0.75
# Column sums in VMEM: one being written back, one in use, one being read.
_SLOTS = 3


@functools.cache
def visits(interpret: Any = False) -> Visits:
    """Returns the loops over tiles as a kernel for TPUs.

    Arrays of 64 bits, which TPUs do not support, run in `sharded.LOOPS`. The pairs of a row tile
    must be consecutive, as the functions of `tiles` return them.

    Args:
      interpret: False to compile; True or pltpu.InterpretParams() to run anywhere, slowly.
    """

    def rows(
        what: Sweep, rows: Tree, columns: Tree, pairs: Any, sums: Tree, exclude_self: bool
    ) -> Tree:
        if _too_wide(rows, columns, sums):
            return sharded.LOOPS.rows(what, rows, columns, pairs, sums, exclude_self)
        return _visit(what, rows, columns, pairs, sums, None, exclude_self, interpret)[0]

    def two(what: Sweep, rows: Tree, columns: Tree, pairs: Any, sums: Tree) -> tuple[Tree, Tree]:
        if _too_wide(rows, columns, sums):
            return sharded.LOOPS.two(what, rows, columns, pairs, sums)
        return _visit(what, rows, columns, pairs, sums, what.initial(columns), False, interpret)

    def both(what: Sweep, block: Tree, pairs: Any, sums: Tree) -> Tree:
        # The sums of a tile as row and as column are separate, because the pipeline may fetch the
        # sums of a row tile while column sums are still being written.
        return what.combine(*two(what, block, block, pairs, sums))

    return Visits(rows, both, two)


def _too_wide(*trees: Tree) -> bool:
    return any(leaf.dtype.itemsize > 4 for leaf in jax.tree.leaves(trees))


def _visit(
    what: Sweep,
    rows: Tree,
    columns: Tree,
    pairs: Any,
    sums: Tree,
    guests: Tree | None,
    exclude_self: bool,
    interpret: Any,
) -> tuple[Tree, Tree | None]:
    """Visits a list of pairs; `guests` are the sums of columns, or None for rows only."""
    if not len(pairs):
        return sums, guests
    parts = _parts(rows, columns, sums, guests)
    pairs = _refine(jnp.asarray(pairs), parts)
    step = functools.partial(
        _call,
        what,
        _lay(rows, {name: what.fills[name] for name in rows}, parts, strips=True),
        _lay(columns, {name: what.fills[name] for name in columns}, parts, strips=False),
        exclude_self=exclude_self,
        interpret=interpret,
        memory=_memory(rows, columns, sums, guests, parts),
    )
    zeros = jax.tree.map(lambda _: 0.0, sums)
    carry = (
        _lay(sums, zeros, parts, strips=True),
        None if guests is None else _lay(guests, zeros, parts, strips=False),
    )
    whole = len(pairs) // _PAIRS * _PAIRS
    if whole:
        many = pairs[:whole].reshape(-1, _PAIRS, 2)
        carry, _ = lax.scan(lambda carry, some: (step(some, *carry), None), carry, many)
    if whole < len(pairs):
        carry = step(pairs[whole:], *carry)
    return _take(carry[0], sums), _take(carry[1], guests)


def _parts(rows: Tree, columns: Tree, sums: Tree, guests: Tree | None) -> int:
    """Returns the number of parts of a tile: 1, or more if a tile does not fit vector memory."""
    capacity = _VMEM
    if jax.default_backend() == "tpu":
        capacity = pltpu.get_tpu_info().vmem_capacity_bytes
    sizes = [tree["x"].shape[1] for tree in (rows, columns)]
    parts = 1
    while (
        max(sizes) > _LANES * parts
        and _memory(rows, columns, sums, guests, parts) > _SHARE * capacity
    ):
        parts *= 2
    return parts


def _refine(pairs: jax.Array, parts: int) -> jax.Array:
    """Returns the pairs of parts of tiles; the pairs of a row part are consecutive again."""
    if parts == 1:
        return pairs
    part = jnp.stack(jnp.indices((parts, parts), dtype=pairs.dtype), axis=-1).reshape(-1, 2)
    every = (pairs[:, None] * parts + part[None]).reshape(-1, 2)
    return every[jnp.argsort(every[:, 0], stable=True)]


def _padded(number: int, multiple: int = _LANES) -> int:
    return math.ceil(number / multiple) * multiple


def _lay(tree: Tree, fills: Tree, parts: int, *, strips: bool) -> Tree:
    """Returns blocks in the kernel's layout.

    [tiles, size] becomes [tiles, 1, size] or [tiles, strips, 1, strip], and [tiles, size, d]
    becomes [tiles, size, d] or [tiles, strips, strip, d], with `parts` tiles for one; size and d
    are padded.
    """

    def lay(array: jax.Array, fill: float) -> jax.Array:
        tiles, size, *rest = array.shape
        size, rest = _padded(size, parts * _LANES), [_padded(length) for length in rest]
        ends = [new - old for new, old in zip((size, *rest), array.shape[1:], strict=True)]
        if any(ends):
            widths = [(0, 0), *((0, end) for end in ends)]
            array = jnp.pad(array, widths, constant_values=fill)
        if jnp.issubdtype(array.dtype, jnp.integer):
            array = _as_int32(array)
        length = _strip(size // parts) if strips else size // parts
        array = array.reshape(tiles * parts, -1, *(rest and [length]), *(rest or [1, length]))
        return array if strips else array[:, 0]

    return jax.tree.map(lay, tree, fills)


def _strip(size: int) -> int:
    return math.gcd(size, _STRIP)


def _as_int32(array: jax.Array) -> jax.Array:
    """Returns integers of at most 32 bits as int32; equal values stay equal."""
    if array.dtype == jnp.uint32:
        return lax.bitcast_convert_type(array, jnp.int32)
    return array.astype(jnp.int32)


def _take(laid: Tree, like: Tree) -> Tree:
    """Inverts `_lay` for sums."""

    def take(array: jax.Array, like: jax.Array) -> jax.Array:
        tiles, size, *rest = like.shape
        width = [_padded(length) for length in rest]
        return array.reshape(tiles, -1, *width)[:, :size, *(slice(length) for length in rest)]

    return jax.tree.map(take, laid, like)


def _call(
    what: Sweep,
    rows: Tree,
    columns: Tree,
    pairs: jax.Array,
    sums: Tree,
    guests: Tree | None,
    *,
    exclude_self: bool,
    interpret: Any,
    memory: int,
) -> tuple[Tree, Tree | None]:
    """Calls the kernel once, on blocks laid out by `_lay`."""

    def of_row(array: jax.Array) -> pl.BlockSpec:
        return pl.BlockSpec((None, *array.shape[1:]), lambda p, first, _: (first[p], 0, 0, 0))

    def of_column(array: jax.Array) -> pl.BlockSpec:
        return pl.BlockSpec((None, *array.shape[1:]), lambda p, _, second: (second[p], 0, 0))

    def in_hbm(array: jax.Array) -> pl.BlockSpec:
        return pl.BlockSpec(memory_space=pl.ANY)

    operands = (rows, columns, sums, guests)
    types = [jax.typeof(x).manual_axis_type for x in jax.tree.leaves(operands)]
    varying = ManualAxisType(varying=frozenset[Any]().union(*(kind.varying for kind in types)))

    def result(array: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, manual_axis_type=varying)

    def buffer(array: jax.Array) -> Any:
        return pltpu.VMEM((_SLOTS, *array.shape[1:]), array.dtype)

    # Sums are updated in place. Operands are counted with the two lists of numbers before them.
    inputs = 2 + len(jax.tree.leaves((rows, columns)))
    outputs = len(jax.tree.leaves((sums, guests)))
    row_sums = jax.tree.map(of_row, sums)
    guest_sums = jax.tree.map(in_hbm, guests)
    call = pl.pallas_call(
        functools.partial(_kernel, what, exclude_self),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(len(pairs),),
            in_specs=[
                jax.tree.map(of_row, rows),
                jax.tree.map(of_column, columns),
                row_sums,
                guest_sums,
            ],
            out_specs=[row_sums, guest_sums],
            scratch_shapes=[
                jax.tree.map(buffer, guests),
                jax.tree.map(lambda _: pltpu.SemaphoreType.DMA((_SLOTS,)), guests),
                jax.tree.map(lambda _: pltpu.SemaphoreType.DMA((_SLOTS,)), guests),
            ],
        ),
        out_shape=[jax.tree.map(result, sums), jax.tree.map(result, guests)],
        input_output_aliases={inputs + n: n for n in range(outputs)},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=memory
        ),
        cost_estimate=_cost(what, rows, columns, len(pairs)),
        interpret=interpret,
        name=f"pairs_{what.name}",
    )
    sums, guests = call(pairs[:, 0], pairs[:, 1], *operands)
    return sums, guests


def _kernel(
    what: Sweep,
    exclude_self: bool,
    first: Any,
    second: Any,
    rows: Tree,
    columns: Tree,
    sums: Tree,
    _: Tree | None,
    new_sums: Tree,
    guests: Tree | None,
    buffers: Tree | None,
    reads: Tree | None,
    writes: Tree | None,
) -> None:
    """Processes a pair: row tile number first[step], column tile number second[step]."""
    step = pl.program_id(0)

    @pl.when((step == 0) | (first[step] != first[jnp.maximum(step - 1, 0)]))
    def _begin_row() -> None:
        for new, old in _zip(new_sums, sums):
            new[...] = old[...]

    present = None
    if guests is not None:
        present = _ColumnSums(second, step, guests, buffers, reads, writes)
        present.begin()

    theirs = jax.tree.map(lambda ref: ref[...] if ref.shape[0] > 1 else ref[0], columns)

    def strip(number: jax.Array, _: None) -> None:
        for_rows, for_columns = what.meet(_get(rows, number), theirs, exclude_self)
        _set(new_sums, number, what.combine(_get(new_sums, number), for_rows))
        if present is not None:
            sums = what.combine(_get(buffers, present.slot), for_columns)
            _set(buffers, present.slot, sums)

    lax.fori_loop(0, jax.tree.leaves(rows)[0].shape[0], strip, None)
    if present is not None:
        present.end()


def _get(refs: Tree, index: Any) -> Tree:
    """Reads [index, 1, size] as [size], and [index, size, d] as [size, d]."""
    return jax.tree.map(lambda ref: ref[index, 0] if ref.shape[1] == 1 else ref[index], refs)


def _set(refs: Tree, index: Any, values: Tree) -> None:
    for ref, value in _zip(refs, values):
        if value.ndim == 1:
            ref[index, 0] = value
        else:
            ref[index] = value


def _zip(*trees: Tree) -> Any:
    return zip(*(jax.tree.leaves(tree) for tree in trees), strict=True)


class _ColumnSums(NamedTuple):
    """The column sums of this step's tile in VMEM, in `slot` of the buffers.

    The sums of a step are read during the previous step and written during the next one. If a tile
    is needed again before its sums are back in HBM, they are copied within VMEM.
    """

    second: Any
    step: jax.Array
    guests: Tree
    buffers: Tree
    reads: Tree
    writes: Tree

    @property
    def slot(self) -> jax.Array:
        return lax.rem(self.step, _SLOTS)

    def begin(self) -> None:
        step, last = self.step, pl.num_programs(0) - 1

        @pl.when(step == 0)
        def _first() -> None:
            self._read(step, "start")

        # Its buffer is the next step's.
        @pl.when((step >= 2) & ~self._equal(step - 2, step - 1))
        def _written() -> None:
            self._write(step - 2, "wait")

        new, handed_on = self._next(step)

        @pl.when((step < last) & handed_on)
        def _hand_on() -> None:
            self._copy(step - 1, step + 1)

        @pl.when((step < last) & new)
        def _prefetch() -> None:
            self._read(step + 1, "start")

        @pl.when((step == 0) | self._next(step - 1)[0])
        def _arrived() -> None:
            self._read(step, "wait")

    def end(self) -> None:
        step, last = self.step, pl.num_programs(0) - 1
        again = (step < last) & self._equal(step, step + 1)

        @pl.when(again)
        def _keep() -> None:
            self._copy(step, step + 1)

        @pl.when(~again)
        def _store() -> None:
            self._write(step, "start")

        @pl.when((step == last) & (step >= 1) & ~self._equal(step - 1, step))
        def _last_but_one() -> None:
            self._write(step - 1, "wait")

        @pl.when(step == last)
        def _last() -> None:
            self._write(step, "wait")

    def _tile(self, step: Any) -> jax.Array:
        # If there is no such step, the result is not used, but scalar memory is read.
        return self.second[jnp.clip(step, 0, pl.num_programs(0) - 1)]

    def _equal(self, step: Any, other: Any) -> jax.Array:
        return self._tile(step) == self._tile(other)

    def _next(self, step: Any) -> tuple[jax.Array, jax.Array]:
        """Returns whether step + 1 reads its sums from HBM, and whether step - 1 hands them on."""
        another = ~self._equal(step, step + 1)
        before = (step >= 1) & self._equal(step - 1, step + 1)
        return another & ~before, another & before

    def _copy(self, source: Any, target: Any) -> None:
        for buffer in jax.tree.leaves(self.buffers):
            buffer[lax.rem(target, _SLOTS)] = buffer[lax.rem(source, _SLOTS)]

    def _read(self, step: Any, do: str) -> None:
        slot = lax.rem(step, _SLOTS)
        for guest, buffer, read in _zip(self.guests, self.buffers, self.reads):
            source, target = guest.at[self._tile(step)], buffer.at[slot]
            getattr(pltpu.make_async_copy(source, target, read.at[slot]), do)()

    def _write(self, step: Any, do: str) -> None:
        slot = lax.rem(step, _SLOTS)
        for guest, buffer, write in _zip(self.guests, self.buffers, self.writes):
            source, target = buffer.at[slot], guest.at[self._tile(step)]
            getattr(pltpu.make_async_copy(source, target, write.at[slot]), do)()


def _memory(rows: Tree, columns: Tree, sums: Tree, guests: Tree | None, parts: int = 1) -> int:
    """Returns an upper bound of the vector memory that a call needs, in bytes."""
    size = _padded(max(tree["x"].shape[1] for tree in (rows, columns)), parts * _LANES) // parts

    def tile(tree: Tree) -> int:
        # A vector may occupy 8 rows of registers.
        widths = [_padded(x.shape[2]) if x.ndim == 3 else 8 for x in jax.tree.leaves(tree)]
        return 4 * size * sum(widths)

    # Tiles are double-buffered; sums are buffered for input and output.
    held = 2 * (tile(rows) + tile(columns) + 2 * tile(sums)) + _SLOTS * tile(guests)
    # Gradients of the columns, before and after they are added.
    width = max(_padded(tree["x"].shape[2]) for tree in (rows, columns))
    return held + _ARRAYS * 4 * _strip(size) * size + 2 * 4 * size * width


def _cost(what: Sweep, rows: Tree, columns: Tree, pairs: int) -> pl.CostEstimate:
    """Returns a cost estimate, by which the compiler schedules transfers around the kernel."""
    strips, strip, width = rows["x"].shape[1:]
    size = columns["x"].shape[1]
    products = 3 if what.name == "gradient" else 1
    entries = pairs * strips * strip * size
    return pl.CostEstimate(
        flops=2 * products * width * entries,
        transcendentals=entries,
        bytes_accessed=4 * pairs * size * width * products,
    )
