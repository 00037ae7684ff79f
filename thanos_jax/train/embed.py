"""Embeds a whole split with a frozen encoder: every image once, without augmentation or dropout."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from thanos_jax import sharding
from thanos_jax.data import batches
from thanos_jax.data.splits import Split
from thanos_jax.downstream import placing
from thanos_jax.train.build import Training
from thanos_jax.train.description import evaluation_batch_size
from thanos_jax.train.state import TrainState

OUTPUTS = ("embedding", "prediction")
_ROWS = "embedding"  # the output that may stay on the devices


def embed(
    training: Training,
    state: TrainState,
    split: Any,
    *,
    keep: tuple[str, ...] = OUTPUTS,
    on_devices: bool | None = None,
) -> dict[str, Any]:
    """Computes the model's outputs for a split, in order; every process gets the same result.

    Args:
      training: from `thanos_jax.train.build.build`.
      state: the state; params and model_state are used.
      split: a `thanos_jax.data.splits.Split` of n images.
      keep: names of outputs of `thanos_jax.train.forward.make_forward` that are returned.
      on_devices: whether rows of "embedding" stay on the devices that computed them. None: only if
        there are several processes.

    Returns:
      The kept outputs, and "fine" and "coarse", int32 [n]; float outputs are float32. All are NumPy
      arrays, except that "embedding" is a `thanos_jax.downstream.placing.Placed` if rows stay on
      the devices.
    """
    config, mesh = training.config, training.mesh
    several = jax.process_count() > 1
    stays = several if on_devices is None else on_devices
    variables = {"params": state.params, **state.model_state}
    labels = ("fine", "coarse")
    size, batch_size = len(split), evaluation_batch_size(config)
    count = -(-size // batch_size)
    whole: dict[str, np.ndarray] = {}
    rows: jax.Array | None = None
    for number, batch in enumerate(
        batches.evaluation_batches(
            cast(Split, sharding.LocalRows(split, mesh)),
            batch_size=batch_size,
            parts=mesh.size if stays else 1,
            read_threads=config.data.read_threads,
        )
    ):
        outputs: dict[str, Any] = training.forward(variables, sharding.shard(mesh, batch["image"]))
        found = {name: outputs[name] for name in keep}
        if stays and _ROWS in found:
            some = found.pop(_ROWS)
            if rows is None:
                rows = _empty(count * batch_size, some.shape[1], mesh=mesh)
            rows = _write(rows, some, np.int32(number), mesh=mesh)
        given = {name: batch[name] for name in labels}
        if several:
            # Gathered together from the devices, so that labels and outputs have the same order.
            found = multihost_utils.process_allgather(
                found | sharding.shard(mesh, given), tiled=True
            )
        else:
            found |= given
        where = batch["where"]
        for name, values in found.items():
            array = np.asarray(values)
            if name not in whole:
                whole[name] = placing.aligned((size, *array.shape[1:]), array.dtype)
            whole[name][batch["index"][where]] = array[where]
    placed = {} if rows is None else {_ROWS: placing.Placed(mesh, rows, size)}
    return {name: (whole | placed)[name] for name in (*keep, *labels)}


@functools.partial(jax.jit, static_argnames=("count", "width", "mesh"))
def _empty(count: int, width: int, *, mesh: Mesh) -> jax.Array:
    return jax.lax.with_sharding_constraint(
        jnp.zeros((count, width), jnp.float32), sharding.over_batch(mesh)
    )


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def _write(rows: jax.Array, some: jax.Array, number: jax.Array, *, mesh: Mesh) -> jax.Array:
    """Writes each device's part of a batch after its parts of earlier batches."""

    def local(rows: jax.Array, some: jax.Array, number: jax.Array) -> jax.Array:
        some = some.astype(rows.dtype)
        return jax.lax.dynamic_update_slice_in_dim(rows, some, number * len(some), axis=0)

    return jax.shard_map(
        local, mesh=mesh, in_specs=(P("data"), P("data"), P()), out_specs=P("data")
    )(rows, some, number)


class Embedded:
    """Outputs for the splits of a training's data set, cached for the state of one step.

    Args:
      training: from `thanos_jax.train.build.build`.
      network: selects the network of a state that is used.
    """

    def __init__(
        self, training: Training, network: Callable[[TrainState], TrainState] = lambda state: state
    ) -> None:
        self._training, self._network = training, network
        self._step: int | None = None
        self._known: dict[str, dict[str, Any]] = {}

    def __call__(self, state: TrainState, split: str, *keep: str) -> dict[str, Any]:
        """Returns the outputs of `embed` for a split, including "embedding" and "prediction".

        Args:
          state: a state of this training; states of the same step are assumed to be equal.
          split: "train", "validation" or "test".
          *keep: names of further outputs, such as "probability".
        """
        if self._step != int(state.step):
            self._step, self._known = int(state.step), {}
        known = self._known.get(split, {})
        if not known or any(name not in known for name in keep):
            known = embed(
                self._training,
                self._network(state),
                self._training.dataset.splits[split],
                keep=(*OUTPUTS, *keep),
            )
            self._known[split] = known
        return known


class Outputs(NamedTuple):
    """Outputs of one state: a function of the split and the names of further outputs.

    Attributes:
      embedded: cached outputs of the training.
      state: the state.
    """

    embedded: Embedded
    state: TrainState

    def __call__(self, split: str, *keep: str) -> dict[str, Any]:
        """Returns the outputs for a split; see `Embedded`."""
        return self.embedded(self.state, split, *keep)
