"""Gradient descent on the model's loss, with the learned features after every step."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thanos_jax.theory.data import check_integer, check_positive
from thanos_jax.theory.losses import check_weights
from thanos_jax.theory.structure import Structure, times_covariance


class Curve(NamedTuple):
    """The course of a descent; entry 0 is the start.

    Attributes:
      lengths: [steps + 1, K], |W v_k| of each feature.
      losses: [steps + 1], the loss.
      weights: [rows, d + 1], the last W.
    """

    lengths: jax.Array
    losses: jax.Array
    weights: jax.Array


def initial_weights(rows: int, dim: int, *, scale: float = 0.001, seed: int = 0) -> np.ndarray:
    """Draws W with entries from N(0, scale^2 / dim).

    Args:
      rows: number of rows of W.
      dim: number of directions d.
      scale: standard deviation of an entry times the square root of dim.
      seed: at least 0; the draw is independent of the data drawn with the same seed.

    Returns:
      float32 [rows, dim + 1].

    Raises:
      ModelError: an argument is out of range.

    Source: Xue et al., ICML 2023, https://arxiv.org/abs/2305.16536
    """
    check_integer("rows", rows, least=1)
    check_integer("dim", dim, least=1)
    check_integer("seed", seed, least=0)
    check_positive("scale", scale)
    normal = np.random.default_rng([seed, 1]).normal(size=(rows, dim + 1))
    return (normal * (scale / np.sqrt(dim))).astype(np.float32)


def descend(parts: Structure, weights: Any, *, steps: int, step_size: float = 0.05) -> Curve:
    """Minimizes the loss by gradient descent, W - step_size (-4 W P + 4 W M W'W M).

    The gradient is exact. It is fast because `parts` stores M and P without their zeros: one step
    takes O(rows d (K + r + rows)).

    Args:
      parts: M and a factor of P.
      weights: the initial W, floating point [rows, d + 1].
      steps: number of steps, at least 1.
      step_size: positive. If it is too large, descent diverges to non-finite values.

    Returns:
      The curve, in W's dtype.

    Raises:
      ModelError: an argument is out of range, or weights have a wrong shape or dtype.

    Source: Xue et al., ICML 2023
    """
    check_integer("steps", steps, least=1)
    check_positive("step_size", step_size)
    weights = check_weights(weights, parts.factor.shape[1])
    parts = Structure(*(jnp.asarray(part, weights.dtype) for part in parts))
    return _descend(parts, weights, jnp.asarray(step_size, weights.dtype), steps=int(steps))


@functools.partial(jax.jit, static_argnames="steps")
def _descend(parts: Structure, weights: jax.Array, step_size: jax.Array, steps: int) -> Curve:
    count = parts.features.shape[0] - 1

    def measure(weights: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        pulled = weights @ parts.factor.T
        moved = times_covariance(weights, parts)
        embedded = moved @ weights.T
        value = -2 * jnp.sum(pulled * pulled) + jnp.sum(embedded * embedded)
        slope = -4 * (pulled @ parts.factor) + 4 * (embedded @ moved)
        return (jnp.linalg.norm(weights[:, :count], axis=0), value), slope

    def step(weights: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        measured, slope = measure(weights)
        return weights - step_size * slope, measured

    with jax.default_matmul_precision("highest"):
        last, (lengths, losses) = jax.lax.scan(step, weights, None, length=steps)
        (length, value), _ = measure(last)
    return Curve(
        lengths=jnp.concatenate([lengths, length[None]]),
        losses=jnp.concatenate([losses, value[None]]),
        weights=last,
    )
