"""Noisy labels: made wrong on purpose, borne or mended, and a classifier tested on right ones.

Classes are the coarse labels, or, where labels are wrong within them, the fine ones. Labels of the
training and validation split are noisy, those of the test split right; right ones of the others are
looked at to measure only. A run has one training or two, each in a folder of its own, and resumes
anywhere:

    representation/  config.method, on noisy labels; only where labels are mended
    labels.npz       what was made wrong, what is suspected, and the labels trained on afterwards
    classifier/        the classifier
    results.json, report.html
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from jax.sharding import Mesh

from thanos_jax import run as run_module
from thanos_jax import sharding
from thanos_jax.data.annotated import AnnotatedSplit
from thanos_jax.data.corruption import corrupt
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.relabelled import relabel
from thanos_jax.downstream import noisy_labels, projection
from thanos_jax.errors import ConfigError
from thanos_jax.report import plots
from thanos_jax.tasks import findings, stages
from thanos_jax.train import noise_step, nonfinite
from thanos_jax.train import state as train_state
from thanos_jax.train.loop import count_steps
from thanos_jax.train.step import INPUTS

_EXAMPLES = 24
# Seeds of the validation split's noise, and of the second network's parameters, follow from the
# run's own.
_VALIDATION = 2**32
_SECOND = 2**30


class Noise(NamedTuple):
    """Labels of one split.

    Attributes:
      right: int32 [n].
      given: int32 [n], some of them wrong.
      changed: bool [n], which.
    """

    right: np.ndarray
    given: np.ndarray
    changed: np.ndarray


class Findings(NamedTuple):
    """What was found out about the training labels.

    Attributes:
      suspicion: float32 [n], higher where a label is more likely wrong.
      flagged: bool [n], taken to be wrong.
      suggested: int32 [n], the label in its place.
      points: float32 [p, 2], a map of training embeddings; [0, 2] where there is none.
      mapped: int64 [p], the training images on it.
    """

    suspicion: np.ndarray
    flagged: np.ndarray
    suggested: np.ndarray
    points: np.ndarray = np.zeros((0, 2), np.float32)
    mapped: np.ndarray = np.zeros(0, np.int64)


def run(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    dataset: Dataset,
    mesh: Mesh,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Makes labels wrong, trains, evaluates and reports; the same call on the same folder resumes.

    Args:
      config: checked, of task "noise".
      folder: of the run, not finished.
      dataset: with right labels.
      mesh: devices.
      overwrite: whether a run of another config in the folder is removed.

    Returns:
      What results.json holds.

    Raises:
      ConfigError: a config that does not fit the data or the devices, several processes, or a
        class whose labels are all found wrong and dropped.
      NonFiniteError, CheckpointError, WorkdirError, Interrupted: as `thanos_jax.run.run`.
    """
    stages.require_classifiable(config, dataset)
    noise, noisy = corrupted(config, dataset)
    _require_trainable(config, noisy)
    mends = config.noise.method == "mend"
    first = config if mends else stages.classifier_config(config)
    training = "representation" if mends else "classifier"
    with stages.claimed(
        config, folder, noisy, mesh, first=first, training=training, overwrite=overwrite
    ) as parts:
        return _run(config, folder, noise, noisy, mesh, parts)


def _require_trainable(config: ml_collections.ConfigDict, noisy: Dataset) -> None:
    """Raises ConfigError, before anything is compiled, if a method has nothing to go by."""
    size, settings = len(noisy.splits["train"]), config.noise
    if settings.method == "mend" and round(settings.assumed_rate * size) == size:
        raise ConfigError(
            f"config.noise.assumed_rate: expected one that leaves some of {size} training labels "
            f"to trust, got {settings.assumed_rate:g}"
        )
    if settings.method == "co_teaching":
        train = stages.classifier_config(config).train
        steps, steps_per_epoch = count_steps(train, size)
        if settings.forget_epochs * steps_per_epoch > steps:
            raise ConfigError(
                "config.noise.forget_epochs: expected no more than the "
                f"{steps / steps_per_epoch:g} epochs of the training, in which co_teaching must "
                f"come to forget what is assumed wrong, got {settings.forget_epochs:g}"
            )


