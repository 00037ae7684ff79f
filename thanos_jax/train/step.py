"""One update, whole: uint8 images in, a new state and its metrics out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from thanos_jax.data import augment, random_bits
from thanos_jax.errors import ConfigError
from thanos_jax.train import grad_cache
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

    With config.train.micro_batch_size the batch is augmented and encoded chunk by chunk, and the
    contrastive loss is still that of the whole batch; see `thanos_jax.train.grad_cache`. Each chunk
    has keys of its own, and BatchNorm the statistics of one chunk, over all devices; the running
    statistics, updated once a step, become the mean of what they would be after each chunk alone.

    Args:
      model: a `thanos_jax.models.thanos.Thanos`.
      optimizer: the gradient transformation of state.opt_state.
      schedule: step -> learning rate, for the metrics.
      config: the whole config.
      mesh: one axis, "data".
      mean: per channel, of images in [0, 1].
      std: likewise.

    Raises:
      ConfigError: the devices of the mesh cannot share a micro-batch.
    """
    contrastive: Any = contrastive_loss(config.method, config.loss, mesh)
    augmented = make_views(config, mesh, mean=mean, std=std, views=NUM_VIEWS)
    seed = jax.random.key(config.seed)
    chunk_size = _chunk_size(config.train, mesh)

    def forward(params: Any, model_state: Any, chunk: Mapping[str, jax.Array]) -> Any:
        views = augmented(chunk["augment"], chunk["image"])
        outputs, model_state = model.apply(
            {"params": params, **model_state},
            views.reshape(-1, *views.shape[2:]),
            train=True,
            rngs={"dropout": chunk["dropout"]},
            mutable=list(model_state),
        )
        return outputs, views, model_state

    def at_once(state: TrainState, batch: Mapping[str, jax.Array]) -> Any:
        def loss_fn(params: Any) -> tuple[jax.Array, tuple[Metrics, Any]]:
            outputs, views, model_state = forward(params, state.model_state, batch)
            loss, metrics = total_loss(
                outputs, views, batch["coarse"], contrastive=contrastive, config=config.loss
            )
            return loss, (metrics, model_state)

        return jax.value_and_grad(loss_fn, has_aux=True)(state.params)

    def in_chunks(state: TrainState, batch: Mapping[str, jax.Array]) -> Any:
        chunks = grad_cache.split({name: batch[name] for name in INPUTS}, chunk_size)
        chunks = jax.lax.with_sharding_constraint(chunks, NamedSharding(mesh, P(None, "data")))
        for name in ("augment", "dropout"):
            chunks[name] = jax.random.split(batch[name], len(chunks["image"]))

        def encode(params: Any, chunk: Mapping[str, jax.Array]) -> Any:
            outputs, views, model_state = forward(params, state.model_state, chunk)
            # What is left without the contrastive loss are means over images.
            loss, metrics = total_loss(
                outputs, views, chunk["coarse"], contrastive=None, config=config.loss
            )
            embeddings = outputs["contrastive"].reshape(*views.shape[:2], -1)
            return embeddings, loss, (metrics, model_state)

        def contrast(embeddings: jax.Array) -> tuple[jax.Array, Metrics]:
            value = contrastive(grad_cache.merge(embeddings), batch["coarse"])
            return config.loss.contrastive_weight * value, {"contrastive": value}

        differentiate = grad_cache.value_and_grad(encode, contrast if contrastive else None)
        (loss, (terms, extras)), gradient = differentiate(state.params, chunks)
        metrics, model_state = jax.tree.map(lambda x: x.mean(axis=0), extras)
        return (loss, (metrics | (terms or {}) | {"loss": loss}, model_state)), gradient

    def step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(seed, state.step))
        differentiate = in_chunks if chunk_size else at_once
        (loss, (metrics, model_state)), gradient = differentiate(
            state, {**batch, "augment": augment_key, "dropout": dropout_key}
        )
        metrics |= measured(loss, gradient, schedule, state)
        return update(state, gradient, optimizer, metrics, model_state=model_state), metrics

    return jax.jit(step, donate_argnums=0)


def make_views(
    config: Any, mesh: Mesh, *, mean: tuple[float, ...], std: tuple[float, ...], views: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns (key, uint8 [batch, h, w, c]) -> float32 [batch, views, h, w, channels].

    What comes out is augmented and normalized, has the random bits of the config, and lies on the
    devices as its images do.

    Args:
      config: the whole config.
      mesh: one axis, "data".
      mean: per channel, of images in [0, 1].
      std: likewise.
      views: of each image.
    """
    augmentation = config.augment.to_dict()
    bits = {"bits": config.data.random_bits, "form": config.data.random_bits_form}

    def augmented(key: jax.Array, images: jax.Array) -> jax.Array:
        made = augment.views(key, images, views, **augmentation)
        made = random_bits.append(augment.normalize(made, mean, std), images, **bits)
        return jax.lax.with_sharding_constraint(made, NamedSharding(mesh, P("data")))

    return augmented


def measured(
    loss: jax.Array, gradient: Any, schedule: optax.Schedule, state: TrainState
) -> Metrics:
    """Returns the metrics that every step has."""
    return {
        "loss": loss,
        "gradient_norm": optax.tree.norm(gradient),
        "learning_rate": jnp.asarray(schedule(state.step)),
    }


def finite(metrics: Metrics) -> jax.Array:
    """Returns whether loss and gradient are finite, by their metrics; a bool scalar."""
    return jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])


def update(
    state: TrainState,
    gradient: Any,
    optimizer: optax.GradientTransformation,
    metrics: Metrics,
    **fields: Any,
) -> TrainState:
    """Returns the state after one update of its parameters; as it was where that is not finite.

    Args:
      state: before.
      gradient: of its parameters.
      optimizer: the gradient transformation of state.opt_state.
      metrics: as from `measured`.
      **fields: further fields of the state, as the update leaves them.
    """
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    updated = dataclasses.replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        **fields,
    )
    good = finite(metrics)
    return jax.tree.map(lambda new, old: jnp.where(good, new, old), updated, state)


def _chunk_size(config: Any, mesh: Mesh) -> int:
    """Images of a micro-batch, or 0 if the whole batch is encoded at once.

    Raises:
      ConfigError: the devices of the mesh cannot share a micro-batch.
    """
    size = config.micro_batch_size
    if size % mesh.size:
        raise ConfigError(
            "config.train.micro_batch_size: expected 0 or a multiple of the "
            f"{mesh.size} devices, got {size}"
        )
    return 0 if size == config.batch_size else size
