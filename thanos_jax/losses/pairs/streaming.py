"""Pair statistics tile by tile: exact, in memory linear in the batch, forward and backward.

A tile of similarities is computed, used for its rows and its columns, and discarded; the backward
pass computes it again. This works because the similarity is symmetric, and the gradient of the
embeddings needs only the sum of the similarities' gradient and its transpose, which is symmetric
too. A pair of entries takes one product and one exponential forward, and three products and one
exponential backward: value and gradient cost 4 N^2 d operations and N^2 exponentials.

If similarities are known to be small enough, exponentials are shifted by a constant, so that rows
and columns share them; otherwise by running maxima.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from thanos_jax.losses.pairs import sharded
from thanos_jax.losses.pairs.axes import AxisName
from thanos_jax.losses.pairs.counts import count_same
from thanos_jax.losses.pairs.entries import Entries, at_hand
from thanos_jax.losses.pairs.sharded import Plan, Sweep, Tree, Visits

# Largest number of entries in a tile. CPU: the fastest of 256, 512, 1024 and 2048 on two cores; a
# tile of 4 MB fits the third-level cache (docs/scaling.md). GPU: 2048 x 2048, 16 MB, fits the
# second-level cache of an A100 or H100 and keeps every processor busy; not measured. TPU: of 512,
# 1024 and 2048, the last takes the fewest cycles by the compiler's estimate, because the overhead
# of a tile hardly depends on its size.
TILE = {"cpu": 1024, "gpu": 2048, "tpu": 2048}

# Exponentials stay below the largest float by this factor, e^28 or 10^12, so that they can be
# summed over as many candidates.
_HEADROOM = 28.0


class Choice(NamedTuple):
    """Static choices: which sums are computed, and how.

    Attributes:
      sets: sets of candidates over which exponentials are summed: "all", A(i); "same", P(i);
        "different", N(i).
      same_sum: whether similarities are summed over P(i).
      one_positive: whether log sum_{j in {p} and N(i)} exp s_ij - s_ip is summed over P(i).
      shift: constant subtracted from similarities before exp; None: running maxima.
      operands: dtype of the operands of products; sums are at least float32.
      plan: how entries are swept.
    """

    sets: tuple[str, ...]
    same_sum: bool
    one_positive: bool
    shift: float | None
    operands: Any
    plan: Plan


def statistics(
    entries: Entries,
    *,
    temperature: jax.Array | float,
    views: str,
    names: Collection[str],
    axis_name: AxisName | None,
    bank: Entries | None = None,
    coldest: float | None = None,
    schedule: str = "auto",
    visits: Visits = sharded.LOOPS,
) -> dict[str, jax.Array]:
    """See `thanos_jax.losses.pairs.statistics`; reverse mode only.

    Args:
      entries: as in `thanos_jax.losses.pairs.statistics`, like the following.
      temperature: positive scalar.
      views: "all" or "cross".
      names: which statistics.
      axis_name: the axis over which entries are sharded, or None.
      bank: further candidates, or None.
      coldest: a lower bound of the temperature, or None.
      schedule: one of `sharded.SCHEDULES`.
      visits: the loops over tiles.
    """
    dtype, num_views = entries.embedding.dtype, entries.num_views
    if isinstance(temperature, jax.Array) and not isinstance(temperature, jax.core.Tracer):
        temperature = float(temperature)
    sets = {"all": "log_sum_all", "same": "log_sum_same", "different": "one_positive"}
    choice = Choice(
        sets=tuple(key for key, name in sets.items() if name in names),
        same_sum="mean_same" in names,
        one_positive="one_positive" in names,
        shift=_shift(coldest, dtype) if entries.unit else None,
        operands=_operands(entries),
        plan=Plan(
            visits=visits,
            groups=1 if views == "all" else num_views if num_views > 1 else 0,
            tile=TILE.get(jax.default_backend(), 2048),
            axis_name=axis_name,
            schedule=schedule,
        ),
    )
    scale = jnp.asarray(1.0 / temperature, dtype)

    def pair_sums(entries: Entries) -> dict[str, jax.Array]:
        # s_ij = <x_i, x_j>; against the bank, which has no gradient, <z_i / temperature, k_j>.
        x = entries.embedding * jnp.sqrt(scale)
        query = None if bank is None else entries.embedding * scale
        compute = _pair_sums if at_hand(x) is None else _compiled_pair_sums
        try:
            return compute(choice, x, query, _roles(entries, x), _bank(bank, x))
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise TypeError(
                f'{error} implementation="dense" has forward-mode derivatives.'
            ) from error

    if choice.one_positive:
        # Sorted by label, most pairs of tiles share no class, and the second pass skips them.
        order = jnp.argsort(entries.label[::num_views])
        sums = _reorder(
            pair_sums(_reorder(entries, order, num_views)), jnp.argsort(order), num_views
        )
    elif choice.sets or choice.same_sum:
        sums = pair_sums(entries)

    count = count_same(entries, views=views, axis_name=axis_name, bank=bank)
    positives = jnp.maximum(count, 1).astype(dtype)
    available = {
        "log_sum_all": lambda: sums["all"],
        "log_sum_same": lambda: sums["same"],
        "mean_same": lambda: sums["same_sum"] / positives,
        "mean_own": lambda: _mean_own(entries) * scale,
        "one_positive": lambda: sums["one_positive"] / positives,
        "has_same": lambda: count > 0,
        "has_own": lambda: _other_views(entries) > 0,
    }
    return {name: available[name]() for name in names}


def _mean_own(entries: Entries) -> jax.Array:
    """Returns the mean inner product of each entry with its image's other views: [N]."""
    num_views = entries.num_views
    z = entries.embedding.reshape(-1, num_views, entries.embedding.shape[-1])
    products = jnp.einsum("ivd,iwd->ivw", z, z, precision=lax.Precision.HIGHEST)
    others = jnp.where(jnp.eye(num_views, dtype=bool)[None], 0.0, products)
    number = jnp.maximum(_other_views(entries), 1).astype(z.dtype)
    return jnp.sum(others, axis=-1).reshape(-1) / number


