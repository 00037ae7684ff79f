"""Finds wrong labels of the training images, and mends them for the classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from thanos_jax.data.relabelled import relabel
from thanos_jax.downstream import noisy_labels, soft_labels
from thanos_jax.downstream.votes import Neighbours
from thanos_jax.errors import ConfigError
from thanos_jax.tasks import findings, maps, stages
from thanos_jax.tasks.corrupted import Noise
from thanos_jax.train import classifier_losses


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


def once(run: stages.Run, train: Noise, find: Any) -> Findings:
    """Returns the findings in labels.npz; `find` makes them if the file is missing.

    Raises:
      ConfigError: the file belongs to other labels.
      WorkdirError: the file cannot be read or written.
    """

    def make() -> dict[str, Any]:
        return {**train._asdict(), **find()._asdict()}

    path, labels = run.folder / "labels.npz", {"train": train.given}
    names = {"train": run.dataset.splits["train"].names}
    arrays = findings.once(path, "labels", labels, make, names=names)
    return Findings(**{name: arrays[name] for name in Findings._fields})


def mend(run: stages.Run, stage: stages.Stage, train: Noise) -> tuple[Findings, Mended]:
    """Trains the representation, finds wrong labels and mends them as config.noise.action says.

    Args:
      run: its data set has noisy labels.
      stage: the training of the representation.
      train: labels of the training images; only the given ones are used, but for labels.npz.

    Raises:
      ConfigError: what was found leaves nothing to train on, or labels.npz belongs to other labels.
      NonFiniteError, CheckpointError, WorkdirError, Interrupted: as `thanos_jax.run.run`.
    """
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
    found = once(run, train, lambda: _find(run, given, embeddings, neighbours))
    if softens:
        return found, _softened(given, found, probability, neighbours)
    if config.action == "drop":
        return found, _dropped(given, found, run.dataset.coarse_names)
    return found, _relabelled(given, found)


def judge(run: stages.Run, seen: Mapping[str, np.ndarray], given: np.ndarray) -> Findings:
    """Finds wrong labels by the low probability that a classifier trained on them gives them."""
    suspicion = 1 - seen["probability"][np.arange(len(given)), given]
    return Findings(
        suspicion,
        seen["prediction"] != given,
        seen["prediction"].astype(np.int32),
        *maps.lay_out(run, seen["embedding"]),
    )


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


def _softened(
    given: np.ndarray, found: Findings, probability: np.ndarray, neighbours: Neighbours
) -> Mended:
    """Replaces every label by probabilities of the classes.

    Raises:
      ConfigError: so many labels are suspected that the others say nothing.
    """
    rate, limit = float(np.mean(found.flagged)), soft_labels.rate_limit(probability.shape[1])
    if rate >= limit:
        raise ConfigError(
            f"config.noise.action: 'soften' needs a share of suspected labels below {limit:g} with "
            f"{probability.shape[1]} classes, and {rate:g} are suspected; expected 'relabel', or a "
            "lower noise.assumed_rate"
        )
    targets = soft_labels.soften(given, probability, neighbours, rate=rate)
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


def classifier(run: stages.Run, mended: Mended) -> stages.Stage:
    """Builds the training of the classifier on mended labels.

    Args:
      run: its data set has noisy labels.
      mended: what the classifier is trained on.
    """
    if mended.targets is not None:
        return stages.classifier(run, classifier_losses.soft, columns={"target": mended.targets})
    splits = run.dataset.splits
    train = relabel(splits["train"], mended.labels)
    dataset = run.dataset._replace(splits={**splits, "train": train})
    rows = None if mended.stays.all() else np.flatnonzero(mended.stays)
    return stages.classifier(run._replace(dataset=dataset), rows=rows)
