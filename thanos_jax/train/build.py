"""Builds a training: model, optimizer, schedule, and the state before the first step."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import ml_collections
import optax
from flax import linen as nn
from jax.sharding import Mesh

from thanos_jax import sharding
from thanos_jax.data import random_bits
from thanos_jax.data.balanced import ClassBalance
from thanos_jax.data.dataset import Dataset, labels
from thanos_jax.data.unlabelled import with_unlabelled
from thanos_jax.errors import ConfigError
from thanos_jax.models import pretrained, thanos
from thanos_jax.train import forward, optimizers
from thanos_jax.train import state as train_state
from thanos_jax.train.objective import METHODS


class Training(NamedTuple):
    """One training, ready to start.

    Attributes:
      config: the whole config.
      dataset: the data set; its coarse labels are the classes.
      mesh: mesh of the devices, with one axis "data".
      model: the encoders, decoder and classifiers.
      optimizer: the gradient transformation of state.opt_state.
      schedule: step -> learning rate.
      state: state before the first step, replicated on the devices of the mesh.
      inputs: (images, stored images) -> input of the model.
      forward: (variables, images uint8) -> outputs of the model in evaluation, jitted.
      steps: number of updates of the whole training.
      steps_per_epoch: steps per epoch, not necessarily whole.
      input_shape: (h, w, c) of the model's input; c includes the random bits.
      balance: draws class-balanced batches; None: images are drawn regardless of class.
    """

    config: ml_collections.ConfigDict
    dataset: Dataset
    mesh: Mesh
    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    state: train_state.TrainState
    inputs: forward.Inputs
    forward: forward.Forward
    steps: int
    steps_per_epoch: float
    input_shape: tuple[int, int, int]
    balance: ClassBalance | None = None


def count_steps(config: Any, size: int) -> tuple[int, float]:
    """Returns the number of steps of a training, and the steps per epoch, not necessarily whole.

    Args:
      config: config.train.
      size: number of images of the training split.
    """
    steps_per_epoch = size / config.batch_size
    steps = max(1, round(config.epochs * steps_per_epoch))
    return (min(steps, config.max_steps) if config.max_steps else steps), steps_per_epoch


def some_unlabelled(config: ml_collections.ConfigDict, dataset: Dataset) -> bool:
    """Returns whether there are unlabelled images that config.method can learn from."""
    return dataset.unlabelled is not None and METHODS[config.method].learns_without_labels


def training_split(config: ml_collections.ConfigDict, dataset: Dataset) -> Any:
    """Returns the training split, with the unlabelled images if config.method can use them."""
    train = dataset.splits["train"]
    if dataset.unlabelled is None or not some_unlabelled(config, dataset):
        return train
    return with_unlabelled(train, dataset.unlabelled)


def build(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    mesh: Mesh,
    *,
    resumes: bool = False,
    shapes_only: bool = False,
) -> Training:
    """Builds the model, its state and everything else that a training needs.

    Args:
      config: a checked config.
      dataset: from `thanos_jax.data.sources.load`.
      mesh: from `thanos_jax.sharding.make_mesh`.
      resumes: whether a checkpoint will replace the state; config.model.weights is then not read.
      shapes_only: whether the state has `jax.ShapeDtypeStruct` leaves; nothing is then compiled.

    Raises:
      ConfigError: a class-balanced batch would have more classes than there are.
      WeightsError: config.model.weights cannot be used for the encoder; raised before compilation.
    """
    balance = balanced_classes(config, dataset)
    model, input_shape = make_model(config, dataset)
    steps, steps_per_epoch = count_steps(config.train, len(training_split(config, dataset)))
    schedule = optimizers.learning_rate(config.train, steps=steps, steps_per_epoch=steps_per_epoch)
    optimizer = optimizers.make_optimizer(config.train, schedule)
    weights = None
    if config.model.weights and not (resumes or shapes_only):
        weights = pretrained.load(config.model.weights, model.encoders[0], input_shape)
    # rbg compiles several times as fast as the default generator, and nothing here is sharded.
    key = jax.random.key(config.seed, impl="rbg")
    make: Any = functools.partial(train_state.create, model, optimizer, image_shape=input_shape)
    state: Any = jax.eval_shape(make, key) if shapes_only else make(key)
    if weights is not None:
        # Some encoders, and some models, have no running averages.
        averages = {
            name: pretrained.replace_encoders(part, weights[name]) if weights.get(name) else part
            for name, part in state.model_state.items()
        }
        params = pretrained.replace_encoders(state.params, weights["params"])
        state = state.replace(params=params, model_state=averages)
    inputs = forward.make_inputs(config.data, dataset)
    return Training(
        config=config,
        dataset=dataset,
        mesh=mesh,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        state=state if shapes_only else sharding.replicate(mesh, state),
        inputs=inputs,
        forward=forward.make_forward(model, inputs),
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        input_shape=input_shape,
        balance=balance,
    )


def balanced_classes(config: ml_collections.ConfigDict, dataset: Dataset) -> ClassBalance | None:
    """Returns the sampler of class-balanced batches; None if batches are not balanced.

    The classes are the coarse labels, as in the contrastive loss and the cross-entropy. A split on
    disk is read in full to find them.

    Args:
      config: the whole config.
      dataset: the data set.

    Raises:
      ConfigError: a batch would have more classes than there are, or the training uses unlabelled
        images.
    """
    each = config.train.images_per_class
    if not each:
        return None
    if some_unlabelled(config, dataset):
        raise ConfigError(
            "config.train.images_per_class: expected 0 with training images that have no label, "
            f"got {each}; data.unlabelled_use=drop leaves them out"
        )
    # First by the number of class names, which is known without reading the split.
    _require_classes(config, dataset, len(dataset.coarse_names))
    balance = ClassBalance(labels(dataset.splits["train"])[1], images_per_class=each)
    _require_classes(config, dataset, len(balance.sizes))
    return balance


def _require_classes(config: ml_collections.ConfigDict, dataset: Dataset, classes: int) -> None:
    each, batch_size = config.train.images_per_class, config.train.batch_size
    if batch_size // each > classes:
        fit = (n for n in range(each, batch_size) if batch_size % n == 0)
        least = next((f" or {n} at least" for n in fit if batch_size // n <= classes), "")
        raise ConfigError(
            f"config.train.images_per_class: expected 0{least}, with train.batch_size = "
            f"{batch_size} and {dataset.name}, which has training images of {classes} classes, "
            f"got {each}"
        )


def make_model(
    config: ml_collections.ConfigDict, dataset: Dataset
) -> tuple[nn.Module, tuple[int, int, int]]:
    """Returns the model of a config and its input shape; parts unused by the method are left out.

    Args:
      config: a checked config.
      dataset: the data set.
    """
    height, width, channels = dataset.image_shape
    bits = random_bits.channels(config.data.random_bits, config.data.random_bits_form)
    input_shape = (height, width, channels + bits)
    method = METHODS[config.method]
    model_config = config.model.copy_and_resolve_references()
    if method.contrastive is None or not method.reconstruct:
        # A method with one kind of loss needs only one encoder.
        model_config.arrangement = "shared"
    if method.contrastive is None:
        model_config.projection = ()
    model = thanos.build(
        model_config,
        image_shape=input_shape,
        num_classes=len(dataset.coarse_names),
        reconstruct=method.reconstruct,
    )
    return model, input_shape


def describe(config: ml_collections.ConfigDict, dataset: Dataset, *, images: int) -> list[str]:
    """Returns lines that describe a training; initializes and compiles nothing.

    Args:
      config: the config of the training.
      dataset: the data set.
      images: number of images of an epoch.

    Raises:
      ConfigError: a class-balanced batch would have more classes than there are.
    """
    balance = balanced_classes(config, dataset)
    model, input_shape = make_model(config, dataset)
    key, seen = jax.random.key(0), jax.ShapeDtypeStruct((1, *input_shape), jax.numpy.float32)
    outputs, variables = jax.eval_shape(
        lambda key, x: model.init_with_output(key, x, train=False), key, seen
    )
    size = sum(x.size for x in jax.tree.leaves(variables["params"]))
    train = config.train
    steps, steps_per_epoch = count_steps(train, images)
    batch = ""
    if balance is not None:
        each = balance.images_per_class
        batch = f" ({train.batch_size // each} classes, {each} of each)"
        rare = int((balance.sizes < each).sum())
        if rare:
            batch += f", which repeat images of {rare} classes that have fewer than {each}"
    momentum = "" if train.optimizer in ("adamw", "lamb") else f", momentum {train.momentum:g}"
    anew = ", ".join(f"{epoch:g}" for epoch in train.restart_epochs)
    restarts = f" (anew after {anew} epochs)" if anew else ""
    return [
        f"{config.method}, {len(model.encoders)} x {config.model.encoder}, {size:,} parameters",
        f"input {' x '.join(map(str, input_shape))}, embedding {outputs['embedding'].shape[-1]}, "
        f"{len(dataset.coarse_names)} classes",
        f"{steps:,} steps of {train.batch_size} images{batch}, "
        f"{steps / steps_per_epoch:.4g} epochs",
        f"{train.optimizer}{momentum}, learning rate {train.learning_rate:g}, {train.schedule} "
        f"after {train.warmup_epochs:g} epochs of warm-up{restarts}, weight decay "
        f"{train.weight_decay:g} on "
        f"{'all parameters' if train.decay == 'all' else 'kernels'}",
    ]
