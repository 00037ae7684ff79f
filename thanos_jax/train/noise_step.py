"""One update of a classifier whose labels may be wrong: early-learning regularization, Co-teaching.

Of one view of each image, and of the whole batch, however it is spread over devices.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from thanos_jax import losses
from thanos_jax.losses import checks
from thanos_jax.models.thanos import predict_coarse
from thanos_jax.train.state import TrainState
from thanos_jax.train.step import Metrics, Step, finite, make_views, measured, update

# What a step of early-learning regularization is given of a batch: "row" is each image's number
# among the training images. Co-teaching is given `thanos_jax.train.step.INPUTS`.
ELR_INPUTS = ("image", "coarse", "row")


def make_elr_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: Any,
    mesh: Mesh,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Step:
    """Returns the jitted step (state, batch) -> (state, metrics) of early-learning regularization.

    The loss is the mean cross-entropy, plus config.noise.elr_weight times
    `losses.robust.early_learning_regularization` at the targets of the batch's images. The batch
    has "row" int32 [batch], each in [0, n), and state.targets, of `with_targets`, are float32
    [n, classes]. As in the authors' code, the step first moves the targets of its images, with
    config.noise.elr_momentum, and then uses them. Of an image that is in the batch twice, the
    first occurrence moves the target, and both use it.

    As in `thanos_jax.train.step.make_step`, the batch is sharded over the mesh axis "data", random
    numbers follow from config.seed and state.step, and a step whose loss or gradient is not finite
    leaves the state as it was, targets included.

    Args:
      model: a `thanos_jax.models.thanos.Thanos` of one classifier, as config.method "ce" builds.
      optimizer: the gradient transformation of state.opt_state.
      schedule: step -> learning rate, for the metrics.
      config: the whole config.
      mesh: one axis, "data".
      mean: per channel, of images in [0, 1].
      std: likewise.

    Raises:
      ValueError: by the step, as it is traced: a state without targets, or a model of several
        classifiers.

    Source: Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", arXiv
    2007.00151; the authors' code, https://github.com/shengliu66/ELR, ELR/model/loss.py.
    """
    augmented = make_views(config, mesh, mean=mean, std=std, views=1)
    seed = jax.random.key(config.seed)
    weight, momentum = config.noise.elr_weight, config.noise.elr_momentum

    def step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        if state.targets is None:
            raise ValueError("state: expected one with targets, as with_targets returns, got None")
        table, row = state.targets, batch["row"]
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(seed, state.step))
        images = augmented(augment_key, batch["image"])[:, 0]
        # Of each image the place in the batch where it is first: argmax finds the first True.
        first = jnp.argmax(row[:, None] == row[None, :], axis=1)

        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            logits, model_state = _logits(model, params, state.model_state, images, dropout_key)
            targets = losses.robust.update_targets(table[row], logits, momentum)
            values, metrics = _cross_entropies(logits, batch["coarse"])
            regularization = losses.robust.early_learning_regularization(logits, targets[first])
            metrics["early_learning_regularization"] = regularization
            return values.mean() + weight * regularization, (metrics, model_state, targets)

        differentiate = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (metrics, model_state, targets)), gradient = differentiate(state.params)
        metrics |= measured(loss, gradient, schedule, state)
        state = update(state, gradient, optimizer, metrics, model_state=model_state)
        # Row n is dropped: that of later occurrences, as which of several writes wins is up to the
        # backend, and all rows of a step that is to change nothing.
        writes = finite(metrics) & (first == jnp.arange(len(row)))
        table = table.at[jnp.where(writes, row, len(table))].set(targets, mode="drop")
        return dataclasses.replace(state, targets=table), metrics

    return jax.jit(step, donate_argnums=0)


def with_targets(state: TrainState, size: int, num_classes: int) -> TrainState:
    """Returns a state with targets of early-learning regularization, 0 at first.

    Args:
      state: before the first step; the targets lie on the devices that its step lies on.
      size: n, training images.
      num_classes: classes of the classifier.
    """
    targets = jnp.zeros((size, num_classes), jnp.float32, device=state.step.sharding)
    return dataclasses.replace(state, targets=targets)


def make_co_teaching_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: Any,
    mesh: Mesh,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    keep_rate: Callable[[jax.Array], Any],
) -> Step:
    """Returns the jitted step (state, batch) -> (state, metrics) of Co-teaching, of a `pair`.

    Both networks see the same view of each image, with dropout of their own. The loss of each is
    its mean cross-entropy over those images on which the other's is smallest, a share
    keep_rate(state.step) of the batch: see `losses.robust.small_loss_selection`. "loss" is the sum
    of both, "gradient_norm" that of the pair; "cross_entropy" and "coarse_accuracy" are the first
    network's, on the whole batch.

    As in `thanos_jax.train.step.make_step`, the batch is sharded over the mesh axis "data", random
    numbers follow from config.seed and state.step, and a step whose loss or gradient is not finite,
    of either network, leaves both as they were.

    Args:
      model: a `thanos_jax.models.thanos.Thanos` of one classifier, as config.method "ce" builds.
      optimizer: the gradient transformation of state.opt_state; one that acts on each parameter by
        itself, as that of `thanos_jax.train.state.make_optimizer`, is to the pair what two are.
      schedule: step -> learning rate, for the metrics.
      config: the whole config.
      mesh: one axis, "data".
      mean: per channel, of images in [0, 1].
      std: likewise.
      keep_rate: int32 scalar, state.step -> scalar in [0, 1]; as from `keep_rate_schedule`.

    Raises:
      ValueError: by the step, as it is traced: a model of several classifiers.

    Source: Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy
    Labels", arXiv 1804.06872, algorithm 1.
    """
    augmented = make_views(config, mesh, mean=mean, std=std, views=1)
    seed = jax.random.key(config.seed)

    def step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(seed, state.step))
        images = augmented(augment_key, batch["image"])[:, 0]
        keys = dict(zip(("first", "second"), jax.random.split(dropout_key), strict=True))
        rate = keep_rate(state.step)

        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            values, metrics, model_state = {}, {}, {}
            for name, key in keys.items():
                logits, model_state[name] = _logits(
                    model, params[name], state.model_state[name], images, key
                )
                values[name], metrics[name] = _cross_entropies(logits, batch["coarse"])
            loss = jnp.zeros(())
            for name, other in (("first", "second"), ("second", "first")):
                chosen = losses.robust.small_loss_selection(values[other], rate)
                loss += losses.robust.weighted_mean(
                    values[name], jnp.ones(len(images)), where=chosen
                )
            return loss, (metrics["first"], model_state)

        differentiate = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (metrics, model_state)), gradient = differentiate(state.params)
        metrics |= measured(loss, gradient, schedule, state)
        metrics["keep_rate"] = jnp.asarray(rate)
        return update(state, gradient, optimizer, metrics, model_state=model_state), metrics

    return jax.jit(step, donate_argnums=0)


def keep_rate_schedule(forget_rate: float, forget_steps: float) -> Callable[[Any], jax.Array]:
    """Returns step -> the share of a batch that Co-teaching keeps, a float32 scalar.

    R(t) = 1 - forget_rate min(t / forget_steps, 1),    t the step, from 0

    The paper's, but that it counts t in epochs.

    Args:
      forget_rate: the share that is forgotten in the end, in [0, 1]: that of wrong labels.
      forget_steps: over which it rises from 0, need not be whole; with 0 it is reached at once.

    Raises:
      TypeError: an argument that is not a number.
      ValueError: a forget_rate outside [0, 1]; forget_steps negative or not finite.
    """
    forget_rate = float(checks.weight("forget_rate", forget_rate))
    forget_steps = float(checks.scalar("forget_steps", forget_steps))
    if not 0 <= forget_steps < math.inf:
        raise ValueError(f"forget_steps: expected a finite number >= 0, got {forget_steps:g}")

    def keep_rate(step: Any) -> jax.Array:
        progress = jnp.asarray(step, jnp.float32) / forget_steps if forget_steps else jnp.ones(())
        return 1.0 - forget_rate * jnp.minimum(progress, 1.0)

    return keep_rate


def pair(
    first: TrainState, second: TrainState, optimizer: optax.GradientTransformation
) -> TrainState:
    """Returns the state of two networks, of which each teaches the other.

    Args:
      first: before the first step.
      second: likewise, of the same model and devices; its parameters are from another seed, or
        both networks would see the same small losses.
      optimizer: the state's optimizer is its, of all parameters of the pair.

    Returns:
      A state of which params and model_state are {"first": ..., "second": ...}. Its arrays are
      those of the states given.
    """
    params = {"first": first.params, "second": second.params}
    # Placed like all else, or a state restored in its likeness would lie on other devices in part.
    initial = jax.jit(optimizer.init, out_shardings=first.step.sharding)
    return TrainState(
        step=first.step,
        params=params,
        model_state={"first": first.model_state, "second": second.model_state},
        opt_state=initial(params),
    )


def first_of(state: TrainState) -> TrainState:
    """Returns the first network of a pair as a state of its own, to embed and evaluate with.

    Args:
      state: of `pair`, or of a step since.

    Returns:
      A state without an optimizer's, which cannot be trained. Its arrays are those of the pair.
    """
    return TrainState(
        step=state.step,
        params=state.params["first"],
        model_state=state.model_state["first"],
        opt_state=(),
    )


def _logits(
    model: nn.Module, params: Any, model_state: Any, images: jax.Array, dropout_key: jax.Array
) -> tuple[jax.Array, Any]:
    """Returns the logits of the model's only classifier, in training, and its new model_state."""
    outputs: Any
    outputs, model_state = model.apply(
        {"params": params, **model_state},
        images,
        train=True,
        rngs={"dropout": dropout_key},
        mutable=list(model_state),
    )
    if len(outputs["logits"]) != 1:
        raise ValueError(f"model: expected one classifier, got {len(outputs['logits'])}")
    return outputs["logits"][0], model_state


def _cross_entropies(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, Metrics]:
    """Returns the cross-entropy of each image, and the metrics of the batch."""
    values = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return values, {
        "cross_entropy": values.mean(),
        "coarse_accuracy": (predict_coarse((logits,)) == labels).mean(),
    }
