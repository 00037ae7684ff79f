"""Multinomial logistic regression over blocks of rows: objective, gradient and Newton step.

Each device processes its own rows block by block, and sums are added up over devices. No array of
shape [n, classes] is formed.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from thanos_jax.downstream.placing import AXIS, Placed

_BLOCK = 2048  # rows of a block
SAMPLE = 16_384  # rows that the curvature is measured on, all devices together
# Conjugate gradients stop at this share of the gradient's norm: 0.2 with sampled curvature, 0.01
# with all rows.
_ACCURACY_SAMPLED, _ACCURACY_WHOLE = 0.2, 0.01
# A sample may have fewer rows of a class than the embeddings have columns. With more weights than
# sampled rows, up to this share of the curvature is the curvature of rows that are alike, which has
# full rank.
_ALIKE = 0.1
_FIRST = 3  # products before which conjugate gradients stop only at a tenth of that share
_PRODUCTS = 50  # curvature-vector products of a step, at most
_HIGHEST = lax.Precision.HIGHEST

# "weights" [classes, d] and "bias" [classes].
Tree = dict[str, Any]


class Problem(NamedTuple):
    """Labelled rows on devices.

    Attributes:
      placed: the rows.
      labels: int32 [rows placed], split as the rows are.
      mean: float32 [d], subtracted from every row.
      factor: float32 [d], by which rows are multiplied after the mean is subtracted.
      num_classes: number of classes.
    """

    placed: Placed
    labels: jax.Array
    mean: np.ndarray
    factor: np.ndarray
    num_classes: int


class Measured(NamedTuple):
    """The mean cross-entropy of a problem's rows.

    Attributes:
      value: the mean, from float32 sums.
      gradient: float64 "weights" and "bias".
      doubt: [rows placed], split as the rows are: 1 - sum_k p_k^2, how undecided each row is.
    """

    value: float
    gradient: Tree
    doubt: jax.Array


class Sample(NamedTuple):
    """A weighted sample of the rows, replicated on every device.

    Attributes:
      rows: float32 [s, d], standardized.
      weights: float32 [s], how many rows each one represents, divided by the number of all rows;
        0 for padding.
    """

    rows: jax.Array
    weights: jax.Array


def measure(problem: Problem, at: Tree) -> Measured:
    """Returns the mean cross-entropy and its gradient at weights and bias."""
    value, gradient, doubt = _measure(
        problem.placed.rows,
        problem.labels,
        np.int32(problem.placed.known),
        problem.mean,
        problem.factor,
        _float32(at),
        mesh=problem.placed.mesh,
    )
    return Measured(float(value), _float64(gradient), doubt)


def sample(problem: Problem, doubt: jax.Array, seed: int = 0) -> Sample:
    """Draws rows by priority sampling; undecided rows, which dominate the curvature, more often.

    All rows are taken if there are at most 16,384. The draw does not depend on the number of
    devices. Source: Duffield, Lund and Thorup, "Priority sampling for estimation of arbitrary
    subset sums", JACM 2007.
    """
    placed, standard = problem.placed, (problem.mean, problem.factor)
    given = (placed.rows, np.int32(placed.known))
    if not is_sampled(problem):
        return Sample(*_all(*given, *standard, mesh=placed.mesh))
    return Sample(*_sample(*given, doubt, *standard, np.uint32(seed), mesh=placed.mesh))


def is_sampled(problem: Problem) -> bool:
    """Whether the curvature is of some rows only."""
    return problem.placed.known > SAMPLE


def newton_step(
    problem: Problem,
    drawn: Sample,
    at: Tree,
    gradient: Tree,
    regularization: float,
    spectrum: tuple[Any, Any],
) -> Tree:
    """Solves curvature x step = -gradient by conjugate gradients, with a sample's curvature.

    A process may round the step differently from others: the caller has them agree on one.

    Args:
      problem: the rows and labels.
      drawn: from `sample`.
      at: weights and bias.
      gradient: of the regularized objective.
      regularization: the L2 weight.
      spectrum: from `spectrum`.

    Returns:
      The step, float64.
    """
    return _float64(
        _newton_step(
            drawn,
            _float32(at),
            _float32(gradient),
            np.float32(regularization),
            spectrum,
            sampled=is_sampled(problem),
        )
    )


@jax.jit
def spectrum(drawn: Sample) -> tuple[jax.Array, jax.Array]:
    """Returns eigenvalues [d] and eigenvectors [d, d] of a sample's second moments."""
    rows = drawn.rows
    moments = jnp.dot(rows.T, rows * drawn.weights[:, None], precision=_HIGHEST)
    values, vectors = jnp.linalg.eigh(moments)
    return jnp.maximum(values, 0.0), vectors


def _float32(tree: Tree) -> Tree:
    return {name: np.asarray(value, np.float32) for name, value in tree.items()}


