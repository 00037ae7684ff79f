"""Audit of labels by cross-validation: each label is judged by a model not trained on it.

The task noise does this if noise.rate is 0 and noise.method is mend: no label is made wrong, and
none is known to be right. The images of all splits are divided into noise.folds parts. For each
part, config.method is trained on the others and judges the labels of the part:

    sample_0/, sample_1/, ...  the trainings
    labels.npz                 suspicion and suggested label of every image
    findings.csv               the same as a table, the most suspicious label first
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from thanos_jax import agree
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.joined import JoinedSplit
from thanos_jax.downstream import audit, noisy_labels
from thanos_jax.errors import ConfigError
from thanos_jax.report import plots
from thanos_jax.tasks import ending, findings, maps, stages, suspects

# Number of trainings after which compiled programs are dropped; each training has its own.
_TOGETHER = 8


class Whole(NamedTuple):
    """The images of all splits, in the order of splits.

    Attributes:
      images: the n images.
      splits: split -> its number of images.
      labels: int32 [n], the classes.
      parts: int64 [n], the part of each image.
    """

    images: JoinedSplit
    splits: dict[str, int]
    labels: np.ndarray
    parts: np.ndarray

    def by_split(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Splits values [n] of all images by split."""
        ends = np.cumsum(list(self.splits.values()))[:-1]
        return dict(zip(self.splits, np.split(values, ends), strict=True))


class Prepared(NamedTuple):
    """The first training, built, and the data of the run.

    Attributes:
      first: the first training.
      whole: the images.
    """

    first: stages.Stage
    whole: Whole


def is_audit(config: ml_collections.ConfigDict) -> bool:
    """Whether a config of the task noise asks for an audit."""
    return config.noise.rate == 0 and config.noise.method == "mend"


def trainings(run: stages.Run) -> dict[str, stages.Planned]:
    """Returns the trainings, one for each part; see `thanos_jax.tasks`.

    Raises:
      ConfigError: more parts than images, or report.keep_embeddings is set.
    """
    stages.require_classifiable(run)
    whole = _join(run)
    return {
        f"sample_{number}": stages.planned(_without(run, whole, number))
        for number in range(run.config.noise.folds)
    }


def prepare(run: stages.Run) -> Prepared:
    """Builds the first training; see `thanos_jax.tasks`."""
    stages.require_classifiable(run)
    whole = _join(run)
    return Prepared(stages.representation(_without(run, whole, 0), "sample_0"), whole)


def perform(run: stages.Run, prepared: Prepared) -> dict[str, Any]:
    """Trains, judges and reports; see `thanos_jax.tasks`.

    Raises:
      ConfigError: labels.npz belongs to other labels.
      NonFiniteError, CheckpointError, WorkdirError, Interrupted: as `thanos_jax.run.run`.
    """
    config, whole = run.config, prepared.whole
    path, count = run.folder / "labels.npz", config.noise.folds
    size = len(whole.labels)
    suspicion, suggested = np.zeros(size), np.zeros(size, np.int64)
    right = np.zeros(size, bool)
    known = findings.there(path)
    for number in [count - 1] if known else range(count):
        if number and number % _TOGETHER == 0:
            jax.clear_caches()
        part = _without(run, whole, number)
        stage = prepared.first
        if number:
            stage = stages.representation(part, f"sample_{number}")
        print(f"{stage.name}: {config.method} on {len(stage.split):,} images", flush=True)
        trained = stages.train(part, stage)
        held, others = (np.flatnonzero(x) for x in (whole.parts == number, whole.parts != number))
        seen, found = trained.outputs("train"), trained.outputs("validation", "probability")
        if known:
            continue
        suspicion[held], suggested[held] = audit.judge(
            found["embedding"],
            whole.labels[held],
            found["probability"],
            seen["embedding"],
            seen["coarse"],
            k=config.noise.neighbours,
        )
        right[held] = found["prediction"] == whole.labels[held]

    def make() -> dict[str, Any]:
        rate = None if config.noise.assumed_rate < 0 else config.noise.assumed_rate
        return {
            "right": whole.labels,
            "given": whole.labels,
            "changed": np.zeros(size, bool),
            "suspicion": suspicion.astype(np.float32),
            "flagged": noisy_labels.flag(suspicion, rate, seed=config.seed),
            "suggested": suggested.astype(np.int32),
            "predicted_right": right,
            "split": np.repeat(list(whole.splits), list(whole.splits.values())),
        }

    names = whole.images.names
    arrays = findings.once(
        path, "labels", whole.by_split(whole.labels), make, names=whole.by_split(names)
    )
    judged = {name: arrays[name] for name in ("given", "suggested", "suspicion", "flagged")}
    classes = run.dataset.coarse_names
    if agree.is_first():
        suspects.write_table(run.folder, names, arrays["split"], classes, **judged)
    results = {
        "noise_method": "audit",
        "noise_rate": 0.0,
        "judged_images": size,
        "suspected_images": int(np.count_nonzero(arrays["flagged"])),
        "coarse_accuracy": float(np.mean(arrays["predicted_right"])),
        "detection": {"flagged": float(np.mean(arrays["flagged"]))},
    }

    # Embeddings of one model: embeddings of several models cannot be compared.
    embeddings = np.empty((size, seen["embedding"].shape[1]), np.float32)
    for rows, outputs in ((others, seen), (held, found)):
        embeddings[rows] = stages.gathered(outputs)["embedding"]
    drawn = maps.shown(run, {"embedding": embeddings})["embedding"]
    reading = plots.HOW_TO_READ["audit"]
    return ending.finish(
        run,
        prepared.first,
        trained,
        results,
        lambda: suspects.figures(whole.images, arrays["split"], classes, **judged, reading=reading),
        lambda: maps.of_audit(run, whole.images, arrays["split"], drawn, arrays),
        drawn,
    )


def _join(run: stages.Run) -> Whole:
    if run.config.report.keep_embeddings:
        raise ConfigError(
            "config.report.keep_embeddings: expected False where labels are audited, got True: an "
            "audit has a model for each part and none for the run. thanos_jax.embed "
            "--part=sample_0 embeds images by one of them"
        )
    splits = run.dataset.splits
    labels = np.concatenate([stages.labels(split)["coarse"] for split in splits.values()])
    if run.config.noise.folds > len(labels):
        raise ConfigError(
            f"config.noise.folds: expected no more than the {len(labels)} images of"
            f" {run.dataset.name}, got {run.config.noise.folds}"
        )
    return Whole(
        JoinedSplit(list(splits.values())),
        {name: len(split) for name, split in splits.items()},
        labels,
        audit.folds(labels, run.config.noise.folds, seed=run.config.seed),
    )


def _without(run: stages.Run, whole: Whole, number: int) -> stages.Run:
    """Returns the run on all parts but one, which becomes its validation and test split."""
    train, held = (
        whole.images.subset(np.flatnonzero(chosen))
        for chosen in (whole.parts != number, whole.parts == number)
    )
    dataset: Dataset = run.dataset._replace(
        splits={"train": train, "validation": held, "test": held}
    )
    return run._replace(dataset=dataset)
