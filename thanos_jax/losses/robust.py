"""Losses for rare groups and wrong labels, from one value or one row of logits per image.

    import jax
    import jax.numpy as jnp
    from thanos_jax import losses

    def objective(params, weights):
        values = ...  # [batch], for instance the cross-entropy of each image
        return losses.robust.group_dro(values, groups, weights, axis_name="data")

    weights = jnp.full(num_groups, 1 / num_groups)
    (loss, weights), gradient = jax.value_and_grad(objective, has_aux=True)(params, weights)

For groups that are rare in training: `group_dro` (group distributionally robust optimization) and
`weighted_mean` (reweighting; Just Train Twice). For wrong labels: `early_learning_regularization`,
which is added to the cross-entropy, and `small_loss_selection` (Co-teaching).

`where` and `axis_name` are as in the other losses; see `thanos_jax.losses`. Results are computed
over the global batch and are the same on every device. The exceptions are `small_loss_selection`
and `update_targets`, which return one row per row. State that is carried from step to step (weights
of groups, targets of images) is an argument and a result; no gradient flows through it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from thanos_jax.losses import checks, placement
from thanos_jax.losses.pairs.axes import AxisName, gather
from thanos_jax.losses.pairs.entries import compute_dtype
from thanos_jax.losses.reduction import reduce

__all__ = [
    "early_learning_regularization",
    "group_dro",
    "group_dro_weights",
    "group_means",
    "small_loss_selection",
    "update_targets",
    "weighted_mean",
]

# The official code of early-learning regularization clamps probabilities this far from 0 and 1.
_CLAMP = 1e-4


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
    values = _vector("values", values, "batch")
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
    given = _vector("weights", weights, "num_groups")
    _not_negative("weights", weights)
    seen = _at_hand(weights)
    if seen is not None and not np.any(seen > 0):
        raise ValueError(f"weights: expected a positive one, got {checks.describe(weights)} of 0")
    num_groups = len(given)
    dtype = compute_dtype(given)
    q = given.astype(dtype)
    group_losses = _vector("group_losses", group_losses, "num_groups", num_groups).astype(dtype)
    counts = _vector("counts", counts, "num_groups", num_groups, integers=True)
    step_size = _not_negative("step_size", checks.scalar("step_size", step_size))
    adjustment = _not_negative("adjustment", checks.scalar("adjustment", adjustment))

    gain = jnp.where(counts > 0, group_losses, 0.0)
    if group_sizes is not None:
        sizes = _vector("group_sizes", group_sizes, "num_groups", num_groups, integers=True)
        _not_negative("group_sizes", group_sizes)
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
    num_groups = len(_vector("weights", weights, "num_groups"))
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
    values = _vector("values", values, "batch")
    weights = _vector("sample_weights", sample_weights, "batch", len(values), integers=True)
    _not_negative("sample_weights", sample_weights)
    where = checks.where(where, len(values))
    dtype = compute_dtype(values, weights)
    # Padding may hold anything; 0 * NaN in the backward pass must not reach the model.
    values = jnp.where(where, values.astype(dtype), 0.0)
    rows = {"values": weights.astype(dtype) * values, "where": where}
    return placement.place(_mean, None, rows, None, axis_name)


def _mean(
    _: None, rows: dict[str, jax.Array], shared: None, axis_name: AxisName | None
) -> jax.Array:
    return reduce(rows["values"], rows["where"], reduction="mean", axis_name=axis_name)


def early_learning_regularization(
    logits: Any, targets: Any, *, where: Any = None, axis_name: AxisName | None = None
) -> jax.Array:
    """Early-learning regularization: keeps predictions close to earlier predictions.

    mean_i log(1 - <p_i, t_i>),    p_i the softmax of the logits, t_i the target of image i
    It is added to the cross-entropy, times a factor (the authors use 3 on CIFAR10, 7 on CIFAR100).
    Targets are running averages of p_i. Compute them with `update_targets` before the loss, with
    the logits of this batch.

    The value is computed as log sum_c p_ic (1 - t_ic) in log space, which loses no digits if
    <p_i, t_i> is nearly 1 and has a bounded gradient. The authors' code clamps p_i to
    [1e-4, 1 - 1e-4] instead, without gradient outside; here only targets are clamped.

    Args:
      logits: float [batch, classes], at least two classes.
      targets: float [batch, classes], in [0, 1]; rows need not sum to 1, but the loss of a row of
        ones is log 0. Constant for the gradient.
      where: bool [batch]; False is padding and is left out. None: every row counts.
      axis_name: inside `jax.pmap` or `jax.shard_map`, the axis over which the batch is sharded; the
        mean is then over the global batch.

    Returns:
      Scalar, not positive, float32, or float64 if an argument is float64; 0 if there is no row.

    Raises:
      TypeError: an argument of the wrong dtype.
      ValueError: a wrong shape, one class.

    Example:
      >>> import jax.numpy as jnp
      >>> from thanos_jax import losses
      >>> logits = jnp.log(jnp.array([[0.75, 0.25]]))
      >>> targets = jnp.array([[1.0, 0.0]])
      >>> round(float(losses.robust.early_learning_regularization(logits, targets)), 4)  # log 0.25
      -1.3863

    References:
      Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels, NeurIPS 2020,
      https://arxiv.org/abs/2007.00151; the authors' code, https://github.com/shengliu66/ELR
    """
    logits, targets = _logits_and_targets(logits, targets)
    where = checks.where(where, len(logits))
    dtype = compute_dtype(logits, targets)
    # Padding may hold anything; 0 * NaN in the backward pass must not reach the model.
    logits = jnp.where(where[:, None], logits.astype(dtype), 0.0)
    # Rounding may leave a target a little above 1, which has no logarithm.
    rest = jnp.maximum(1.0 - lax.stop_gradient(targets.astype(dtype)), 0.0)
    per_row = jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=-1, b=rest)
    rows = {"values": per_row, "where": where}
    return placement.place(_mean, None, rows, None, axis_name)


def update_targets(targets: Any, logits: Any, momentum: Any = 0.7) -> jax.Array:
    """Updates the targets of `early_learning_regularization`, moving averages of predictions.

    momentum t_i + (1 - momentum) c(p_i),    p_i the softmax of the logits
    c clamps to [1e-4, 1 - 1e-4] and divides by the sum, as the authors' code does.

    Keep targets for every image of the training set, starting at 0:

        new = losses.robust.update_targets(table[index], logits)
        loss = loss + factor * losses.robust.early_learning_regularization(logits, new)
        table = table.at[index].set(new)

    Args:
      targets: float [batch, classes], the targets of the images in this batch.
      logits: float [batch, classes], at least two classes.
      momentum: scalar in [0, 1]; the authors use 0.7 on CIFAR10, 0.9 on CIFAR100.

    Returns:
      The updated targets, [batch, classes], float32, or float64 if an argument is float64. No
      gradient flows through them.

    Raises:
      TypeError: an argument of the wrong dtype.
      ValueError: a wrong shape, one class, a momentum outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from thanos_jax import losses
      >>> logits = jnp.log(jnp.array([[0.75, 0.25]]))
      >>> targets = losses.robust.update_targets(jnp.array([[0.5, 0.5]]), logits, momentum=0.6)
      >>> [round(float(target), 4) for target in targets[0]]
      [0.6, 0.4]

    References:
      Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels, NeurIPS 2020,
      https://arxiv.org/abs/2007.00151; the authors' code, https://github.com/shengliu66/ELR,
      ELR/model/loss.py
    """
    logits, targets = _logits_and_targets(logits, targets)
    dtype = compute_dtype(logits, targets)
    momentum = jnp.asarray(checks.weight("momentum", momentum), dtype)
    probabilities = jnp.clip(jax.nn.softmax(logits.astype(dtype)), _CLAMP, 1.0 - _CLAMP)
    probabilities = probabilities / jnp.sum(probabilities, axis=-1, keepdims=True)
    updated = momentum * targets.astype(dtype) + (1.0 - momentum) * probabilities
    return lax.stop_gradient(updated)


def small_loss_selection(
    values: Any, keep_rate: Any, *, where: Any = None, axis_name: AxisName | None = None
) -> jax.Array:
    """Selects the rows with the smallest losses, whose labels are most likely to be right.

    The global batch has N rows; keep_rate N of them are chosen, rounded up, so that a small rate
    still chooses a row. (The authors' code rounds down.) Among equal losses the first rows are
    chosen, in the order of devices; NaN counts as the largest.

    Co-teaching trains two models, each on the rows that the other chose:

        chosen_by_g = losses.robust.small_loss_selection(values_g, keep_rate)
        loss_f = losses.robust.weighted_mean(values_f, jnp.ones(batch), where=chosen_by_g)

    Args:
      values: float [batch], the loss of each image.
      keep_rate: scalar in [0, 1], the share that is kept. It is reduced by 2.4e-7 (4.4e-16 for
        float64 values), so that rounding errors cannot turn 0.7 times 10 into 8 rows.
      where: bool [batch]; False marks padding, which is not among the N rows and never chosen.
      axis_name: inside `jax.pmap` or `jax.shard_map`, the axis over which the batch is sharded; the
        losses of all devices are then compared.

    Returns:
      bool [batch], whether each row of this device is chosen. No gradient flows through it.

    Raises:
      TypeError: an argument of the wrong dtype.
      ValueError: a wrong shape, a keep_rate outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from thanos_jax import losses
      >>> values = jnp.array([0.3, 0.1, 9.0, 0.2, 0.3])
      >>> losses.robust.small_loss_selection(values, 0.6).tolist()
      [True, True, False, True, False]

    References:
      Han et al., Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels,
      NeurIPS 2018, https://arxiv.org/abs/1804.06872; the authors' code,
      https://github.com/bhanML/Co-teaching, loss.py
    """
    values = lax.stop_gradient(_vector("values", values, "batch"))
    keep_rate = checks.weight("keep_rate", keep_rate)
    where = checks.where(where, len(values))
    share = jnp.asarray(keep_rate, compute_dtype(values))
    rows = {"values": values.astype(share.dtype), "where": where}
    return placement.place(_small_losses, None, rows, share, axis_name, per_row=True)


def _small_losses(
    _: None, rows: dict[str, jax.Array], keep_rate: jax.Array, axis_name: AxisName | None
) -> jax.Array:
    values, where = rows["values"], rows["where"]
    batch = len(values)
    if axis_name is not None:
        values, where = (gather(x, axis_name) for x in (values, where))
    count = jnp.sum(where, dtype=jnp.int32)
    share = keep_rate - 2 * float(jnp.finfo(keep_rate.dtype).eps)
    kept = jnp.ceil(share * count.astype(share.dtype)).astype(jnp.int32)
    order = jnp.lexsort((values, ~where))  # padding last, then by loss, then by row
    chosen = jnp.zeros(len(values), bool).at[order].set(jnp.arange(len(values)) < kept)
    if axis_name is None:
        return chosen
    return lax.dynamic_slice_in_dim(chosen, lax.axis_index(axis_name) * batch, batch)


def _vector(
    name: str, value: Any, axis: str, length: int | None = None, *, integers: bool = False
) -> jax.Array:
    """Returns a non-empty float array of one axis; with `integers`, an integer array too."""
    expected = f"array [{axis}]" if length is None else f"array [{axis}={length}]"
    if integers:
        value = checks.listed(name, value)
    kinds = (jnp.floating, jnp.integer) if integers else (jnp.floating,)
    if not hasattr(value, "dtype") or not any(jnp.issubdtype(value.dtype, kind) for kind in kinds):
        which = "a floating point or integer" if integers else "a floating point"
        raise TypeError(f"{name}: expected {which} {expected}, got {checks.describe(value)}")
    if value.ndim != 1 or 0 in value.shape or length not in (None, len(value)):
        which = "a non-empty" if length is None else "an"
        raise ValueError(f"{name}: expected {which} {expected}, got {checks.describe(value)}")
    return jnp.asarray(value)


def _groups(value: Any, batch: int, num_groups: int) -> jax.Array:
    """Returns groups as int32 or int64 [batch], after checking concrete values."""
    value = checks.listed("groups", value)
    expected = f"array [batch={batch}], one group for each of values"
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"groups: expected an integer {expected}, got {checks.describe(value)}")
    if value.shape != (batch,):
        raise ValueError(f"groups: expected an {expected}, got {checks.describe(value)}")
    seen = _at_hand(value)
    if seen is not None and not 0 <= seen.min() <= seen.max() < num_groups:
        raise ValueError(
            f"groups: expected values from 0 to {num_groups - 1}, "
            f"got {checks.describe(value)} from {seen.min()} to {seen.max()}"
        )
    groups = jnp.asarray(value)
    # Unsigned values that do not fit become negative, and thus are still no valid group.
    return groups.astype(jnp.int64 if groups.dtype.itemsize == 8 else jnp.int32)


def _logits_and_targets(logits: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    """Returns logits and targets as non-empty float arrays [batch, classes] of equal shape."""
    for name, value in (("logits", logits), ("targets", targets)):
        checks.floating(name, value)
    if logits.ndim != 2 or logits.shape[0] < 1 or logits.shape[1] < 2:
        raise ValueError(
            "logits: expected a non-empty array [batch, classes] of at least two classes, "
            f"got {checks.describe(logits)}"
        )
    if targets.shape != logits.shape:
        raise ValueError(
            f"targets: expected the shape of logits, {list(logits.shape)}, "
            f"got {checks.describe(targets)}"
        )
    return jnp.asarray(logits), jnp.asarray(targets)


def _not_negative(name: str, value: Any) -> Any:
    """Returns the value; raises ValueError if it is concrete and negative, infinite or NaN."""
    seen = _at_hand(value)
    if seen is not None and not np.all((seen >= 0) & (seen < np.inf)):
        shown = f"{seen.item():g}" if seen.ndim == 0 else checks.describe(value)
        if seen.ndim:
            shown += f" {seen}" if seen.size <= 8 else f" from {seen.min():g} to {seen.max():g}"
        raise ValueError(f"{name}: expected no negative and only finite values, got {shown}")
    return value


def _at_hand(value: Any) -> np.ndarray | None:
    """Returns the values as a NumPy array; None if they are traced or partly on other machines."""
    if isinstance(value, jax.core.Tracer) or not getattr(value, "is_fully_addressable", True):
        return None
    return np.asarray(value)
