"""The objective that trains a representation: a method's losses on two views of each image."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from thanos_jax.data.unlabelled import NO_LABEL
from thanos_jax.errors import ConfigError
from thanos_jax.train import grad_cache, update
from thanos_jax.train.build import Training, some_unlabelled
from thanos_jax.train.forward import make_train_forward
from thanos_jax.train.objective import contrastive_loss, total_loss
from thanos_jax.train.state import TrainState

NUM_VIEWS = 2
# Batch entries of the objective. Fine labels never reach the devices.
INPUTS = ("image", "coarse")


def two_views(training: Training) -> update.Objective:
    """Returns the objective of config.method; its inputs are "image" and "coarse" int32 [batch].

    With config.train.micro_batch_size the batch is augmented and encoded chunk by chunk, and the
    contrastive loss is still the loss of the whole batch; see `thanos_jax.train.grad_cache`. Each
    chunk has its own keys. BatchNorm uses the statistics of one chunk, over all devices. The
    running statistics are updated once per step, to the mean over chunks of their updates.

    Args:
      training: from `thanos_jax.train.build.build`.

    Raises:
      ConfigError: the devices of the mesh cannot share a micro-batch.
    """
    config, mesh = training.config, training.mesh
    # If all images have labels, the program does not check for missing ones.
    unlabelled = some_unlabelled(config, training.dataset)
    contrastive: Any = contrastive_loss(config.method, config.loss, mesh, unlabelled=unlabelled)
    forward = make_train_forward(
        training.model, training.inputs, config.augment.to_dict(), mesh, views=NUM_VIEWS
    )
    chunk_size = _chunk_size(config.train, mesh)

    def labelled(coarse: jax.Array) -> jax.Array | None:
        return (coarse != NO_LABEL).sum() if unlabelled else None

    def loss(params: Any, state: TrainState, batch: update.Batch) -> Any:
        outputs, views, model_state = forward(params, state.model_state, batch)
        total, metrics = total_loss(
            outputs, views, batch["coarse"],
            contrastive=contrastive, config=config.loss, labelled=labelled(batch["coarse"]),
        )  # fmt: skip
        return total, (metrics, {"model_state": model_state})

    def in_chunks(state: TrainState, batch: update.Batch) -> Any:
        chunks = grad_cache.split({name: batch[name] for name in INPUTS}, chunk_size)
        chunks = jax.lax.with_sharding_constraint(chunks, NamedSharding(mesh, P(None, "data")))
        for name in ("augment", "dropout"):
            chunks[name] = jax.random.split(batch[name], len(chunks["image"]))
        # The same divisor for each chunk, so that the mean over chunks is the mean over the batch.
        count = labelled(batch["coarse"])
        share = None if count is None else count / len(chunks["image"])

        def encode(params: Any, chunk: update.Batch) -> Any:
            outputs, views, model_state = forward(params, state.model_state, chunk)
            # Without the contrastive loss, all terms are means over images.
            own, metrics = total_loss(
                outputs, views, chunk["coarse"],
                contrastive=None, config=config.loss, labelled=share,
            )  # fmt: skip
            embeddings = outputs["contrastive"].reshape(*views.shape[:2], -1)
            return embeddings, own, (metrics, {"model_state": model_state})

        def contrast(embeddings: jax.Array) -> tuple[jax.Array, update.Metrics]:
            value = contrastive(grad_cache.merge(embeddings), batch["coarse"])
            return config.loss.contrastive_weight * value, {"contrastive": value}

        differentiate = grad_cache.value_and_grad(encode, contrast if contrastive else None)
        (total, (terms, extras)), gradient = differentiate(state.params, chunks)
        metrics, moved = jax.tree.map(lambda x: x.mean(axis=0), extras)
        return (total, (metrics | (terms or {}), moved)), gradient

    return update.Objective(INPUTS, in_chunks if chunk_size else update.of_loss(loss))


def _chunk_size(config: Any, mesh: Mesh) -> int:
    """Returns the number of images of a micro-batch; 0 if the whole batch is encoded at once.

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
