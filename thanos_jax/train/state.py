"""What training carries from step to step, and the optimizer that changes it."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

PyTree = Any


@flax.struct.dataclass
class TrainState:
    """A pytree; all of it is checkpointed.

    Attributes:
      step: int32 scalar, updates done so far.
      params: the model's parameters, float32.
      model_state: its other collections (BatchNorm's running statistics), {} if it has none.
      opt_state: the optimizer's.
      group_weights: float32 [groups], the weights of group DRO; None, which is no array and not
        in a checkpoint, for all other training.
      targets: float32 [n, classes], of early-learning regularization, a row for each training
        image; None for all other training.
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    group_weights: jax.Array | None = None
    targets: jax.Array | None = None


def learning_rate(config: Any, *, steps: int, steps_per_epoch: float) -> optax.Schedule:
    """Linear warm-up, then one cosine down to 0 over the rest of the run.

    Args:
      config: config.train.
      steps: updates of the whole run.
      steps_per_epoch: what an epoch of warm-up means.
    """
    # A run shorter than its warm-up rises to its peak in its last step.
    warmup = min(round(config.warmup_epochs * steps_per_epoch), max(steps - 1, 0))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, 1),
    )


def make_optimizer(config: Any, schedule: optax.Schedule) -> optax.GradientTransformation:
    """AdamW; weight decay acts on kernels only: not on biases, norms, tokens and positions.

    Args:
      config: config.train.
      schedule: step -> learning rate.
    """
    return optax.adamw(schedule, weight_decay=config.weight_decay, mask=decayed)


def decayed(params: PyTree) -> PyTree:
    """Returns a pytree of bool: True where a parameter is a kernel."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", None) == "kernel", params
    )


def create(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, int, int],
) -> TrainState:
    """Returns the state before the first step.

    Args:
      model: called as model(images, train=...).
      optimizer: from `make_optimizer`.
      key: seeds the parameters.
      image_shape: (height, width, channels).
    """

    # Compiled: one program, where eager initialization compiles one for every parameter's shape.
    @jax.jit
    def initial(key: jax.Array) -> TrainState:
        variables = dict(model.init(key, jnp.zeros((1, *image_shape)), train=False))
        params = variables.pop("params")
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=variables,
            opt_state=optimizer.init(params),
        )

    return initial(key)
