"""What training carries from step to step."""

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


def create(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, int, int],
) -> TrainState:
    """Returns the state before the first step.

    Args:
      model: called as model(images, train=...).
      optimizer: from `thanos_jax.train.optimizers.make_optimizer`.
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
