"""The reconstruction loss of the autoencoder."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from thanos_jax.losses import checks, placement
from thanos_jax.losses.pairs.axes import AxisName
from thanos_jax.losses.pairs.entries import compute_dtype
from thanos_jax.losses.reduction import OPTIONS as REDUCTIONS
from thanos_jax.losses.reduction import reduce


def reconstruction(
    images: Any,
    reconstructions: Any,
    *,
    where: Any = None,
    axis_name: AxisName | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Mean squared error over all elements of the images.

    The class-conditional autoencoder adds it to the cross-entropy of the coarse label (Chen et al.
    2022, section 4.2).

    Args:
      images: float [batch, ...], the (augmented, normalized) input of the encoder.
      reconstructions: float, the shape of `images`.
      where: bool [batch]; False marks padding, which is left out. None: there is no padding.
      axis_name: inside `jax.pmap` or `jax.shard_map`, the axis over which the batch is sharded;
        the mean is then over the global batch.
      reduction: "mean", or "none" for one value per image.

    Returns:
      float32 (float64 for float64 images) scalar, or [batch] with reduction="none".

    Raises:
      TypeError: an argument of the wrong dtype.
      ValueError: shapes that differ, or an unknown option.

    Example:
      >>> import jax.numpy as jnp
      >>> from thanos_jax import losses
      >>> float(losses.reconstruction(jnp.zeros((2, 8, 8, 1)), jnp.full((2, 8, 8, 1), 0.5)))
      0.25

    References:
      Chen, Fu et al., Perfectly Balanced: Improving Transfer and Robustness of Supervised
      Contrastive Learning, ICML 2022, https://arxiv.org/abs/2204.07596
    """
    checks.option("reduction", reduction, REDUCTIONS)
    for name, value in (("images", images), ("reconstructions", reconstructions)):
        checks.floating(name, value)
    if images.shape != reconstructions.shape or images.ndim < 2 or 0 in images.shape:
        raise ValueError(
            "reconstructions: expected the shape of images, a non-empty [batch, ...], got "
            f"{list(reconstructions.shape)} for images {list(images.shape)}"
        )
    where = checks.where(where, images.shape[0])
    images, reconstructions = jnp.asarray(images), jnp.asarray(reconstructions)
    rows = {"images": images, "reconstructions": reconstructions, "where": where}
    per_row = reduction == "none"
    return placement.place(_computed, reduction, rows, None, axis_name, per_row=per_row)


def _computed(
    reduction: str, rows: dict[str, jax.Array], _: None, axis_name: AxisName | None
) -> jax.Array:
    images, reconstructions, where = rows["images"], rows["reconstructions"], rows["where"]
    dtype = compute_dtype(images, reconstructions)
    error = images.astype(dtype) - reconstructions.astype(dtype)
    # Padding may hold anything; 0 * NaN in the backward pass must not reach the model.
    error = jnp.where(jnp.expand_dims(where, tuple(range(1, error.ndim))), error, 0.0)
    per_image = jnp.mean(error * error, axis=tuple(range(1, error.ndim)))
    return reduce(per_image, where, reduction=reduction, axis_name=axis_name)
