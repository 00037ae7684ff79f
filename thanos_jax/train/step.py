"""One update, whole: uint8 images in, a new state and its metrics out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from thanos_jax.data import augment
from thanos_jax.train.objective import contrastive_loss, total_loss
from thanos_jax.train.state import TrainState

NUM_VIEWS = 2
# What a step is given of a batch: fine labels never reach the device.
INPUTS = ("image", "coarse")
Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, Metrics]]


def make_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: Any,
    mesh: Mesh,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Step:
    """Returns the jitted step (state, batch) -> (state, metrics).

    The batch {"image": uint8 [batch, h, w, c], "coarse": int32 [batch]} is sharded over the mesh
    axis "data", the state is the same on every device. All random numbers follow from config.seed
    and state.step, whatever the number of devices. A step whose loss or gradient is not finite
    leaves the state as it was; its metrics show it.

    Args:
      model: a `thanos_jax.models.thanos.Thanos`.
      optimizer: the gradient transformation of state.opt_state.
      schedule: step -> learning rate, for the metrics.
      config: the whole config.
      mesh: one axis, "data".
      mean: per channel, of images in [0, 1].
      std: likewise.
    """
    contrastive = contrastive_loss(config.method, config.loss, mesh)
    augmentation = config.augment.to_dict()
    seed = jax.random.key(config.seed)

    def step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(seed, state.step))
        views = augment.views(augment_key, batch["image"], NUM_VIEWS, **augmentation)
        views = augment.normalize(views, mean, std)
        views = jax.lax.with_sharding_constraint(views, NamedSharding(mesh, P("data")))
        rows = views.reshape(-1, *views.shape[2:])

        def loss_fn(params: Any) -> tuple[jax.Array, tuple[Metrics, Any]]:
            outputs, model_state = model.apply(
                {"params": params, **state.model_state},
                rows,
                train=True,
                rngs={"dropout": dropout_key},
                mutable=list(state.model_state),
            )
            loss, metrics = total_loss(
                outputs, views, batch["coarse"], contrastive=contrastive, config=config.loss
            )
            return loss, (metrics, model_state)

        (loss, (metrics, model_state)), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        updated = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state=model_state,
            opt_state=opt_state,
        )
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        metrics["learning_rate"] = jnp.asarray(schedule(state.step))
        finite = jnp.isfinite(loss) & jnp.isfinite(metrics["gradient_norm"])
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state), metrics

    return jax.jit(step, donate_argnums=0)
