"""Coresets: choose a fraction of the training images to keep, and train a classifier on them.

Classes are the coarse labels; fine labels are used to measure only. A run scores the training
images, which takes trainings of its own except for random choice, and then trains a classifier on
the images that are kept:

    sample_0/, sample_1/, ...  common_strata, el2n: trainings over which scores are averaged
    representation/            forgetting, herding: the training that images are scored with
    coreset.npz                scores, and which images are kept
    findings.csv               the same as a table
    classifier/                the classifier
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from thanos_jax import agree
from thanos_jax import workdir as workdirs
from thanos_jax.data.dataset import Dataset
from thanos_jax.downstream import coreset
from thanos_jax.errors import ConfigError
from thanos_jax.methods import CORESETS
from thanos_jax.report import plots
from thanos_jax.report.cards import Card
from thanos_jax.tasks import ending, findings, maps, problems, stages
from thanos_jax.train.build import count_steps
from thanos_jax.train.embed import OUTPUTS, embed

_EXAMPLES = 18
_BY_SCORE = ("Training images dropped first", "Those that stay longest")
_AT_RANDOM = ("Some training images that are dropped", "Some that are kept")
# Distance between the seeds of a run's trainings, so that they do not meet the seeds of other runs.
_STRIDE = 1_000_003
# Number of trainings after which compiled programs are dropped; each training has its own.
_TOGETHER = 8


class Chosen(NamedTuple):
    """The training images that are kept.

    Attributes:
      stays: bool [n], True for images that are kept.
      scores: float64 [n]; [0] for methods without scores.
    """

    stays: np.ndarray
    scores: np.ndarray


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
        for number, stays in enumerate(_samples(config, classes)):
            one = scoring_config(config, number)
            found[f"sample_{number}"] = stages.planned(run, one, images=int(stays.sum()))
    elif kind == "training":
        found["representation"] = stages.planned(run, scoring_config(config, 0))
    images = len(classes) if config.coreset.same_steps else len(_select(config, "random", classes))
    last = stages.planned(run, stages.classifier_config(config), images=images)
    return {**found, "classifier": last}


def prepare(run: stages.Run) -> Prepared:
    """Checks config and data, and builds the first training; see `thanos_jax.tasks`."""
    labels = _checked(run)
    kind = CORESETS[run.config.coreset.method].needs
    if kind == "trainings":
        first = _sample(run, 0, _samples(run.config, labels["coarse"])[0])
    elif kind == "training":
        first = stages.representation(run._replace(config=scoring_config(run.config, 0)))
    else:
        first = _classifier(run, _choose(run.config, labels["coarse"]).stays)
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
    classes, path, found = labels["coarse"], run.folder / "coreset.npz", {}
    if config.coreset.method in _SCORES and not findings.there(path):
        found = _SCORES[config.coreset.method](run, stage, classes)
    make = functools.partial(_choose, config, classes, **found)
    names = run.dataset.splits["train"].names
    chosen = Chosen(
        **findings.once(
            path,
            "a choice",
            {"train": classes},
            lambda: make()._asdict(),
            names={"train": names},
        )
    )
    if agree.is_first():
        _write_table(run, chosen, names, classes)
    print(f"classifier: {chosen.stays.sum():,} of {len(chosen.stays):,} images", flush=True)
    if stage.name != "classifier":
        stage = _classifier(run, chosen.stays)
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
        "kept_images": int(chosen.stays.sum()),
        "scoring_seconds": ending.totals(run)["train_seconds"] - trained.records[-1]["seconds"],
        **_results(run, labels["fine"], chosen, test, measured["test"]),
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
        lambda: _figures(run, chosen, results, classes, test),
        lambda: maps.of_coreset(run, chosen.stays, chosen.scores, seen),
        seen["embedding"],
    )


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
        one = scoring_config(config, 0).train
        steps, steps_per_epoch = count_steps(one, len(classes))
        if steps - 1 < one.evaluate_every_epochs * steps_per_epoch:
            raise ConfigError(
                "config.train.evaluate_every_epochs: expected at least two evaluations in the "
                f"{steps} steps ({steps / steps_per_epoch:g} epochs) of the training that scores "
                "images, because coreset.method 'forgetting' compares successive evaluations, got "
                f"one every {one.evaluate_every_epochs:g} epochs"
            )
    # Scores decide which images are kept, not how many: random choice finds errors in the numbers.
    _select(config, "random", classes)


def _samples(config: Any, classes: np.ndarray) -> np.ndarray:
    """Returns bool [runs, n], the images that each scoring training is trained on."""
    if config.coreset.method == "common_strata":
        return coreset.halves(classes, config.coreset.runs, seed=config.seed)
    return np.ones((config.coreset.runs, len(classes)), bool)


def _choose(config: Any, classes: np.ndarray, **found: np.ndarray) -> Chosen:
    """Chooses images by "scores" or "embeddings", or at random.

    Raises:
      ConfigError: no image of a class is kept.
    """
    scores = found.get("scores")
    kept = _select(
        config, config.coreset.method if scores is None else scores, classes,
        embeddings=found.get("embeddings"),
    )  # fmt: skip
    stays = np.zeros(len(classes), bool)
    stays[kept] = True
    lost = np.setdiff1d(classes, classes[kept])
    if lost.size:
        raise ConfigError(
            f"config.coreset.fraction: expected one that keeps images of every class, got "
            f"{config.coreset.fraction:g}, which keeps none of class {lost[0]} by the scores of "
            f"{config.coreset.method}; raise it, or set coreset.balanced"
        )
    return Chosen(stays, np.zeros(0) if scores is None else np.asarray(scores, np.float64))


def _select(config: Any, scores: Any, classes: np.ndarray, **keywords: Any) -> np.ndarray:
    settings = config.coreset
    try:
        return coreset.select(
            scores,
            classes,
            settings.fraction,
            drop=settings.drop,
            balanced=settings.balanced,
            seed=config.seed,
            **keywords,
        )
    except ValueError as error:
        raise ConfigError(f"config.coreset: {error}") from error


def _only(dataset: Dataset, stays: np.ndarray) -> Dataset:
    """Returns the data set with only the training images where `stays`, bool [n], is True."""
    if stays.all():
        return dataset
    train = dataset.splits["train"].subset(np.flatnonzero(stays))
    return dataset._replace(splits={**dataset.splits, "train": train})


def _sample(run: stages.Run, number: int, stays: np.ndarray) -> stages.Stage:
    """Builds a training over which scores are averaged, on the images where `stays` is True."""
    one = run._replace(config=scoring_config(run.config, number), dataset=_only(run.dataset, stays))
    return stages.representation(one, f"sample_{number}")


def _classifier(run: stages.Run, stays: np.ndarray) -> stages.Stage:
    """Builds the classifier's training on the kept images, bool [n]; see coreset.same_steps."""
    if run.config.coreset.same_steps:
        return stages.classifier(run, rows=np.flatnonzero(stays))
    return stages.classifier(run._replace(dataset=_only(run.dataset, stays)))


