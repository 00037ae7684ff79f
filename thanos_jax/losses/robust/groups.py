"""Group DRO: means over groups, and weights that follow the worst of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thanos_jax.losses import checks, placement
from thanos_jax.losses.pairs.axes import AxisName
from thanos_jax.losses.pairs.entries import compute_dtype
from thanos_jax.losses.robust.inputs import at_hand, not_negative, vector


def group_means(
    values: Any,
    groups: Any,
    num_groups: int,
    *,
    where: Any = None,
    axis_name: AxisName | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean of the values of each group, and the number of rows of each group.

    Args:
      values: float [batch].
      groups: integer [batch], 0 to num_groups - 1. Traced values cannot be checked; rows with
        another group are then left out.
      num_groups: number of groups, including those that are not in this batch.
      where: bool [batch]; False is padding and is left out. None: every row counts.
      axis_name: inside `jax.pmap` or `jax.shard_map`, the axis over which the batch is sharded; the
        means are then over the global batch.

    Returns:
      Means, float32 (float64 for float64 values) [num_groups], 0 with gradient 0 for a group that
      is not in the global batch; and counts of rows, int32 [num_groups].

    Raises:
      TypeError: an argument of the wrong dtype.
      ValueError: a wrong shape, a group that is not one of num_groups, no groups.

    Example:
      >>> import jax.numpy as jnp
      >>> from thanos_jax import losses
      >>> values, groups = jnp.array([1.0, 2.0, 6.0]), jnp.array([0, 2, 2])
      >>> means, counts = losses.robust.group_means(values, groups, 3)
      >>> means.tolist(), counts.tolist()
      ([1.0, 0.0, 4.0], [1, 0, 2])
    """
    if not isinstance(num_groups, int) or isinstance(num_groups, bool):
        raise TypeError(f"num_groups: expected an integer, got {checks.describe(num_groups)}")
    if num_groups < 1:
        raise ValueError(f"num_groups: expected a positive integer, got {num_groups}")
    values = vector("values", values, "batch")
    groups = _groups(groups, len(values), num_groups)
    where = checks.where(where, len(values))
    values = values.astype(compute_dtype(values))
    rows = {"values": values, "groups": groups, "where": where}
    return placement.place(_group_means, num_groups, rows, None, axis_name)


def _group_means(
    num_groups: int, rows: dict[str, jax.Array], _: None, axis_name: AxisName | None
) -> tuple[jax.Array, jax.Array]:
    values, groups, where = rows["values"], rows["groups"], rows["where"]
    every = jnp.arange(num_groups, dtype=groups.dtype)
    member = where[:, None] & (groups[:, None] == every[None, :])
    # Sums of a masked matrix, because scattered sums depend on the order on some devices.
    totals = jnp.sum(jnp.where(member, values[:, None], 0.0), axis=0)
    counts = jnp.sum(member, axis=0, dtype=jnp.int32)
    if axis_name is not None:
        totals, counts = lax.psum(totals, axis_name), lax.psum(counts, axis_name)
    return totals / jnp.maximum(counts, 1).astype(totals.dtype), counts


def group_dro_weights(
    weights: Any,
    group_losses: Any,
    counts: Any,
    *,
    step_size: Any = 0.01,
    adjustment: Any = 0.0,
    group_sizes: Any = None,
) -> jax.Array:
    """Updates the weights of group DRO by one exponentiated gradient ascent step.

    q_g is multiplied by exp(step_size (loss_g + adjustment / sqrt(n_g))), then all q are divided by
    their sum.

    A group that is not in the batch has a loss of 0, as in the authors' code. Its weight is still
    multiplied by exp(step_size adjustment / sqrt(n_g)), so that it decreases relative to groups of
    positive loss. Batches drawn equally from all groups, as theirs are, rarely lack a group.

    Weights do not fall below the smallest normal number (about 1e-38), unless they are 0 already.
    Without this bound, thousands of steps would round a weight to 0, from which it cannot grow.

    Args:
      weights: float [num_groups], q, not negative; the sum need not be 1. Start with 1 / num_groups
        for each.
      group_losses: float [num_groups], of the global batch, as returned by `group_means`.
      counts: integer or float [num_groups], rows of each group in the batch; if it is 0, the loss
        of the group is replaced by 0.
      step_size: scalar, not negative. 0 leaves the weights unchanged, except for dividing by their
        sum.
      adjustment: scalar, not negative, C in the paper. It accounts for the generalization gap,
        which is larger in smaller groups.
      group_sizes: integer or float [num_groups], n_g, the number of training images (not of rows of
        the batch) of each group; needed unless adjustment is 0. An empty group has no adjustment.

    Returns:
      The updated weights, with a sum of 1, float32 (float64 for float64 weights) [num_groups]. No
      gradient flows through them.

    Raises:
      TypeError: an argument of the wrong dtype.
      ValueError: a wrong shape, a negative value, weights without a positive one, an adjustment
        without group_sizes.

    Example:
      >>> import jax.numpy as jnp
      >>> from thanos_jax import losses
      >>> weights, group_losses = jnp.array([0.5, 0.5]), jnp.log(jnp.array([1.0, 3.0]))
      >>> counts = jnp.array([6, 2])
      >>> weights = losses.robust.group_dro_weights(weights, group_losses, counts, step_size=1.0)
      >>> [round(float(weight), 4) for weight in weights]
      [0.25, 0.75]

    References:
      Sagawa, Koh et al., Distributionally Robust Neural Networks for Group Shifts, ICLR 2020,
      algorithm 1, https://arxiv.org/abs/1911.08731; the authors' code,
      https://github.com/kohpangwei/group_DRO, loss.py
    """
    given = vector("weights", weights, "num_groups")
    not_negative("weights", weights)
    seen = at_hand(weights)
    if seen is not None and not np.any(seen > 0):
        raise ValueError(f"weights: expected a positive one, got {checks.describe(weights)} of 0")
    num_groups = len(given)
    dtype = compute_dtype(given)
    q = given.astype(dtype)
    group_losses = vector("group_losses", group_losses, "num_groups", num_groups).astype(dtype)
    counts = vector("counts", counts, "num_groups", num_groups, integers=True)
    step_size = not_negative("step_size", checks.scalar("step_size", step_size))
    adjustment = not_negative("adjustment", checks.scalar("adjustment", adjustment))

    gain = jnp.where(counts > 0, group_losses, 0.0)
    if group_sizes is not None:
        sizes = vector("group_sizes", group_sizes, "num_groups", num_groups, integers=True)
        not_negative("group_sizes", group_sizes)
        sizes = sizes.astype(dtype)
        root = jnp.sqrt(jnp.where(sizes > 0, sizes, 1.0))
        gain = gain + jnp.where(sizes > 0, jnp.asarray(adjustment, dtype) / root, 0.0)
    elif isinstance(adjustment, jax.core.Tracer) or float(adjustment) != 0.0:
        raise ValueError(
            "group_sizes: expected the number of training images of each group, "
            f"[num_groups={num_groups}], for an adjustment other than 0, got None"
        )
    updated = jax.nn.softmax(jnp.log(q) + jnp.asarray(step_size, dtype) * gain)
    updated = jnp.where(q == 0, 0.0, jnp.maximum(updated, jnp.finfo(dtype).tiny))
    return lax.stop_gradient(updated)


