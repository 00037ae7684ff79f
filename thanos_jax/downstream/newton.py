"""Minimizes the cross-entropy of logistic regression, for one L2 weight after another.

A Newton step uses the curvature of a sample of the rows; objective and gradient are computed over
all rows. With more than two weights for each sampled row, past steps correct the curvature: a step
and the change of the gradient along it tell the curvature of all rows in one direction, as in
L-BFGS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from thanos_jax.downstream import logistic
from thanos_jax.downstream.logistic import Measured, Problem, Tree

# The Newton decrement estimates how far the objective is above its minimum. The last step begins
# where the decrement is below this share of the objective. With sampled curvature a pass over the
# rows is expensive, and a step leaves some 15 % of the decrement.
_SHARE_SAMPLED, _SHARE_WHOLE = 1e-4, 1e-6
# Without an L2 weight it may also begin below this: the minimum may be 0, and infinitely far away.
_TOLERANCE_WITHOUT_WEIGHT = 5e-8
_RESOLUTION = 1e-6  # of the objective: sums of float32 do not tell smaller differences
_LONGEST = 4.0  # Newton steps at once, without an L2 weight
_TRIES = 20  # lengths of a step, at most
_PAIRS = 5  # past steps that correct the curvature of a sample


class Fit(NamedTuple):
    """Where the steps of one L2 weight ended.

    Attributes:
      at: float64 "weights" [classes, d] and "bias" [classes].
      iterations: steps taken.
      gradient_norm: norm of the gradient, preconditioned by the curvature at zero.
    """

    at: Tree
    iterations: int
    gradient_norm: float


class _Pair(NamedTuple):
    """A step, and the change of the gradient along it, without the L2 weight's part."""

    step: Tree
    change: Tree


class _State(NamedTuple):
    """A point, what was measured there, past steps, and the length to try first, in steps."""

    at: Tree
    found: Measured
    pairs: tuple[_Pair, ...]
    length: float


def path(
    problem: Problem, grid: Sequence[float], max_iterations: int
) -> Iterator[tuple[float, Fit]]:
    """Yields (L2 weight, fit) in the order of the grid; each fit starts at the one before.

    The steps of a fit end when a step began near the optimum by the Newton decrement, when a step
    (with sampled curvature, two in succession) lowered the objective by less than 1e-6 of it, when
    no length of a step lowered it, or after `max_iterations`. Near means within 1e-6 of the
    objective, or 1e-4 with more rows than are sampled. The decrement is too low an estimate where
    the sample has few rows: with s sampled rows and w > 2 s weights, near means within 2e-4 s / w.
    With an L2 weight of 0 it also means 5e-8 (absolute).

    Args:
      problem: the rows and labels.
      grid: L2 weights, from the largest down.
      max_iterations: for each weight.
    """
    at: Tree = {
        "weights": np.zeros((problem.num_classes, len(problem.mean))),
        "bias": np.zeros(problem.num_classes),
    }
    found = logistic.measure(problem, at)
    # At zero all rows are equally undecided: the sample represents all rows evenly.
    spectrum = logistic.spectrum(logistic.sample(problem, found.doubt))
    values, vectors = (np.asarray(each, np.float64) for each in spectrum)

    def norm(gradient: Tree, weight: float) -> float:
        curvature = values / problem.num_classes + weight
        floor = 1e-6 * np.max(curvature) + np.finfo(np.float32).tiny
        turned = (gradient["weights"] @ vectors) ** 2 / np.maximum(curvature, floor)
        bias = problem.num_classes * np.sum(gradient["bias"] ** 2)
        return float(np.sqrt(np.sum(turned) + bias))

    state = _State(at, found, (), 1.0)
    for weight in grid:
        state, iterations = _fit(problem, state, weight, max_iterations, spectrum)
        _, gradient = _penalized(state.found, state.at, weight)
        (length,) = problem.placed.of_first([norm(gradient, weight)])
        yield weight, Fit(state.at, iterations, length)