def _sampled(
    run: stages.Run, first: stages.Stage, classes: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields, for each scoring training, its images, bool [n], and probabilities of all images."""
    for number, stays in enumerate(_samples(run.config, classes)):
        if number and number % _TOGETHER == 0:
            jax.clear_caches()
        stage = _sample(run, number, stays) if number else first
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


def _results(
    run: stages.Run, fine: np.ndarray, chosen: Chosen, test: Mapping[str, np.ndarray], measured: Any
) -> dict[str, Any]:
    """Returns the test accuracy, and for each fine label the share kept and its accuracy."""
    names = run.dataset.fine_names
    every, kept = (np.bincount(x, minlength=len(names)) for x in (fine, fine[chosen.stays]))
    return {
        **stages.worst_group(run, measured),
        "kept_share": {names[f]: float(kept[f] / every[f]) for f in np.flatnonzero(every)},
        "fine_labels": stages.each_fine_label(
            run, test, measured, train_images=every, kept_images=kept
        ),
    }


def _drop_order(config: ml_collections.ConfigDict, chosen: Chosen) -> np.ndarray:
    """Returns the training images in the order of dropping, int64 [n]; [0] without scores."""
    sign = 1 if config.coreset.drop == "lowest" else -1
    return np.argsort(sign * chosen.scores, kind="stable")


def _write_table(run: stages.Run, chosen: Chosen, names: np.ndarray, classes: np.ndarray) -> None:
    """Writes findings.csv, starting with the images that are dropped first."""
    order = _drop_order(run.config, chosen) if len(chosen.scores) else np.argsort(chosen.stays)
    columns = {
        "filename": names,
        "split": np.full(len(names), "train"),
        "label": np.array(run.dataset.coarse_names)[classes],
        "kept": np.where(chosen.stays, "yes", "no"),
        **({"score": chosen.scores} if len(chosen.scores) else {}),
        "row": np.arange(len(names)),
    }
    findings.write_table(run.folder, {name: values[order] for name, values in columns.items()})


def _figures(
    run: stages.Run,
    chosen: Chosen,
    results: Mapping[str, Any],
    classes: np.ndarray,
    test: Mapping[str, np.ndarray],
) -> stages.Figures:
    """Returns the figures of the report, each with a sentence on how to read it."""
    shares = results["kept_share"]
    images = results["fine_labels"]
    names = run.dataset.coarse_names
    return {
        **_first_and_last(run, chosen, classes),
        "Share kept of each fine label": (
            plots.group_bars(
                [
                    f"{name} ({images[name]['train_images']:,})" if name in images else name
                    for name in shares
                ],
                list(shares.values()),
                average=results["kept_images"] / len(chosen.stays),
                meaning="kept, in per cent",
            ),
            plots.HOW_TO_READ["kept_share"],
        ),
        **problems.classes(
            run.dataset.splits["test"], test["coarse"], test["prediction"], names, kind="class"
        ),
    }


def _first_and_last(run: stages.Run, chosen: Chosen, classes: np.ndarray) -> stages.Figures:
    """Shows the images dropped first and kept longest; without scores, some dropped, some kept."""
    if len(chosen.scores):
        order = _drop_order(run.config, chosen)
        kept = order[chosen.stays[order]][::-1]
        titles, readings = _BY_SCORE, ("dropped_images", "kept_images")
    else:
        order = np.random.default_rng(0).permutation(len(chosen.stays))
        kept = order[chosen.stays[order]]
        titles, readings = _AT_RANDOM, ("chosen_images", "chosen_images")
    figures: stages.Figures = {}
    split, names = run.dataset.splits["train"], run.dataset.coarse_names
    for title, reading, rows in zip(
        titles, readings, (order[~chosen.stays[order]], kept), strict=True
    ):
        rows = rows[:_EXAMPLES]
        made = [
            Card(
                named,
                (names[classes[row]],),
                f"score {chosen.scores[row]:.4g}" if len(chosen.scores) else "",
            )
            for named, row in zip(problems.named(split, rows, "train"), rows.tolist(), strict=True)
        ]
        if made:
            figures[title] = (problems.as_cards(split, rows, made), plots.HOW_TO_READ[reading])
    return figures
