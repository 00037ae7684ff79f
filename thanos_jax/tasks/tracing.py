"""The step of a training, traced before it is run: what it is given, and what it refuses."""

from __future__ import annotations

import jax
import numpy as np

from thanos_jax import sharding
from thanos_jax.train.loop import Stage


def trace(stage: Stage) -> None:
    """Traces a stage's step: finds what the schema cannot, before anything is written."""
    jax.eval_shape(stage.step, stage.state, batch_shapes(stage), np.uint32(0))


def batch_shapes(stage: Stage) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns name -> shape, dtype and placement of what a stage's step is given of a batch."""
    batch = stage.split.read(np.arange(1))
    size = stage.training.config.train.batch_size
    # Placed as the training's batches are: its first call then takes this trace.
    placement = sharding.over_batch(stage.training.mesh)
    return {
        name: jax.ShapeDtypeStruct(
            (size, *batch[name].shape[1:]), batch[name].dtype, sharding=placement
        )
        for name in stage.inputs
    }
