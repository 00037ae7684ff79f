"""The frozen encoder over a whole split: every image once, no augmentation, no dropout."""

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
_ROWS = "embedding"  # what may stay on devices


def embed(
    training: Training,
    state: TrainState,
    split: Any,
    *,
    keep: tuple[str, ...] = OUTPUTS,
    on_devices: bool | None = None,
) -> dict[str, Any]:
    """Runs a split through the encoder, in order; in every process, with the same result.

    Args:
      training: from `thanos_jax.train.build.build`.
      state: its params and model_state are used.
      split: a `thanos_jax.data.splits.Split` of n images.
      keep: which of the outputs of `thanos_jax.train.forward.make_forward` to keep.
      on_devices: whether rows of "embedding" stay where they were made. None: where several
        processes share the devices.

    Returns:
      The kept outputs and "fine", "coarse" int32 [n]; all float outputs float32. NumPy arrays; but
      "embedding" is a `thanos_jax.downstream.placing.Placed` if rows stay on devices.
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
            # By way of the devices, so that labels and outputs come in one order.
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
    """Writes each device's part of a batch behind those of the batches before."""

    def local(rows: jax.Array, some: jax.Array, number: jax.Array) -> jax.Array:
        some = some.astype(rows.dtype)
        return jax.lax.dynamic_update_slice_in_dim(rows, some, number * len(some), axis=0)

    return jax.shard_map(
        local, mesh=mesh, in_specs=(P("data"), P("data"), P()), out_specs=P("data")
    )(rows, some, number)


class Embedded:
    """Outputs on the splits of a training's data set, computed once for the state of a step.

    Args:
      training: from `thanos_jax.train.build.build`.
      network: which network of a state is embedded with.
    """

    def __init__(
        self, training: Training, network: Callable[[TrainState], TrainState] = lambda state: state
    ) -> None:
        self._training, self._network = training, network
        self._step: int | None = None
        self._known: dict[str, dict[str, Any]] = {}

    def __call__(self, state: TrainState, split: str, *keep: str) -> dict[str, Any]:
        """Returns what `embed` does of a split, by name; embedding and prediction are always kept.

        Args:
          state: of this training; states of one step are the same.
          split: "train", "validation" or "test".
          *keep: further outputs, as "probability".
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
    """Outputs of one state, by split and further outputs.

    Attributes:
      embedded: of the training.
      state: the state.
    """

    embedded: Embedded
    state: TrainState

    def __call__(self, split: str, *keep: str) -> dict[str, Any]:
        """Returns the outputs on a split; see `Embedded`."""
        return self.embedded(self.state, split, *keep)
