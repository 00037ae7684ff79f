"""What runs of several trainings share: each training in a folder of its own, and how they end."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

import thanos_jax
from thanos_jax import run as run_module
from thanos_jax import workdir
from thanos_jax.data.annotated import AnnotatedSplit
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.splits import ArraySplit, Split
from thanos_jax.errors import ConfigError
from thanos_jax.report import html, plots
from thanos_jax.train import checkpoint, loop, metrics, nonfinite
from thanos_jax.train import embed as embedding
from thanos_jax.train import state as train_state
from thanos_jax.train.checkpoint import Checkpoints
from thanos_jax.train.robust_step import WEIGHT_INPUTS, make_robust_step
from thanos_jax.train.state import TrainState
from thanos_jax.train.step import INPUTS, Step

_CHUNK = 1024  # images read at a time for their labels
ACCURACY = "validation_coarse_accuracy"  # on the validation split, of the training's own labels


class Trained(NamedTuple):
    """What a training came to.

    Attributes:
      state: the last, or the one chosen on validation.
      step: its step.
      records: lines of its metrics.jsonl.
      last: the last state.
    """

    state: TrainState
    step: int
    records: list[dict[str, Any]]
    last: TrainState


def require_classifiable(config: ml_collections.ConfigDict, dataset: Dataset) -> None:
    """Raises ConfigError unless a classifier can be trained here, as tasks other than transfer do.

    Args:
      config: a checked config.
      dataset: the data.
    """
    if jax.process_count() > 1:
        raise ConfigError(
            f"config.task: {config.task!r} runs in 1 process, with all of its devices; got "
            f"{jax.process_count()} processes"
        )
    if len(dataset.coarse_names) < 2:
        raise ConfigError(
            f"config.task: {config.task!r} trains a classifier, and needs two classes; "
            f"{dataset.name} has {len(dataset.coarse_names)}"
        )
    if config.classifier.batch_size % jax.device_count():
        raise ConfigError(
            "config.classifier.batch_size: expected 0 or a multiple of the "
            f"{jax.device_count()} devices, got {config.classifier.batch_size}"
        )
    if config.transfer.every_epochs:
        raise ConfigError(
            f"config.transfer.every_epochs: expected 0 with config.task {config.task!r}, which "
            f"measures no transfer along training, got {config.transfer.every_epochs:g}"
        )
    loop.on_devices(config.train.resident, dataset.splits["train"])


@contextlib.contextmanager
def claimed(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    dataset: Dataset,
    mesh: Mesh,
    *,
    first: ml_collections.ConfigDict,
    training: str,
    overwrite: bool,
) -> Iterator[Any]:
    """Makes a folder that of a run of several trainings, if the first of them can start.

    Args:
      config: of the run.
      folder: not of a finished run.
      dataset: as the first training sees it.
      mesh: devices.
      first: config of the first training.
      training: its name, a folder in the run's.
      overwrite: whether a run of another config in the folder is removed.

    Yields:
      The `Parts` of the first training; the folder is locked meanwhile.

    Raises:
      ConfigError: the folder is another run's.
      WorkdirError: it is in use, or cannot be written.
    """
    # What a run of another config has left goes before this one begins.
    resumes = not run_module.differences(folder, config) and started(folder / training)
    parts = run_module.build(first, dataset, mesh, resumes=resumes)
    run_module.trace(parts, dataset.splits["train"], first.train.batch_size)
    with workdir.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with workdir.locked(folder):
        run_module.claim(folder, config, overwrite=overwrite)
        yield parts


def classifier_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config by which a classifier is trained: config.robust in place of train."""
    one = config.copy_and_resolve_references()
    one.method = "ce"
    one.train.epochs = config.classifier.epochs or config.train.epochs
    one.train.batch_size = config.classifier.batch_size or config.train.batch_size
    one.train.learning_rate = config.classifier.learning_rate or config.train.learning_rate
    one.train.weight_decay = config.classifier.weight_decay
    one.train.micro_batch_size = 0
    if not config.classifier.augment:
        one.augment.crop_scale = (1.0, 1.0)
        one.augment.flip = 0.0
        one.augment.jitter_probability = 0.0
        one.augment.grey_probability = 0.0
    return one


def represent(
    config: ml_collections.ConfigDict,
    parts: Any,
    dataset: Dataset,
    mesh: Mesh,
    folder: pathlib.Path,
) -> Trained:
    """Trains config.method, as the task "transfer" does; see `train`."""
    print(f"{folder.name}: {config.method}", flush=True)
    return train(
        parts.state,
        parts.step,
        dataset.splits["train"],
        mesh,
        config,
        folder,
        evaluate=accuracy_on_validation(parts, dataset, mesh, config),
        constants=run_module.skipped_examples(config, dataset),
    )


def classify(
    config: ml_collections.ConfigDict,
    parts: Any,
    dataset: Dataset,
    mesh: Mesh,
    folder: pathlib.Path,
    *,
    rows: np.ndarray | None = None,
    choose: str | None = None,
) -> Trained:
    """Trains a classifier by cross-entropy on one view of each image; see `train`.

    Args:
      config: from `classifier_config`.
      parts: of this config.
      dataset: its coarse labels are the classes.
      mesh: devices.
      folder: of the training.
      rows: integer [r], the training images to train on, in as many steps as on all; None: all.
      choose: see `train`.
    """
    split = dataset.splits["train"]
    return train(
        parts.state,
        robust_step(config, parts, dataset, mesh),
        AnnotatedSplit(split, {"weight": np.ones(len(split), np.float32)}, rows),
        mesh,
        config,
        folder,
        evaluate=accuracy_on_validation(parts, dataset, mesh, config),
        choose=choose,
        inputs=WEIGHT_INPUTS,
        epoch_size=len(split),
        constants=run_module.skipped_examples(config, dataset),
    )