def _float64(tree: Tree) -> Tree:
    return {name: np.asarray(value, np.float64) for name, value in tree.items()}


def _of_classes(rows: Any, at: Tree) -> jax.Array:
    """Returns [n, classes], the products of rows with weights, and the bias added."""
    return (
        lax.dot_general(rows, at["weights"], (((1,), (1,)), ((), ())), precision=_HIGHEST)
        + (at["bias"])
    )


def _of_rows(values: Any, rows: Any) -> Tree:
    """Returns what values [n, classes] of rows add up to, the transpose of `_of_classes`."""
    # [classes, d]: with the many rows contracted, 1.4 times as fast as [d, classes].
    weights = lax.dot_general(values, rows, (((0,), (0,)), ((), ())), precision=_HIGHEST)
    return {"weights": weights, "bias": jnp.sum(values, axis=0)}


@functools.partial(jax.jit, static_argnames="mesh")
def _measure(
    rows: jax.Array,
    labels: jax.Array,
    count: jax.Array,
    mean: jax.Array,
    factor: jax.Array,
    at: Tree,
    *,
    mesh: Mesh,
) -> tuple[jax.Array, Tree, jax.Array]:
    def local(rows: Any, labels: Any, count: Any, mean: Any, factor: Any, at: Tree) -> Any:
        n, block = len(rows), min(_BLOCK, len(rows))
        known = count - lax.axis_index(AXIS) * n

        def add(carry: Any, number: jax.Array) -> tuple[Any, jax.Array]:
            total, slope = carry
            # The last block overlaps the one before; rows before `number * block` are its.
            start = jnp.minimum(number * block, n - block)
            place = start + jnp.arange(block)
            counts = (place >= number * block) & (place < known)
            some = (lax.dynamic_slice_in_dim(rows, start, block) - mean) * factor
            logits = _of_classes(some, at)
            hot = lax.dynamic_slice_in_dim(labels, start, block)[:, None] == jnp.arange(
                logits.shape[1]
            )
            largest = jnp.max(logits, axis=1, keepdims=True)
            powers = jnp.exp(logits - largest)
            sums = jnp.sum(powers, axis=1, keepdims=True)
            shares = powers / sums
            own = jnp.sum(jnp.where(hot, logits, 0), axis=1)
            loss = jnp.log(sums[:, 0]) + largest[:, 0] - own
            # `where`, not a product with 0: an overflow must show, padding must not.
            residual = jnp.where(counts[:, None], shares - hot, 0)
            slope = jax.tree.map(jnp.add, slope, _of_rows(residual, some))
            doubt = 1 - jnp.sum(jnp.square(shares), axis=1)
            return (total + jnp.sum(jnp.where(counts, loss, 0)), slope), doubt

        blocks = -(-n // block)
        start = (jnp.float32(0), jax.tree.map(jnp.zeros_like, at))
        (total, slope), doubt = lax.scan(add, start, jnp.arange(blocks))
        tail = doubt[-1, blocks * block - n :]
        doubt = jnp.concatenate([doubt[:-1].reshape(-1), tail])
        total, slope = lax.psum((total, slope), AXIS)
        return total / count, jax.tree.map(lambda sums: sums / count, slope), doubt

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(AXIS), P(AXIS), P(), P(), P(), P()),
        out_specs=(P(), P(), P(AXIS)),
        check_vma=False,
    )(rows, labels, count, mean, factor, at)


@functools.partial(jax.jit, static_argnames="mesh")
def _all(
    rows: jax.Array, count: jax.Array, mean: jax.Array, factor: jax.Array, *, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
    def local(rows: Any, count: Any, mean: Any, factor: Any) -> tuple[Any, Any]:
        known = lax.axis_index(AXIS) * len(rows) + jnp.arange(len(rows)) < count
        some = jnp.where(known[:, None], (rows - mean) * factor, 0)
        return lax.all_gather((some, known / count), AXIS, tiled=True)

    gathered = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(AXIS), P(), P(), P()),
        out_specs=(P(), P()),
        check_vma=False,
    )(rows, count, mean, factor)
    return gathered[0][:SAMPLE], gathered[1][:SAMPLE]  # the rest is padding


