"""The contrastive losses of two towers: an image and a text encoder, say."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from thanos_jax.losses import checks
from thanos_jax.losses.contrastive import DENOMINATORS, info_nce, spread, supcon
from thanos_jax.losses.pairs.axes import AxisName


def cross_modal(
    image: Any,
    text: Any,
    labels: Any = None,
    *,
    alpha: Any = 0.0,
    temperature: Any = 0.07,
    denominator: str = "all",
    where: Any = None,
    normalize: bool = True,
    axis_name: AxisName | None = None,
    implementation: str = "auto",
    reduction: str = "mean",
) -> jax.Array:
    """Contrasts every image with all texts and every text with all images, symmetrically.

    Row i of `image` and of `text` are a pair. An anchor of one modality has its candidates in the
    other alone: image i the texts of the whole batch, text i the images. With s_ij the cosine of
    image i and text j over the temperature, and the same with the roles changed:

      without labels:         -s_ii + log sum_j exp s_ij: the loss of CLIP, the mean of its two
                              cross-entropies
      with labels, alpha = 0: the mean over the texts p of image i's class of
                              -s_ip + log sum_j exp s_ij: the loss of UniCL, which sums over the
                              batch and both directions where this takes the mean
      with labels, alpha > 0: (1 - alpha) of that and alpha of
                              -s_ii + log sum_{p of image i's class} exp s_ip, which tells apart the
                              pairs of a class: `losses.spread` across modalities

    It is `losses.info_nce`, `losses.supcon` or `losses.spread` with views="cross" and the two
    modalities as views. There is no memory bank: it would have to know the modality of each entry.

    Args:
      image: float [batch, dim].
      text: float [batch, dim], of the dtype of `image`.
      labels: integer [batch], the class of each pair; pairs without a class need a label of their
        own. None: every pair is.
      alpha: scalar in [0, 1], the weight of the spreading term. 0 unless asked for, as no published
        result for two modalities has it; without labels there is no class to spread.
      temperature: positive number or scalar array, differentiable. 0.07 is where CLIP's begins; it
        learns the logarithm of the inverse: `temperature=jax.numpy.exp(-log_scale)`.
      denominator: "all" or "one_positive", as in `losses.supcon`; the same without labels.
      where: bool [batch] or None; False is padding.
      normalize: whether embeddings are divided by their length.
      axis_name: the axis over which the batch is sharded, or None.
      implementation: how pairs are computed.
      reduction: "mean" or "none".

    Returns:
      Scalar, or [batch, 2] with reduction="none": image to text, text to image. float32, float64
      for float64 embeddings.

    Raises:
      TypeError: an argument of the wrong dtype, or image and text of different ones.
      ValueError: a wrong shape, or image and text of different ones; an unknown option, a
        temperature that is not positive, an alpha outside [0, 1] or without labels.

    Example:
      >>> import jax.numpy as jnp
      >>> from thanos_jax import losses
      >>> image, text = jnp.eye(3), jnp.eye(3)
      >>> round(float(losses.cross_modal(image, text, temperature=1.0)), 4)  # log(e + 2) - 1
      0.5514
      >>> labels = jnp.array([0, 0, 1])  # image 0 belongs to text 1 as well
      >>> loss = losses.cross_modal(image, text, labels, temperature=1.0, reduction="none")
      >>> [[round(float(x), 4) for x in row] for row in loss]
      [[1.0514, 1.0514], [1.0514, 1.0514], [0.5514, 0.5514]]

    References:
      Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML
      2021, figure 3, https://arxiv.org/abs/2103.00020; Yang et al., Unified Contrastive Learning in
      Image-Text-Label Space, CVPR 2022, https://arxiv.org/abs/2204.03610; for the spreading term,
      Chen, Fu et al., Perfectly Balanced, ICML 2022, equation 4, https://arxiv.org/abs/2204.07596
    """
    alpha = checks.weight("alpha", alpha)
    spreads = isinstance(alpha, jax.core.Tracer) or float(alpha) != 0.0
    if labels is None and spreads:
        raise ValueError(
            "alpha: expected 0 without labels, where no pairs share a class, "
            f"got {checks.describe(alpha)}"
        )
    checks.option("denominator", denominator, DENOMINATORS)
    embeddings = _stacked(image, text)
    shared: dict[str, Any] = {
        "temperature": temperature,
        "views": "cross",
        "where": where,
        "normalize": normalize,
        "axis_name": axis_name,
        "implementation": implementation,
        "reduction": reduction,
    }
    if labels is None:
        return info_nce(embeddings, **shared)
    if not spreads:
        return supcon(embeddings, labels, denominator=denominator, **shared)
    return spread(embeddings, labels, alpha=alpha, denominator=denominator, **shared)


def _stacked(image: Any, text: Any) -> jax.Array:
    """Checks the two modalities; returns float [batch, 2, dim]."""
    for name, value in (("image", image), ("text", text)):
        checks.floating(name, value)
        if value.ndim != 2 or 0 in value.shape:
            raise ValueError(
                f"{name}: expected a non-empty array [batch, dim], got {checks.describe(value)}"
            )
    both = f"image {checks.describe(image)} and text {checks.describe(text)}"
    if image.shape != text.shape:
        raise ValueError(f"image and text: expected the same shape [batch, dim], got {both}")
    if image.dtype != text.dtype:
        raise TypeError(f"image and text: expected the same dtype, got {both}")
    return jnp.stack([jnp.asarray(image), jnp.asarray(text)], axis=1)
