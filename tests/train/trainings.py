"""What tests of updates share: small trainings, an optimizer that records, close pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import AxisType

from thanos_jax.data.dataset import Dataset
from thanos_jax.train import build, forward
from thanos_jax.train import state as train_state

IMAGES, CLASSES = 40, 3
SHAPE = (6, 6, 1)
NAMES = tuple("abc")
# Of a split only the length is asked for.
DATASET = Dataset("small", {"train": range(IMAGES)}, NAMES, NAMES, SHAPE, (0.4,), (0.3,))


class Small(nn.Module):
    """What a step knows of a model, with all kinds of state and randomness."""

    dropout: float = 0.0
    classifiers: int = 1

    @nn.compact
    def __call__(self, images, *, train):
        hidden = nn.Dense(8)(images.reshape(len(images), -1))
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        return {"logits": tuple(nn.Dense(CLASSES)(hidden) for _ in range(self.classifiers))}


def make_mesh(devices):
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def recorder():
    """Moves parameters by the negative gradient; its state is the gradient."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda gradient, state, params: (jax.tree.map(jnp.negative, gradient), gradient),
    )


def small_training(config, *, model=None, optimizer=None, mesh=None, dataset=DATASET, state=None):
    """A training that is not built from its config; with the learning rate 0.25, of no effect."""
    model, optimizer = model or Small(), optimizer or recorder()
    if state is None:
        state = train_state.create(model, optimizer, jax.random.key(0), SHAPE)
    inputs = forward.make_inputs(config.data, dataset)
    steps, steps_per_epoch = build.count_steps(config.train, len(dataset.splits["train"]))
    return build.Training(
        config=config,
        dataset=dataset,
        mesh=mesh or make_mesh(1),
        model=model,
        optimizer=optimizer,
        schedule=lambda step: 0.25,
        state=state,
        inputs=inputs,
        forward=forward.make_forward(model, inputs),
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        input_shape=dataset.image_shape,
    )


def assert_close(found, expected, tolerance=1e-5):
    """Of two pytrees, relative to the largest value."""
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    assert largest > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest),
        found, expected,
    )  # fmt: skip