@functools.partial(jax.jit, static_argnames="mesh")
def _sample(
    rows: jax.Array,
    count: jax.Array,
    doubt: jax.Array,
    mean: jax.Array,
    factor: jax.Array,
    seed: jax.Array,
    *,
    mesh: Mesh,
) -> tuple[jax.Array, jax.Array]:
    def local(
        rows: Any, count: Any, doubt: Any, mean: Any, factor: Any, seed: Any
    ) -> tuple[Any, Any]:
        n = len(rows)
        device = lax.axis_index(AXIS)
        number = device * n + jnp.arange(n)
        known = number < count
        doubt = jnp.where(known, doubt, 0)
        # Every row has some chance: one that is decided now may be undecided after the step.
        size = doubt + 0.1 * lax.psum(jnp.sum(doubt), AXIS) / count + 1e-12
        # A key for each row, so that a row's number does not depend on the device that has it.
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), number)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, minval=1e-7, maxval=1.0))(keys)
        own, places = lax.top_k(jnp.where(known, size / uniform, -1.0), min(SAMPLE + 1, n))
        values, ranks = lax.top_k(lax.all_gather(own, AXIS, tiled=True), SAMPLE + 1)
        threshold, ranks = values[SAMPLE], ranks[:SAMPLE]
        # Each device fills in its own rows; the sum over devices has all of them.
        mine = ranks // len(own) == device
        places = places[ranks % len(own)]
        stands_for = jnp.maximum(1.0, threshold / size[places])
        weights = jnp.where(mine, stands_for, 0) / count
        some = jnp.where(mine[:, None], (rows[places] - mean) * factor, 0)
        return lax.psum((some, weights), AXIS)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(AXIS), P(), P(AXIS), P(), P(), P()),
        out_specs=(P(), P()),
        check_vma=False,
    )(rows, count, doubt, mean, factor, seed)


@functools.partial(jax.jit, static_argnames="sampled")
def _newton_step(
    drawn: Sample,
    at: Tree,
    gradient: Tree,
    regularization: jax.Array,
    spectrum: Any,
    *,
    sampled: bool,
) -> Tree:
    accuracy = _ACCURACY_SAMPLED if sampled else _ACCURACY_WHOLE
    mixed = _ALIKE * max(0.0, 1 - SAMPLE / at["weights"].size) if sampled else 0.0
    rows, weights = drawn
    eigenvalues, eigenvectors = spectrum
    shares = jax.nn.softmax(_of_classes(rows, at), axis=1)
    # The mean of p (1 - p) over rows, for each class. In place of each row's own it gives the
    # curvature of rows that are alike, which is easy to invert: the preconditioner.
    doubt = jnp.sum(weights[:, None] * shares * (1 - shares), axis=0)

    def of_alike(step: Tree) -> Tree:
        turned = jnp.dot(step["weights"], eigenvectors, precision=_HIGHEST)
        bent = doubt[:, None] * eigenvalues * turned
        return {
            "weights": jnp.dot(bent, eigenvectors.T, precision=_HIGHEST),
            "bias": doubt * step["bias"],
        }

    def curvature(step: Tree) -> Tree:
        change = _of_classes(rows, step)
        change = shares * (change - jnp.sum(shares * change, axis=1, keepdims=True))
        bent = _of_rows(change * weights[:, None], rows)
        if mixed:
            alike = of_alike(step)
            bent = {name: (1 - mixed) * bent[name] + mixed * alike[name] for name in bent}
        return {**bent, "weights": bent["weights"] + regularization * step["weights"]}

    diagonal = doubt[:, None] * eigenvalues + regularization
    floor = 1e-6 * jnp.max(diagonal) + jnp.finfo(jnp.float32).tiny
    diagonal = jnp.maximum(diagonal, floor)
    of_bias = jnp.maximum(doubt, 1e-6 * jnp.max(doubt) + jnp.finfo(jnp.float32).tiny)

    def precondition(tree: Tree) -> Tree:
        turned = jnp.dot(tree["weights"], eigenvectors, precision=_HIGHEST) / diagonal
        return {
            "weights": jnp.dot(turned, eigenvectors.T, precision=_HIGHEST),
            "bias": tree["bias"] / of_bias,
        }

    def inner(left: Tree, right: Tree) -> jax.Array:
        return jnp.sum(left["weights"] * right["weights"]) + jnp.sum(left["bias"] * right["bias"])

    def plus(left: Tree, by: jax.Array, right: Tree) -> Tree:
        return {name: left[name] + by * right[name] for name in left}

    def unfinished(carry: Any) -> jax.Array:
        _, _, _, product, first, number = carry
        # Fewer products make poor steps far from the optimum, and a pass costs more.
        share = jnp.where(number < _FIRST, 0.1 * accuracy, accuracy)
        return (product > share**2 * first) & (number < _PRODUCTS)

    def iterate(carry: Any) -> Any:
        step, residual, direction, product, first, number = carry
        bent = curvature(direction)
        along = inner(direction, bent)
        length = jnp.where(along > 0, product / along, 0)
        step, residual = plus(step, length, direction), plus(residual, -length, bent)
        fresh = precondition(residual)
        following = jnp.where(along > 0, inner(residual, fresh), 0)
        direction = plus(fresh, following / product, direction)
        return step, residual, direction, following, first, number + 1

    residual = jax.tree.map(jnp.negative, gradient)
    direction = precondition(residual)
    product = inner(residual, direction)
    start = (jax.tree.map(jnp.zeros_like, at), residual, direction, product, product, 0)
    return lax.while_loop(unfinished, iterate, start)[0]
