"""The loops over pairs of tiles as kernels for Hopper GPUs, through Mosaic GPU.

A block of threads owns 128 rows, 64 for each of two warpgroups, whose embeddings stay in shared
memory. It iterates over the columns that its tile is paired with, while a third warpgroup fetches
the next columns. Similarities and the weights of the backward pass never leave registers.

Each pair of entries is visited from both sides, because sums over columns would need atomic
additions of whole tiles of gradients. Value and gradient cost 6 N^2 d operations and 2 N^2
exponentials; the loops and the TPU kernel need 4 N^2 d and N^2.

Products are of bfloat16 numbers with sums in float32. A float32 number is split into three bfloat16
numbers, and a product of two into the six products that matter. This keeps nearly all digits of
float32, unlike tf32, and runs on tensor cores, unlike float32.

There are kernels for sums of exponentials with a fixed shift and for their gradient. All other
cases run in `sharded.LOOPS`: running maxima, "one_positive", 64 bits, and embeddings that do not
fit shared memory and registers (wider than 256 in bfloat16, 128 in float32).

The kernels were checked without a GPU: in Pallas' interpreter of GPU kernels on CPU
(tests/losses/test_pallas.py; there, weights reach their product through shared memory instead of
registers), and by compilation to machine code for sm_90a. No registers are spilled at widths up to
128 in bfloat16 and 64 in float32; beyond, some tens of bytes are. The kernels have never run on a
GPU, and their speed is not known.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.sharding import ManualAxisType

from thanos_jax.losses.pairs import sharded
from thanos_jax.losses.pairs.sharded import Sweep, Tree, Visits

# Rows of a warpgroup's matrix instruction, and number of warpgroups that compute.
_WGMMA_ROWS = 64
_WARPGROUPS = 2
_BLOCK_ROWS = _WGMMA_ROWS * _WARPGROUPS
# Buffers of columns in shared memory: one in use, one being filled.
_STAGES = 2
# Bytes of a row of swizzled shared memory.
_SWIZZLE = 128
# Number of bfloat16 pieces per number -> largest width of embeddings.
_WIDEST = {1: 256, 3: 128}
# Number of pieces -> the pairs of pieces that are multiplied; products below the 24th bit are
# left out.
_PRODUCTS = {1: ((0, 0),), 3: ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0))}


class _Form(NamedTuple):
    """Static parameters of a kernel.

    Attributes:
      sets: as in `streaming.Choice`.
      same_sum: as in `streaming.Choice`.
      shift: as in `streaming.Choice`, but never None.
      gradient: whether it is the kernel of the gradient.
      exclude_self: whether pairs of entries with equal numbers are excluded.
      pieces: number of bfloat16 numbers that a number is split into.
      row_tile: rows of a tile.
      column_tile: columns of a tile.
      width: width of embeddings.
      detour: whether a product's first operand is read from shared memory, as the interpreter
        requires, instead of registers.
    """

    sets: tuple[str, ...]
    same_sum: bool
    shift: float
    gradient: bool
    exclude_self: bool
    pieces: int
    row_tile: int
    column_tile: int
    width: int
    detour: bool

    @property
    def columns(self) -> int:
        """Number of columns at a time that fits shared memory and, for the gradient, registers."""
        return 128 if self.pieces * self.width <= 128 and not self.gradient else 64

    @property
    def needs_labels(self) -> bool:
        return self.same_sum or self.sets != ("all",)

    @property
    def weights(self) -> tuple[str, ...]:
        names = (*self.sets, *(("same_sum",) if self.same_sum else ()))
        return tuple(f"weight_{name}" for name in names)

    @property
    def row_names(self) -> tuple[str, ...]:
        """Names of the arrays of rows that the kernel needs, besides embeddings."""
        names: tuple[str, ...] = ("label",) if self.needs_labels else ()
        names += ("number",) if self.exclude_self else ()
        return names + (self.weights if self.gradient else ())

    @property
    def column_names(self) -> tuple[str, ...]:
        return self.row_names + (() if self.gradient else ("outside",))

    @property
    def results(self) -> tuple[str, ...]:
        return (*self.sets, *(("same_sum",) if self.same_sum else ()))


@functools.cache
def visits(interpret: Any = None) -> Visits:
    """Returns the loops over tiles as kernels for Hopper GPUs.

    Args:
      interpret: None to compile; plgpu.InterpretGPUParams() to run anywhere, slowly.
    """

    def rows(
        what: Sweep, rows: Tree, columns: Tree, pairs: Any, sums: Tree, exclude_self: bool
    ) -> Tree:
        form = _form(what, rows, columns, exclude_self, detour=interpret is not None)
        if form is None:
            return sharded.LOOPS.rows(what, rows, columns, pairs, sums, exclude_self)
        if not len(pairs):
            return sums
        return what.combine(sums, _visit(what, form, rows, columns, pairs, sums, interpret))

    def both(what: Sweep, block: Tree, pairs: Any, sums: Tree) -> Tree:
        if _form(what, block, block) is None:
            return sharded.LOOPS.both(what, block, pairs, sums)
        mirrored = (np if isinstance(pairs, np.ndarray) else jnp).concatenate(
            [pairs, pairs[:, ::-1]]
        )
        return rows(what, block, block, mirrored, sums, False)

    def two(what: Sweep, mine: Tree, columns: Tree, pairs: Any, sums: Tree) -> tuple[Tree, Tree]:
        if _form(what, mine, columns) is None:
            return sharded.LOOPS.two(what, mine, columns, pairs, sums)
        guests = what.initial(columns)
        return (
            rows(what, mine, columns, pairs, sums, False),
            rows(what, columns, mine, pairs[:, ::-1], guests, False),
        )

    return Visits(rows, both, two)


def _form(
    what: Sweep, rows: Tree, columns: Tree, exclude_self: bool = False, detour: bool = False
) -> _Form | None:
    """Returns the parameters of the kernel; None if there is no kernel for this case."""
    choice = what.choice
    if what.name not in ("sums", "gradient") or choice.shift is None or choice.one_positive:
        return None
    if any(leaf.dtype.itemsize > 4 for leaf in jax.tree.leaves((rows, columns))):
        return None
    pieces = 1 if choice.operands == jnp.bfloat16 else 3
    width = _up(rows["x"].shape[2], _SWIZZLE // 2)
    if width > _WIDEST[pieces]:
        return None
    return _Form(
        sets=choice.sets,
        same_sum=choice.same_sum,
        shift=choice.shift,
        gradient=what.name == "gradient",
        exclude_self=exclude_self,
        pieces=pieces,
        row_tile=_up(rows["x"].shape[1], _BLOCK_ROWS),
        column_tile=_up(columns["x"].shape[1], _BLOCK_ROWS),
        width=width,
        detour=detour,
    )


def _up(number: int, multiple: int) -> int:
    return math.ceil(number / multiple) * multiple


def _visit(
    what: Sweep,
    form: _Form,
    rows: Tree,
    columns: Tree,
    pairs: Any,
    sums: Tree,
    interpret: Any,
) -> Tree:
    """Returns what the pairs add to the sums of the rows."""
    tiles = rows["x"].shape[0]
    begins, second = _by_row(pairs, tiles)
    row_arrays = _lay(what, rows, form.row_names, form.row_tile, form)
    column_arrays = _lay(what, columns, form.column_names, form.column_tile, form)
    operands = (begins, second, *row_arrays, *column_arrays)
    types = [jax.typeof(x).manual_axis_type for x in (*operands, *jax.tree.leaves(sums))]
    varying = ManualAxisType(varying=frozenset[Any]().union(*(kind.varying for kind in types)))
    number = tiles * form.row_tile
    shape = (number, form.width) if form.gradient else (number,)
    result = jax.ShapeDtypeStruct(shape, jnp.float32, manual_axis_type=varying)
    call = plgpu.kernel(
        functools.partial(_kernel, form),
        out_type=[result] * (1 if form.gradient else len(form.results)),
        scratch_types=_scratch(form),
        grid=(number // _BLOCK_ROWS,),
        grid_names=("block",),
        num_threads=_WARPGROUPS + 1,
        thread_name="warpgroup",
        # An exact exp is useful only if products are exact too.
        compiler_params=plgpu.CompilerParams(approx_math=form.pieces == 1),
        **({} if interpret is None else {"interpret": interpret}),
    )
    found = [array.reshape(tiles, form.row_tile, *array.shape[1:]) for array in call(*operands)]
    size, width = rows["x"].shape[1:]
    if form.gradient:
        return found[0][:, :size, :width]
    # Rows of padding are not anchors; the kernel does not check this.
    anchor = rows["outside"] == 0.0
    return {
        name: jnp.where(anchor, array[:, :size], 0.0)
        for name, array in zip(form.results, found, strict=True)
    }


def _by_row(pairs: Any, tiles: int) -> tuple[jax.Array, jax.Array]:
    """Returns where each row tile's pairs begin, int32 [tiles + 1], and all column tiles."""
    library: Any = np if isinstance(pairs, np.ndarray) else jnp
    order = library.argsort(pairs[:, 0], stable=True)
    begins = library.searchsorted(pairs[order, 0], library.arange(tiles + 1, dtype=pairs.dtype))
    return jnp.asarray(begins, jnp.int32), jnp.asarray(pairs[order, 1], jnp.int32)


