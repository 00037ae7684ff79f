"""A linear classifier on frozen embeddings, solved to its optimum."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from thanos_jax.checks import check_at_least
from thanos_jax.downstream.arrays import check_embeddings, check_labelled, check_width

REGULARIZATION = (0.0, 1e-5, 1e-4, 1e-3, 1e-2)
# Half the square of the preconditioned gradient estimates how far the loss is above its optimum.
_GRADIENT_TOLERANCE = 1e-4


class Head(NamedTuple):
    """A linear classifier of standardized embeddings: ((z - mean) / std) weights + bias.

    Attributes:
      weights: float32 [d, classes].
      bias: float32 [classes].
      mean: float32 [d], of the training embeddings.
      std: float32 [d]; inf, which takes it out, for a column that is constant in training.
      regularization: the L2 weight chosen.
      validation_accuracy: fraction of 1, with that weight.
      iterations: L-BFGS steps taken with that weight.
      gradient_norm: norm of the preconditioned gradient where the steps ended; half its square
        estimates how far the objective is above its minimum. Large where `max_iterations` was too
        few.
    """

    weights: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    regularization: float
    validation_accuracy: float
    iterations: int
    gradient_norm: float


def linear_head(
    train_embeddings: Any,
    train_labels: Any,
    validation_embeddings: Any,
    validation_labels: Any,
    *,
    num_classes: int,
    regularization: Sequence[float] = REGULARIZATION,
    max_iterations: int = 200,
) -> Head:
    """Fits multinomial logistic regression, its L2 weight chosen by validation accuracy.

    Minimizes, over standardized training embeddings x and for each L2 weight r,

        mean_i [ lse_k(x_i . w_k + b_k) - x_i . w_(y_i) - b_(y_i) ] + r/2 sum_k |w_k|^2

    (scikit-learn's C is 1 / (n r)) by L-BFGS from zero, until the preconditioned gradient is
    shorter than 1e-4, a step no longer lowers the loss in float32, or `max_iterations`. The
    same program serves every weight of the grid. Among weights of equal validation accuracy the
    largest is taken.

    Args:
      train_embeddings: floating point [n, d].
      train_labels: integer [n], 0 to num_classes - 1.
      validation_embeddings: floating point [m, d].
      validation_labels: integer [m].
      num_classes: at least 2.
      regularization: L2 weights to try, each finite and at least 0. With 0 and separable classes
        there is no minimum: the head is then what `max_iterations` steps give.
      max_iterations: for each weight, at least 1.

    Returns:
      The head.

    Raises:
      TypeError: embeddings are not floating point, or labels not integers.
      ValueError: a wrong shape, a label out of range, embeddings not finite (names split and first
        bad row), or an option out of range.
      FloatingPointError: embeddings so large that the loss overflows.
    """
    check_at_least("num_classes", num_classes, 2)
    check_at_least("max_iterations", max_iterations, 1)
    grid = [float(weight) for weight in regularization]
    if not grid or not all(np.isfinite(weight) and weight >= 0 for weight in grid):
        raise ValueError(f"regularization: expected finite numbers >= 0, got {regularization!r}")
    train, labels = check_labelled(
        train_embeddings, train_labels, "train_", num_classes=num_classes
    )
    validation, validation_labels = check_labelled(
        validation_embeddings, validation_labels, "validation_", num_classes=num_classes
    )
    check_width(validation, train.shape[1], "validation_embeddings")

    mean, std = _mean_and_std(train)
    features = jnp.asarray((train - mean) / std)
    targets = jnp.asarray(labels, jnp.int32)
    spectrum = _spectrum(features)
    best: Head | None = None
    for weight in sorted(set(grid), reverse=True):
        weights, bias, iterations, gradient_norm = _fit(
            features,
            targets,
            *spectrum,
            jnp.float32(weight),
            jnp.int32(max_iterations),
            num_classes=num_classes,
        )
        if not np.isfinite(gradient_norm):
            raise FloatingPointError(
                f"linear head: the loss overflowed float32 with L2 weight {weight}; training "
                f"embeddings lie between {train.min():.3g} and {train.max():.3g}"
            )
        head = Head(
            np.asarray(weights),
            np.asarray(bias),
            mean,
            std,
            weight,
            0.0,
            int(iterations),
            float(gradient_norm),
        )
        accuracy = float(np.mean(predict(head, validation) == validation_labels))
        if best is None or accuracy > best.validation_accuracy:
            best = head._replace(validation_accuracy=accuracy)
    assert best is not None
    return best


def scores(head: Head, embeddings: Any) -> np.ndarray:
    """Returns the head's float32 [n, classes] logits of floating point embeddings [n, d]."""
    embeddings = check_embeddings(embeddings, "embeddings")
    check_width(embeddings, len(head.weights), "embeddings")
    return (embeddings - head.mean) / head.std @ head.weights + head.bias


def predict(head: Head, embeddings: Any) -> np.ndarray:
    """Returns the labels, int64 [n], of the largest scores; the lowest label among equal scores."""
    return np.argmax(scores(head, embeddings), axis=1)


def _mean_and_std(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 [d] twice, from float64 sums; std inf where a column is constant."""
    mean = np.empty(embeddings.shape[1])
    std = np.empty(embeddings.shape[1])
    # A few columns at a time: float64 copies of large embeddings would not fit in memory.
    for start in range(0, embeddings.shape[1], 64):
        columns = slice(start, start + 64)
        block = embeddings[:, columns].astype(np.float64)
        mean[columns], std[columns] = block.mean(axis=0), block.std(axis=0)
    # Below float32's resolution of the mean, what varies is rounding: not to be blown up to 1.
    tiny = np.finfo(np.float32).tiny
    constant = std <= np.maximum(np.abs(mean) * 1e-6, tiny)
    return mean.astype(np.float32), np.where(constant, np.inf, std).astype(np.float32)


@jax.jit
def _spectrum(features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns eigenvalues [d] and eigenvectors [d, d] of the features' second moments."""
    moments = jnp.dot(features.T, features, precision=lax.Precision.HIGHEST) / len(features)
    values, vectors = jnp.linalg.eigh(moments)
    return jnp.maximum(values, 0.0), vectors


@functools.partial(jax.jit, static_argnames="num_classes")
def _fit(
    features: jax.Array,
    labels: jax.Array,
    eigenvalues: jax.Array,
    eigenvectors: jax.Array,
    regularization: jax.Array,
    max_iterations: jax.Array,
    *,
    num_classes: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns weights [d, classes], bias [classes], iterations and the last gradient's norm."""
    # weights = eigenvectors (scale * free). With this scale the Hessian at zero is about the
    # identity, which takes several times fewer iterations where embeddings have nearly collapsed
    # to a few directions. The eigenvectors are orthogonal, so the penalty stays exact.
    curvature = eigenvalues / num_classes + regularization
    floor = 1e-6 * jnp.max(curvature) + jnp.finfo(jnp.float32).tiny
    scale = lax.rsqrt(jnp.maximum(curvature, floor))[:, None]
    bias_scale = num_classes**0.5

    def unscale(free: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        scaled = scale * free["weights"]
        weights = jnp.dot(eigenvectors, scaled, precision=lax.Precision.HIGHEST)
        return weights, bias_scale * free["bias"]

    def objective(free: dict[str, jax.Array]) -> jax.Array:
        weights, bias = unscale(free)
        logits = jnp.dot(features, weights, precision=lax.Precision.HIGHEST) + bias
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        penalty = regularization / 2 * jnp.sum(jnp.square(scale * free["weights"]))
        return jnp.mean(losses) + penalty

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def unfinished(carry: Any) -> jax.Array:
        _, _, iterations, gradient_norm, stalled = carry
        return (iterations < max_iterations) & (gradient_norm > _GRADIENT_TOLERANCE) & ~stalled

    def step(carry: Any) -> Any:
        free, state, iterations, _, _ = carry
        value, gradient = value_and_grad(free, state=state)
        updates, state = optimizer.update(
            gradient, state, free, value=value, grad=gradient, value_fn=objective
        )
        # The line search leaves value and gradient of where it ended in the state.
        gradient_norm = optax.tree.norm(optax.tree.get(state, "grad"))
        stalled = optax.tree.get(state, "value") >= value
        return optax.apply_updates(free, updates), state, iterations + 1, gradient_norm, stalled

    free = {
        "weights": jnp.zeros((features.shape[1], num_classes), jnp.float32),
        "bias": jnp.zeros(num_classes, jnp.float32),
    }
    start = (free, optimizer.init(free), jnp.int32(0), jnp.float32(jnp.inf), jnp.asarray(False))
    free, _, iterations, gradient_norm, _ = lax.while_loop(unfinished, step, start)
    return *unscale(free), iterations, gradient_norm
