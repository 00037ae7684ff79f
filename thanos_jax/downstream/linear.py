"""A linear classifier on frozen embeddings, solved to its optimum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from thanos_jax.checks import check_at_least
from thanos_jax.downstream import logistic, newton
from thanos_jax.downstream.arrays import (
    check_embeddings,
    check_labelled,
    check_on_devices,
    check_width,
)
from thanos_jax.downstream.placing import Rows, add_up, host_blocks, of_all_rows, place

REGULARIZATION = (0.0, 1e-5, 1e-4, 1e-3, 1e-2)


class Head(NamedTuple):
    """A linear classifier of standardized embeddings: ((z - mean) / std) weights + bias.

    Attributes:
      weights: float32 [d, classes].
      bias: float32 [classes].
      mean: float32 [d], of the training embeddings.
      std: float32 [d]; inf, which takes it out, for a column that is constant in training.
      regularization: the L2 weight chosen.
      validation_accuracy: fraction of 1, with that weight.
      iterations: Newton steps taken with that weight.
      gradient_norm: norm of the final gradient, preconditioned by the curvature at zero. Large if
        `max_iterations` was too small. It does not tell how far the objective is above its minimum:
        where classes are well separated, the curvature is far smaller than at zero.
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

    (scikit-learn's C is 1 / (n r)) by Newton steps. The largest weight starts at zero, each smaller
    weight at the previous optimum. The steps end near the optimum: within 1e-6 of the objective,
    or some 1e-4 with more than 16,384 rows (see `thanos_jax.downstream.newton`). Objective and
    gradient are computed over all rows, the curvature over at most 16,384 of them. All weights
    share the same compiled programs. Among weights of equal validation accuracy the largest is
    taken.

    Rows are processed in blocks. Besides the embeddings, each device holds
    O(2,048 x classes + 16,384 x (d + classes) + d x classes) numbers. NumPy embeddings are split
    over this process's devices.

    Args:
      train_embeddings: floating point [n, d]. A jax array whose rows are split over devices stays
        there, and every process of the job makes this call.
      train_labels: integer [n], 0 to num_classes - 1.
      validation_embeddings: floating point [m, d], on devices or not.
      validation_labels: integer [m].
      num_classes: at least 2.
      regularization: L2 weights to try, each finite and at least 0. With 0 and separable classes
        there is no minimum: the steps then end where the loss is about 1e-7, or after
        `max_iterations`.
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
        train_embeddings, train_labels, "train_", num_classes=num_classes, on_devices=True
    )
    validation, validation_labels = check_labelled(
        validation_embeddings,
        validation_labels,
        "validation_",
        num_classes=num_classes,
        on_devices=True,
    )
    check_width(validation, train.shape[1], "validation_embeddings")

    mean, std = mean_and_std(train)
    placed = place(train)
    problem = logistic.Problem(
        placed, placed.split(labels.astype(np.int32)), mean, np.float32(1) / std, num_classes
    )
    best: Head | None = None
    for weight, fit in newton.path(problem, sorted(set(grid), reverse=True), max_iterations):
        if not np.isfinite(fit.gradient_norm):
            low, high = _range(train)
            raise FloatingPointError(
                f"linear head: the loss overflowed float32 with L2 weight {weight}; training "
                f"embeddings lie between {low:.3g} and {high:.3g}"
            )
        weights = fit.at["weights"].T.astype(np.float32, order="C")
        bias = fit.at["bias"].astype(np.float32)
        head = Head(weights, bias, mean, std, weight, 0.0, fit.iterations, fit.gradient_norm)
        correct = float(np.mean(predict(head, validation) == validation_labels))
        (accuracy,) = placed.of_first([correct])
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
    """Returns the labels, int64 [n], of the largest scores; the lowest label among equal scores.

    Embeddings that are split over devices stay there, as in `linear_head`.
    """
    embeddings = check_on_devices(embeddings, "embeddings")
    check_width(embeddings, len(head.weights), "embeddings")
    found = np.zeros(len(embeddings), np.int64)
    for where, rows in host_blocks(embeddings, columns=len(head.bias)):
        found[where] = np.argmax(scores(head, rows), axis=1)
    return of_all_rows(embeddings, found)


def mean_and_std(embeddings: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and std, each float32 [d], from float64 sums; a constant column's std is inf."""

    def average(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        sums = np.zeros(embeddings.shape[1])
        # In blocks: a float64 copy of large embeddings would not fit in memory.
        for _, rows in host_blocks(embeddings):
            sums += np.sum(of(rows.astype(np.float64)), axis=0)
        return add_up(embeddings, sums) / len(embeddings)

    mean = average(lambda rows: rows)
    std = np.sqrt(average(lambda rows: np.square(rows - mean)))
    # A std below float32's resolution of the mean is rounding, and must not be scaled up to 1.
    tiny = np.finfo(np.float32).tiny
    constant = std <= np.maximum(np.abs(mean) * 1e-6, tiny)
    return mean.astype(np.float32), np.where(constant, np.inf, std).astype(np.float32)


def _range(embeddings: Rows) -> tuple[float, float]:
    """Returns the minimum and maximum over all rows; every process makes this call."""
    # The maximum is negated, so that both are minima. A process may hold nothing but padding.
    least = np.full(2, np.inf)
    for _, rows in host_blocks(embeddings):
        least = np.minimum(least, [np.min(rows), -np.max(rows)])
    low, high = add_up(embeddings, least, by=np.minimum)
    return float(low), float(-high)