def _fit(
    problem: Problem,
    state: _State,
    weight: float,
    max_iterations: int,
    spectrum: tuple[jax.Array, jax.Array],
) -> tuple[_State, int]:
    """Returns the state where the steps ended, and their number."""
    agreed = problem.placed.of_first
    at, found, pairs, length = state
    value, gradient = _penalized(found, at, weight)
    (value,) = agreed([value])
    sampled = logistic.is_sampled(problem)
    # How many times the weights outnumber a sample that tells the curvature well by itself.
    poor = at["weights"].size / (2 * logistic.SAMPLE)
    enough = _SHARE_SAMPLED / max(1.0, poor) if sampled else _SHARE_WHOLE
    iterations, stalled, last, longest = 0, 0, False, 0.0
    while iterations < max_iterations and not last:
        step = _step(problem, found, pairs, at, gradient, weight, spectrum, seed=iterations)
        (slope,) = agreed([_dot(gradient, step)])
        floor = 0.0 if weight else _TOLERANCE_WITHOUT_WEIGHT
        last = -slope / 2 <= max(enough * abs(value), floor)
        # float32 sums cannot resolve smaller differences.
        noise = _RESOLUTION * max(abs(value), floor)
        share = max(longest, length)
        for _ in range(_TRIES):
            tried = _plus(at, share, step)
            there = logistic.measure(problem, tried)
            lower, following = _penalized(there, tried, weight)
            lower, slope_there = agreed([lower, _dot(following, step)])
            flat = _flat(share, slope, slope_there)
            if lower <= value + 1e-4 * share * slope + noise:
                break
            share = float(np.clip(flat, 0.1 * share, 0.5 * share))
        else:
            break
        iterations += 1
        stalled = stalled + 1 if value - lower <= noise else 0
        # One poor sample is no proof that the minimum is near.
        last = last or stalled == (2 if sampled else 1)
        # Where classes are separable the loss falls as exp(-t) after t Newton steps.
        falls = sampled and weight == 0 and slope < -0.8 * value
        longest = min(2 * share, _LONGEST) if falls else 0.0
        if sampled:
            # A try is a pass over all rows. Steps of a sample are too long by similar factors.
            length = float(np.clip(flat, 0.1, 1.0))
            # A good sample tells the curvature here better than past steps do. Where the loss falls
            # so does the curvature: of past steps it was too large.
            keep = poor > 1 and not falls
            pairs = (*pairs, _pair(tried, there, at, found))[-_PAIRS:] if keep else ()
        at, found, value, gradient = tried, there, lower, following
    return _State(at, found, pairs, length), iterations


def _penalized(found: Measured, at: Tree, weight: float) -> tuple[float, Tree]:
    """Returns the objective and its gradient, with the L2 weight's part."""
    slope = {**found.gradient, "weights": found.gradient["weights"] + weight * at["weights"]}
    return found.value + weight / 2 * float(np.sum(at["weights"] ** 2)), slope


def _step(
    problem: Problem,
    found: Measured,
    pairs: Sequence[_Pair],
    at: Tree,
    gradient: Tree,
    weight: float,
    spectrum: tuple[jax.Array, jax.Array],
    *,
    seed: int,
) -> Tree:
    """Returns a Newton step of a sample's curvature, corrected by past steps."""
    # The sample gets no name, so that only one is in memory at a time.
    step = _corrected(
        [_Pair(step, _with_penalty(change, step, weight)) for step, change in pairs],
        gradient,
        lambda slope: logistic.newton_step(
            problem, logistic.sample(problem, found.doubt, seed), at, slope, weight, spectrum
        ),
    )
    return {name: problem.placed.array_of_first(value) for name, value in step.items()}


def _with_penalty(change: Tree, step: Tree, weight: float) -> Tree:
    return {**change, "weights": change["weights"] + weight * step["weights"]}


def _corrected(pairs: Sequence[_Pair], gradient: Tree, solve: Callable[[Tree], Tree]) -> Tree:
    """Returns solve(gradient), corrected to agree with the curvature along past steps.

    `solve` returns -(inverse of the curvature) x gradient, of an approximate curvature. Source:
    Nocedal and Wright, "Numerical Optimization", 2nd edition, algorithm 7.4, with `solve` as its
    first approximation.
    """
    # The objective is convex. Only rounding makes the product 0 or negative.
    pairs = [pair for pair in pairs if _dot(*pair) > 0]
    factors = []
    for step, change in reversed(pairs):
        factors.append(_dot(step, gradient) / _dot(step, change))
        gradient = _plus(gradient, -factors[-1], change)
    found = solve(gradient)
    for (step, change), factor in zip(pairs, reversed(factors), strict=True):
        found = _plus(found, -factor - _dot(change, found) / _dot(step, change), step)
    return found


def _pair(tried: Tree, there: Measured, at: Tree, found: Measured) -> _Pair:
    return _Pair(_plus(tried, -1, at), _plus(there.gradient, -1, found.gradient))


def _flat(share: float, slope: float, slope_there: float) -> float:
    """Returns where along a step the slope is 0, from its slopes at 0 and at a share of it."""
    return share * slope / (slope - slope_there) if slope_there > slope else share


def _dot(left: Tree, right: Tree) -> float:
    return sum(float(np.sum(left[name] * right[name])) for name in left)


def _plus(left: Tree, by: float, right: Tree) -> Tree:
    return {name: left[name] + by * right[name] for name in left}
