"""Objectives of a classifier: weighted and robust cross-entropies on one view of each image.

Each is the loss of the global batch, for any number of devices.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from thanos_jax import losses, sharding
from thanos_jax.losses import checks
from thanos_jax.models.thanos import predict_coarse
from thanos_jax.train import update
from thanos_jax.train.build import Training
from thanos_jax.train.forward import TrainForward, make_train_forward
from thanos_jax.train.state import TrainState


def weighted(training: Training) -> update.Objective:
    """Returns the objective: the mean over images of "weight" times the cross-entropy.

    Args:
      training: training of a classifier; the batch must have "weight" float32 [batch].
    """
    forward = _one_view(training)

    def loss(params: Any, state: TrainState, batch: update.Batch) -> Any:
        outputs, _, model_state = forward(params, state.model_state, batch)
        values, metrics = _cross_entropies(outputs["logits"], batch["coarse"])
        mean = losses.robust.weighted_mean(values, batch["weight"])
        return mean, (metrics, {"model_state": model_state})

    return update.Objective(("image", "coarse", "weight"), update.of_loss(loss))


def soft(training: Training) -> update.Objective:
    """Returns the objective: the mean over images of the cross-entropy with soft labels.

    The metric "coarse_accuracy" counts the given labels.

    Args:
      training: training of a classifier; the batch must have "target" float32 [batch, classes],
        the probabilities of the classes.
    """
    forward = _one_view(training)

    def loss(params: Any, state: TrainState, batch: update.Batch) -> Any:
        outputs, _, model_state = forward(params, state.model_state, batch)
        _, metrics = _cross_entropies(outputs["logits"], batch["coarse"])
        values = sum(
            optax.softmax_cross_entropy(logits, batch["target"]) for logits in outputs["logits"]
        )
        value = jnp.mean(values)
        return value, ({**metrics, "cross_entropy": value}, {"model_state": model_state})

    return update.Objective(("image", "coarse", "target"), update.of_loss(loss))


def group_dro(training: Training, group_sizes: np.ndarray) -> update.Objective:
    """Returns the objective of group DRO, which also updates state.group_weights.

    A group may be absent from a device or a batch.

    Args:
      training: training of a classifier; the batch must have "group" int32 [batch].
      group_sizes: integer [groups], number of training images of each group.

    Source: Sagawa, Koh et al., "Distributionally Robust Neural Networks for Group Shifts", arXiv
    1911.08731, algorithm 1.
    """
    forward, config = _one_view(training), training.config.groups

    def loss(params: Any, state: TrainState, batch: update.Batch) -> Any:
        outputs, _, model_state = forward(params, state.model_state, batch)
        values, metrics = _cross_entropies(outputs["logits"], batch["coarse"])
        value, group_weights = losses.robust.group_dro(
            values,
            batch["group"],
            state.group_weights,
            step_size=config.group_dro_step_size,
            adjustment=config.group_dro_adjustment,
            group_sizes=group_sizes,
        )
        metrics["largest_group_weight"] = group_weights.max()
        return value, (metrics, {"model_state": model_state, "group_weights": group_weights})

    return update.Objective(("image", "coarse", "group"), update.of_loss(loss))


def with_group_weights(training: Training, group_sizes: np.ndarray) -> TrainState:
    """Returns the state before the first step of group DRO, with equal weights of groups.

    Args:
      training: training of a classifier.
      group_sizes: integer [groups], number of training images of each group. Empty groups have
        weight 0, because they never have a loss.
    """
    weights = np.asarray(group_sizes > 0, np.float32) / np.float32(np.count_nonzero(group_sizes))
    weights = sharding.replicate(training.mesh, weights)
    return dataclasses.replace(training.state, group_weights=weights)


def early_learning_regularization(training: Training) -> update.Objective:
    """Returns the objective of early-learning regularization, which also updates state.targets.

    The loss is the mean cross-entropy, plus config.noise.elr_weight times
    `losses.robust.early_learning_regularization` with the targets of the batch's images. As in the
    authors' code, the step first updates the targets of its images, with config.noise.elr_momentum,
    and then uses them. If an image is in the batch twice, its first occurrence updates the target,
    and both use it.

    Args:
      training: training of a model with one classifier, as config.method "ce" builds it; the batch
        must have "row" int32 [batch], each image's number among the training images.

    Raises:
      ValueError: raised when the step is traced, if the state has no targets or the model has
        several classifiers.

    Source: Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", arXiv
    2007.00151; the authors' code, https://github.com/shengliu66/ELR, ELR/model/loss.py.
    """
    forward, config = _one_view(training), training.config.noise

    def loss(params: Any, state: TrainState, batch: update.Batch) -> Any:
        if state.targets is None:
            raise ValueError("state: expected one with targets, as with_targets returns, got None")
        row = batch["row"]
        # First position of each image in the batch: argmax finds the first True.
        first = jnp.argmax(row[:, None] == row[None, :], axis=1)
        outputs, _, model_state = forward(params, state.model_state, batch)
        logits = _only(outputs["logits"])
        targets = losses.robust.update_targets(state.targets[row], logits, config.elr_momentum)
        values, metrics = _cross_entropies((logits,), batch["coarse"])
        regularization = losses.robust.early_learning_regularization(logits, targets[first])
        metrics["early_learning_regularization"] = regularization
        # Later occurrences are dropped, because the backend decides which of several writes wins.
        written = jnp.where(first == jnp.arange(len(row)), row, len(state.targets))
        moved = {"model_state": model_state, "targets": update.Rows(written, targets)}
        return values.mean() + config.elr_weight * regularization, (metrics, moved)

    return update.Objective(("image", "coarse", "row"), update.of_loss(loss))


def with_targets(training: Training) -> TrainState:
    """Returns the state before the first step, with targets 0, float32 [images, classes].

    Args:
      training: training of a classifier.
    """
    shape = (len(training.dataset.splits["train"]), len(training.dataset.coarse_names))
    targets = sharding.replicate(training.mesh, np.zeros(shape, np.float32))
    return dataclasses.replace(training.state, targets=targets)


def co_teaching(
    training: Training, keep_rate: Callable[[jax.Array], jax.Array]
) -> update.Objective:
    """Returns the objective of Co-teaching, whose state is a `pair` of networks.

    Both networks get the same view of each image, with independent dropout. Each network minimizes
    its mean cross-entropy over the images on which the other network's cross-entropy is smallest, a
    share keep_rate(state.step) of the batch; see `losses.robust.small_loss_selection`. The metric
    "loss" is the sum of both losses and "gradient_norm" the norm over both networks;
    "cross_entropy" and "coarse_accuracy" are the first network's, on the whole batch.

    Args:
      training: training of a model with one classifier, as config.method "ce" builds it. One
        optimizer updates the pair; if it acts on each parameter separately, this equals two
        optimizers.
      keep_rate: state.step, int32 scalar -> scalar in [0, 1]; for instance `keep_rate_schedule`.

    Raises:
      ValueError: raised when the step is traced, if the model has several classifiers.

    Source: Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy
    Labels", arXiv 1804.06872, algorithm 1.
    """
    forward = _one_view(training)

    def loss(params: Any, state: TrainState, batch: update.Batch) -> Any:
        keys = dict(zip(("first", "second"), jax.random.split(batch["dropout"]), strict=True))
        rate = keep_rate(state.step)
        values, metrics, model_state = {}, {}, {}
        for name, key in keys.items():
            outputs, _, model_state[name] = forward(
                params[name], state.model_state[name], {**batch, "dropout": key}
            )
            logits = (_only(outputs["logits"]),)
            values[name], metrics[name] = _cross_entropies(logits, batch["coarse"])
        total = jnp.zeros(())
        for name, other in (("first", "second"), ("second", "first")):
            chosen = losses.robust.small_loss_selection(values[other], rate)
            ones = jnp.ones(len(batch["coarse"]))
            total += losses.robust.weighted_mean(values[name], ones, where=chosen)
        metrics["first"]["keep_rate"] = jnp.asarray(rate)
        return total, (metrics["first"], {"model_state": model_state})

    return update.Objective(("image", "coarse"), update.of_loss(loss))


def keep_rate_schedule(forget_rate: float, forget_steps: float) -> Callable[[Any], jax.Array]:
    """Returns the schedule step -> share of a batch that Co-teaching keeps, a float32 scalar.

    R(t) = 1 - forget_rate min(t / forget_steps, 1),    t the step, from 0

    The paper counts t in epochs.

    Args:
      forget_rate: the final share of forgotten images, in [0, 1]; usually the share of wrong
        labels.
      forget_steps: number of steps over which the share rises from 0, not necessarily whole; 0: it
        starts at forget_rate.

    Raises:
      TypeError: an argument is not a number.
      ValueError: forget_rate is outside [0, 1], or forget_steps is negative or not finite.
    """
    forget_rate = float(checks.weight("forget_rate", forget_rate))
    forget_steps = float(checks.scalar("forget_steps", forget_steps))
    if not 0 <= forget_steps < math.inf:
        raise ValueError(f"forget_steps: expected a finite number >= 0, got {forget_steps:g}")

    def keep_rate(step: Any) -> jax.Array:
        progress = jnp.asarray(step, jnp.float32) / forget_steps if forget_steps else jnp.ones(())
        return 1.0 - forget_rate * jnp.minimum(progress, 1.0)

    return keep_rate


def pair(training: Training, second: TrainState) -> TrainState:
    """Returns the state of the two networks of Co-teaching, before the first step.

    Args:
      training: training of the first network.
      second: state of the second network, with the same model and devices. Its parameters must be
        from another seed; otherwise both networks would have the same small losses.

    Returns:
      A state whose params and model_state are {"first": ..., "second": ...}, with one optimizer
      state for all parameters. It shares the arrays of the given states.
    """
    first = training.state
    params = {"first": first.params, "second": second.params}
    # Placed like the other arrays, so that a restored state has all arrays on the same devices.
    initial = jax.jit(training.optimizer.init, out_shardings=first.step.sharding)
    return TrainState(
        step=first.step,
        params=params,
        model_state={"first": first.model_state, "second": second.model_state},
        opt_state=initial(params),
    )


def first_of(state: TrainState) -> TrainState:
    """Returns the state of the first network of a pair, for embedding and evaluation.

    Args:
      state: state of a pair, from `pair` or a later step.

    Returns:
      A state without optimizer state, which cannot be trained. It shares the arrays of the pair.
    """
    return TrainState(
        step=state.step,
        params=state.params["first"],
        model_state=state.model_state["first"],
        opt_state=(),
    )


def _one_view(training: Training) -> TrainForward:
    return make_train_forward(
        training.model,
        training.inputs,
        training.config.augment.to_dict(),
        training.mesh,
        views=1,
    )


def _only(logits: tuple[jax.Array, ...]) -> jax.Array:
    """Returns the logits of the model's only classifier."""
    if len(logits) != 1:
        raise ValueError(f"model: expected one classifier, got {len(logits)}")
    return logits[0]


def _cross_entropies(
    logits: tuple[jax.Array, ...], labels: jax.Array
) -> tuple[jax.Array, update.Metrics]:
    """Returns the cross-entropy of each image, summed over classifiers, and batch metrics."""
    values = jnp.zeros(len(labels))
    for each in logits:
        values += optax.softmax_cross_entropy_with_integer_labels(each, labels)
    return values, {
        "cross_entropy": values.mean(),
        "coarse_accuracy": (predict_coarse(logits) == labels).mean(),
    }