def group_dro(
    values: Any,
    groups: Any,
    weights: Any,
    *,
    step_size: Any = 0.01,
    adjustment: Any = 0.0,
    group_sizes: Any = None,
    where: Any = None,
    axis_name: AxisName | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Group distributionally robust optimization: a weighted sum of the losses of groups.

    sum_g q_g loss_g,    loss_g the mean of the values of group g
    The weights q are updated by `group_dro_weights` with this batch before the loss is computed.
    They are constants for the gradient.

    This follows the paper's algorithm and the authors' code. Their code also adds the adjustment
    sum_g q_g C / sqrt(n_g) to the reported loss; it has no gradient and is left out here.

    Args:
      values: float [batch], the loss of each image.
      groups: integer [batch], 0 to num_groups - 1.
      weights: float [num_groups], q before the step, the same on every device.
      step_size: see `group_dro_weights`.
      adjustment: see `group_dro_weights`.
      group_sizes: see `group_dro_weights`.
      where: bool [batch] or None, see `group_means`.
      axis_name: the axis over which the batch is sharded, or None.

    Returns:
      The loss, a float32 (float64 for float64 values) scalar, 0 for a batch without rows; and the
      weights for the next step, from `group_dro_weights`.

    Raises:
      TypeError: an argument of the wrong dtype.
      ValueError: a wrong shape, a group that is not one of num_groups, or an argument that
        `group_dro_weights` refuses.

    Example:
      >>> import jax.numpy as jnp
      >>> from thanos_jax import losses
      >>> values, groups = jnp.array([0.1, 0.3, 4.0]), jnp.array([0, 0, 1])
      >>> weights = jnp.array([0.5, 0.5])
      >>> for _ in range(300):
      ...     loss, weights = losses.robust.group_dro(values, groups, weights)
      >>> round(float(loss), 3)  # the loss of the worst group
      4.0

    References:
      Sagawa, Koh et al., Distributionally Robust Neural Networks for Group Shifts, ICLR 2020,
      algorithm 1, https://arxiv.org/abs/1911.08731
    """
    num_groups = len(vector("weights", weights, "num_groups"))
    means, counts = group_means(values, groups, num_groups, where=where, axis_name=axis_name)
    updated = group_dro_weights(
        weights,
        means,
        counts,
        step_size=step_size,
        adjustment=adjustment,
        group_sizes=group_sizes,
    )
    return jnp.sum(updated.astype(means.dtype) * means), updated


def _groups(value: Any, batch: int, num_groups: int) -> jax.Array:
    """Returns groups as int32 or int64 [batch], after checking concrete values."""
    value = checks.listed("groups", value)
    expected = f"array [batch={batch}], one group for each of values"
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"groups: expected an integer {expected}, got {checks.describe(value)}")
    if value.shape != (batch,):
        raise ValueError(f"groups: expected an {expected}, got {checks.describe(value)}")
    seen = at_hand(value)
    if seen is not None and not 0 <= seen.min() <= seen.max() < num_groups:
        raise ValueError(
            f"groups: expected values from 0 to {num_groups - 1}, "
            f"got {checks.describe(value)} from {seen.min()} to {seen.max()}"
        )
    groups = jnp.asarray(value)
    # Unsigned values that do not fit become negative, and thus are still no valid group.
    return groups.astype(jnp.int64 if groups.dtype.itemsize == 8 else jnp.int32)
