"""One training of a run that has several, in a folder of its own."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from thanos_jax import workdir
from thanos_jax.data.splits import Split
from thanos_jax.downstream import embed as embedding
from thanos_jax.train import checkpoint, loop, metrics
from thanos_jax.train.checkpoint import Checkpoints
from thanos_jax.train.state import TrainState
from thanos_jax.train.step import INPUTS, Step


class Trained(NamedTuple):
    """What a training came to.

    Attributes:
      state: the last, or the one chosen on validation.
      step: its step.
      records: lines of its metrics.jsonl.
    """

    state: TrainState
    step: int
    records: list[dict[str, Any]]


def train(
    state: TrainState,
    step: Step,
    split: Any,
    mesh: Mesh,
    config: Any,
    folder: pathlib.Path,
    *,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    choose: str | None = None,
    inputs: Sequence[str] = INPUTS,
    epoch_size: int | None = None,
    constants: Mapping[str, float] | None = None,
) -> Trained:
    """Trains to the end, from the newest checkpoint in the folder if there is one.

    Args:
      state: before the first step.
      step: from `make_step` or `make_robust_step`.
      split: the training split.
      mesh: devices.
      config: the whole config.
      folder: gets metrics.jsonl and checkpoints/.
      evaluate: every config.train.evaluate_every_epochs.
      choose: of the numbers of `evaluate` the one whose highest value, the latest of equals, says
        which state is returned; a checkpoint is then saved at every evaluation. None: the last.
      inputs: what of a batch the step is given.
      epoch_size: images that count as an epoch; None: those of the split.
      constants: what every record says too.

    Raises:
      NonFiniteError, CheckpointError: as `thanos_jax.train.loop.train`.
    """
    if choose is not None:
        config = config.copy_and_resolve_references()
        config.train.checkpoint_every_epochs = config.train.evaluate_every_epochs
    with workdir.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.jsonl"
    with Checkpoints(
        folder / "checkpoints",
        keep=config.train.checkpoints_kept,
        best=choose,
        keep_every=config.train.checkpoints_kept_every,
    ) as checkpoints:
        state, _ = loop.train(
            state,
            step,
            split,
            mesh,
            config,
            checkpoints=checkpoints,
            metrics_path=str(path),
            evaluations=[(config.train.evaluate_every_epochs, evaluate)] if evaluate else [],
            inputs=inputs,
            epoch_size=epoch_size,
            constants=constants,
        )
        records = metrics.read(path)
        chosen = records[-1]["step"]
        if choose is not None:
            checkpoints.wait()  # for the last to be there
            there = checkpoint.steps(folder / "checkpoints")
            measured = [r for r in records if choose in r and r["step"] in there]
            # As checkpoints are kept.
            best = max(measured, key=lambda record: (record[choose], record["step"]))
            if best["step"] != chosen:
                chosen = best["step"]
                state = checkpoints.restore(state, chosen)
    return Trained(state, chosen, records)


def started(folder: pathlib.Path) -> bool:
    """Whether a training in a folder has a checkpoint, from which `train` goes on."""
    return bool(checkpoint.steps(folder / "checkpoints"))


def embed(
    parts: Any, state: TrainState, split: Split, mesh: Mesh, config: Any, keep: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Returns outputs and labels of a whole split; see `thanos_jax.downstream.embed.embed`."""
    return embedding.embed(
        parts.forward,
        {"params": state.params, **state.model_state},
        split,
        mesh,
        batch_size=config.train.micro_batch_size or config.train.batch_size,
        read_threads=config.data.read_threads,
        keep=keep,
    )
