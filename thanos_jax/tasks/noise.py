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

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from thanos_jax import agree
from thanos_jax.data.corruption import corrupt
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.relabelled import relabel
from thanos_jax.downstream import noisy_labels, soft_labels
from thanos_jax.downstream.projection import Layout
from thanos_jax.downstream.votes import Neighbours
from thanos_jax.errors import ConfigError
from thanos_jax.methods import NOISE
from thanos_jax.report import plots
from thanos_jax.tasks import audit, ending, findings, maps, problems, stages, suspects
from thanos_jax.tasks.stages import Figures
from thanos_jax.train import classifier_losses
from thanos_jax.train.build import build, count_steps

# Added to the run's seed: for the noise of the validation split, and for the second network.
_VALIDATION = 2**32
_SECOND = 2**30


class Noise(NamedTuple):
    """Labels of one split.

    Attributes:
      right: int32 [n], the clean labels.
      given: int32 [n], the noisy labels.
      changed: bool [n], True where they differ.
    """

    right: np.ndarray
    given: np.ndarray
    changed: np.ndarray


class Findings(NamedTuple):
    """Suspicion and suggestions for the training labels, and the map of training images.

    Attributes:
      suspicion: float32 [n], higher where a label is more likely wrong.
      flagged: bool [n], True where a label is suspected.
      suggested: int32 [n], the suggested label.
      points, mapped, plane, neighbours, seconds: of the map of training images, see
        `thanos_jax.downstream.projection.Layout`.
    """

    suspicion: np.ndarray
    flagged: np.ndarray
    suggested: np.ndarray
    points: np.ndarray
    mapped: np.ndarray
    plane: np.ndarray
    neighbours: np.ndarray
    seconds: np.ndarray