def corrupted(
    config: ml_collections.ConfigDict, dataset: Dataset
) -> tuple[dict[str, Noise], Dataset]:
    """Makes a share of the labels wrong.

    Args:
      config: the whole config; the draw follows from its seed.
      dataset: with right labels.

    Returns:
      Labels of the training and validation split; and the data set whose coarse labels are the
      given ones, of the test split right.

    Raises:
      ConfigError: labels cannot be made wrong in this way.
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


def _run(
    config: Any,
    folder: pathlib.Path,
    noise: Mapping[str, Noise],
    noisy: Dataset,
    mesh: Mesh,
    parts: Any,
) -> dict[str, Any]:
    """As `run`, in a folder that is its own; `parts` are those of its first training."""
    robust = stages.classifier_config(config)
    method, train = config.noise.method, noise["train"]
    path = folder / "labels.npz"
    data, rows, found = noisy, None, None
    if method == "mend":
        if path.exists():
            arrays = findings.read(path, "labels", {"train": train.given})
            found = Findings(**{name: arrays[name] for name in Findings._fields})
        else:
            trained = stages.represent(config, parts, noisy, mesh, folder / "representation")
            found = _find(config, parts, trained.state, train.given, noisy, mesh)
            _write(path, train, found)
        data, rows = _mended(config, train.given, found, noisy)
        parts = run_module.build(robust, data, mesh, resumes=stages.started(folder / "classifier"))
    print(f"classifier: {method}", flush=True)
    trained, one = _train_classifier(
        robust, parts, data, rows, mesh, folder / "classifier", wrong=float(np.mean(train.changed))
    )

    # The test split is first read here, and decides nothing.
    print("accuracy on right labels", flush=True)
    last = one(trained.last)
    accuracy = []
    for state in (last,) if trained.state is trained.last else (last, one(trained.state)):
        tested = stages.embed(parts, state, noisy.splits["test"], mesh, robust, ("prediction",))
        accuracy.append(float(np.mean(tested["prediction"] == tested["coarse"])))
    if found is None:
        found = _judge(parts, last, train.given, noisy, mesh, robust)
        _write(path, train, found)
    results = {
        "dataset": noisy.name,
        "task": config.task,
        "method": config.method if method == "mend" else "ce",
        "noise_method": method,
        "noise_kind": config.noise.kind,
        "noise_rate": float(np.mean(train.changed)),
        "seed": config.seed,
        **stages.totals(folder),
        **run_module.skipped_examples(config, noisy),
        "coarse_accuracy": accuracy[0],
        "coarse_accuracy_chosen": accuracy[-1],
        "chosen_step": trained.step,
        **_scores(config.noise, train, found),
        **stages.made_on(last, trained.records),
    }
    print("report", flush=True)
    figures = _figures(noisy, train, found)
    return stages.finish(folder, config, results, trained.records, figures)


def _find(
    config: Any,
    parts: Any,
    state: train_state.TrainState,
    given: np.ndarray,
    noisy: Dataset,
    mesh: Mesh,
) -> Findings:
    """Finds wrong labels by the embedding."""
    print("suspected labels", flush=True)
    split = noisy.splits["train"]
    embeddings = stages.embed(parts, state, split, mesh, config, ("embedding",))["embedding"]
    options: dict[str, Any] = {"k": config.noise.neighbours}
    options["neighbours"] = noisy_labels.nearest(embeddings, **options)
    suspicion = noisy_labels.suspicion(
        embeddings,
        given,
        method=config.noise.detection,
        clusters=config.noise.clusters,
        seed=config.seed,
        **options,
    )
    assumed = config.noise.assumed_rate
    flagged = noisy_labels.flag(suspicion, None if assumed < 0 else assumed, seed=config.seed)
    suggested = noisy_labels.suggest(embeddings, given, trusted=~flagged, **options)
    points, mapped = projection.project(embeddings, limit=config.report.map_points)
    return Findings(
        suspicion.astype(np.float32), flagged, suggested.astype(np.int32), points, mapped
    )


def _judge(
    parts: Any,
    state: train_state.TrainState,
    given: np.ndarray,
    noisy: Dataset,
    mesh: Mesh,
    config: Any,
) -> Findings:
    """Finds wrong labels by a classifier trained on them: those it gives little probability."""
    split = noisy.splits["train"]
    found = stages.embed(parts, state, split, mesh, config, ("prediction", "probability"))
    suspicion = 1 - found["probability"][np.arange(len(given)), given]
    return Findings(suspicion, found["prediction"] != given, found["prediction"].astype(np.int32))


def _mended(
    config: Any, given: np.ndarray, found: Findings, noisy: Dataset
) -> tuple[Dataset, np.ndarray | None]:
    """Returns the data set to train the classifier on, and which of its images; None: all.

    Raises:
      ConfigError: all labels of a class are to be dropped.
    """
    if config.noise.action == "drop":
        rows = np.flatnonzero(~found.flagged)
        lost = np.setdiff1d(given, given[rows])
        if lost.size:
            raise ConfigError(
                f"config.noise.action: 'drop' leaves none of {np.count_nonzero(given == lost[0])} "
                f"training images labelled {noisy.coarse_names[lost[0]]!r}, for all were found "
                "wrong; expected 'relabel', or a lower noise.assumed_rate"
            )
        return noisy, rows
    labels = np.where(found.flagged, found.suggested, given)
    train = relabel(noisy.splits["train"], labels)
    return noisy._replace(splits={**noisy.splits, "train": train}), None


def _train_classifier(
    config: Any,
    parts: Any,
    data: Dataset,
    rows: np.ndarray | None,
    mesh: Mesh,
    folder: pathlib.Path,
    *,
    wrong: float,
) -> tuple[stages.Trained, Any]:
    """Returns the training, and what makes one network's state of its state.

    Co-teaching is told the share of the labels that are `wrong`, as its authors do.
    """
    method = config.noise.method
    if method in ("ce", "mend"):
        trained = stages.classify(
            config, parts, data, mesh, folder, rows=rows, choose=stages.ACCURACY
        )
        return trained, _itself

    inputs: Sequence[str]
    one: Callable[[train_state.TrainState], train_state.TrainState]
    optimizer, schedule = stages.schedule_of(config, data)
    common: dict[str, Any] = {"mean": data.mean, "std": data.std}
    split: Any = data.splits["train"]
    size = len(split)
    if method == "elr":
        step = noise_step.make_elr_step(parts.model, optimizer, schedule, config, mesh, **common)
        state = noise_step.with_targets(parts.state, size, len(data.coarse_names))
        split = AnnotatedSplit(split, {"row": np.arange(size, dtype=np.int32)})
        inputs, one = noise_step.ELR_INPUTS, _itself
    else:
        rate = config.noise.assumed_rate
        forget_rate = wrong if rate < 0 else rate
        _, steps_per_epoch = count_steps(config.train, size)
        keep_rate = noise_step.keep_rate_schedule(
            forget_rate, round(config.noise.forget_epochs * steps_per_epoch)
        )
        step = noise_step.make_co_teaching_step(
            parts.model, optimizer, schedule, config, mesh, **common, keep_rate=keep_rate
        )
        second = config.copy_and_resolve_references()
        second.seed = (config.seed + _SECOND) % 2**31
        resumes = stages.started(folder)
        other = run_module.build(second, data, mesh, resumes=resumes).state
        state = noise_step.pair(parts.state, other, optimizer)
        inputs, one = INPUTS, noise_step.first_of
    if config.train.on_nonfinite == "skip":
        step = nonfinite.skipping(step)
    trained = stages.train(
        sharding.replicate(mesh, state),
        step,
        split,
        mesh,
        config,
        folder,
        evaluate=stages.accuracy_on_validation(parts, data, mesh, config, of=one),
        choose=stages.ACCURACY,
        inputs=inputs,
        constants=run_module.skipped_examples(config, data),
    )
    return trained, one


def _scores(config: Any, train: Noise, found: Findings) -> dict[str, Any]:
    """How well wrong labels are found; where none was made wrong, how many are suspected."""
    scores: dict[str, Any] = {"detection": {"flagged": float(np.mean(found.flagged))}}
    if train.changed.any():
        scores["detection"] = noisy_labels.detection_scores(
            found.suspicion, found.flagged, train.changed
        )
    if config.method == "mend":
        # Of what is dropped the labels do not matter.
        stays = ~found.flagged if config.action == "drop" else np.ones(len(train.given), bool)
        scores["images_trained_on"] = int(np.count_nonzero(stays))
        if train.changed.any():
            mended = np.where(found.flagged, found.suggested, train.given)
            scores["labels_right"] = float(np.mean((mended == train.right)[stays]))
    return scores


def _itself(state: train_state.TrainState) -> train_state.TrainState:
    return state


def _write(path: pathlib.Path, train: Noise, found: Findings) -> None:
    arrays = {**train._asdict(), **found._asdict()}
    findings.write(path, arrays, {"train": train.given})


def _figures(noisy: Dataset, train: Noise, found: Findings) -> dict[str, tuple[Any, str]]:
    """Draws what the report shows; each figure with a sentence on how to read it."""
    names = noisy.coarse_names
    figures = {}
    # Only those of which something else is suggested; the most suspicious first.
    order = np.argsort(-found.suspicion, kind="stable")
    order = order[(found.flagged & (found.suggested != train.given))[order]][:_EXAMPLES]
    if order.size:
        ascending = np.sort(order)
        read = noisy.splits["train"].read(ascending)["image"]
        pictures = read[np.searchsorted(ascending, order)] / np.float32(255)
        figures["Suspected labels"] = (
            plots.images(
                pictures,
                [f"{names[a]} → {names[b]}" for a, b in
                 zip(train.given[order], found.suggested[order], strict=True)],
            ),
            plots.HOW_TO_READ["suspected"],
        )  # fmt: skip
    figures["Suspicion of right and of wrong labels"] = (
        plots.suspicion(found.suspicion, train.changed),
        plots.HOW_TO_READ["suspicion"],
    )
    if len(found.points):
        for title, values, legend in (
            ("given label", train.given, names),
            ("whether it is wrong", train.changed.astype(np.int64), ("right", "wrong")),
        ):
            figures[f"Training embeddings by {title}"] = (
                plots.embedding_map(found.points, values[found.mapped], legend, title),
                plots.HOW_TO_READ["noisy_map"],
            )
    return figures
