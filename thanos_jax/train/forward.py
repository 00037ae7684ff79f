"""Forward passes from stored images to the model's outputs, in training and in evaluation."""

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

# (images in [0, 1] or uint8, the stored images uint8) -> input of the model.
Inputs = Callable[[jax.Array, jax.Array], jax.Array]
# (variables, images uint8 [n, h, w, c]) -> outputs.
Forward = Callable[[Mapping[str, Any], Any], dict[str, jax.Array]]
# (params, model_state, batch) -> outputs, views [batch, views, h, w, c], new model_state.
TrainForward = Callable[[Any, Any, Mapping[str, jax.Array]], tuple[Any, jax.Array, Any]]


def make_inputs(config: Any, dataset: Dataset) -> Inputs:
    """Returns the function that normalizes images and appends random bits of the stored images.

    Args:
      config: config.data.
      dataset: the data set, with mean and std of the channels.
    """

    def inputs(images: jax.Array, stored: jax.Array) -> jax.Array:
        normalized = augment.normalize(images, dataset.mean, dataset.std)
        return random_bits.append(
            normalized, stored, bits=config.random_bits, form=config.random_bits_form
        )

    return inputs


def make_forward(model: nn.Module, inputs: Inputs) -> Forward:
    """Returns the jitted evaluation: (variables, images uint8 [n, h, w, c]) -> outputs.

    The outputs are "embedding" float32 [n, D], "prediction" int32 [n] (the coarse class) and
    "probability" float32 [n, classes] (of the coarse classes, averaged over classifiers). If the
    model has a decoder, there are also "input" and "reconstruction" float32 [n, h, w, c], both
    normalized.

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
    """Returns the jitted function (variables, images) -> {"contrastive": float32 [n, d]}.

    "contrastive" is the input of the contrastive loss, here without dropout. This is a separate
    program, so that the program of evaluations does not change.

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
    """Returns the training pass: (params, model_state, batch) -> (outputs, views, model_state).

    The batch has "image" uint8 [batch, h, w, c] and the PRNG keys "augment" and "dropout". Views
    are float32 [batch, views, h, w, channels]: augmented, normalized, with random bits, and sharded
    like their images. The outputs have batch * views rows.

    Args:
      model: a `thanos_jax.models.thanos.Thanos`.
      inputs: from `make_inputs`.
      augmentation: config.augment as a dictionary.
      mesh: mesh with one axis, "data".
      views: number of views of each image.
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
