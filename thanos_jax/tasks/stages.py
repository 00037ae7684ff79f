"""What the tasks share: the run, its trainings, and their evaluation."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from thanos_jax import agree, workdir
from thanos_jax import config as schema
from thanos_jax.data.annotated import annotate
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.dataset import labels as stored_labels
from thanos_jax.data.splits import Split
from thanos_jax.downstream import placing, transfer
from thanos_jax.downstream.groups import scores as group_scores
from thanos_jax.errors import ConfigError
from thanos_jax.live import log as live
from thanos_jax.tasks import fits, watched
from thanos_jax.train import checkpoint, description, loop
from thanos_jax.train.build import Training, build, training_split
from thanos_jax.train.checkpoint import Checkpoints
from thanos_jax.train.classifier_losses import weighted
from thanos_jax.train.embed import Embedded, Outputs
from thanos_jax.train.loop import Stage
from thanos_jax.train.two_views import two_views
from thanos_jax.train.update import Objective, make_step

_LABELS = ("fine", "coarse")
ACCURACY = "validation_coarse_accuracy"  # on the validation split, with the labels trained on

Figures = dict[str, tuple[Any, str]]
Evaluate = Callable[[Outputs], dict[str, float]]


class Run(NamedTuple):
    """A run: its config, data, devices and folder.

    Attributes:
      config: checked against the schema.
      dataset: the data.
      mesh: devices.
      folder: of the run.
      resumes: whether the content of the folder belongs to this run; False: it is removed before
        the run begins.
      log: live log of the run.
      shapes_only: whether states are shapes only, for programs that are compiled but never run.
    """

    config: ml_collections.ConfigDict
    dataset: Dataset
    mesh: Mesh
    folder: pathlib.Path
    resumes: bool = True
    log: live.Log = live.NONE
    shapes_only: bool = False


class Planned(NamedTuple):
    """A training that a run will have.

    Attributes:
      config: of the training.
      dataset: its coarse labels are the classes.
      images: number of images in an epoch, as far as known beforehand.
    """

    config: ml_collections.ConfigDict
    dataset: Dataset
    images: int


class Trained(NamedTuple):
    """The result of a training.

    Attributes:
      outputs: of the last state, or of the state chosen on validation.
      step: the step of that state.
      last: outputs of the last state.
      records: the lines of metrics.jsonl.
      training: model, optimizer and data of the training.
    """

    outputs: Outputs
    step: int
    last: Outputs
    records: list[dict[str, Any]]
    training: Training


def planned(
    run: Run, config: ml_collections.ConfigDict | None = None, *, images: int | None = None
) -> Planned:
    """Returns a training of a run: by default of the run's config, on all of its images."""
    config = run.config if config is None else config
    size = len(training_split(config, run.dataset)) if images is None else images
    return Planned(config, run.dataset, size)


def require_classifiable(run: Run) -> None:
    """Raises ConfigError unless a classifier can be trained, as tasks other than transfer do."""
    config, dataset = run.config, run.dataset
    if len(dataset.coarse_names) < 2:
        raise ConfigError(
            f"config.task: expected at least two classes for the classifier of {config.task!r}, "
            f"got {len(dataset.coarse_names)} in {dataset.name}"
        )
    if config.classifier.batch_size % jax.device_count():
        raise ConfigError(
            "config.classifier.batch_size: expected 0 or a multiple of the "
            f"{jax.device_count()} devices, got {config.classifier.batch_size}"
        )
    if config.transfer.every_epochs:
        raise ConfigError(
            f"config.transfer.every_epochs: expected 0 with config.task {config.task!r}, which "
            f"measures no transfer during training, got {config.transfer.every_epochs:g}"
        )
    loop.on_devices(config.train.resident, dataset.splits["train"])


