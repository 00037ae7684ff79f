"""Traces the step of a training before it runs, so that errors show early."""

from __future__ import annotations

import jax
import numpy as np

from thanos_jax import sharding
from thanos_jax.train.loop import Stage


def trace(stage: Stage) -> None:
    """Traces a stage's step before anything is written, to find errors that the schema cannot."""
    jax.eval_shape(stage.step, stage.state, batch_shapes(stage), np.uint32(0))


def batch_shapes(stage: Stage) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shape, dtype and placement of each batch entry that a stage's step takes."""
    batch = stage.split.read(np.arange(1))
    size = stage.training.config.train.batch_size
    # Placed like the training's batches, so that its first call reuses this trace.
    placement = sharding.over_batch(stage.training.mesh)
    return {
        name: jax.ShapeDtypeStruct(
            (size, *batch[name].shape[1:]), batch[name].dtype, sharding=placement
        )
        for name in stage.inputs
    }
