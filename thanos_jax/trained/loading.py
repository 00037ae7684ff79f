"""Loads the model of a run from its folder: finds the training and checkpoint, restores arrays."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from thanos_jax import config as schema
from thanos_jax import sharding, workdir
from thanos_jax.errors import ConfigError, NotARunError, nearest
from thanos_jax.train import checkpoint, description
from thanos_jax.train.build import make_model
from thanos_jax.trained.model import Model

_CLASSIFIER = "classifier"


def load(
    folder: str | os.PathLike[str], *, step: int | None = None, part: str | None = None
) -> Model:
    """Loads a model; see `thanos_jax.load`."""
    run = pathlib.Path(folder).expanduser()
    place = _find(run, part)
    described = description.read(place)
    config = schema.parse(described["config"], place / workdir.MODEL)
    checkpoints = place / "checkpoints"
    usual = _step(run, checkpoints, config, described["part"], None)
    step = usual if step is None else _step(run, checkpoints, config, described["part"], step)
    module, input_shape = make_model(config, description.dataset_of(described))
    pair = described["part"] == _CLASSIFIER and _teaches_another(config)
    variables = _restore(checkpoints, step, module, input_shape, pair=pair)
    return Model(
        described,
        config,
        module,
        variables,
        step=step,
        reported=place == _find(run, None) and step == usual,
        fingerprint=_fingerprint(checkpoints / str(step)),
    )


def _find(run: pathlib.Path, part: str | None) -> pathlib.Path:
    """Returns the folder of a training of a run.

    Raises:
      NotARunError: the run has no training.
      ConfigError: the run has no such part; names the parts it has.
    """
    names = [
        name for name in ("", *workdir.trainings(run)) if (run / name / workdir.MODEL).exists()
    ]
    parts = {name or description.REPRESENTATION: run / name for name in names}
    if not parts:
        raise NotARunError(
            f"workdir: expected the folder of a run, with {workdir.MODEL} and checkpoints, got "
            f"{run}"
        )
    if part is not None and part not in parts:
        raise ConfigError(
            f"part: expected one of {', '.join(parts)} in {run}, got {part!r}{nearest(part, parts)}"
        )
    for name in (part, _CLASSIFIER, description.REPRESENTATION):
        if name in parts:
            return parts[name]
    raise ConfigError(f"part: expected one of {', '.join(parts)} in {run}, got none")


def _step(
    run: pathlib.Path,
    checkpoints: pathlib.Path,
    config: ml_collections.ConfigDict,
    part: str,
    asked: int | None,
) -> int:
    """Returns the step to load: the given one, the one that the run reports, or the newest."""
    steps = checkpoint.steps(checkpoints)
    if not steps:
        raise NotARunError(f"workdir: expected a checkpoint in {checkpoints}, got none yet")
    if asked is None:
        results = run / "results.json"
        # The task groups tests the state that was best on validation; other tasks test the last.
        if config.task == "groups" and part == _CLASSIFIER and results.exists():
            return json.loads(results.read_text(encoding="utf-8"))["chosen_step"]
        return steps[-1]
    if asked not in steps:
        raise NotARunError(
            f"step: expected one of {', '.join(map(str, steps))} in {checkpoints}, got {asked}"
        )
    return asked


def _teaches_another(config: ml_collections.ConfigDict) -> bool:
    """Whether the classifier is one of a pair; see `train.classifier_losses.pair`."""
    return config.task == "noise" and config.noise.method == "co_teaching"


def _restore(
    checkpoints: pathlib.Path,
    step: int,
    module: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    pair: bool,
) -> Any:
    """Restores parameters and BatchNorm statistics, on every device of this process."""
    placement = NamedSharding(sharding.make_local_mesh(), P())
    image = jax.ShapeDtypeStruct((1, *input_shape), np.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    like = {
        "params": shapes["params"],
        "model_state": {name: part for name, part in shapes.items() if name != "params"},
    }
    if pair:
        like = {name: {"first": part} for name, part in like.items()}
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement), like
    )
    found = checkpoint.restore_part(checkpoints, like, step)
    if pair:
        found = {name: part["first"] for name, part in found.items()}
    return {"params": found["params"], **found["model_state"]}


def _fingerprint(path: pathlib.Path) -> str:
    """Returns a hash of a checkpoint's parameters and statistics, 16 hexadecimal digits."""
    arrays = checkpoint.read_contents(path)["arrays"]
    used = {k: v for k, v in arrays.items() if k.startswith(("params.", "model_state."))}
    return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:16]
