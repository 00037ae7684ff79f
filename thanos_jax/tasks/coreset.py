"""Coresets: choose a fraction of the training images to keep, and train a classifier on them.

Classes are the coarse labels; fine labels are used to measure only. A run scores the training
images, which takes trainings of its own except for random choice, and then trains a classifier on
the images that are kept:

    sample_0/, sample_1/, ...  common_strata, el2n: trainings over which scores are averaged
    representation/            forgetting, herding: the training that images are scored with
    coreset.npz                scores, and which images are kept
    findings.csv               the same as a table
    classifier/                the classifier

scored.py has the scores and their trainings, chosen.py the choice and its report.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from thanos_jax import agree
from thanos_jax.data.dataset import Dataset
from thanos_jax.errors import ConfigError
from thanos_jax.methods import CORESETS
from thanos_jax.tasks import chosen, ending, findings, maps, scored, stages
from thanos_jax.train.build import count_steps
from thanos_jax.train.embed import OUTPUTS, embed


class Prepared(NamedTuple):
    """The first training, built, and the labels of the run.

    Attributes:
      first: the first training.
      labels: "fine" and "coarse" int32 [n] of the training split.
    """

    first: stages.Stage
    labels: dict[str, np.ndarray]


def trainings(run: stages.Run) -> dict[str, stages.Planned]:
    """Checks config and data; returns the trainings that score images, and the classifier's."""
    config, classes = run.config, _checked(run)["coarse"]
    kind, found = CORESETS[config.coreset.method].needs, {}
    if kind == "trainings":
        for number, stays in enumerate(scored.samples(config, classes)):
            one = scored.scoring_config(config, number)
            found[f"sample_{number}"] = stages.planned(run, one, images=int(stays.sum()))
    elif kind == "training":
        found["representation"] = stages.planned(run, scored.scoring_config(config, 0))
    images = (
        len(classes) if config.coreset.same_steps else len(chosen.select(config, "random", classes))
    )
    last = stages.planned(run, stages.classifier_config(config), images=images)
    return {**found, "classifier": last}


def prepare(run: stages.Run) -> Prepared:
    """Checks config and data, and builds the first training; see `thanos_jax.tasks`."""
    labels = _checked(run)
    kind = CORESETS[run.config.coreset.method].needs
    if kind == "trainings":
        first = scored.sample(run, 0, scored.samples(run.config, labels["coarse"])[0])
    elif kind == "training":
        first = stages.representation(run._replace(config=scored.scoring_config(run.config, 0)))
    else:
        first = _classifier(run, chosen.choose(run.config, labels["coarse"]).stays)
    return Prepared(first, labels)


def _checked(run: stages.Run) -> dict[str, np.ndarray]:
    """Checks config and data; returns the labels of the training split."""
    stages.require_classifiable(run)
    labels = stages.labels(run.dataset.splits["train"])
    _require_choosable(run.config, run.dataset, labels["coarse"])
    return labels


def perform(run: stages.Run, prepared: Prepared) -> dict[str, Any]:
    """Scores, chooses, trains, evaluates and reports; see `thanos_jax.tasks`.

    Raises:
      ConfigError: the scores would keep no image of a class, or coreset.npz belongs to other
        images.
      NonFiniteError, CheckpointError, WorkdirError, Interrupted: as `thanos_jax.run.run`.
    """
    config, labels, stage = run.config, prepared.labels, prepared.first
    classes, path = labels["coarse"], run.folder / "coreset.npz"
    found = {} if findings.there(path) else scored.scores(run, stage, classes)
    make = functools.partial(chosen.choose, config, classes, **found)
    names = run.dataset.splits["train"].names
    choice = chosen.Chosen(
        **findings.once(
            path,
            "a choice",
            {"train": classes},
            lambda: make()._asdict(),
            names={"train": names},
        )
    )
    if agree.is_first():
        chosen.write_table(run, choice, names, classes)
    print(f"classifier: {choice.stays.sum():,} of {len(choice.stays):,} images", flush=True)
    if stage.name != "classifier":
        stage = _classifier(run, choice.stays)
    trained = stages.train(run, stage)

    # The test split is first read here, and decides nothing.
    print("accuracy of the classifier", flush=True)
    alike = np.ones(len(run.dataset.fine_names))  # every fine label counts the same
    measured = {
        name: stages.by_fine_label(run, trained.outputs(name), alike)
        for name in ("validation", "test")
    }
    test = trained.outputs("test")
    results = {
        "coreset_method": config.coreset.method,
        "fraction": config.coreset.fraction,
        "kept_images": int(choice.stays.sum()),
        "scoring_seconds": ending.totals(run)["train_seconds"] - trained.records[-1]["seconds"],
        **chosen.results(run, labels["fine"], choice, test, measured["test"]),
        "validation_coarse_accuracy": measured["validation"]["average_accuracy"],
        "validation_balanced_accuracy": measured["validation"]["adjusted_average_accuracy"],
    }
    # All training images, including the ones that were dropped.
    everything = run.dataset.splits["train"]
    seen = maps.shown(run, embed(trained.training, trained.outputs.state, everything, keep=OUTPUTS))
    return ending.finish(
        run,
        prepared.first,
        trained,
        results,
        lambda: chosen.figures(run, choice, results, classes, test),
        lambda: maps.of_coreset(run, choice.stays, choice.scores, seen),
        seen["embedding"],
    )


def _require_choosable(
    config: ml_collections.ConfigDict, dataset: Dataset, classes: np.ndarray
) -> None:
    """Raises ConfigError if no coreset can be chosen, before anything is compiled."""
    settings = config.coreset
    if settings.method == "common_strata" and settings.runs % 2:
        raise ConfigError(
            "config.coreset.runs: expected an even number with coreset.method 'common_strata', "
            f"whose runs train on halves and their complements, got {settings.runs}"
        )
    if settings.method == "herding" and not settings.balanced:
        raise ConfigError(
            "config.coreset.balanced: expected True with coreset.method 'herding', which keeps "
            "the means of classes, got False"
        )
    if settings.method == "forgetting":
        one = scored.scoring_config(config, 0).train
        steps, steps_per_epoch = count_steps(one, len(classes))
        if steps - 1 < one.evaluate_every_epochs * steps_per_epoch:
            raise ConfigError(
                "config.train.evaluate_every_epochs: expected at least two evaluations in the "
                f"{steps} steps ({steps / steps_per_epoch:g} epochs) of the training that scores "
                "images, because coreset.method 'forgetting' compares successive evaluations, got "
                f"one every {one.evaluate_every_epochs:g} epochs"
            )
    # Scores decide which images are kept, not how many: random choice finds errors in the numbers.
    chosen.select(config, "random", classes)


def _classifier(run: stages.Run, stays: np.ndarray) -> stages.Stage:
    """Builds the classifier's training on the kept images, bool [n]; see coreset.same_steps."""
    if run.config.coreset.same_steps:
        return stages.classifier(run, rows=np.flatnonzero(stays))
    return stages.classifier(run._replace(dataset=scored.only(run.dataset, stays)))
