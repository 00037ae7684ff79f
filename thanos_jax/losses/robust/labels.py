"""Early-learning regularization and Co-teaching: losses for wrong labels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from thanos_jax.losses import checks, placement
from thanos_jax.losses.pairs.axes import AxisName, gather
from thanos_jax.losses.pairs.entries import compute_dtype
from thanos_jax.losses.robust.inputs import logits_and_targets, vector
from thanos_jax.losses.robust.weighted import mean

# The official code of early-learning regularization clamps probabilities this far from 0 and 1.
_CLAMP = 1e-4


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
    logits, targets = logits_and_targets(logits, targets)
    where = checks.where(where, len(logits))
    dtype = compute_dtype(logits, targets)
    # Padding may hold anything; 0 * NaN in the backward pass must not reach the model.
    logits = jnp.where(where[:, None], logits.astype(dtype), 0.0)
    # Rounding may leave a target a little above 1, which has no logarithm.
    rest = jnp.maximum(1.0 - lax.stop_gradient(targets.astype(dtype)), 0.0)
    per_row = jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=-1, b=rest)
    rows = {"values": per_row, "where": where}
    return placement.place(mean, None, rows, None, axis_name)


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
    logits, targets = logits_and_targets(logits, targets)
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
    values = lax.stop_gradient(vector("values", values, "batch"))
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
