"""The frozen encoder over a whole split: every image once, no augmentation, no dropout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from thanos_jax import sharding
from thanos_jax.data import augment, batches, random_bits
from thanos_jax.data.splits import Split
from thanos_jax.models.thanos import predict_coarse

Forward = Callable[[Mapping[str, Any], jax.Array], dict[str, jax.Array]]


def make_forward(
    model: nn.Module,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    bits: int = 0,
    form: str = "channels",
) -> Forward:
    """Returns the jitted (variables, images uint8 [n, h, w, c]) -> outputs.

    The outputs are "embedding" float32 [n, D], "prediction" int32 [n] (the coarse class),
    "probability" float32 [n, classes] (of the coarse classes, averaged over classifiers) and, where
    the model has a decoder, "input" and "reconstruction" float32 [n, h, w, c] in normalized units.

    Args:
      model: a `thanos_jax.models.thanos.Thanos`.
      mean: per channel, of images in [0, 1].
      std: likewise.
      bits: random bits appended to each image, see `thanos_jax.data.random_bits`.
      form: of the bits.
    """

    @jax.jit
    def forward(variables: Mapping[str, Any], images: jax.Array) -> dict[str, jax.Array]:
        inputs = augment.normalize(images, mean, std)
        inputs = random_bits.append(inputs, images, bits=bits, form=form)
        outputs: Any = model.apply(variables, inputs, train=False)
        found = {
            "embedding": outputs["embedding"],
            "prediction": predict_coarse(outputs["logits"]),
            "probability": sum(map(jax.nn.softmax, outputs["logits"])) / len(outputs["logits"]),
        }
        if "reconstruction" in outputs:
            found |= {"input": inputs, "reconstruction": outputs["reconstruction"]}
        return found

    return forward


def embed(
    forward: Forward,
    variables: Mapping[str, Any],
    split: Any,
    mesh: Mesh,
    *,
    batch_size: int,
    read_threads: int = 8,
    keep: tuple[str, ...] = ("embedding", "prediction"),
) -> dict[str, np.ndarray]:
    """Runs a split through the encoder, in order.

    Args:
      forward: from `make_forward`.
      variables: {"params": ..., other collections}.
      split: a `thanos_jax.data.sources.Split` of n images.
      mesh: devices; batches are sharded over its axis "data".
      batch_size: images at once, a multiple of the mesh's devices.
      read_threads: threads that read and decode images from disk.
      keep: which of the outputs to keep.

    Returns:
      The kept outputs and "fine", "coarse" int32 [n]; all float outputs float32.
    """
    labels = ("fine", "coarse")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*keep, *labels)}
    for batch in batches.evaluation_batches(
        cast(Split, sharding.LocalRows(split, mesh)),
        batch_size=batch_size,
        read_threads=read_threads,
    ):
        outputs: dict[str, Any] = forward(variables, sharding.shard(mesh, batch["image"]))
        outputs = {name: outputs[name] for name in keep}
        found = {name: batch[name] for name in labels}
        if jax.process_count() > 1:
            # By way of the devices, so that labels and outputs come in one order.
            found = multihost_utils.process_allgather(
                outputs | sharding.shard(mesh, found), tiled=True
            )
        else:
            found |= outputs
        for name in parts:
            parts[name].append(np.asarray(found[name])[batch["where"]])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}