class Mended(NamedTuple):
    """What the classifier of `mend` is trained on.

    Attributes:
      labels: int32 [n], the labels; with soft labels, the most probable ones.
      stays: bool [n], the images that are used.
      targets: float32 [n, classes], the soft labels; None: `labels`.
    """

    labels: np.ndarray
    stays: np.ndarray
    targets: np.ndarray | None = None


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
    method, stage, mended = config.noise.method, prepared.first, None
    if stage.name != "classifier":
        found, mended = _mend(run, stage, train)
        stage = _mended_classifier(run, mended)
    print(f"classifier: {method}", flush=True)
    trained = stages.train(run, stage, choose=stages.ACCURACY)

    # The test split is first read here, and decides nothing.
    print("accuracy on right labels", flush=True)
    test = trained.last("test")
    accuracy, chosen = stages.accuracy(test), stages.accuracy(trained.outputs("test"))
    seen = maps.shown(run, trained.last("train", "probability"))
    if prepared.first.name == "classifier":
        found = _once(run, train, lambda: _judge(run, seen, train.given))
    results = {
        "noise_method": method,
        "noise_kind": config.noise.kind,
        "noise_rate": float(np.mean(train.changed)),
        "coarse_accuracy": accuracy,
        "coarse_accuracy_chosen": chosen,
        "chosen_step": trained.step,
        **_scores(train, found, mended),
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


def corrupted(
    config: ml_collections.ConfigDict, dataset: Dataset
) -> tuple[dict[str, Noise], Dataset]:
    """Corrupts a share of the labels of the training and the validation split.

    Args:
      config: the whole config; its seed determines the draw.
      dataset: the data set with clean labels.

    Returns:
      The labels of both splits, and the data set with noisy labels as coarse labels; the test split
      keeps its clean labels.

    Raises:
      ConfigError: labels cannot be corrupted in this way.
    """
    kind = config.noise.kind
    within = kind == "within_class"
    if within and config.data.classes == "fine":
        raise ConfigError(
            "config.data.classes: expected 'coarse' with noise.kind 'within_class', whose labels "
            "stay within a coarse class, got 'fine'"
        )
    names = dataset.fine_names if within else dataset.coarse_names
    noise, splits = {}, {"test": dataset.splits["test"]}
    if within:
        splits["test"] = relabel(splits["test"], None)
    for split, seed in (("train", config.seed), ("validation", _VALIDATION + config.seed)):
        labels = stages.labels(dataset.splits[split])
        right = labels["fine" if within else "coarse"]
        try:
            given, changed = corrupt(
                labels["coarse"],
                config.noise.rate,
                kind,
                num_classes=len(dataset.coarse_names),
                seed=seed,
                fine=labels["fine"] if within else None,
            )
        except ValueError as error:
            raise ConfigError(
                f"config.noise: {kind} noise at rate {config.noise.rate:g} cannot be made in the "
                f"{split} split of {dataset.name}: {error}"
            ) from error
        noise[split] = Noise(right, given.astype(np.int32), changed)
        splits[split] = relabel(dataset.splits[split], noise[split].given)
    order = ("train", "validation", "test")
    noisy = dataset._replace(splits={name: splits[name] for name in order}, coarse_names=names)
    return noise, noisy


def _once(run: stages.Run, train: Noise, find: Any) -> Findings:
    """Returns the findings in labels.npz; `find` makes them if the file is missing."""

    def make() -> dict[str, Any]:
        return {**train._asdict(), **find()._asdict()}

    path, labels = run.folder / "labels.npz", {"train": train.given}
    names = {"train": run.dataset.splits["train"].names}
    arrays = findings.once(path, "labels", labels, make, names=names)
    return Findings(**{name: arrays[name] for name in Findings._fields})


def _mend(run: stages.Run, stage: stages.Stage, train: Noise) -> tuple[Findings, Mended]:
    """Trains the representation, finds wrong labels and mends them."""
    config, given = run.config.noise, train.given
    embeddings: Any = None
    neighbours: Any = None
    probability: Any = None
    softens = config.action == "soften"
    # Soft labels are computed again by a run that resumes.
    if softens or not findings.there(run.folder / "labels.npz"):
        print(f"representation: {run.config.method}", flush=True)
        needed = ("probability",) if softens else ()
        outputs = stages.train(run, stage).outputs("train", *needed)
        print("suspected labels", flush=True)
        # Computed by all processes, since each holds a part of the embeddings; the rest follows
        # in the first process.
        neighbours = noisy_labels.nearest(outputs["embedding"], config.neighbours)
        embeddings = stages.gathered(outputs)["embedding"]
        probability = outputs.get("probability")
    found = _once(run, train, lambda: _find(run, given, embeddings, neighbours))
    if softens:
        return found, _softened(given, found, probability, neighbours)
    if config.action == "drop":
        return found, _dropped(given, found, run.dataset.coarse_names)
    return found, _relabelled(given, found)


def _find(run: stages.Run, given: np.ndarray, embeddings: Any, neighbours: Any) -> Findings:
    """Finds wrong labels by the embedding and its nearest neighbours."""
    config = run.config.noise
    options: dict[str, Any] = {"k": config.neighbours, "neighbours": neighbours}
    suspicion = noisy_labels.suspicion(
        embeddings,
        given,
        method=config.detection,
        clusters=config.clusters,
        seed=run.config.seed,
        **options,
    )
    assumed = None if config.assumed_rate < 0 else config.assumed_rate
    flagged = noisy_labels.flag(suspicion, assumed, rule=config.rule, seed=run.config.seed)
    suggested = noisy_labels.suggest(embeddings, given, trusted=~flagged, **options)
    return Findings(
        suspicion.astype(np.float32),
        flagged,
        suggested.astype(np.int32),
        *maps.lay_out(run, embeddings),
    )


def _judge(run: stages.Run, seen: Mapping[str, np.ndarray], given: np.ndarray) -> Findings:
    """Finds wrong labels by the low probability that a classifier trained on them gives them."""
    suspicion = 1 - seen["probability"][np.arange(len(given)), given]
    return Findings(
        suspicion,
        seen["prediction"] != given,
        seen["prediction"].astype(np.int32),
        *maps.lay_out(run, seen["embedding"]),
    )


def _softened(
    given: np.ndarray, found: Findings, probability: np.ndarray, neighbours: Neighbours
) -> Mended:
    """Replaces every label by probabilities of the classes.

    Raises:
      ConfigError: so many labels are suspected that the others say nothing.
    """
    rate = float(np.mean(found.flagged))
    try:
        targets = soft_labels.soften(given, probability, neighbours, rate=rate)
    except ValueError as error:
        raise ConfigError(f"config.noise.action: 'soften' cannot be done: {error}") from error
    return Mended(targets.argmax(axis=1).astype(np.int32), np.ones(len(given), bool), targets)


def _dropped(given: np.ndarray, found: Findings, names: Sequence[str]) -> Mended:
    """Drops the images of suspected labels.

    Raises:
      ConfigError: none is left of a class.
    """
    lost = np.setdiff1d(given, given[~found.flagged])
    if lost.size:
        raise ConfigError(
            f"config.noise.action: 'drop' leaves none of {np.count_nonzero(given == lost[0])} "
            f"training images labelled {names[lost[0]]!r}, because all are "
            "suspected; expected 'relabel', or a lower noise.assumed_rate"
        )
    return Mended(given, ~found.flagged)


def _relabelled(given: np.ndarray, found: Findings) -> Mended:
    """Replaces suspected labels by the suggested ones."""
    labels = np.where(found.flagged, found.suggested, given)
    return Mended(labels, np.ones(len(given), bool))


def _mended_classifier(run: stages.Run, mended: Mended) -> stages.Stage:
    """Builds the classifier's training on mended labels."""
    if mended.targets is not None:
        return stages.classifier(run, classifier_losses.soft, columns={"target": mended.targets})
    splits = run.dataset.splits
    train = relabel(splits["train"], mended.labels)
    dataset = run.dataset._replace(splits={**splits, "train": train})
    rows = None if mended.stays.all() else np.flatnonzero(mended.stays)
    return stages.classifier(run._replace(dataset=dataset), rows=rows)


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


def _scores(train: Noise, found: Findings, mended: Mended | None) -> dict[str, Any]:
    """Returns how well wrong labels are found; without noise, only the share suspected."""
    scores: dict[str, Any] = {"detection": {"flagged": float(np.mean(found.flagged))}}
    if train.changed.any():
        scores["detection"] = noisy_labels.detection_scores(
            found.suspicion, found.flagged, train.changed
        )
    if mended is not None:
        # The labels of dropped images do not matter.
        scores["images_trained_on"] = int(np.count_nonzero(mended.stays))
        if train.changed.any():
            right = mended.labels == train.right
            scores["labels_right"] = float(np.mean(right[mended.stays]))
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
