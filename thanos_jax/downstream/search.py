"""Exact nearest neighbours by inner products in blocks.

A block of queries is multiplied with all candidates, one tile at a time. Candidates are divided
into runs of `_RUN` adjacent rows, and a query keeps only its largest product with each run. The k
nearest rows lie within the k runs with the largest products. Those runs are fetched again, and
distances to their rows are computed from differences, which keep more digits than products where
embeddings have nearly collapsed to a point.

Products are float32, and k + `_SPARE` runs are fetched. A query is searched again in float64 if a
run that was not fetched could, within rounding, hold a nearer row, or if its k-th distance is so
short that float32 rounds it by more than 0.1 %.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from thanos_jax import sharding
from thanos_jax.downstream.placing import AXIS, Rows, place, take

_RUN = 8  # adjacent candidates of which one product is kept
_SPARE = 12  # runs fetched beyond k
_TILE = 1024  # candidates multiplied at a time, few enough for their products to stay in cache
_QUERIES = 512  # queries of a block,
_KEPT = 2**24  # and fewer where a device would keep more products than these
_FETCHED = 2**21  # numbers of fetched candidates held at a time
_SHORT = 1000  # times the rounding of a number: distances below keep less than three digits


class Found(NamedTuple):
    """The k nearest of n rows to each of q queries, nearest first; ties in the order of rows.

    Attributes:
      indices: int64 [q, k], rows.
      squares: float64 [q, k], squared Euclidean distances of embeddings divided by their lengths.
    """

    indices: np.ndarray
    squares: np.ndarray


def search(queries: Rows, among: Rows, k: int) -> Found:
    """Finds the k nearest rows of `among` to each query, both divided by their lengths.

    Time O(q n d). Memory beyond the arguments: O(queries of a block x n / 8). Sharded candidates
    stay on their devices: each device finds the nearest of its own rows, and the results are
    merged. Sharded queries are brought to every device one block at a time. Every process that
    holds a shard of either makes this call.

    Args:
      queries: float32 [q, d], finite; in NumPy the same in every process.
      among: float32 [n, d], finite.
      k: 1 to n.

    Returns:
      Rows and squared distances, in every process.
    """
    candidates = place(among)
    count = len(queries)
    of_a_query = -(-len(candidates.rows) // candidates.mesh.size // _RUN)
    block = min(_QUERIES, -(-count // 8) * 8, max(8, _KEPT // of_a_query // 8 * 8))
    everywhere = NamedSharding(candidates.mesh, P())
    factors = _factors_of_shards(candidates.rows, mesh=candidates.mesh)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, count, block):
        some = take(queries, np.arange(start, min(start + block, count)))
        padded = np.pad(some, [(0, block - len(some)), (0, 0)])

        def search_block(asked: np.ndarray, wide: bool) -> list[np.ndarray]:
            found = _search_block(
                sharding.put(asked, everywhere),
                candidates.rows,
                factors,
                sharding.put(np.int32(candidates.known), everywhere),
                k=k,
                wide=wide,
                mesh=candidates.mesh,
            )
            return [np.asarray(each) for each in found]

        squares, indices, doubtful = search_block(padded, wide=False)
        again = np.flatnonzero(doubtful[: len(some)])
        if again.size:
            squares, indices = squares.astype(np.float64), indices.copy()
            once_more = np.zeros_like(padded)
            once_more[: again.size] = some[again]
            with jax.enable_x64(True):
                exact, places, _ = search_block(once_more, wide=True)
            squares[again], indices[again] = exact[: again.size], places[: again.size]
        parts.append((indices[: len(some)], squares[: len(some)]))
    indices, squares = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Found(indices.astype(np.int64), squares.astype(np.float64))


@functools.partial(jax.jit, static_argnames="mesh")
def _factors_of_shards(rows: jax.Array, *, mesh: Mesh) -> jax.Array:
    """Returns `_factors` [n, 2] of rows split over devices."""
    return jax.shard_map(_factors, mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS))(rows)


def _factors(rows: jax.Array) -> jax.Array:
    """Returns [n, 2]: a row divided by the first and multiplied by the second has length 1.

    A zero row stays zero, and so does a row of subnormal numbers, which devices take for zeros.
    """
    # First by the largest magnitude, so that lengths neither overflow nor vanish. Its inverse
    # would vanish for magnitudes near the greatest of the type.
    largest = jnp.max(jnp.abs(rows), axis=1)
    largest = jnp.where(largest > 0, largest, 1)
    length = jnp.sqrt(jnp.sum(jnp.square(rows / largest[:, None]), axis=1))
    return jnp.stack([largest, 1 / jnp.maximum(length, 1)], axis=1)


def _scaled(rows: jax.Array, factors: jax.Array, dtype: Any) -> jax.Array:
    """Returns rows of length 1 in `dtype`; factors are recomputed if it is not the rows' own."""
    if dtype != rows.dtype:
        rows = rows.astype(dtype)
        factors = _factors(rows)
    return rows / factors[:, :1] * factors[:, 1:]


