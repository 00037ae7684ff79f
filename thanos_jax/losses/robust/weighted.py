"""The mean of weighted values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from thanos_jax.losses import checks, placement
from thanos_jax.losses.pairs.axes import AxisName
from thanos_jax.losses.pairs.entries import compute_dtype
from thanos_jax.losses.reduction import reduce
from thanos_jax.losses.robust.inputs import not_negative, vector


def weighted_mean(
    values: Any, sample_weights: Any, *, where: Any = None, axis_name: AxisName | None = None
) -> jax.Array:
    """Mean over rows of values times weights, for reweighting and Just Train Twice.

    sum_i w_i values_i / N,    N the number of rows, not the sum of their weights

    Just Train Twice puts an image lambda times into the training set if a first training got it
    wrong. Drawing batches from this larger set has the same expectation as drawing from the
    original set and taking this mean, if the weights have a mean of 1 over the original set:

        weights = np.where(wrong, up_weight, 1.0)
        weights = weights / weights.mean()

    Dividing by the sum of the weights of a batch would change the expectation, because rows would
    count less in batches with many large weights. An epoch of the repeated set has weights.mean()
    (before the division) times as many steps.

    With weights of 1, and the rows chosen by `small_loss_selection` as `where`, this is the loss of
    Co-teaching.

    Args:
      values: float [batch], the loss of each image.
      sample_weights: float or integer [batch], not negative.
      where: bool [batch]; False is padding and is left out. None: every row counts.
      axis_name: inside `jax.pmap` or `jax.shard_map`, the axis over which the batch is sharded; the
        mean is then over the global batch.

    Returns:
      Scalar, float32, or float64 if an argument is float64; 0 if there is no row.

    Raises:
      TypeError: an argument of the wrong dtype.
      ValueError: a wrong shape, a negative weight.

    Example:
      >>> import jax.numpy as jnp
      >>> from thanos_jax import losses
      >>> values, sample_weights = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 0.5, 2.0])
      >>> float(losses.robust.weighted_mean(values, sample_weights))
      2.5

    References:
      Liu et al., Just Train Twice: Improving Group Robustness without Training Group Information,
      ICML 2021, https://arxiv.org/abs/2107.09044
    """
    values = vector("values", values, "batch")
    weights = vector("sample_weights", sample_weights, "batch", len(values), integers=True)
    not_negative("sample_weights", sample_weights)
    where = checks.where(where, len(values))
    dtype = compute_dtype(values, weights)
    # Padding may hold anything; 0 * NaN in the backward pass must not reach the model.
    values = jnp.where(where, values.astype(dtype), 0.0)
    rows = {"values": weights.astype(dtype) * values, "where": where}
    return placement.place(mean, None, rows, None, axis_name)


def mean(
    _: None, rows: dict[str, jax.Array], shared: None, axis_name: AxisName | None
) -> jax.Array:
    """Returns the mean of `rows["values"]` where `rows["where"]`, in `placement.place`."""
    return reduce(rows["values"], rows["where"], reduction="mean", axis_name=axis_name)
