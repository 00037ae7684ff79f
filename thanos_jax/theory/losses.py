"""The spectral contrastive loss of a linear encoder, computed from covariances.

Over pairs of augmentations it is -2 E[f(x)'f(x+)] + E[(f(x)'f(x-))^2] with f(x) = W x. x+ is an
augmentation of the same class (supervised) or image (unsupervised) as x, x- any augmentation. All
are drawn independently, so that x+ and x- may equal x. Expectations of products are covariances,
which gives

    -2 Tr(W P W') + Tr(M W'W M W'W).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from thanos_jax.theory.data import Covariances, ModelError, check_beta


def loss(weights: Any, covariance: Any, positives: Any) -> jax.Array:
    """Returns -2 Tr(W P W') + Tr(M W'W M W'W).

    Args:
      weights: W, floating point [rows, d + 1].
      covariance: M, symmetric [d + 1, d + 1]; converted to W's dtype.
      positives: P, symmetric [d + 1, d + 1]; converted to W's dtype.

    Returns:
      Scalar of W's dtype.

    Raises:
      ModelError: weights are not floating point, or a shape is wrong.

    Source: Xue et al., ICML 2023, https://arxiv.org/abs/2305.16536; over pairs: HaoChen
    et al., https://arxiv.org/abs/2106.04156
    """
    weights, covariance, positives = _checked(weights, covariance, positives)
    with jax.default_matmul_precision("highest"):
        attraction = jnp.sum((weights @ positives) * weights)
        embedded = weights @ covariance @ weights.T
        return -2 * attraction + jnp.sum(embedded * embedded.T)


def gradient(weights: Any, covariance: Any, positives: Any) -> jax.Array:
    """Returns the loss's gradient with respect to W: -4 W P + 4 W M W'W M.

    Arguments and errors are as in `loss`; the result is [rows, d + 1], in W's dtype.

    Source: Xue et al., ICML 2023
    """
    weights, covariance, positives = _checked(weights, covariance, positives)
    with jax.default_matmul_precision("highest"):
        # W M first, so that every product has only as many rows as W.
        moved = weights @ covariance
        return -4 * (weights @ positives) + 4 * ((moved @ weights.T) @ moved)


def positives(covariances: Covariances, beta: float) -> Any:
    """Returns P = beta M+ + (1 - beta) M~ of the joint loss; beta 1 is supervised, 0 unsupervised.

    Args:
      covariances: covariances of a sample.
      beta: in [0, 1].

    Returns:
      [d + 1, d + 1].

    Raises:
      ModelError: beta outside [0, 1].

    Source: Xue et al., ICML 2023
    """
    check_beta(beta)
    return beta * covariances.class_means + (1 - beta) * covariances.image_means


def joint(weights: Any, covariances: Covariances, beta: float) -> jax.Array:
    """Returns the joint loss, beta supervised + (1 - beta) unsupervised.

    Args:
      weights: W, floating point [rows, d + 1].
      covariances: covariances of a sample.
      beta: in [0, 1]; 1 attracts all augmentations of a class, 0 only within an image.

    Returns:
      Scalar of W's dtype.

    Raises:
      ModelError: as `loss`, or beta outside [0, 1].

    Source: Xue et al., ICML 2023
    """
    return loss(weights, covariances.everything, positives(covariances, beta))


def check_weights(weights: Any, columns: int) -> jax.Array:
    """Returns W as a jax array; raises ModelError unless it is floating point [rows, columns]."""
    weights = jnp.asarray(weights)
    if weights.ndim != 2 or weights.shape[1] != columns:
        raise ModelError(f"weights: expected shape [rows, {columns}], got {weights.shape}")
    if not jnp.issubdtype(weights.dtype, jnp.floating):
        raise ModelError(f"weights: expected a floating point dtype, got {weights.dtype}")
    return weights


def _checked(
    weights: Any, covariance: Any, positives: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    columns = jnp.shape(covariance)[0] if jnp.ndim(covariance) else 0
    for name, value in (("covariance", covariance), ("positives", positives)):
        if jnp.shape(value) != (columns, columns):
            raise ModelError(
                f"{name}: expected a square matrix, covariance and positives of one shape, "
                f"got {jnp.shape(value)}"
            )
    weights = check_weights(weights, columns)
    dtype = weights.dtype
    return weights, jnp.asarray(covariance, dtype), jnp.asarray(positives, dtype)