def classifier_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config of a classifier's training, with config.classifier in place of train.

    A key of config.classifier at its default keeps the value of config.train. micro_batch_size and
    images_per_class are for the representation's training only, and become 0.
    """
    one = config.copy_and_resolve_references()
    one.method = "ce"
    for key, value in config.classifier.items():
        if key != "augment" and value != schema.FIELDS[f"classifier.{key}"].default:
            one.train[key] = value
    one.train.micro_batch_size = 0
    one.train.images_per_class = 0  # images are drawn as the task asks
    if not config.classifier.augment:
        one.augment.crop_scale = (1.0, 1.0)
        one.augment.flip = 0.0
        one.augment.jitter_probability = 0.0
        one.augment.grey_probability = 0.0
    return one


def representation(run: Run, name: str = "representation") -> Stage:
    """Builds the training of config.method on two views of each image."""
    training = built(run, run.config, name)
    return _stage(name, training, two_views(training), training_split(run.config, run.dataset))


def classifier(
    run: Run,
    objective: Callable[[Training], Objective] = weighted,
    *,
    name: str = "classifier",
    config: ml_collections.ConfigDict | None = None,
    columns: Mapping[str, np.ndarray] | None = None,
    rows: np.ndarray | None = None,
) -> Stage:
    """Builds the training of a classifier on one view of each image.

    Args:
      run: the coarse labels of its data set are the classes. An epoch has as many steps as one pass
        over the whole training split.
      objective: training -> objective, as in `thanos_jax.train.classifier_losses`.
      name: of the stage.
      config: of the training; None: `classifier_config` of the run's.
      columns: name -> [n, ...], extra inputs of the objective for each image; None: "weight", 1 for
        every image.
      rows: integer [r], the training images to train on, in order; None: all.
    """
    config = classifier_config(run.config) if config is None else config
    training = built(run, config, name)
    split = run.dataset.splits["train"]
    if columns is None:
        columns = {"weight": np.ones(len(split), np.float32)}
    return _stage(name, training, objective(training), annotate(split, columns, rows))


def built(run: Run, config: ml_collections.ConfigDict, name: str) -> Training:
    """Builds the model, optimizer and initial state of a training.

    Args:
      run: its data set's coarse labels are the classes.
      config: of the training.
      name: of the training.
    """
    return build(
        config,
        run.dataset,
        run.mesh,
        resumes=resumes(run, name),
        shapes_only=run.shapes_only,
    )


def _stage(name: str, training: Training, objective: Objective, split: Any) -> Stage:
    workdir.require_listed(name, ("", *workdir.TRAININGS))
    fits.warn_of_large_batch(name, training.config, len(split))
    step = make_step(training, objective)
    return Stage(name, training, step, objective.inputs, split, training.state)


def resumes(run: Run, name: str) -> bool:
    """Whether a stage has a checkpoint of this run, from which `train` resumes."""
    folder = run.folder / name / "checkpoints"
    return run.resumes and agree.value_of_first(lambda: bool(checkpoint.steps(folder)))


def gathered(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns outputs with all embeddings in this process's memory; every process makes this call.

    The first process can then compute on all of them by itself.
    """
    return {**outputs, "embedding": placing.whole(outputs["embedding"])}


def accuracy_on_validation(outputs: Outputs) -> dict[str, float]:
    """Returns {"validation_coarse_accuracy": a fraction of 1} of a state."""
    return {ACCURACY: accuracy(outputs("validation"))}


def accuracy(found: Mapping[str, Any]) -> float:
    """Returns the share of images whose coarse label is predicted."""
    return float(np.mean(found["prediction"] == found["coarse"]))


