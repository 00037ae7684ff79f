"""The training step that all objectives share.

Keys are derived from the seed and the number of the step. The objective computes value and
gradient. If either is not finite, the state stays unchanged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from thanos_jax.train.build import Training
from thanos_jax.train.nonfinite import SKIPPED
from thanos_jax.train.state import TrainState

Metrics = dict[str, jax.Array]
Batch = Mapping[str, jax.Array]
# (state, batch, seed) -> (state, metrics); the seed is an argument, so that one program serves all.
Step = Callable[[TrainState, Batch, Any], tuple[TrainState, Metrics]]
# (params, state, batch with keys) -> (loss, (metrics, further updated fields of the state)).
Loss = Callable[[Any, TrainState, Batch], tuple[jax.Array, tuple[Metrics, dict[str, Any]]]]
# (state, batch with keys) -> ((loss, (metrics, updated fields)), gradient of the parameters).
Differentiate = Callable[[TrainState, Batch], tuple[Any, Any]]


class Objective(NamedTuple):
    """The objective of a training.

    Attributes:
      inputs: names of the batch entries that it needs; always with "image" uint8 [batch, h, w, c].
      differentiate: computes value and gradient; see `of_loss`.
    """

    inputs: tuple[str, ...]
    differentiate: Differentiate


class Rows(NamedTuple):
    """New values for some rows of an array of the state.

    Attributes:
      places: integer [b], the rows; len(array) for a row that is not written.
      values: [b, ...], the new values.
    """

    places: jax.Array
    values: jax.Array


def of_loss(loss: Loss) -> Differentiate:
    """Returns the function that computes value and gradient of a loss."""

    def differentiate(state: TrainState, batch: Batch) -> Any:
        return jax.value_and_grad(lambda params: loss(params, state, batch), has_aux=True)(
            state.params
        )

    return differentiate


def make_step(training: Training, objective: Objective) -> Step:
    """Returns the jitted step (state, batch, seed) -> (state, metrics).

    The batch is sharded over the mesh axis "data"; the state is replicated. All random numbers are
    derived from the seed and state.step and do not depend on the number of devices. The metrics are
    the objective's and "loss", "gradient_norm", "learning_rate".

    If the loss or gradient is not finite, the state stays unchanged, and the metrics show it. With
    config.train.on_nonfinite "skip", the step number and the schedule still advance, and the metric
    "skipped_steps" is 1 for such a step and 0 for others.

    Args:
      training: from `thanos_jax.train.build.build`.
      objective: from `thanos_jax.train.two_views` or `thanos_jax.train.classifier_losses`.
    """
    skips = training.config.train.on_nonfinite == "skip"

    def step(state: TrainState, batch: Batch, seed: Any) -> tuple[TrainState, Metrics]:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
        (loss, (metrics, moved)), gradient = objective.differentiate(
            state, {**batch, "augment": keys[0], "dropout": keys[1]}
        )
        metrics = metrics | {
            "loss": loss,
            "gradient_norm": optax.tree.norm(gradient),
            "learning_rate": jnp.asarray(training.schedule(state.step)),
        }
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        updated = apply(state, gradient, training.optimizer, good, moved)
        if skips:
            metrics[SKIPPED] = (~good).astype(np.float32)
            count = state.step + 1
            opt_state = optax.tree.set(updated.opt_state, _is_schedule, count=count)
            updated = dataclasses.replace(updated, step=count, opt_state=opt_state)
        return updated, metrics

    return jax.jit(step, donate_argnums=0)


def apply(
    state: TrainState,
    gradient: Any,
    optimizer: optax.GradientTransformation,
    good: Any,
    moved: Mapping[str, Any],
) -> TrainState:
    """Returns the state after one update; unchanged if `good` is False.

    Args:
      state: state before the update.
      gradient: gradient of its parameters.
      optimizer: the gradient transformation of state.opt_state.
      good: bool scalar, whether loss and gradient are finite.
      moved: further updated fields of the state: arrays, or `Rows` of an array.
    """
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    rows = {name: value for name, value in moved.items() if isinstance(value, Rows)}
    updated = dataclasses.replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        **{name: value for name, value in moved.items() if name not in rows},
    )
    updated = jax.tree.map(lambda new, old: jnp.where(good, new, old), updated, state)
    for name, (places, values) in rows.items():
        array = getattr(state, name)
        array = array.at[jnp.where(good, places, len(array))].set(values, mode="drop")
        updated = dataclasses.replace(updated, **{name: array})
    return updated


def _is_schedule(path: Any, value: Any) -> bool:
    return getattr(path[-1], "tuple_name", None) == "ScaleByScheduleState"
