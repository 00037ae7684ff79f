"""The frozen encoder over a whole split: every image once, no augmentation, no dropout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from thanos_jax import sharding
from thanos_jax.data import augment, batches, random_bits
from thanos_jax.train.objective import predict_coarse

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

    The outputs are "embedding" float32 [n, D], "prediction" int32 [n] (the coarse class) and, where
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
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*keep, "fine", "coarse")}
    for batch in batches.evaluation_batches(
        split, batch_size=batch_size, read_threads=read_threads
    ):
        real = batch["where"]
        outputs = forward(variables, sharding.shard(mesh, batch["image"]))
        for name in keep:
            parts[name].append(np.asarray(outputs[name])[real])
        for name in ("fine", "coarse"):
            parts[name].append(batch[name][real])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}
