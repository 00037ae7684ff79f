"""The frozen encoder over a whole split: every image once, no augmentation, no dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from thanos_jax import sharding
from thanos_jax.data import batches
from thanos_jax.data.splits import Split
from thanos_jax.train.build import Training
from thanos_jax.train.description import evaluation_batch_size
from thanos_jax.train.state import TrainState

OUTPUTS = ("embedding", "prediction")


def embed(
    training: Training, state: TrainState, split: Any, *, keep: tuple[str, ...] = OUTPUTS
) -> dict[str, np.ndarray]:
    """Runs a split through the encoder, in order; in every process, with the same result.

    Args:
      training: from `thanos_jax.train.build.build`.
      state: its params and model_state are used.
      split: a `thanos_jax.data.splits.Split` of n images.
      keep: which of the outputs of `thanos_jax.train.forward.make_forward` to keep.

    Returns:
      The kept outputs and "fine", "coarse" int32 [n]; all float outputs float32.
    """
    config, mesh = training.config, training.mesh
    variables = {"params": state.params, **state.model_state}
    labels = ("fine", "coarse")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*keep, *labels)}
    for batch in batches.evaluation_batches(
        cast(Split, sharding.LocalRows(split, mesh)),
        batch_size=evaluation_batch_size(config),
        read_threads=config.data.read_threads,
    ):
        outputs: dict[str, Any] = training.forward(variables, sharding.shard(mesh, batch["image"]))
        outputs = {name: outputs[name] for name in keep}
        found = {name: batch[name] for name in labels}
        if jax.process_count() > 1:
            # By way of the devices, so that labels and outputs come in one order.
            found = multihost_utils.process_allgather(
                outputs | sharding.shard(mesh, found), tiled=True
            )
        else:
            found |= outputs
        for name in parts:
            parts[name].append(np.asarray(found[name])[batch["where"]])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


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
        self._known: dict[str, dict[str, np.ndarray]] = {}

    def __call__(self, state: TrainState, split: str, *keep: str) -> dict[str, np.ndarray]:
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

    def __call__(self, split: str, *keep: str) -> dict[str, np.ndarray]:
        """Returns the outputs on a split; see `Embedded`."""
        return self.embedded(self.state, split, *keep)