def _lay(
    what: Sweep, entries: Tree, names: tuple[str, ...], tile: int, form: _Form
) -> list[jax.Array]:
    """Returns bfloat16 [pieces, tiles * tile, width], and [tiles * tile] of 32 bits per name."""

    def pad(array: jax.Array, fill: float) -> jax.Array:
        ends = [(0, 0), (0, tile - array.shape[1])]
        ends += [(0, form.width - length) for length in array.shape[2:]]
        padded = jnp.pad(array, ends, constant_values=fill) if any(map(any, ends)) else array
        return padded.reshape(-1, *padded.shape[2:])

    x = pad(entries["x"], 0.0)
    return [
        jnp.stack(_pieces(x, form.pieces)),
        *(_as_int32(pad(entries[name], what.fills[name])) for name in names),
    ]


def _as_int32(array: jax.Array) -> jax.Array:
    """Returns integers of at most 32 bits as int32; equal values stay equal."""
    if not jnp.issubdtype(array.dtype, jnp.integer):
        return array
    if array.dtype == jnp.uint32:
        return lax.bitcast_convert_type(array, jnp.int32)
    return array.astype(jnp.int32)


def _pieces(array: jax.Array, number: int) -> list[jax.Array]:
    """Splits a float32 array into bfloat16 arrays whose sum approximates it."""
    pieces = []
    for _ in range(number):
        piece = array.astype(jnp.bfloat16)
        pieces.append(piece)
        array = array - piece.astype(jnp.float32)
    return pieces


