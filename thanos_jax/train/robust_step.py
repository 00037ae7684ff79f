"""One update of a classifier that must serve every group: cross-entropy, weighted by group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from thanos_jax import losses
from thanos_jax.models.thanos import predict_coarse
from thanos_jax.train.state import TrainState
from thanos_jax.train.step import Metrics, Step, make_views, measured, update

# What a step is given of a batch: with group DRO each image's group, else its weight in the mean.
GROUP_INPUTS = ("image", "coarse", "group")
WEIGHT_INPUTS = ("image", "coarse", "weight")


def make_robust_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: Any,
    mesh: Mesh,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    group_sizes: Any = None,
) -> Step:
    """Returns the jitted step (state, batch) -> (state, metrics), of one view of each image.

    With group_sizes the loss is that of `losses.robust.group_dro`: the batch has "group" int32
    [batch], state.group_weights are the weights of groups, and the step moves both. Without, it is
    the mean over images of "weight" float32 [batch] times the cross-entropy. Either is of the
    whole batch, however it is spread over devices; a group may be absent from a device or a batch.

    As in `thanos_jax.train.step.make_step`, the batch is sharded over the mesh axis "data", random
    numbers follow from config.seed and state.step, and a step whose loss or gradient is not finite
    leaves the state as it was, weights of groups included.

    Args:
      model: a `thanos_jax.models.thanos.Thanos`, of which the classifiers are trained with their
        encoders.
      optimizer: the gradient transformation of state.opt_state.
      schedule: step -> learning rate, for the metrics.
      config: the whole config.
      mesh: one axis, "data".
      mean: per channel, of images in [0, 1].
      std: likewise.
      group_sizes: integer [groups], training images of each group; None: no group DRO.

    Source: Sagawa, Koh et al., "Distributionally Robust Neural Networks for Group Shifts", arXiv
    1911.08731, algorithm 1.
    """
    augmented = make_views(config, mesh, mean=mean, std=std, views=1)
    seed = jax.random.key(config.seed)
    groups = config.groups

    def step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(seed, state.step))
        images = augmented(augment_key, batch["image"])[:, 0]

        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            outputs: Any
            outputs, model_state = model.apply(
                {"params": params, **state.model_state},
                images,
                train=True,
                rngs={"dropout": dropout_key},
                mutable=list(state.model_state),
            )
            values = jnp.zeros(len(images))
            for logits in outputs["logits"]:
                values += optax.softmax_cross_entropy_with_integer_labels(logits, batch["coarse"])
            metrics = {
                "cross_entropy": values.mean(),
                "coarse_accuracy": (predict_coarse(outputs["logits"]) == batch["coarse"]).mean(),
            }
            if group_sizes is None:
                loss = losses.robust.weighted_mean(values, batch["weight"])
                return loss, (metrics, model_state, state.group_weights)
            loss, group_weights = losses.robust.group_dro(
                values,
                batch["group"],
                state.group_weights,
                step_size=groups.group_dro_step_size,
                adjustment=groups.group_dro_adjustment,
                group_sizes=group_sizes,
            )
            metrics["largest_group_weight"] = group_weights.max()
            return loss, (metrics, model_state, group_weights)

        differentiate = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (metrics, model_state, group_weights)), gradient = differentiate(state.params)
        metrics |= measured(loss, gradient, schedule, state)
        moved = {"model_state": model_state, "group_weights": group_weights}
        return update(state, gradient, optimizer, metrics, **moved), metrics

    return jax.jit(step, donate_argnums=0)
