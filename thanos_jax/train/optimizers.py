"""Builds the optimizers and learning rate schedules of a config with optax."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


def learning_rate(config: Any, *, steps: int, steps_per_epoch: float) -> optax.Schedule:
    """Returns the schedule step -> learning rate: linear warm-up, then config.schedule.

    cosine    half a cosine period from the peak down to 0 at the end of the training
    step      the peak, multiplied by config.drop_factor at each of config.drop_epochs
    constant  the peak

    After each of config.restart_epochs the schedule starts again, including the warm-up. Each part
    ends like the schedule of a shorter training. Warm restarts are from Loshchilov & Hutter, arXiv
    1608.03983.

    Args:
      config: config.train.
      steps: number of updates of the training.
      steps_per_epoch: converts epochs of warm-up, drops and restarts to steps.
    """
    restarts = [max(1, round(epoch * steps_per_epoch)) for epoch in config.restart_epochs]
    starts = [0, *(step for step in restarts if step < steps)]
    parts = [
        _without_restart(config, steps=end - start, steps_per_epoch=steps_per_epoch)
        for start, end in itertools.pairwise([*starts, steps])
    ]
    return parts[0] if len(parts) == 1 else optax.join_schedules(parts, starts[1:])


def _without_restart(config: Any, *, steps: int, steps_per_epoch: float) -> optax.Schedule:
    peak = config.learning_rate
    # A training shorter than its warm-up reaches the peak in its last step.
    warmup = min(round(config.warmup_epochs * steps_per_epoch), max(steps - 1, 0))
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0 if warmup else peak,
            peak_value=peak,
            warmup_steps=warmup,
            decay_steps=max(steps, 1),
        )
    drops = config.drop_epochs if config.schedule == "step" else ()
    # Two drops in the same step count as one, with the product of both factors.
    places = [round(epoch * steps_per_epoch) for epoch in drops]
    factors = {place: config.drop_factor ** places.count(place) for place in places}
    rest = optax.piecewise_constant_schedule(peak, factors)
    if not warmup:
        return rest
    rise = optax.linear_schedule(0.0, peak, warmup)
    return lambda step: jnp.where(step < warmup, rise(step), rest(step))


def make_optimizer(config: Any, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns the optimizer that config.optimizer names.

    adamw     Loshchilov & Hutter, Adam with decoupled weight decay
    sgd       g = gradient + weight_decay w;  v <- momentum v + g;  w <- w - rate v
    nesterov  g and v as in sgd;  w <- w - rate (g + momentum v)
    lars      You et al. 2017, SGD with a rate for each kernel
    lamb      You et al. 2020, Adam with a rate for each parameter

    Weight decay is applied to kernels only, not to biases, norms, tokens and position embeddings;
    with config.decay "all" it is applied to all parameters.

    Args:
      config: config.train.
      schedule: step -> learning rate.
    """
    decay, momentum = config.weight_decay, config.momentum
    mask = decayed if config.decay == "kernels" else None
    if config.optimizer in ("sgd", "nesterov"):
        return optax.chain(
            optax.add_decayed_weights(decay, mask),
            optax.sgd(schedule, momentum, nesterov=config.optimizer == "nesterov"),
        )
    if config.optimizer == "lars":
        return optax.lars(
            schedule,
            decay,
            weight_decay_mask=True if mask is None else mask,
            trust_ratio_mask=decayed,  # biases and norms as in sgd, as in the paper's code
            momentum=momentum,
        )
    make = {"adamw": optax.adamw, "lamb": optax.lamb}[config.optimizer]
    return make(schedule, weight_decay=decay, mask=mask)


def decayed(params: PyTree) -> PyTree:
    """Returns a pytree of bool, True for kernels."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", None) == "kernel", params
    )