def train(
    run: Run,
    stage: Stage,
    *,
    evaluate: Evaluate | None = accuracy_on_validation,
    measure: tuple[float, Evaluate] | None = None,
    choose: str | None = None,
) -> Trained:
    """Trains to the end, from the newest checkpoint of the stage if there is one.

    Args:
      run: the run; the stage's folder is made in its folder.
      stage: from `representation` or `classifier`.
      evaluate: outputs of the state -> named numbers, every config.train.evaluate_every_epochs;
        None: nothing is evaluated.
      measure: (epochs, function): a second evaluation and its interval.
      choose: a name from `evaluate`. The state with its highest value is returned (ties: the
        latest), and a checkpoint is saved at every evaluation. None: the last state is returned.

    Raises:
      NonFiniteError, CheckpointError: as `thanos_jax.train.loop.train`.
    """
    folder, config = run.folder / stage.name, stage.training.config
    if choose is not None:
        config = config.copy_and_resolve_references()
        config.train.checkpoint_every_epochs = config.train.evaluate_every_epochs
        stage = stage._replace(training=stage.training._replace(config=config))
    with workdir.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if agree.is_first():
            description.write(folder, stage.training, stage.name)
    run.log.images(stage.name, 0, lambda: watched.views(stage))
    embedded = Embedded(stage.training, stage.network)

    def of_state(evaluation: Evaluate) -> Any:
        return lambda state: evaluation(Outputs(embedded, state))

    every = [(config.train.evaluate_every_epochs, evaluate), measure or (0.0, None)]
    evaluations = [(epochs, of_state(one)) for epochs, one in every if one]
    with Checkpoints(
        folder / "checkpoints",
        keep=config.train.checkpoints_kept,
        best=choose or ACCURACY,
        keep_every=config.train.checkpoints_kept_every,
    ) as checkpoints:
        last, records = loop.train(
            stage,
            folder,
            checkpoints=checkpoints,
            evaluations=evaluations,
            constants=skipped_examples(run),
            log=run.log,
        )
        state, chosen = last, records[-1]["step"]
        if choose is not None:
            checkpoints.wait()  # until the last one is written
            best = agree.value_of_first(lambda: _best(folder / "checkpoints", records, choose))
            if best != chosen:
                chosen, state = best, checkpoints.restore(last, best)
    outputs = [Outputs(embedded, one) for one in (state, last)]
    return Trained(outputs[0], chosen, outputs[1], records, stage.training)


def _best(checkpoints: pathlib.Path, records: list[dict[str, Any]], choose: str) -> int:
    """Returns the step of the best record that has a checkpoint (ties: the latest)."""
    there = checkpoint.steps(checkpoints)
    measured = [record for record in records if choose in record and record["step"] in there]
    return max(measured, key=lambda record: (record[choose], record["step"]))["step"]


def labels(split: Split) -> dict[str, np.ndarray]:
    """Returns "fine" and "coarse" int32 [n]; reads a split on disk."""
    return dict(zip(_LABELS, stored_labels(split), strict=True))


def skipped_examples(run: Run) -> dict[str, int]:
    """Returns how many stored examples were skipped, for records and results; {} if none may be."""
    skips = run.config.data.on_damaged == "skip"
    return {"skipped_examples": len(run.dataset.skipped)} if skips else {}


def transferred(
    run: Run, found: Mapping[str, Mapping[str, Any]], *, allow_missing_classes: bool = False
) -> tuple[dict[str, float], np.ndarray]:
    """Measures coarse-to-fine transfer; returns figures and predicted fine labels of test images.

    Args:
      run: its config has the settings.
      found: split -> outputs.
      allow_missing_classes: see `transfer.evaluate`.
    """
    return transfer.evaluate(
        *({split: one[name] for split, one in found.items()} for name in ("embedding", *_LABELS)),
        num_fine=len(run.dataset.fine_names),
        num_coarse=len(run.dataset.coarse_names),
        regularization=run.config.transfer.regularization,
        max_iterations=run.config.transfer.iterations,
        neighbours=run.config.transfer.neighbours,
        allow_missing_classes=allow_missing_classes,
    )


def by_fine_label(
    run: Run, found: Mapping[str, np.ndarray], train_sizes: np.ndarray | None = None
) -> dict[str, Any]:
    """Returns the accuracy of coarse predictions by fine label; see `group_accuracy`."""
    correct, count = found["prediction"] == found["coarse"], len(run.dataset.fine_names)
    return group_scores.group_accuracy(correct, found["fine"], count, train_sizes=train_sizes)


def worst_group(run: Run, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the accuracies of `by_fine_label` that results.json reports."""
    return {
        "coarse_accuracy": measured["average_accuracy"],
        "worst_group_accuracy": measured["worst_group_accuracy"],
        "worst_group": run.dataset.fine_names[measured["worst_group"]],
    }


def each_fine_label(
    run: Run, found: Mapping[str, np.ndarray], measured: Mapping[str, Any], **counts: np.ndarray
) -> dict[str, dict[str, float]]:
    """Returns name -> accuracy, test images and further counts, integer [fine], of a fine label."""
    return {
        run.dataset.fine_names[label]: {
            "accuracy": accuracy,
            "test_images": int(np.sum(found["fine"] == label)),
            **{name: int(count[label]) for name, count in counts.items()},
        }
        for label, accuracy in measured["accuracies"].items()
    }