def _scratch(form: _Form) -> list[Any]:
    """Returns the buffers in shared memory, in the order of `_kernel`'s arguments."""

    def matrix(*shape: int, dtype: Any = jnp.bfloat16) -> Any:
        elements = _SWIZZLE // jnp.dtype(dtype).itemsize
        transforms = (plgpu.TilingTransform((8, elements)), plgpu.SwizzleTransform(_SWIZZLE))
        return plgpu.SMEM(shape, dtype, transforms=transforms)

    def vectors(names: tuple[str, ...], *shape: int) -> list[Any]:
        integers = ("label", "number")
        return [plgpu.SMEM(shape, jnp.int32 if n in integers else jnp.float32) for n in names]

    staging = matrix(_WARPGROUPS, _WGMMA_ROWS, _SWIZZLE // 4, dtype=jnp.float32)
    detour = matrix(_WARPGROUPS, form.pieces, _WGMMA_ROWS, form.columns) if form.detour else None
    one_of_each = [plgpu.SMEM((_WARPGROUPS, _WGMMA_ROWS), jnp.float32) for _ in form.results]
    return [
        matrix(_WARPGROUPS, form.pieces, _WGMMA_ROWS, form.width),
        vectors(form.row_names, _WARPGROUPS, _WGMMA_ROWS),
        matrix(_STAGES, form.pieces, form.columns, form.width),
        vectors(form.column_names, _STAGES, form.columns),
        [staging, detour] if form.gradient else one_of_each,
        plgpu.Barrier(num_arrivals=form.pieces + len(form.row_names), num_barriers=_WARPGROUPS),
        plgpu.Barrier(num_arrivals=form.pieces + len(form.column_names), num_barriers=_STAGES),
        plgpu.Barrier(num_arrivals=_WARPGROUPS, num_barriers=_STAGES),
    ]


def _kernel(form: _Form, begins: Any, second: Any, *refs: Any) -> None:
    split, position = [], 0
    outputs = 1 if form.gradient else len(form.results)
    for length in (1 + len(form.row_names), 1 + len(form.column_names), outputs):
        split.append(refs[position : position + length])
        position += length
    (row_x, *row_known), (column_x, *column_known), results = split
    x, known, their_x, their_known, staging, rows_here, columns_here, columns_done = refs[position:]

    warpgroup = lax.axis_index("warpgroup")
    block = lax.axis_index("block")
    tile = block // (form.row_tile // _BLOCK_ROWS)
    first = begins[tile]
    per_tile = form.column_tile // form.columns
    steps = (begins[tile + 1] - first) * per_tile

    @pl.when(warpgroup == _WARPGROUPS)
    def _fetch() -> None:
        plgpu.set_max_registers(40, action="decrease")

        def fetch(step: jax.Array, _: None) -> None:
            slot = lax.rem(step, _STAGES)

            @pl.when(step >= _STAGES)
            def _free() -> None:
                plgpu.barrier_wait(columns_done.at[slot])

            start = second[first + step // per_tile] * form.column_tile
            where = pl.ds(start + lax.rem(step, per_tile) * form.columns, form.columns)
            here = columns_here.at[slot]
            for piece in range(form.pieces):
                target = their_x.at[slot, piece]
                plgpu.copy_gmem_to_smem(column_x.at[piece, where], target, here)
            for source, target in zip(column_known, their_known, strict=True):
                plgpu.copy_gmem_to_smem(source.at[where], target.at[slot], here)

        lax.fori_loop(0, steps, fetch, None)

    @pl.when(warpgroup < _WARPGROUPS)
    def _compute() -> None:
        plgpu.set_max_registers(232, action="increase")
        where = pl.ds(block * _BLOCK_ROWS + warpgroup * _WGMMA_ROWS, _WGMMA_ROWS)
        here = rows_here.at[warpgroup]
        for piece in range(form.pieces):
            plgpu.copy_gmem_to_smem(row_x.at[piece, where], x.at[warpgroup, piece], here)
        for source, target in zip(row_known, known, strict=True):
            plgpu.copy_gmem_to_smem(source.at[where], target.at[warpgroup], here)
        plgpu.barrier_wait(here)
        mine = {
            name: _load(ref.at[warpgroup], plgpu.Layout.WGMMA.reduce(1))
            for name, ref in zip(form.row_names, known, strict=True)
        }

        def meet(step: jax.Array, sums: Any, gradient: Any = None) -> Any:
            slot = lax.rem(step, _STAGES)
            plgpu.barrier_wait(columns_here.at[slot])
            theirs = {
                name: _load(ref.at[slot], plgpu.Layout.WGMMA.reduce(0))
                for name, ref in zip(form.column_names, their_known, strict=True)
            }
            similarity = _similarities(form, x.at[warpgroup], their_x.at[slot])
            if form.gradient:
                weights = _weights(form, similarity, mine, theirs)
                through = staging[1].at[warpgroup] if form.detour else None
                _add_gradient(form, gradient, weights, their_x.at[slot], through)
            else:
                additions = _sums(form, similarity, mine, theirs)
                sums = tuple(a + b for a, b in zip(sums, additions, strict=True))
            plgpu.barrier_arrive(columns_done.at[slot])
            return sums

        def add_up(gradient: Any) -> jax.Array:
            lax.fori_loop(0, steps, lambda step, _: meet(step, None, gradient), None)
            return gradient[...]

        if form.gradient:
            gradient = pl.run_scoped(add_up, plgpu.ACC((_WGMMA_ROWS, form.width), jnp.float32))
            target = staging[0].at[warpgroup]
            part = _SWIZZLE // 4
            for start in range(0, form.width, part):
                plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                target[...] = gradient[:, start : start + part]
                plgpu.commit_smem()
                plgpu.copy_smem_to_gmem(target, results[0].at[where, pl.ds(start, part)])
        else:
            zeros = plgpu.layout_cast(
                jnp.zeros(_WGMMA_ROWS, jnp.float32), plgpu.Layout.WGMMA.reduce(1)
            )
            sums = lax.fori_loop(0, steps, meet, (zeros,) * len(form.results))
            for found, target, result in zip(sums, staging, results, strict=True):
                target[warpgroup] = found
                plgpu.commit_smem()
                plgpu.copy_smem_to_gmem(target.at[warpgroup], result.at[where])
        plgpu.wait_smem_to_gmem(0)


def _load(ref: Any, layout: Any) -> jax.Array:
    # Up to jax 0.10 the index was a separate argument.
    load: Callable[..., jax.Array] = plgpu.load
    indexed = "idx" in inspect.signature(load).parameters
    return load(ref, (), layout=layout) if indexed else load(ref, layout=layout)


def _similarities(form: _Form, x: Any, their_x: Any) -> jax.Array:
    def product(sums: Any) -> jax.Array:
        for mine, theirs in _PRODUCTS[form.pieces]:
            transposed = their_x.at[theirs].transpose((1, 0))
            plgpu.wgmma(sums, x.at[mine], transposed)
        return sums[...]

    return pl.run_scoped(product, plgpu.ACC((_WGMMA_ROWS, form.columns), jnp.float32))


def _spread(form: _Form, mine: Any, theirs: Any, operation: Callable[..., Any]) -> jax.Array:
    """Broadcasts [rows] and [columns] to [rows, columns] and applies an operation."""
    shape = (_WGMMA_ROWS, form.columns)
    return operation(
        lax.broadcast_in_dim(mine, shape, [0]), lax.broadcast_in_dim(theirs, shape, [1])
    )


def _equal(form: _Form, mine: Tree, theirs: Tree, name: str) -> jax.Array:
    return _spread(form, mine[name], theirs[name], jnp.equal)


def _members(form: _Form, key: str, same: Any, values: jax.Array) -> jax.Array:
    """Returns the values of the candidates in a set, and 0 for others."""
    if key == "all":
        return values
    zeros = jnp.zeros_like(values)
    return jnp.where(same, values, zeros) if key == "same" else jnp.where(same, zeros, values)


def _sums(form: _Form, similarity: jax.Array, mine: Tree, theirs: Tree) -> tuple[jax.Array, ...]:
    """Returns the sums of `streaming._sums` for rows."""
    same = _equal(form, mine, theirs, "label") if form.needs_labels else None
    outside = lax.broadcast_in_dim(theirs["outside"], similarity.shape, [1])
    exponential = jnp.exp((similarity - form.shift) + outside)
    if form.exclude_self:
        itself = _equal(form, mine, theirs, "number")
        zeros = jnp.zeros_like(similarity)
        exponential = jnp.where(itself, zeros, exponential)
        similarity = jnp.where(itself, zeros, similarity)
    parts = [_members(form, key, same, exponential) for key in form.sets]
    if form.same_sum:
        # Entries that are not candidates have a similarity of 0.
        parts.append(_members(form, "same", same, similarity))
    return tuple(jnp.sum(part, axis=1) for part in parts)


def _weights(form: _Form, similarity: jax.Array, mine: Tree, theirs: Tree) -> jax.Array:
    """Returns the matrix by which `streaming._gradient` multiplies embeddings."""
    same = _equal(form, mine, theirs, "label") if form.needs_labels else None

    def part(name: str) -> jax.Array:
        weights = _spread(form, mine[f"weight_{name}"], theirs[f"weight_{name}"], jnp.add)
        return _members(form, "same" if name == "same_sum" else name, same, weights)

    total = functools.reduce(jnp.add, map(part, form.sets), jnp.zeros_like(similarity))
    total = total * jnp.exp(similarity - form.shift)
    if form.same_sum:
        total = total + part("same_sum")
    if form.exclude_self:
        itself = _equal(form, mine, theirs, "number")
        total = jnp.where(itself, jnp.zeros_like(total), total)
    return total


def _add_gradient(
    form: _Form, gradient: Any, weights: jax.Array, their_x: Any, through: Any
) -> None:
    pieces: list[Any] = _pieces(weights, form.pieces)
    if form.detour:
        for number, piece in enumerate(pieces):
            through[number] = piece
        plgpu.commit_smem()
        pieces = [through.at[number] for number in range(form.pieces)]
    for mine, theirs in _PRODUCTS[form.pieces]:
        plgpu.wgmma(gradient, pieces[mine], their_x.at[theirs])
    # Afterwards, the fetching warpgroup may overwrite these columns.
    plgpu.wgmma_wait(0)