def robust_step(
    config: ml_collections.ConfigDict,
    parts: Any,
    dataset: Dataset,
    mesh: Mesh,
    *,
    group_sizes: Any = None,
) -> Step:
    """Returns the step of `make_robust_step` for a whole training.

    Args:
      config: from `classifier_config`.
      parts: of this config.
      dataset: an epoch is the size of its training split.
      mesh: devices.
      group_sizes: see `make_robust_step`.
    """
    step = make_robust_step(
        parts.model,
        *schedule_of(config, dataset),
        config,
        mesh,
        mean=dataset.mean,
        std=dataset.std,
        group_sizes=group_sizes,
    )
    return nonfinite.skipping(step) if config.train.on_nonfinite == "skip" else step


def schedule_of(config: ml_collections.ConfigDict, dataset: Dataset) -> tuple[Any, Any]:
    """Returns the optimizer and the learning rate of a training on a data set's training split."""
    size = len(dataset.splits["train"])
    steps, steps_per_epoch = loop.count_steps(config.train, size)
    schedule = train_state.learning_rate(config.train, steps=steps, steps_per_epoch=steps_per_epoch)
    return train_state.make_optimizer(config.train, schedule), schedule


def accuracy_on_validation(
    parts: Any,
    dataset: Dataset,
    mesh: Mesh,
    config: ml_collections.ConfigDict,
    of: Callable[[TrainState], TrainState] = lambda state: state,
) -> Callable[[TrainState], dict[str, float]]:
    """Returns state -> {"validation_coarse_accuracy": a fraction of 1}, that of the state `of`."""

    def evaluate(state: TrainState) -> dict[str, float]:
        found = embed(parts, of(state), dataset.splits["validation"], mesh, config, ("prediction",))
        return {ACCURACY: float(np.mean(found["prediction"] == found["coarse"]))}

    return evaluate


def labels(split: Split) -> dict[str, np.ndarray]:
    """Returns "fine" and "coarse" int32 [n]; reads a split on disk."""
    if isinstance(split, ArraySplit):
        return {"fine": split.fine, "coarse": split.coarse}
    starts = range(0, len(split), _CHUNK)
    parts = [split.read(np.arange(one, min(one + _CHUNK, len(split)))) for one in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in ("fine", "coarse")}


def totals(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the steps, seconds and skipped steps of all trainings of a run, for its results."""
    every = [metrics.read(folder / name / "metrics.jsonl") for name in workdir.trainings(folder)]
    last = [records[-1] for records in every if records]
    skipped = sum(record.get(nonfinite.SKIPPED, 0) for records in every for record in records)
    return {
        "steps": sum(record["step"] for record in last),
        "train_seconds": sum(record["seconds"] for record in last),
        nonfinite.SKIPPED: int(skipped),
    }


def made_on(state: TrainState, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the size of a model, and how fast and on what it was trained, for a run's results."""
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "images_per_second": run_module.median(records, "images_per_second"),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {"jax": jax.__version__, "thanos_jax": thanos_jax.__version__},
    }


def training_figures(
    folder: pathlib.Path, *, of_samples: str = "sample_0"
) -> dict[str, tuple[Any, str]]:
    """Draws the curves of every training of a run, each with a sentence on how to read it.

    Args:
      folder: of the run.
      of_samples: trainings on samples are alike, and this one stands for all.
    """
    figures = {}
    for name in workdir.trainings(folder):
        records = metrics.read(folder / name / "metrics.jsonl")
        if records and (name == of_samples or not name.startswith("sample_")):
            title = f"Training: {'classifier' if name == 'classifier' else name.replace('_', ' ')}"
            figures[title] = (plots.curves(records), plots.HOW_TO_READ["curves"])
    return figures


def finish(
    folder: pathlib.Path,
    config: ml_collections.ConfigDict,
    results: dict[str, Any],
    records: list[dict[str, Any]],
    figures: Mapping[str, tuple[Any, str]],
) -> dict[str, Any]:
    """Writes the report, and then results.json; returns the results.

    Args:
      folder: of the run.
      config: of the run.
      results: what results.json is to hold.
      records: of the training that the report is about.
      figures: title -> figure, and a sentence on how to read it.

    Raises:
      WorkdirError: one cannot be written.
    """
    html.write(
        folder / "report.html",
        config=config.to_dict(),
        results=results,
        records=records,
        figures={**figures, **training_figures(folder)},
    )
    # Last: its presence says that everything else was written.
    with workdir.writing(folder):
        workdir.write_atomically(folder / "results.json", json.dumps(results, indent=2) + "\n")
    return results


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
        last = state
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
    return Trained(state, chosen, records, last)


def started(folder: pathlib.Path) -> bool:
    """Whether a training in a folder has a checkpoint, from which `train` goes on."""
    return bool(checkpoint.steps(folder / "checkpoints"))


def embed(
    parts: Any, state: TrainState, split: Split, mesh: Mesh, config: Any, keep: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Returns outputs and labels of a whole split; see `thanos_jax.train.embed.embed`."""
    return embedding.embed(
        parts.forward,
        {"params": state.params, **state.model_state},
        split,
        mesh,
        batch_size=config.train.micro_batch_size or config.train.batch_size,
        read_threads=config.data.read_threads,
        keep=keep,
    )
