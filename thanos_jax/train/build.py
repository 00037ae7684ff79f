"""What a training is made of: model, optimizer, schedule, and the state before the first step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import ml_collections
import optax
from flax import linen as nn
from jax.sharding import Mesh

from thanos_jax import sharding
from thanos_jax.data import random_bits
from thanos_jax.data.dataset import Dataset
from thanos_jax.models import pretrained, thanos
from thanos_jax.train import forward, optimizers
from thanos_jax.train import state as train_state
from thanos_jax.train.objective import METHODS


class Training(NamedTuple):
    """One training, ready to start.

    Attributes:
      config: the whole config.
      dataset: its coarse labels are the classes.
      mesh: devices, one axis "data".
      model: the encoders, decoder and classifiers.
      optimizer: the gradient transformation of state.opt_state.
      schedule: step -> learning rate.
      state: before the first step, on every device of the mesh.
      inputs: (images, stored images) -> what the model sees.
      forward: (variables, images uint8) -> outputs of the frozen model, jitted.
      steps: updates of the whole training.
      steps_per_epoch: not a whole number.
      input_shape: (h, w, c) of what the model sees, c with the random bits.
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


def count_steps(config: Any, size: int) -> tuple[int, float]:
    """Returns the steps of a whole training, and of an epoch (not a whole number).

    Args:
      config: config.train.
      size: images in the training split.
    """
    steps_per_epoch = size / config.batch_size
    steps = max(1, round(config.epochs * steps_per_epoch))
    return (min(steps, config.max_steps) if config.max_steps else steps), steps_per_epoch


def build(
    config: ml_collections.ConfigDict, dataset: Dataset, mesh: Mesh, *, resumes: bool = False
) -> Training:
    """Makes the model, its state and all else that a training needs.

    Args:
      config: a checked config.
      dataset: from `thanos_jax.data.sources.load`.
      mesh: from `thanos_jax.sharding.make_mesh`.
      resumes: a checkpoint will replace the state, so that config.model.weights is not read.

    Raises:
      WeightsError: config.model.weights cannot be used for the encoder; before anything compiles.
    """
    height, width, channels = dataset.image_shape
    bits = random_bits.channels(config.data.random_bits, config.data.random_bits_form)
    input_shape = (height, width, channels + bits)
    method = METHODS[config.method]
    model = thanos.build(
        _model_config(config),
        image_shape=input_shape,
        num_classes=len(dataset.coarse_names),
        reconstruct=method.reconstruct,
    )
    steps, steps_per_epoch = count_steps(config.train, len(dataset.splits["train"]))
    schedule = optimizers.learning_rate(config.train, steps=steps, steps_per_epoch=steps_per_epoch)
    optimizer = optimizers.make_optimizer(config.train, schedule)
    weights = None
    if config.model.weights and not resumes:
        weights = pretrained.load(config.model.weights, model.encoders[0], input_shape)
    # rbg: its programs compile several times as fast as the default's, and nothing here is sharded.
    key = jax.random.key(config.seed, impl="rbg")
    state: Any = train_state.create(model, optimizer, key, input_shape)
    if weights is not None:
        averages = state.model_state["batch_stats"]
        state = state.replace(
            params=pretrained.replace_encoders(state.params, weights["params"]),
            model_state={
                **state.model_state,
                "batch_stats": pretrained.replace_encoders(averages, weights["batch_stats"]),
            },
        )
    inputs = forward.make_inputs(config.data, dataset)
    return Training(
        config=config,
        dataset=dataset,
        mesh=mesh,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        state=sharding.replicate(mesh, state),
        inputs=inputs,
        forward=forward.make_forward(model, inputs),
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        input_shape=input_shape,
    )


def _model_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns config.model, less what the method has no use for."""
    method = METHODS[config.method]
    model = config.model.copy_and_resolve_references()
    if method.contrastive is None or not method.reconstruct:
        # One encoder is all that a method with one kind of loss needs.
        model.arrangement = "shared"
    if method.contrastive is None:
        model.projection = ()
    return model
