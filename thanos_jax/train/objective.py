"""The loss of each method: its contrastive loss, its autoencoder, and the sum of all terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from thanos_jax import losses
from thanos_jax.data.unlabelled import NO_LABEL
from thanos_jax.models.thanos import predict_coarse

Contrastive = Callable[..., jax.Array]


class Method(NamedTuple):
    """The losses of a method, besides the coarse cross-entropy, which every method has.

    Attributes:
      contrastive: (config.loss, embeddings, labels, **shared keywords) -> scalar, or None. With the
        keyword labelled, bool [batch], supervised terms are computed over these images only.
      reconstruct: whether an autoencoder is trained too.
      instances: whether the contrastive loss includes InfoNCE, which needs no labels.
    """

    contrastive: Contrastive | None
    reconstruct: bool
    instances: bool = False

    @property
    def learns_without_labels(self) -> bool:
        """Whether the method can learn from unlabelled images."""
        return self.reconstruct or self.instances


def _info_nce(
    config: Any, embeddings: jax.Array, labels: jax.Array, *, labelled: Any = None, **shared: Any
) -> jax.Array:
    return losses.info_nce(embeddings, **shared)


def _supcon(
    config: Any, embeddings: jax.Array, labels: jax.Array, *, labelled: Any = None, **shared: Any
) -> jax.Array:
    return losses.supcon(
        embeddings, labels, denominator=config.denominator, where=labelled, **shared
    )


def _both(
    config: Any,
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    beta: float,
    labelled: Any = None,
    **shared: Any,
) -> jax.Array:
    if labelled is None:
        return losses.joint(embeddings, labels, beta=beta, denominator=config.denominator, **shared)
    supervised = _supcon(config, embeddings, labels, labelled=labelled, **shared)
    return beta * supervised + (1 - beta) * losses.info_nce(embeddings, **shared)


def _supcon_info_nce(
    config: Any, embeddings: jax.Array, labels: jax.Array, **shared: Any
) -> jax.Array:
    # Islam et al.: the sum of both, each with weight 1; the joint loss with beta 0.5 is the mean.
    return 2 * _both(config, embeddings, labels, beta=0.5, **shared)


def _spread(
    config: Any, embeddings: jax.Array, labels: jax.Array, *, labelled: Any = None, **shared: Any
) -> jax.Array:
    return losses.spread(
        embeddings,
        labels,
        alpha=config.alpha,
        denominator=config.denominator,
        where=labelled,
        **shared,
    )


def _joint(config: Any, embeddings: jax.Array, labels: jax.Array, **shared: Any) -> jax.Array:
    return _both(config, embeddings, labels, beta=config.beta, **shared)


METHODS: dict[str, Method] = {
    "ce": Method(None, reconstruct=False),
    "info_nce": Method(_info_nce, reconstruct=False, instances=True),
    "supcon": Method(_supcon, reconstruct=False),
    "supcon_info_nce": Method(_supcon_info_nce, reconstruct=False, instances=True),
    "cauto": Method(None, reconstruct=True),
    "spread": Method(_spread, reconstruct=False),
    "supcon_cauto": Method(_supcon, reconstruct=True),
    "thanos": Method(_spread, reconstruct=True),
    "joint": Method(_joint, reconstruct=False, instances=True),
}


def contrastive_loss(
    method: str, config: Any, mesh: Mesh, *, unlabelled: bool = False
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """Returns a method's loss (embeddings [batch, views, d], labels [batch]) -> scalar, or None.

    Each device computes the similarities of its own anchors to the global batch.

    Args:
      method: a key of `METHODS`.
      config: config.loss.
      mesh: mesh of the devices; the batch is sharded over its axis "data".
      unlabelled: whether labels may be `NO_LABEL`.
    """
    loss = METHODS[method].contrastive
    if loss is None:
        return None

    def shard(embeddings: jax.Array, labels: jax.Array) -> jax.Array:
        labelled = {"labelled": labels != NO_LABEL} if unlabelled else {}
        return loss(
            config,
            embeddings,
            labels,
            temperature=config.temperature,
            views=config.views,
            implementation=config.implementation,
            axis_name="data",
            **labelled,
        )

    return jax.shard_map(shard, mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P())


def total_loss(
    outputs: Mapping[str, Any],
    images: jax.Array,
    labels: jax.Array,
    *,
    contrastive: Callable[[jax.Array, jax.Array], jax.Array] | None,
    config: Any,
    labelled: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the total loss of a step, the weighted sum of its terms.

    Args:
      outputs: outputs of `thanos_jax.models.thanos.Thanos` for all views, batch * views rows.
      images: float [batch, views, h, w, c], the model's (augmented, normalized) input.
      labels: integer [batch], coarse labels.
      contrastive: from `contrastive_loss`.
      config: config.loss.
      labelled: if labels may be `NO_LABEL`, the number of labelled images by which cross-entropy
        and accuracy are divided; None: all images have labels.

    Returns:
      The weighted sum, and the unweighted terms with the batch's coarse accuracy.
    """
    batch, views = images.shape[:2]
    labels_of_rows = jnp.repeat(labels, views)

    def mean(values: jax.Array) -> jax.Array:
        if labelled is None:
            return values.mean()
        total = jnp.where(labels_of_rows != NO_LABEL, values, 0).sum()
        return total / jnp.where(labelled > 0, views * labelled, 1)

    cross_entropy = jnp.zeros(())
    for logits in outputs["logits"]:
        cross_entropy += mean(
            optax.softmax_cross_entropy_with_integer_labels(logits, labels_of_rows)
        )
    terms = {"cross_entropy": cross_entropy}
    total = config.cross_entropy_weight * cross_entropy
    if contrastive is not None:
        embeddings = outputs["contrastive"]
        terms["contrastive"] = contrastive(embeddings.reshape(batch, views, -1), labels)
        total += config.contrastive_weight * terms["contrastive"]
    if "reconstruction" in outputs:
        terms["reconstruction"] = losses.reconstruction(
            images.reshape(batch * views, *images.shape[2:]), outputs["reconstruction"]
        )
        total += config.reconstruction_weight * terms["reconstruction"]
    correct = predict_coarse(outputs["logits"]) == labels_of_rows
    return total, {"loss": total, **terms, "coarse_accuracy": mean(correct)}
