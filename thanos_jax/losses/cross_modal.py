"""Contrastive losses between two towers, such as an image and a text encoder."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from thanos_jax.losses import checks
from thanos_jax.losses.contrastive import (
    CLASS_CONDITIONAL,
    EVERY_IMAGE_ITS_OWN,
    INFO_NCE,
    Shared,
    mixture,
    supcon_term,
)
from thanos_jax.losses.memory_bank import MemoryBank
from thanos_jax.losses.pairs.axes import AxisName


def cross_modal(
    image: Any,
    text: Any,
    labels: Any = None,
    *,
    alpha: Any = 0.0,
    beta: Any = 1.0,
    temperature: Any = 0.07,
    denominator: str = "all",
    where: Any = None,
    normalize: bool = True,
    memory_bank: MemoryBank | None = None,
    axis_name: AxisName | None = None,
    implementation: str = "auto",
    reduction: str = "mean",
) -> jax.Array:
    """Contrasts every image with all texts and every text with all images, symmetrically.

    Row i of `image` and row i of `text` are a pair. The candidates of an anchor are all entries of
    the other modality: the texts of the whole batch for image i, the images for text i. s_ij is the
    cosine similarity of image i and text j divided by the temperature. The loss of image i is given
    below; the loss of text i is the same with the roles exchanged.

      without labels:         -s_ii + log sum_j exp s_ij. This is the loss of CLIP, the mean of its
                              two cross-entropies.
      with labels, alpha = 0: the mean over the texts p of image i's class of
                              -s_ip + log sum_j exp s_ij. This is the loss of UniCL, except that
                              UniCL sums over the batch and both directions instead of averaging.
      with labels, alpha > 0: (1 - alpha) times the loss for alpha = 0, plus alpha times
                              -s_ii + log sum_{p of image i's class} exp s_ip, which spreads the
                              pairs of a class apart: `losses.spread` across modalities.
      with labels, beta < 1:  beta times the loss for beta = 1, plus 1 - beta times the loss without
                              labels: `losses.joint` across modalities. With types as labels and
                              entities as pairs it is the loss of TABi, whose alpha is this beta.

    The result equals `losses.info_nce`, `losses.supcon`, `losses.joint` or `losses.spread` with
    views="cross" and the two modalities as views. With both alpha and beta it is
    (1 - alpha) (beta supcon + (1 - beta) info_nce) + alpha class_conditional_info_nce.

    With a memory bank it is the loss of MoCo. `image` has the queries, `text` the keys of the same
    images from another encoder, and the bank earlier keys. Only queries are anchors. Candidates of
    query i are key i and the bank, but not the other keys of the batch. Keys and bank have no
    gradient. Labels, alpha and beta have the same meaning as above. Push the keys afterwards:
    `losses.memory_bank.push(bank, keys, labels)`.

    Args:
      image: float [batch, dim].
      text: float [batch, dim], of the dtype of `image`.
      labels: integer [batch], the class of each pair; a pair without a class needs a unique label.
        None: every pair is its own class.
      alpha: scalar in [0, 1], the weight of the spreading term. The default is 0, because no
        published result for two modalities uses it. Without labels it must be 0.
      beta: scalar in [0, 1], the weight of the supervised term against the term without labels.
        Without labels it must be 1.
      temperature: positive number or scalar array, differentiable. CLIP starts at 0.07 and learns
        the logarithm of the inverse: `temperature=jax.numpy.exp(-log_scale)`.
      denominator: "all" or "one_positive", as in `losses.supcon`; both are the same without labels.
        With a memory bank it must be "all".
      where: bool [batch] or [batch, 2], or None; False marks padding or the missing half of a pair.
      normalize: whether embeddings are divided by their length.
      memory_bank: keys of earlier batches, made by `losses.memory_bank`, or None.
      axis_name: the axis over which the batch is sharded, or None.
      implementation: how pairs are computed.
      reduction: "mean" or "none".

    Returns:
      Scalar, or [batch, 2] with reduction="none": image to text, text to image ([batch, 1] with a
      memory bank). float32, float64 for float64 embeddings.

    Raises:
      TypeError: an argument has the wrong dtype, or image and text differ in dtype.
      ValueError: an argument has the wrong shape, or image and text differ in shape; an option is
        unknown; the temperature is not positive; alpha or beta is outside [0, 1] or set without
        labels; or denominator is "one_positive" with a memory bank.

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
      Chen, Fu et al., Perfectly Balanced, ICML 2022, equation 4, https://arxiv.org/abs/2204.07596;
      for the joint form, Leszczynski, Fu et al., TABi: Type-Aware Bi-Encoders for Open-Domain
      Entity Retrieval, ACL 2022, https://arxiv.org/abs/2204.08173; for the memory bank, He et al.,
      Momentum Contrast for Unsupervised Visual Representation Learning, CVPR 2020, algorithm 1,
      https://arxiv.org/abs/1911.05722
    """
    alpha, beta = checks.weight("alpha", alpha), checks.weight("beta", beta)
    spreads, joins = _may_differ(alpha, 0.0), _may_differ(beta, 1.0)
    for name, weight, asked, without in (("alpha", alpha, spreads, 0), ("beta", beta, joins, 1)):
        if labels is None and asked:
            raise ValueError(
                f"{name}: expected {without} without labels, where no pairs share a class, "
                f"got {checks.describe(weight)}"
            )
    supervised = supcon_term(denominator)
    if memory_bank is not None and denominator != "all":
        raise ValueError(
            f'denominator: expected "all" with a memory bank, got {checks.describe(denominator)}'
        )
    terms: list[Any] = [supervised]
    if labels is None:
        labels, terms = EVERY_IMAGE_ITS_OWN, [INFO_NCE]
    elif joins:
        terms = [INFO_NCE, (beta, supervised)]
    if spreads:
        terms.append((alpha, CLASS_CONDITIONAL))
    shared = Shared(
        temperature, "cross", where, normalize, memory_bank, axis_name, implementation, reduction
    )
    queue = memory_bank is not None
    return mixture(_stacked(image, text), labels, shared, *terms, queue=queue)


def _may_differ(weight: jax.Array | float, number: float) -> bool:
    return isinstance(weight, jax.core.Tracer) or float(weight) != number


def _stacked(image: Any, text: Any) -> jax.Array:
    """Checks the two modalities and returns them as float [batch, 2, dim]."""
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
