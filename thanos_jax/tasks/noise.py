"""Noisy labels: corrupt them, train robustly or repair them first, test on clean labels.

Classes are the coarse labels, or the fine ones if labels are corrupted within coarse classes. The
training and the validation split have noisy labels, the test split has clean ones. The clean labels
of training and validation images are used to measure only. A run has one training or two:

    representation/  config.method, on noisy labels; only where labels are repaired
    labels.npz       clean and noisy labels, suspicion, and suggested labels
    findings.csv     suspected labels, as a table
    classifier/      the classifier

With noise.method mend and noise.rate 0 the run is an audit: see `thanos_jax.tasks.audit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from thanos_jax import agree
from thanos_jax.data.dataset import Dataset
from thanos_jax.downstream import noisy_labels, soft_labels
from thanos_jax.downstream.projection import Layout
from thanos_jax.errors import ConfigError
from thanos_jax.methods import NOISE
from thanos_jax.report import plots
from thanos_jax.tasks import audit, ending, maps, mended, problems, stages, suspects
from thanos_jax.tasks.corrupted import Noise, corrupted
from thanos_jax.tasks.mended import Findings, Mended
from thanos_jax.tasks.stages import Figures
from thanos_jax.train import classifier_losses
from thanos_jax.train.build import build, count_steps

_SECOND = 2**30  # added to the run's seed for the second network of co-teaching


class Prepared(NamedTuple):
    """The first training, built, and the data of the run.

    Attributes:
      first: the first training.
      noisy: the data set, with noisy labels as its coarse labels.
      noise: labels of the training and the validation split.
    """

    first: stages.Stage
    noisy: Dataset
    noise: dict[str, Noise]


def trainings(run: stages.Run) -> dict[str, stages.Planned]:
    """Corrupts labels and returns the trainings on them; see `thanos_jax.tasks`."""
    if audit.is_audit(run.config):
        return audit.trainings(run)
    _, run = _with_noise(run)
    found = {}
    if NOISE[run.config.noise.method].needs:
        found["representation"] = stages.planned(run)
    return {**found, "classifier": stages.planned(run, stages.classifier_config(run.config))}


def prepare(run: stages.Run) -> Prepared | audit.Prepared:
    """Corrupts labels and builds the first training; see `thanos_jax.tasks`."""
    if audit.is_audit(run.config):
        return audit.prepare(run)
    noise, run = _with_noise(run)
    needs = NOISE[run.config.noise.method].needs
    first = stages.representation(run) if needs else _classifier(run, noise["train"])
    return Prepared(first, run.dataset, noise)


def _with_noise(run: stages.Run) -> tuple[dict[str, Noise], stages.Run]:
    """Corrupts the labels of a run and checks it; returns the labels and the run with them."""
    stages.require_classifiable(run)
    noise, noisy = corrupted(run.config, run.dataset)
    _require_trainable(run.config, noisy, float(np.mean(noise["train"].changed)))
    return noise, run._replace(dataset=noisy)


def perform(run: stages.Run, prepared: Prepared | audit.Prepared) -> dict[str, Any]:
    """Trains, repairs labels, evaluates and reports; see `thanos_jax.tasks`.

    Raises:
      ConfigError: all labels of a class are suspected and dropped, or labels.npz belongs to other
        labels.
      NonFiniteError, CheckpointError, WorkdirError, Interrupted: as `thanos_jax.run.run`.
    """
    if isinstance(prepared, audit.Prepared):
        return audit.perform(run, prepared)
    config, noisy, train = run.config, prepared.noisy, prepared.noise["train"]
    run = run._replace(dataset=noisy)
    method, stage, trained_on = config.noise.method, prepared.first, None
    if stage.name != "classifier":
        found, trained_on = mended.mend(run, stage, train)
        stage = mended.classifier(run, trained_on)
    print(f"classifier: {method}", flush=True)
    trained = stages.train(run, stage, choose=stages.ACCURACY)

    # The test split is first read here, and decides nothing.
    print("accuracy on right labels", flush=True)
    test = trained.last("test")
    accuracy, chosen = stages.accuracy(test), stages.accuracy(trained.outputs("test"))
    seen = maps.shown(run, trained.last("train", "probability"))
    if prepared.first.name == "classifier":
        found = mended.once(run, train, lambda: mended.judge(run, seen, train.given))
    results = {
        "noise_method": method,
        "noise_kind": config.noise.kind,
        "noise_rate": float(np.mean(train.changed)),
        "coarse_accuracy": accuracy,
        "coarse_accuracy_chosen": chosen,
        "chosen_step": trained.step,
        **_scores(train, found, trained_on),
    }
    if agree.is_first():
        suspects.write_table(
            run.folder,
            noisy.splits["train"].names,
            ["train"] * len(train.given),
            noisy.coarse_names,
            given=train.given,
            suggested=found.suggested,
            suspicion=found.suspicion,
            flagged=found.flagged,
        )
    layout = Layout(*(getattr(found, name) for name in Layout._fields))
    return ending.finish(
        run,
        prepared.first,
        trained,
        results,
        lambda: _figures(noisy, train, found, test),
        lambda: maps.of_labels(run, layout, train, found, seen["prediction"]),
        seen["embedding"],
    )


def _require_trainable(config: ml_collections.ConfigDict, noisy: Dataset, wrong: float) -> None:
    """Raises ConfigError, before anything is compiled, if a method cannot learn from its labels."""
    size, settings = len(noisy.splits["train"]), config.noise
    if settings.method == "mend" and round(settings.assumed_rate * size) == size:
        raise ConfigError(
            f"config.noise.assumed_rate: expected one that leaves some of {size} training labels "
            f"to trust, got {settings.assumed_rate:g}"
        )
    classes = len(noisy.coarse_names)
    most = soft_labels.rate_limit(classes)
    if (settings.method, settings.action) == ("mend", "soften") and settings.assumed_rate >= most:
        raise ConfigError(
            f"config.noise.assumed_rate: expected less than {most:g} with noise.action 'soften' "
            f"and {classes} classes, got {settings.assumed_rate:g}"
        )
    if settings.method == "co_teaching":
        if _forgotten(config, wrong) == 1:
            raise ConfigError(
                "config.noise.assumed_rate: expected one below 1 with noise.method 'co_teaching', "
                f"which would learn nothing in the end, got {settings.assumed_rate:g} where "
                f"{wrong:g} of the labels are wrong"
            )
        train = stages.classifier_config(config).train
        steps, steps_per_epoch = count_steps(train, size)
        if settings.forget_epochs * steps_per_epoch > steps:
            raise ConfigError(
                "config.noise.forget_epochs: expected no more than the "
                f"{steps / steps_per_epoch:g} epochs of the training, so that co_teaching reaches "
                f"its final forget rate, got {settings.forget_epochs:g}"
            )


def _forgotten(config: ml_collections.ConfigDict, wrong: float) -> float:
    """Returns co-teaching's final forget rate: noise.assumed_rate, or `wrong` if it is negative."""
    return wrong if config.noise.assumed_rate < 0 else config.noise.assumed_rate