def _other_views(entries: Entries) -> jax.Array:
    """Returns the number of other views of each entry's image: int32 [N], 0 if not valid."""
    valid = entries.valid.reshape(-1, entries.num_views)
    others = jnp.sum(valid, axis=1, keepdims=True, dtype=jnp.int32) - 1
    return jnp.where(valid, others, 0).reshape(-1)


def _shift(temperature: jax.Array | float | None, dtype: Any) -> float | None:
    """Returns a c for which exp(s - c) keeps all digits if |s| <= 1 / temperature; else None."""
    if not isinstance(temperature, float | int):
        return None
    limits = jnp.finfo(dtype)
    highest, lowest = math.log(limits.max) - _HEADROOM, math.log(limits.tiny) + 1.0
    largest = 1.0 / temperature
    shift = max(largest - highest, 0.0)
    return shift if -largest - shift >= lowest else None


def _operands(entries: Entries) -> Any:
    """Returns the dtype of operands: bfloat16 for bfloat16 embeddings, except on CPUs."""
    narrow = entries.given == jnp.bfloat16 and jax.default_backend() != "cpu"
    return jnp.dtype(jnp.bfloat16) if narrow else entries.embedding.dtype


def _reorder(tree: Tree, order: jax.Array, num_views: int) -> Tree:
    """Reorders arrays [N, ...] by image, keeping the views of an image together."""

    def take(array: jax.Array) -> jax.Array:
        images = array.reshape(-1, num_views, *array.shape[1:])
        return images[order].reshape(array.shape)

    return jax.tree.map(take, tree)


# Entries of tiles are dictionaries of arrays:
#   x        float [N, d]
#   label    integer [N]
#   number   int32 [N], unique for every entry of the global batch
#   outside  float [N], 0 for candidates, -inf for padding
_FILLS = {"x": 0.0, "number": -1, "outside": -math.inf}


def _roles(entries: Entries, x: jax.Array) -> Tree:
    number = entries.image * entries.num_views + entries.view
    outside = jnp.where(entries.valid, 0.0, -jnp.inf).astype(x.dtype)
    return {"label": _wide(entries.label), "number": number, "outside": outside}


def _wide(label: jax.Array) -> jax.Array:
    """Returns labels as signed integers of at least 32 bits; equal labels stay equal."""
    if label.dtype.itemsize < 4:
        return label.astype(jnp.int32)
    return lax.bitcast_convert_type(label, jnp.dtype(f"int{8 * label.dtype.itemsize}"))


def _bank(bank: Entries | None, x: jax.Array) -> Tree | None:
    if bank is None:
        return None
    # The bank is the same on all devices, but results computed with it are not. shard_map's checks
    # require that both branches of a condition agree about this.
    label = _wide(bank.label)
    label = label + (x[0, 0] != x[0, 0]).astype(label.dtype) * jnp.zeros((), label.dtype)
    outside = jnp.where(bank.valid, 0.0, -jnp.inf).astype(x.dtype)
    return {"x": bank.embedding, "label": label, "number": bank.image, "outside": outside}


