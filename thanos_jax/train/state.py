"""The state of a training."""

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
    """The state that is carried from step to step; a pytree that is checkpointed as a whole.

    Attributes:
      step: int32 scalar, number of updates so far.
      params: the model's parameters, float32.
      model_state: the model's other collections (BatchNorm's running statistics), or {}.
      opt_state: the optimizer's state.
      group_weights: float32 [groups], the weights of group DRO; None (not in a checkpoint) for
        other trainings.
      targets: float32 [n, classes], the targets of early-learning regularization, a row per
        training image; None (not in a checkpoint) for other trainings.
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    group_weights: jax.Array | None = None
    targets: jax.Array | None = None


def create(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, int, int],
) -> TrainState:
    """Returns the state before the first step.

    Args:
      model: a module, called as model(images, train=...).
      optimizer: from `thanos_jax.train.optimizers.make_optimizer`.
      key: PRNG key of the parameters.
      image_shape: (height, width, channels).
    """

    # Jitted, because eager initialization would compile a program for every parameter's shape.
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