def _classifier(run: stages.Run, train: Noise) -> stages.Stage:
    """Builds the classifier's training on the noisy labels of the run's data set.

    Co-teaching is told the share of labels that are wrong, as in the authors' experiments.
    """
    config, size = run.config.noise, len(train.given)
    if config.method == "elr":
        stage = stages.classifier(
            run,
            classifier_losses.early_learning_regularization,
            columns={"row": np.arange(size, dtype=np.int32)},
        )
        return stage._replace(state=classifier_losses.with_targets(stage.training))
    if config.method == "co_teaching":
        rate = _forgotten(run.config, float(np.mean(train.changed)))
        one = stages.classifier_config(run.config)
        _, steps_per_epoch = count_steps(one.train, size)
        keep_rate = classifier_losses.keep_rate_schedule(
            rate, round(config.forget_epochs * steps_per_epoch)
        )
        stage = stages.classifier(
            run, lambda training: classifier_losses.co_teaching(training, keep_rate)
        )
        one.seed = (run.config.seed + _SECOND) % 2**31
        second = build(one, run.dataset, run.mesh, resumes=stages.resumes(run, stage.name)).state
        return stage._replace(
            state=classifier_losses.pair(stage.training, second),
            network=classifier_losses.first_of,
        )
    return stages.classifier(run)


def _scores(train: Noise, found: Findings, trained_on: Mended | None) -> dict[str, Any]:
    """Returns how well wrong labels are found; without noise, only the share suspected."""
    scores: dict[str, Any] = {"detection": {"flagged": float(np.mean(found.flagged))}}
    if train.changed.any():
        scores["detection"] = noisy_labels.detection_scores(
            found.suspicion, found.flagged, train.changed
        )
    if trained_on is not None:
        # The labels of dropped images do not matter.
        scores["images_trained_on"] = int(np.count_nonzero(trained_on.stays))
        if train.changed.any():
            right = trained_on.labels == train.right
            scores["labels_right"] = float(np.mean(right[trained_on.stays]))
    return scores


def _figures(
    noisy: Dataset, train: Noise, found: Findings, test: Mapping[str, np.ndarray]
) -> Figures:
    """Returns the figures of the report, each with a sentence on how to read it."""
    names = noisy.coarse_names
    return {
        **suspects.figures(
            noisy.splits["train"],
            "train",
            names,
            given=train.given,
            suggested=found.suggested,
            suspicion=found.suspicion,
            flagged=found.flagged,
            reading=plots.HOW_TO_READ["suspected"],
        ),
        "Suspicion of right and of wrong labels": (
            plots.suspicion(found.suspicion, train.changed),
            plots.HOW_TO_READ["suspicion"],
        ),
        **problems.classes(
            noisy.splits["test"], test["coarse"], test["prediction"], names, kind="class"
        ),
    }