@functools.partial(jax.jit, static_argnames=("k", "wide", "mesh"))
def _search_block(
    queries: jax.Array,
    rows: jax.Array,
    factors: jax.Array,
    count: jax.Array,
    *,
    k: int,
    wide: bool,
    mesh: Mesh,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns squared distances and rows, both [q, k], and bool [q]: which to search in float64."""

    def local(queries: Any, rows: Any, factors: Any, count: Any) -> tuple[Any, Any, Any]:
        first = lax.axis_index(AXIS) * len(rows)
        known = jnp.clip(count - first, 0, len(rows))
        if wide:
            queries = queries.astype(jnp.float64)
        asked = _scaled(queries, _factors(queries), queries.dtype)
        # All devices fetch equally many rows; padding counts as infinitely far.
        squares, indices, left_out = _nearest_here(asked, rows, factors, known, k=min(k, len(rows)))
        squares = lax.all_gather(squares, AXIS, axis=1, tiled=True)
        indices = lax.all_gather(indices + first, AXIS, axis=1, tiled=True)
        squares, indices = _least(squares, indices, k)
        eps = jnp.finfo(asked.dtype).eps
        rounding = 4 * eps * rows.shape[1] ** 0.5
        doubtful = lax.pmin(left_out, AXIS) - rounding < squares[:, -1]
        doubtful |= squares[:, -1] < (_SHORT * eps) ** 2
        return squares, indices, doubtful

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P(AXIS), P(AXIS), P()),
        out_specs=(P(), P(), P()),
        check_vma=False,
    )(queries, rows, factors, count)


def _least(squares: jax.Array, indices: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Returns the k least of [q, m] and their indices; indices rise where squares are equal."""
    # top_k takes the first of equal ones.
    values, places = lax.top_k(-squares, k)
    return -values, jnp.take_along_axis(indices, places, axis=1)


def _nearest_here(
    asked: jax.Array, rows: jax.Array, factors: jax.Array, known: jax.Array, *, k: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns squared distances and indices [q, k] among the first `known` rows, nearest first.

    Also returns, for each query, a lower bound (up to rounding) of the squared distances to all
    rows that were not fetched.
    """
    n, width = rows.shape
    tile = min(_TILE, -(-n // _RUN) * _RUN)
    run = min(_RUN, n)
    tile = min(tile, n // run * run)
    tiles = -(-n // tile)
    starts = jnp.minimum(jnp.arange(tiles) * tile, n - tile)  # the last overlaps the one before

    def add_largest_of_runs(best: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        start = starts[number]
        some = lax.dynamic_slice_in_dim(rows, start, tile)
        some = _scaled(some, lax.dynamic_slice_in_dim(factors, start, tile), asked.dtype)
        # [tile, q], so that the largest of a run are found for many queries at once.
        products = lax.dot_general(
            some, asked, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST
        )
        # |z - z'|^2 is |z|^2 less twice this.
        products -= jnp.sum(jnp.square(some), axis=1, keepdims=True) / 2
        within = (start + jnp.arange(tile))[:, None] < known
        # Runs of the last tile that also lie in the tile before are counted there.
        within &= (start + ends_of_runs > number * tile)[:, None]
        products = jnp.where(within, products, -jnp.inf)
        largest = jnp.max(products.reshape(tile // run, run, len(asked)), axis=1).T
        # In place: an array of all tiles, to be transposed, would take as much memory again.
        return lax.dynamic_update_slice_in_dim(best, largest, number * (tile // run), axis=1), None

    ends_of_runs = jnp.repeat(jnp.arange(run, tile + 1, run), run)
    empty = jnp.zeros((len(asked), tiles * (tile // run)), asked.dtype)
    best = lax.scan(add_largest_of_runs, empty, jnp.arange(tiles))[0]
    of_runs = (starts[:, None] + jnp.arange(0, tile, run)).reshape(-1)
    fetched = min(k + _SPARE, best.shape[1])
    chosen, last = _greatest(best, fetched)
    lengths = jnp.sum(jnp.square(asked), axis=1)
    left_out = jnp.where(fetched < best.shape[1], lengths - 2 * last, jnp.inf)
    begins = jnp.sort(of_runs[chosen], axis=1)  # so that ties come in the order of rows
    size = max(1, _FETCHED // (fetched * run * width))

    def distances(one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        query, begin = one
        places = (begin[:, None] + jnp.arange(run)).reshape(-1)
        near = _scaled(rows[places], factors[places], asked.dtype)
        squares = jnp.sum(jnp.square(near - query), axis=1)
        return jnp.where(places < known, squares, jnp.inf), places

    squares, places = lax.map(distances, (asked, begins), batch_size=min(size, len(asked)))
    # A run of the last tile may begin within one of the tile before: each row counts once.
    order = jnp.concatenate([jnp.full((len(asked), 1), -1), places[:, :-1]], axis=1)
    seen = places <= lax.cummax(order, axis=1)
    return *_least(jnp.where(seen, jnp.inf, squares), places, k), left_out


def _greatest(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Returns the indices [q, k] of the k largest of [q, m], and the k-th largest value [q]."""
    # The k-th is taken as the minimum: a column of `top_k` makes XLA sort all values on CPU.
    run = 32
    if values.shape[1] <= max(1024, run * k):
        greatest, places = lax.top_k(values, k)
        return places, jnp.min(greatest, axis=1)
    padded = jnp.pad(
        values, ((0, 0), (0, -values.shape[1] % run)), constant_values=-jnp.inf
    ).reshape(len(values), -1, run)
    runs = jnp.sort(lax.top_k(jnp.max(padded, axis=2), k)[1], axis=1)
    within = jnp.take_along_axis(padded, runs[:, :, None], axis=1).reshape(len(values), -1)
    greatest, places = lax.top_k(within, k)
    # An index past the end is padding. It is chosen only among values that are all -inf.
    found = jnp.take_along_axis(runs, places // run, axis=1) * run + places % run
    return jnp.minimum(found, values.shape[1] - 1), jnp.min(greatest, axis=1)
