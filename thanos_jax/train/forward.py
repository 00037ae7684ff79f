"""From stored images to the model's outputs: augmented in training, as they are in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from thanos_jax.data import augment, random_bits
from thanos_jax.data.dataset import Dataset
from thanos_jax.models.thanos import predict_coarse

# (images in [0, 1] or uint8, the stored images uint8) -> what the model sees.
Inputs = Callable[[jax.Array, jax.Array], jax.Array]
# (variables, images uint8 [n, h, w, c]) -> outputs.
Forward = Callable[[Mapping[str, Any], Any], dict[str, jax.Array]]
# (params, model_state, batch) -> outputs, views [batch, views, h, w, c], new model_state.
TrainForward = Callable[[Any, Any, Mapping[str, jax.Array]], tuple[Any, jax.Array, Any]]


def make_inputs(config: Any, dataset: Dataset) -> Inputs:
    """Returns the function that normalizes images and appends the random bits of the stored ones.

    Args:
      config: config.data.
      dataset: has the moments of the channels.
    """

    def inputs(images: jax.Array, stored: jax.Array) -> jax.Array:
        normalized = augment.normalize(images, dataset.mean, dataset.std)
        return random_bits.append(
            normalized, stored, bits=config.random_bits, form=config.random_bits_form
        )

    return inputs


def make_forward(model: nn.Module, inputs: Inputs) -> Forward:
    """Returns the jitted (variables, images uint8 [n, h, w, c]) -> outputs of the frozen model.

    The outputs are "embedding" float32 [n, D], "prediction" int32 [n] (the coarse class),
    "probability" float32 [n, classes] (of the coarse classes, averaged over classifiers) and, where
    the model has a decoder, "input" and "reconstruction" float32 [n, h, w, c] in normalized units.

    Args:
      model: a `thanos_jax.models.thanos.Thanos`.
      inputs: from `make_inputs`.
    """

    @jax.jit
    def forward(variables: Mapping[str, Any], images: jax.Array) -> dict[str, jax.Array]:
        seen = inputs(images, images)
        outputs: Any = model.apply(variables, seen, train=False)
        found = {
            "embedding": outputs["embedding"],
            "prediction": predict_coarse(outputs["logits"]),
            "probability": sum(map(jax.nn.softmax, outputs["logits"])) / len(outputs["logits"]),
        }
        if "reconstruction" in outputs:
            found |= {"input": seen, "reconstruction": outputs["reconstruction"]}
        return found

    return forward


def make_projection(model: nn.Module, inputs: Inputs) -> Forward:
    """Returns the jitted (variables, images) -> "contrastive" float32 [n, d] of the frozen model.

    What the contrastive loss sees; a program of its own, so that evaluations keep theirs.

    Args:
      model: a `thanos_jax.models.thanos.Thanos`.
      inputs: from `make_inputs`.
    """

    @jax.jit
    def project(variables: Mapping[str, Any], images: jax.Array) -> dict[str, jax.Array]:
        outputs: Any = model.apply(variables, inputs(images, images), train=False)
        return {"contrastive": outputs["contrastive"]}

    return project


def make_train_forward(
    model: nn.Module, inputs: Inputs, augmentation: Mapping[str, Any], mesh: Mesh, *, views: int
) -> TrainForward:
    """Returns (params, model_state, batch) -> (outputs, views, model_state), with dropout.

    The batch has "image" uint8 [batch, h, w, c] and the keys "augment" and "dropout". Views are
    float32 [batch, views, h, w, channels]: augmented, normalized, with random bits, and on the
    devices of their images. The outputs are of all views, batch * views rows.

    Args:
      model: a `thanos_jax.models.thanos.Thanos`.
      inputs: from `make_inputs`.
      augmentation: config.augment as a dictionary.
      mesh: one axis, "data".
      views: of each image.
    """

    def forward(params: Any, model_state: Any, batch: Mapping[str, jax.Array]) -> Any:
        images = augment.views(batch["augment"], batch["image"], views, **augmentation)
        seen = jax.lax.with_sharding_constraint(
            inputs(images, batch["image"]), NamedSharding(mesh, P("data"))
        )
        outputs, model_state = model.apply(
            {"params": params, **model_state},
            seen.reshape(-1, *seen.shape[2:]),
            train=True,
            rngs={"dropout": batch["dropout"]},
            mutable=list(model_state),
        )
        return outputs, seen, model_state

    return forward
