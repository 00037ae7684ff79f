"""Scores of training images, and the trainings that they need."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from thanos_jax import agree
from thanos_jax import workdir as workdirs
from thanos_jax.data.dataset import Dataset
from thanos_jax.downstream import coreset
from thanos_jax.tasks import findings, stages
from thanos_jax.train.embed import embed

# Distance between the seeds of a run's trainings, so that they do not meet the seeds of other runs.
_STRIDE = 1_000_003
# Number of trainings after which compiled programs are dropped; each training has its own.
_TOGETHER = 8


def scores(run: stages.Run, first: stages.Stage, classes: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what images are chosen by, after the trainings that the method needs.

    Args:
      run: the run.
      first: its first training, built.
      classes: int32 [n], of the training images.

    Returns:
      "scores" float64 [n], or "embeddings" float32 [n, d]; {} for a random choice.
    """
    method = run.config.coreset.method
    return _SCORES[method](run, first, classes) if method in _SCORES else {}


def scoring_config(config: ml_collections.ConfigDict, number: int) -> ml_collections.ConfigDict:
    """Returns the config of a training that images are scored with.

    Args:
      config: of the run.
      number: index of the training, from 0. Each has its own seed, different from the classifier's:
        otherwise images would be chosen that are hard from the classifier's own initial weights.
    """
    one = config.copy_and_resolve_references()
    epochs = (
        config.coreset.el2n_epochs if config.coreset.method == "el2n" else config.coreset.epochs
    )
    one.train.epochs = epochs or config.train.epochs
    one.seed = (config.seed + (number + 1) * _STRIDE) % 2**31
    return one


def samples(config: Any, classes: np.ndarray) -> np.ndarray:
    """Returns bool [runs, n], the images that each scoring training is trained on."""
    if config.coreset.method == "common_strata":
        return coreset.halves(classes, config.coreset.runs, seed=config.seed)
    return np.ones((config.coreset.runs, len(classes)), bool)


def sample(run: stages.Run, number: int, stays: np.ndarray) -> stages.Stage:
    """Builds a training over which scores are averaged, on the images where `stays` is True."""
    one = run._replace(config=scoring_config(run.config, number), dataset=only(run.dataset, stays))
    return stages.representation(one, f"sample_{number}")


def only(dataset: Dataset, stays: np.ndarray) -> Dataset:
    """Returns the data set with only the training images where `stays`, bool [n], is True."""
    if stays.all():
        return dataset
    train = dataset.splits["train"].subset(np.flatnonzero(stays))
    return dataset._replace(splits={**dataset.splits, "train": train})


def _sampled(
    run: stages.Run, first: stages.Stage, classes: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields, for each scoring training, its images, bool [n], and probabilities of all images."""
    for number, stays in enumerate(samples(run.config, classes)):
        if number and number % _TOGETHER == 0:
            jax.clear_caches()
        stage = sample(run, number, stays) if number else first
        trained = _train(run, stage)
        found = embed(
            stage.training, trained.last.state, run.dataset.splits["train"], keep=("probability",)
        )
        yield stays, found["probability"]


def _train(run: stages.Run, stage: stages.Stage, **keywords: Any) -> stages.Trained:
    print(f"{stage.name}: {stage.training.config.method}", flush=True)
    return stages.train(run, stage, **keywords)


def _common_strata(
    run: stages.Run, first: stages.Stage, classes: np.ndarray
) -> dict[str, np.ndarray]:
    trained_on, confidences = [], []
    for stays, probabilities in _sampled(run, first, classes):
        trained_on.append(stays)
        confidences.append(probabilities[np.arange(len(classes)), classes])
    scores = coreset.common_strata_scores(np.stack(confidences), np.stack(trained_on))
    return {"scores": scores}


def _el2n(run: stages.Run, first: stages.Stage, classes: np.ndarray) -> dict[str, np.ndarray]:
    # One by one: the probabilities of many classes are large.
    scores = [coreset.el2n(found, classes) for _, found in _sampled(run, first, classes)]
    return {"scores": np.mean(scores, axis=0)}


def _forgetting(run: stages.Run, first: stages.Stage, classes: np.ndarray) -> dict[str, np.ndarray]:
    path = run.folder / first.name / workdirs.CORRECT

    def evaluate(outputs: stages.Outputs) -> dict[str, float]:
        found = outputs("train")
        if agree.is_first():
            append_correct(path, int(outputs.state.step), found["prediction"] == classes, classes)
        return stages.accuracy_on_validation(outputs)

    _train(run, first, evaluate=evaluate)
    events = findings.once(path, "events", {"train": classes})
    correct = np.unpackbits(events["packed"], axis=1, count=len(classes)).astype(bool)
    return {"scores": coreset.forgetting_events(correct).astype(np.float64)}


def append_correct(path: pathlib.Path, step: int, correct: np.ndarray, classes: np.ndarray) -> None:
    """Appends to a file which images are classified correctly at a step.

    Entries of the same step and of later ones are replaced: a resumed training repeats the steps
    after its checkpoint.

    Args:
      path: of an .npz: "steps" int64 [k], "packed" uint8 [k, n / 8].
      step: of the evaluation.
      correct: bool [n].
      classes: integer [n], the labels of the same images.

    Raises:
      WorkdirError: the file cannot be written or read.
      ConfigError: the file belongs to other images.
    """
    labels = {"train": classes}
    packed = np.packbits(correct)[None]
    steps = np.array([step], np.int64)
    if path.exists():
        before = findings.read(path, "events", labels)
        earlier = before["steps"] < step
        steps = np.append(before["steps"][earlier], steps)
        packed = np.concatenate([before["packed"][earlier], packed])
    findings.write(path, {"steps": steps, "packed": packed}, labels)


def _herding(run: stages.Run, first: stages.Stage, classes: np.ndarray) -> dict[str, np.ndarray]:
    return {"embeddings": stages.gathered(_train(run, first).outputs("train"))["embedding"]}


# (run, first training, classes int32 [n]) -> "scores" [n] or "embeddings" [n, d].
_SCORES: dict[str, Callable[..., dict[str, np.ndarray]]] = {
    "common_strata": _common_strata,
    "el2n": _el2n,
    "forgetting": _forgetting,
    "herding": _herding,
}
