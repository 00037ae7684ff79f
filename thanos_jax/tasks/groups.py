"""Hidden groups: recovered from an embedding, and a classifier trained against the worst of them.

Classes are the coarse labels; the fine labels are the true groups, which are looked at to measure,
and to train only where config.groups.method says so. A run has up to three trainings, in folders of
their own, and each thing it makes is there whole or not at all, so that it can be resumed anywhere:

    representation/  config.method; only where groups are recovered
    identification/  the first training of Just Train Twice
    groups.npz       the groups that the classifier is trained with
    classifier/        the classifier
    results.json, report.html
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from thanos_jax import run as run_module
from thanos_jax import sharding
from thanos_jax.data.annotated import AnnotatedSplit
from thanos_jax.data.dataset import Dataset
from thanos_jax.downstream import groups, projection, transfer
from thanos_jax.downstream.groups import scores as group_scores
from thanos_jax.errors import ConfigError
from thanos_jax.report import plots
from thanos_jax.tasks import findings, stages
from thanos_jax.train import state as train_state
from thanos_jax.train.robust_step import GROUP_INPUTS, WEIGHT_INPUTS

# Methods that need groups recovered from the embedding of config.method.
RECOVERING = ("none", "group_dro", "reweight", "undersample")

_CHOSEN_BY = "validation_worst_group_accuracy"
_EXAMPLES = 12


class Groups(NamedTuple):
    """Groups that a classifier is trained with, each within a class.

    Attributes:
      train: int32 [n], 0 to len(names) - 1.
      validation: int32 [m].
      names: of the groups, for people.
      points: float32 [p, 2], a map of training embeddings; [0, 2] where there is none.
      mapped: int64 [p], the training images on it.
    """

    train: np.ndarray
    validation: np.ndarray
    names: tuple[str, ...]
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
    """Recovers, trains, evaluates and reports; the same call on the same folder resumes.

    Args:
      config: checked, of task "groups".
      folder: of the run, not finished.
      dataset: fine labels are the true groups.
      mesh: devices.
      overwrite: whether a run of another config in the folder is removed.

    Returns:
      What results.json holds.

    Raises:
      ConfigError: a config that does not fit the data or the devices, several processes, or a
        first training of Just Train Twice without errors.
      NonFiniteError, CheckpointError, WorkdirError, Interrupted: as `thanos_jax.run.run`.
    """
    stages.require_classifiable(config, dataset)
    first = config if config.groups.method in RECOVERING else stages.classifier_config(config)
    name = "representation" if first is config else "classifier"
    with stages.claimed(
        config, folder, dataset, mesh, first=first, training=name, overwrite=overwrite
    ) as parts:
        return _run(config, folder, dataset, mesh, parts)


def _run(
    config: Any, folder: pathlib.Path, dataset: Dataset, mesh: Mesh, parts: Any
) -> dict[str, Any]:
    """As `run`, in a folder that is its own; `parts` are those of its first training."""
    robust = stages.classifier_config(config)
    method = config.groups.method
    labels = {name: stages.labels(dataset.splits[name]) for name in ("train", "validation")}
    classes = {name: split["coarse"] for name, split in labels.items()}
    path = folder / "groups.npz"
    trained = None
    if method in RECOVERING and (not path.exists() or method == "none"):
        trained = stages.represent(config, parts, dataset, mesh, folder / "representation")
    if method in ("erm", "group_dro_true"):
        kind, names = (
            ("fine", dataset.fine_names)
            if method == "group_dro_true"
            else ("coarse", dataset.coarse_names)
        )
        known = Groups(labels["train"][kind], labels["validation"][kind], tuple(names))
    elif path.exists():
        arrays: dict[str, Any] = findings.read(path, "groups", classes)
        arrays["names"] = tuple(arrays["names"].tolist())
        known = Groups(**arrays)
    else:
        if method == "jtt":
            known = _identify(config, dataset, labels, mesh, folder / "identification")
        else:
            assert trained is not None
            known = _recover(config, parts, trained.state, dataset, mesh)
        arrays = {**known._asdict(), "names": np.array(known.names)}
        findings.write(path, arrays, classes)
    if method != "none":
        resumes = stages.started(folder / "classifier")
        parts = run_module.build(robust, dataset, mesh, resumes=resumes)
        trained = _train_classifier(
            robust, parts, known, labels["train"]["coarse"], dataset, mesh, folder / "classifier"
        )
    assert trained is not None

    # The test split is first read here, and decides nothing.
    print("accuracy of the groups", flush=True)
    used = config if method == "none" else robust
    keep = ("embedding", "prediction", "probability")
    found = {
        name: stages.embed(parts, trained.state, dataset.splits[name], mesh, used, keep)
        for name in ("train", "validation", "test")
    }
    held_out = _accuracies(found["validation"], known.validation, len(known.names))
    results = {
        "dataset": dataset.name,
        "task": config.task,
        "method": config.method if method in RECOVERING else "ce",
        "robust_method": method,
        "seed": config.seed,
        **stages.totals(folder),
        **run_module.skipped_examples(config, dataset),
        **_test(found["test"], labels["train"]["fine"], dataset),
        **_recovery(method, known, labels["train"]),
        "chosen_step": trained.step,
        _CHOSEN_BY: held_out["worst_group_accuracy"],
        "groups_without_validation": [known.names[g] for g in held_out["empty_groups"]],
        **transfer.evaluate(
            {name: split["embedding"] for name, split in found.items()},
            {name: split["fine"] for name, split in found.items()},
            {name: split["coarse"] for name, split in found.items()},
            num_fine=len(dataset.fine_names),
            num_coarse=len(dataset.coarse_names),
            regularization=config.transfer.regularization,
            max_iterations=config.transfer.iterations,
            neighbours=config.transfer.neighbours,
            allow_missing_classes=True,
        ),
        "embedding_dim": int(found["test"]["embedding"].shape[1]),
        **stages.made_on(trained.state, trained.records),
    }
    print("report", flush=True)
    figures = _figures(dataset, known, labels["train"], held_out, results)
    return stages.finish(folder, config, results, trained.records, figures)


def balanced(sets: np.ndarray) -> np.ndarray:
    """Repeats the images of each group, in turn, until all groups are as large as the largest.

    Every image is there, those of a group equally often but for one; a permutation of the rows thus
    is an epoch in which all groups are equally frequent.

    Args:
      sets: integer [n], the groups.

    Returns:
      int64 [groups with images * size of the largest], numbers of images, group by group.
    """
    members = [np.flatnonzero(sets == group) for group in np.unique(sets)]
    largest = max(map(len, members))
    return np.concatenate([np.resize(one, largest) for one in members])


def undersampled(sets: np.ndarray, seed: int) -> np.ndarray:
    """Draws as many images of every group as the smallest has, without replacement.

    Args:
      sets: integer [n], the groups.
      seed: the draw.

    Returns:
      int64 [groups with images * size of the smallest], numbers of images, ascending.
    """
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(sets == group) for group in np.unique(sets)]
    smallest = min(map(len, members))
    drawn = [generator.choice(one, smallest, replace=False) for one in members]
    return np.sort(np.concatenate(drawn))


def reweighted(sets: np.ndarray) -> np.ndarray:
    """Weights by which all groups count the same; their mean is 1.

    Args:
      sets: integer [n], the groups.

    Returns:
      float32 [n].
    """
    _, group, counts = np.unique(sets, return_inverse=True, return_counts=True)
    return (len(sets) / (len(counts) * counts[group])).astype(np.float32)


def _recover(config: Any, parts: Any, state: Any, dataset: Dataset, mesh: Mesh) -> Groups:
    print("recovering groups", flush=True)
    train, validation = (
        stages.embed(parts, state, dataset.splits[name], mesh, config, ("embedding",))
        for name in ("train", "validation")
    )
    found = groups.recover(
        train["embedding"],
        train["coarse"],
        validation["embedding"],
        validation["coarse"],
        rule=groups.RULES[config.groups.choice](clusters=config.groups.clusters or None),
        clustering=groups.Clustering(config.groups.clustering, config.groups.projection),
        seed=config.seed,
    )
    points, mapped = projection.project(train["embedding"], limit=config.report.map_points)
    names = [f"{dataset.coarse_names[c]} #{g}" for g, c in enumerate(found.classes.tolist())]
    return Groups(
        found.groups.astype(np.int32),
        found.validation_groups.astype(np.int32),
        tuple(names),
        points,
        mapped,
    )


def _identify(
    config: Any,
    dataset: Dataset,
    labels: Mapping[str, Mapping[str, np.ndarray]],
    mesh: Mesh,
    folder: pathlib.Path,
) -> Groups:
    """The first training of Just Train Twice: two groups a class, by whether it errs.

    Raises:
      ConfigError: it errs on no training image.
    """
    first = stages.classifier_config(config)
    first.train.epochs = config.groups.jtt_epochs
    parts = run_module.build(first, dataset, mesh, resumes=stages.started(folder))
    size = len(dataset.splits["train"])
    print("first training, by whose errors the second is weighted", flush=True)
    trained = stages.train(
        parts.state,
        stages.robust_step(first, parts, dataset, mesh),
        AnnotatedSplit(dataset.splits["train"], {"weight": np.ones(size, np.float32)}),
        mesh,
        first,
        folder,
        inputs=WEIGHT_INPUTS,
        constants=run_module.skipped_examples(config, dataset),
    )
    groups_of = {}
    for name in ("train", "validation"):
        split = dataset.splits[name]
        found = stages.embed(parts, trained.state, split, mesh, first, ("prediction",))
        wrong = found["prediction"] != labels[name]["coarse"]
        groups_of[name] = (2 * labels[name]["coarse"] + wrong).astype(np.int32)
    if not np.any(groups_of["train"] % 2):
        raise ConfigError(
            f"config.groups.jtt_epochs: after {config.groups.jtt_epochs:g} epochs "
            f"({trained.step} steps) the first training errs on none of the {size} training "
            "images, and there is nothing to give more weight to; expected fewer epochs, or a "
            "lower classifier.learning_rate"
        )
    names = [f"{name}, {w}" for name in dataset.coarse_names for w in ("learnt", "errors")]
    return Groups(groups_of["train"], groups_of["validation"], tuple(names))


def _train_classifier(
    config: Any,
    parts: Any,
    known: Groups,
    classes: np.ndarray,
    dataset: Dataset,
    mesh: Mesh,
    folder: pathlib.Path,
) -> stages.Trained:
    method, size = config.groups.method, len(classes)
    print(f"classifier: {method}, {len(known.names)} groups", flush=True)
    rows = None
    weights = np.ones(size, np.float32)
    state, sizes = parts.state, None
    if method in ("group_dro", "group_dro_true"):
        count = len(known.names)
        sizes = np.bincount(known.train, minlength=count)
        # A group without training images never has a loss, and takes no share of the weights.
        initial = jnp.asarray(sizes > 0, jnp.float32) / np.count_nonzero(sizes)
        state = state.replace(group_weights=sharding.replicate(mesh, initial))
        if config.groups.balanced_batches:
            rows = balanced(known.train)
    elif method == "jtt":
        rows = np.repeat(np.arange(size), np.where(known.train % 2, config.groups.jtt_weight, 1))
    elif method == "reweight":
        weights = reweighted(known.train)
    elif method == "undersample":
        rows = undersampled(known.train, config.seed)

    def evaluate(state: train_state.TrainState) -> dict[str, float]:
        split = dataset.splits["validation"]
        found = stages.embed(parts, state, split, mesh, config, ("prediction",))
        measured = _accuracies(found, known.validation, len(known.names))
        return {
            "validation_coarse_accuracy": measured["average_accuracy"],
            _CHOSEN_BY: measured["worst_group_accuracy"],
        }

    column = {"weight": weights} if sizes is None else {"group": known.train}
    return stages.train(
        state,
        stages.robust_step(config, parts, dataset, mesh, group_sizes=sizes),
        AnnotatedSplit(dataset.splits["train"], column, rows),
        mesh,
        config,
        folder,
        evaluate=evaluate,
        choose=_CHOSEN_BY,
        inputs=WEIGHT_INPUTS if sizes is None else GROUP_INPUTS,
        # All methods take the same number of steps.
        epoch_size=size,
        constants=run_module.skipped_examples(config, dataset),
    )


def _accuracies(found: Mapping[str, np.ndarray], sets: np.ndarray, count: int) -> dict[str, Any]:
    return group_scores.group_accuracy(found["prediction"] == found["coarse"], sets, count)


def _test(
    found: Mapping[str, np.ndarray], train_groups: np.ndarray, dataset: Dataset
) -> dict[str, Any]:
    """Accuracy of the true groups on the test split; for two classes, areas under ROC curves."""
    names = dataset.fine_names
    sizes = np.bincount(train_groups, minlength=len(names))
    correct = found["prediction"] == found["coarse"]
    measured = group_scores.group_accuracy(correct, found["fine"], len(names), train_sizes=sizes)
    each: dict[str, dict[str, float]] = {
        names[group]: {
            "accuracy": accuracy,
            "test_images": int(np.sum(found["fine"] == group)),
            "train_images": int(sizes[group]),
        }
        for group, accuracy in measured["accuracies"].items()
    }
    results = {
        "coarse_accuracy": measured["average_accuracy"],
        "adjusted_average_accuracy": measured["adjusted_average_accuracy"],
        "worst_group_accuracy": measured["worst_group_accuracy"],
        "worst_group": names[measured["worst_group"]],
    }
    if len(dataset.coarse_names) == 2:
        scores = found["probability"][:, 1]
        area = group_scores.group_auroc(scores, found["coarse"], found["fine"], len(names))
        results |= {key: area[key] for key in ("auroc", "worst_group_auroc")}
        for group, value in area["aurocs"].items():
            each[names[group]]["auroc"] = value
    return {**results, "groups": each}


def _recovery(method: str, known: Groups, labels: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """How well the training images' groups are the true ones; {} where none were recovered."""
    if method in ("erm", "group_dro_true"):
        return {}
    scores = group_scores.recovery_scores(labels["fine"], known.train, labels["coarse"])
    return {
        "recovery_f1": scores["f1"],
        "recovered_groups": len(known.names),
        "recovery": scores,
    }