def _fills(entries: Tree) -> Tree:
    known = _FILLS | {"label": jnp.iinfo(entries["label"].dtype).max}
    return {name: known.get(name, 0.0) for name in entries}


def _nothing(entries: Tree) -> jax.Array:
    """Returns zeros, one per entry.

    They are computed from the entries, so that under shard_map they vary over the same axes. The
    compiler reduces them to a constant.
    """
    never = (entries["label"] != entries["label"]) & (entries["x"][..., 0] != entries["x"][..., 0])
    return never.astype(entries["x"].dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pair_sums(
    choice: Choice, x: jax.Array, query: jax.Array | None, roles: Tree, bank: Tree | None
) -> dict[str, jax.Array]:
    """Returns the sums over pairs for each entry.

    Args:
      choice: static choices.
      x: float [N, d], s_ij = <x_i, x_j>.
      query: float [N, d], s_ij = <query_i, k_j> for k_j in the bank; None without one.
      roles: label, number and outside of the entries.
      bank: x, label, number and outside of the bank; or None.

    Returns:
      name -> float [N]: log-sum-exp over "all" and "same" (0 over an empty set), "same_sum",
      "one_positive".
    """
    return _forward(choice, x, query, roles, bank)[0]


def _forward(
    choice: Choice, x: jax.Array, query: jax.Array | None, roles: Tree, bank: Tree | None
) -> tuple[dict[str, jax.Array], Any]:
    def sweep(what: Sweep, more: Tree) -> Tree:
        entries = {"x": x, **roles, **more}
        sums = sharded.sweep(what, entries, choice.plan)
        if bank is None:
            return sums
        queries = entries | {"x": query}
        further = bank | {name: jnp.zeros_like(bank["outside"]) for name in more}
        return what.combine(sums, sharded.sweep_bank(what, queries, further, choice.plan))

    sums = sweep(_sums(choice, roles), {})
    logs = {key: _log_sum_exp(choice, sums, key) for key in choice.sets}
    results = {key: jnp.where(log == -jnp.inf, 0.0, log) for key, log in logs.items()}
    if choice.same_sum:
        results["same_sum"] = sums["same_sum"]
    slope = None
    if choice.one_positive:
        del results["different"]
        second = sweep(_one_positive(choice, roles), {"log_different": logs["different"]})
        results["one_positive"], slope = second["one_positive"], second["slope"]
    return results, (x, query, roles, bank, logs, slope)


def _backward(choice: Choice, residuals: Any, cotangents: dict[str, jax.Array]) -> Any:
    x, query, roles, bank, logs, slope = residuals
    if choice.one_positive:
        cotangents = {**cotangents, "different": cotangents["one_positive"] * slope}
    anchors: dict[str, jax.Array] = {}
    for key in choice.sets:
        # An entry without candidates in a set has no gradient from it.
        some = logs[key] != -jnp.inf
        log = jnp.where(some, logs[key], 0.0)
        weight = jnp.where(some, cotangents[key], 0.0)
        if choice.shift is not None:
            anchors[f"weight_{key}"] = weight * jnp.exp(choice.shift - log)
        else:
            anchors |= {f"weight_{key}": weight, f"log_{key}": log}
    if choice.same_sum:
        anchors["weight_same_sum"] = cotangents["same_sum"]
    if choice.one_positive:
        anchors |= {
            "weight_one_positive": cotangents["one_positive"],
            "log_different": logs["different"],
        }
    entries = {"x": x, **roles, **anchors}
    what = _gradient(choice, entries)
    gradient = sharded.sweep(what, entries, choice.plan)
    if bank is None:
        return gradient, None, None, None
    further = bank | {name: jnp.zeros_like(bank["outside"]) for name in anchors}
    queries = entries | {"x": query}
    return gradient, sharded.sweep_bank(what, queries, further, choice.plan), None, None


_pair_sums.defvjp(_forward, _backward)

# Outside `jax.jit`, loops over closures would be compiled again at every call.
_compiled_pair_sums = jax.jit(_pair_sums, static_argnums=0)


def _product(choice: Choice, a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """Contracts axis contract[0] of a with contract[1] of b.

    Accelerators multiply float32 in fewer bits by default; divided by a small temperature, that
    error would dominate the loss. (Products of bfloat16 are exact in float32.)
    """
    narrow = choice.operands == jnp.bfloat16
    return lax.dot_general(
        a.astype(choice.operands),
        b.astype(choice.operands),
        (((contract[0],), (contract[1],)), ((), ())),
        precision=None if narrow else lax.Precision.HIGHEST,
        preferred_element_type=a.dtype,
    )


def _transposed_product(choice: Choice, a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the transpose of a tile a [n, m] times b [n, d]."""
    if jax.default_backend() != "cpu" or choice.plan.visits is not sharded.LOOPS:
        return _product(choice, a, b, (0, 0))
    # XLA's products on CPU take twice as long if the larger operand is transposed. The barriers
    # keep the compiler from making (b' a)' into a' b again.
    short = _product(choice, lax.optimization_barrier(b.T), a, (1, 0))
    return lax.optimization_barrier(short).T


def _same(rows: Tree, columns: Tree) -> jax.Array:
    return rows["label"][:, None] == columns["label"][None, :]


def _outside(rows: Tree, columns: Tree) -> jax.Array:
    return rows["outside"][:, None] + columns["outside"][None, :]


def _self(rows: Tree, columns: Tree) -> jax.Array:
    return rows["number"][:, None] == columns["number"][None, :]


def _sums(choice: Choice, roles: Tree) -> Sweep:
    """Returns the sweep for sums of exponentials and of similarities."""

    def meet(rows: Tree, columns: Tree, exclude_self: bool) -> tuple[Tree, Tree]:
        similarity = _product(choice, rows["x"], columns["x"], (1, 1))
        outside = _outside(rows, columns)
        if exclude_self:
            outside = jnp.where(_self(rows, columns), -jnp.inf, outside)
        same = _same(rows, columns)
        members = {"all": None, "same": same, "different": ~same}
        first: Tree = {}
        second: Tree = {}
        if choice.shift is not None:
            exponential = jnp.exp((similarity - choice.shift) + outside)
            for key in choice.sets:
                kept = members[key]
                part = exponential if kept is None else jnp.where(kept, exponential, 0.0)
                first[key], second[key] = jnp.sum(part, axis=1), jnp.sum(part, axis=0)
        else:
            for key in choice.sets:
                kept = members[key]
                part = similarity + outside
                part = part if kept is None else jnp.where(kept, part, -jnp.inf)
                first |= _peak_and_sum(part, key, axis=1)
                second |= _peak_and_sum(part, key, axis=0)
        if choice.same_sum:
            # Padding needs no mask, its similarities are 0.
            part = jnp.where(
                same & ~_self(rows, columns) if exclude_self else same, similarity, 0.0
            )
            first["same_sum"], second["same_sum"] = jnp.sum(part, axis=1), jnp.sum(part, axis=0)
        return first, second

    def combine(sums: Tree, addition: Tree) -> Tree:
        if choice.shift is not None:
            return _plus(sums, addition)
        new = {}
        for key in choice.sets:
            peaks = sums[f"peak_{key}"], addition[f"peak_{key}"]
            peak = jnp.maximum(*peaks)
            new[f"peak_{key}"] = peak
            new[key] = sums[key] * jnp.exp(peaks[0] - peak) + addition[key] * jnp.exp(
                peaks[1] - peak
            )
        if choice.same_sum:
            new["same_sum"] = sums["same_sum"] + addition["same_sum"]
        return new

    def initial(entries: Tree) -> Tree:
        zeros = _nothing(entries)
        sums = {key: zeros for key in choice.sets}
        if choice.shift is None:
            sums |= {f"peak_{key}": zeros + jnp.finfo(zeros.dtype).min for key in choice.sets}
        if choice.same_sum:
            sums["same_sum"] = zeros
        return sums

    return Sweep("sums", choice, meet, combine, initial, _fills({"x": None, **roles}))


def _peak_and_sum(values: jax.Array, key: str, axis: int) -> Tree:
    """Returns the maximum along an axis, and the sum of exp(value - maximum); ignores -inf."""
    # The lowest float instead of -inf, so that differences of peaks are never NaN.
    peak = jnp.maximum(jnp.max(values, axis=axis), jnp.finfo(values.dtype).min)
    total = jnp.sum(jnp.exp(values - jnp.expand_dims(peak, axis)), axis=axis)
    return {f"peak_{key}": peak, key: total}


def _log_sum_exp(choice: Choice, sums: Tree, key: str) -> jax.Array:
    """Returns the log-sum-exp of a set of candidates; -inf for an empty set."""
    peak = choice.shift if choice.shift is not None else sums[f"peak_{key}"]
    return jnp.where(sums[key] == 0.0, -jnp.inf, jnp.log(sums[key]) + peak)


def _one_positive(choice: Choice, roles: Tree) -> Sweep:
    """Returns the sweep for sums of softplus(log_different_i - s_ip) over P(i), and its slope."""

    def meet(rows: Tree, columns: Tree, exclude_self: bool) -> tuple[Tree, Tree]:
        def computed() -> tuple[Tree, Tree]:
            similarity = _product(choice, rows["x"], columns["x"], (1, 1))
            same = _same(rows, columns) & (_outside(rows, columns) == 0.0)
            if exclude_self:
                same &= ~_self(rows, columns)

            def sums(log_different: jax.Array, axis: int) -> Tree:
                softplus, slope = _softplus(log_different - similarity)
                return {
                    "one_positive": jnp.sum(jnp.where(same, softplus, 0.0), axis=axis),
                    "slope": jnp.sum(jnp.where(same, slope, 0.0), axis=axis),
                }

            return (
                sums(rows["log_different"][:, None], axis=1),
                sums(columns["log_different"][None, :], axis=0),
            )

        def skipped() -> tuple[Tree, Tree]:
            return initial(rows), initial(columns)

        mine, theirs = rows["label"], columns["label"]
        overlap = (jnp.min(mine) <= jnp.max(theirs)) & (jnp.min(theirs) <= jnp.max(mine))
        return lax.cond(overlap, computed, skipped)

    def initial(entries: Tree) -> Tree:
        zeros = _nothing(entries)
        return {"one_positive": zeros, "slope": zeros}

    return Sweep(
        "one_positive",
        choice,
        meet,
        _plus,
        initial,
        _fills({"x": None, **roles, "log_different": None}),
    )


def _gradient(choice: Choice, entries: Tree) -> Sweep:
    """Returns the sweep for gradients of x: sum_j H_ij x_j.

    H_ij is the derivative of the losses of i and j with respect to s_ij.
    """

    def meet(rows: Tree, columns: Tree, exclude_self: bool) -> tuple[Tree, Tree]:
        similarity = _product(choice, rows["x"], columns["x"], (1, 1))
        same = _same(rows, columns)

        def both(name: str) -> jax.Array:
            return rows[name][:, None] + columns[name][None, :]

        def softmax(key: str) -> jax.Array:
            def one(weight: jax.Array, log: jax.Array) -> jax.Array:
                # A non-candidate may exceed the logarithm of the sum; exp must stay finite.
                return weight * jnp.exp(jnp.minimum(similarity - log, 0.0))

            weight, log = f"weight_{key}", f"log_{key}"
            return one(rows[weight][:, None], rows[log][:, None]) + one(
                columns[weight][None, :], columns[log][None, :]
            )

        total = jnp.zeros_like(similarity)
        members = {"all": None, "same": same, "different": ~same}
        if choice.shift is not None:
            for key in choice.sets:
                part, kept = both(f"weight_{key}"), members[key]
                total += part if kept is None else jnp.where(kept, part, 0.0)
            total *= jnp.exp(similarity - choice.shift)
        else:
            for key in choice.sets:
                part, kept = softmax(key), members[key]
                total += part if kept is None else jnp.where(kept, part, 0.0)
        if choice.same_sum:
            total += jnp.where(same, both("weight_same_sum"), 0.0)
        if choice.one_positive:
            weights, logs = "weight_one_positive", "log_different"
            slope = rows[weights][:, None] * _softplus(rows[logs][:, None] - similarity)[1]
            slope += columns[weights][None, :] * _softplus(columns[logs][None, :] - similarity)[1]
            total -= jnp.where(same, slope, 0.0)
        if exclude_self:
            total = jnp.where(_self(rows, columns), 0.0, total)
        # Padding needs no mask: its x is 0, and its own gradient is not used.
        return (
            _product(choice, total, columns["x"], (1, 0)),
            _transposed_product(choice, total, rows["x"]),
        )

    def initial(entries: Tree) -> Tree:
        return jnp.broadcast_to(_nothing(entries)[..., None], entries["x"].shape)

    return Sweep("gradient", choice, meet, _plus, initial, _fills(entries))


def _plus(a: Tree, b: Tree) -> Tree:
    return jax.tree.map(jnp.add, a, b)


def _softplus(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns log(1 + exp x) and its derivative, which share an exponential; 0 and 0 at -inf."""
    small = jnp.exp(-jnp.abs(x))
    slope = jnp.where(x >= 0.0, 1.0, small) / (1.0 + small)
    return jnp.maximum(x, 0.0) + jnp.log1p(small), slope