def _figures(
    dataset: Dataset,
    known: Groups,
    labels: Mapping[str, np.ndarray],
    held_out: Mapping[str, Any],
    results: Mapping[str, Any],
) -> dict[str, tuple[Any, str]]:
    """Draws what the report shows; each figure with a sentence on how to read it."""
    figures = {
        "Accuracy of the true groups": (
            plots.group_bars(
                [f"{name} ({one['train_images']:,})" for name, one in results["groups"].items()],
                [one["accuracy"] for one in results["groups"].values()],
                average=results["coarse_accuracy"],
            ),
            plots.HOW_TO_READ["group_bars"],
        )
    }
    if results["robust_method"] not in ("erm", "group_dro_true"):
        figures["Recovered and true groups"] = (
            plots.contingency(
                labels["fine"], known.train, list(dataset.fine_names), list(known.names)
            ),
            plots.HOW_TO_READ["contingency"],
        )
        worst = held_out["worst_group"]
        members = np.flatnonzero(known.train == worst)
        if members.size:
            chosen = np.random.default_rng(0).permutation(members)[:_EXAMPLES]
            images = dataset.splits["train"].read(np.sort(chosen))["image"]
            figures[f"Training images of {known.names[worst]}"] = (
                plots.images(images / np.float32(255)),
                plots.HOW_TO_READ["worst_recovered"],
            )
    if len(known.points):
        for title, sets, names in (
            ("recovered", known.train, known.names),
            ("true", labels["fine"], dataset.fine_names),
        ):
            figures[f"Training embeddings by {title} group"] = (
                plots.embedding_map(known.points, sets[known.mapped], names, f"{title} group"),
                plots.HOW_TO_READ["recovered_map"],
            )
    return figures
