"""Hidden groups: recover them from an embedding, and train a classifier that is robust to them.

Classes are the coarse labels. The fine labels are the true groups; they are used to measure, and to
train only if config.groups.method says so. Where fine labels are the classes, true groups are
unknown: recovered groups are reported, the worst on validation first. A run has up to three
trainings:

    representation/  config.method; only where groups are recovered
    identification/  the first training of Just Train Twice
    groups.npz       the groups that the classifier is trained with
    classifier/      the classifier
    findings.csv     the group of each training and validation image, as a table
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from thanos_jax import agree
from thanos_jax.downstream import groups
from thanos_jax.downstream.groups import scores as group_scores
from thanos_jax.downstream.projection import Layout
from thanos_jax.errors import ConfigError
from thanos_jax.tasks import ending, findings, maps, recovered, stages
from thanos_jax.tasks.recovered import Groups
from thanos_jax.tasks.recovered import figures as _figures
from thanos_jax.train import classifier_losses

_CHOSEN_BY = "validation_worst_group_accuracy"


class Prepared(NamedTuple):
    """The first training, built, and the labels of the run.

    Attributes:
      first: the first training.
      labels: "train" and "validation" -> "fine" and "coarse" -> int32 [n].
    """

    first: stages.Stage
    labels: dict[str, dict[str, np.ndarray]]


def trainings(run: stages.Run) -> dict[str, stages.Planned]:
    """Checks the data; returns the training that finds groups, if needed, and the classifier's."""
    stages.require_classifiable(run)
    config, found = run.config, {}
    if recovered.facts(config).needs == "training":
        found["representation"] = stages.planned(run)
    if recovered.facts(config).needs == "errors":
        one = stages.classifier_config(config)
        one.train.epochs = config.groups.jtt_epochs
        found["identification"] = stages.planned(run, one)
    if config.groups.method != "none":
        found["classifier"] = stages.planned(run, stages.classifier_config(config))
    return found


def prepare(run: stages.Run) -> Prepared:
    """Checks the data and builds the first training; see `thanos_jax.tasks`."""
    name, planned = next(iter(trainings(run).items()))
    labels = {split: stages.labels(run.dataset.splits[split]) for split in ("train", "validation")}
    if name == "representation":
        first = stages.representation(run)
    elif name == "identification":
        first = stages.classifier(run, name=name, config=planned.config)
    else:
        first = _classifier(run, _known(run, labels), labels["train"]["coarse"])
    return Prepared(first, labels)


def perform(run: stages.Run, prepared: Prepared) -> dict[str, Any]:
    """Recovers, trains, evaluates and reports; see `thanos_jax.tasks`.

    Raises:
      ConfigError: the first training of Just Train Twice makes no errors, or groups.npz belongs to
        other images.
      NonFiniteError, CheckpointError, WorkdirError, Interrupted: as `thanos_jax.run.run`.
    """
    config, first, labels = run.config, prepared.first, prepared.labels
    method, trained = config.groups.method, None
    if first.name != "classifier":
        if method == "none" or not findings.there(run.folder / "groups.npz"):
            trained = _train_first(run, first)
        known = _found(run, trained, labels)
    else:
        known = _known(run, labels)
    if method != "none":
        stage = first
        if first.name != "classifier":
            stage = _classifier(run, known, labels["train"]["coarse"])
        print(f"classifier: {method}, {len(known.names)} groups", flush=True)
        trained = stages.train(
            run, stage, evaluate=lambda outputs: _evaluate(outputs, known), choose=_CHOSEN_BY
        )
    assert trained is not None

    # The test split is first read here, and decides nothing.
    print("accuracy of the groups", flush=True)
    found = {name: trained.outputs(name) for name in ("train", "validation")}
    found["test"] = trained.outputs("test", "probability")
    held_out = _accuracies(found["validation"], known)
    truth = recovered.is_truth_known(run.dataset)
    figures, fine = (
        stages.transferred(run, found, allow_missing_classes=True) if truth else ({}, None)
    )
    results = {
        "robust_method": method,
        **(
            _test(run, found["test"], labels["train"]["fine"])
            if truth
            else {"coarse_accuracy": stages.accuracy(found["test"])}
        ),
        **(
            _recovery(config, known, labels["train"])
            if truth
            else recovered.recovered(known, held_out)
        ),
        "chosen_step": trained.step,
        _CHOSEN_BY: held_out["worst_group_accuracy"],
        "groups_without_validation": [str(known.names[g]) for g in held_out["empty_groups"]],
        **figures,
        "embedding_dim": int(found["test"]["embedding"].shape[1]),
    }
    if agree.is_first():
        recovered.write_table(run, known, found, held_out)
    layout = Layout(*(getattr(known, name) for name in Layout._fields))
    train = maps.shown(run, found["train"])
    column = None if recovered.are_known(config) else maps.recovered(known.train, known.names)
    return ending.finish(
        run,
        first,
        trained,
        results,
        lambda: _figures(run, known, found, held_out, results, fine),
        lambda: maps.of_groups(run, layout, train, column),
        train["embedding"],
    )


def balanced(sets: np.ndarray) -> np.ndarray:
    """Repeats the images of each group, in turn, until all groups are as large as the largest.

    Every image is repeated equally often within its group, give or take one. A permutation of the
    rows is then an epoch in which all groups are equally frequent.

    Args:
      sets: integer [n], the groups.

    Returns:
      int64 [groups with images * size of the largest], indices of images, group by group.
    """
    members = [np.flatnonzero(sets == group) for group in np.unique(sets)]
    largest = max(map(len, members))
    return np.concatenate([np.resize(one, largest) for one in members])


def undersampled(sets: np.ndarray, seed: int) -> np.ndarray:
    """Draws as many images of every group as the smallest has, without replacement.

    Args:
      sets: integer [n], the groups.
      seed: of the draw.

    Returns:
      int64 [groups with images * size of the smallest], indices of images, ascending.
    """
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(sets == group) for group in np.unique(sets)]
    smallest = min(map(len, members))
    drawn = [generator.choice(one, smallest, replace=False) for one in members]
    return np.sort(np.concatenate(drawn))


def reweighted(sets: np.ndarray) -> np.ndarray:
    """Returns weights, of mean 1, that give every group the same total.

    Args:
      sets: integer [n], the groups.

    Returns:
      float32 [n].
    """
    _, group, counts = np.unique(sets, return_inverse=True, return_counts=True)
    return (len(sets) / (len(counts) * counts[group])).astype(np.float32)


def _known(run: stages.Run, labels: Mapping[str, Mapping[str, np.ndarray]]) -> Groups:
    """Returns the groups of methods that find none: the true groups, or the classes."""
    kind = recovered.facts(run.config).needs or "coarse"
    names = run.dataset.fine_names if kind == "fine" else run.dataset.coarse_names
    return Groups(labels["train"][kind], labels["validation"][kind], np.array(names))


def _train_first(run: stages.Run, first: stages.Stage) -> stages.Trained:
    if first.name == "identification":
        print("first training, by whose errors the second is weighted", flush=True)
        return stages.train(run, first, evaluate=None)
    print(f"representation: {run.config.method}", flush=True)
    return stages.train(run, first)


def _found(
    run: stages.Run,
    trained: stages.Trained | None,
    labels: Mapping[str, Mapping[str, np.ndarray]],
) -> Groups:
    """Returns the groups of groups.npz, or finds them with the outputs of the first training.

    Raises:
      ConfigError: groups.npz belongs to other images, or the first training of Just Train Twice
        makes no errors.
    """
    outputs = {}
    if trained is not None:
        outputs = {name: stages.gathered(trained.outputs(name)) for name in ("train", "validation")}

    def make() -> dict[str, Any]:
        assert trained is not None
        if recovered.facts(run.config).needs == "errors":
            return _errors(run, outputs, trained.step)._asdict()
        return _recover(run, outputs)._asdict()

    classes = {name: split["coarse"] for name, split in labels.items()}
    names = {name: run.dataset.splits[name].names for name in labels}
    path = run.folder / "groups.npz"
    return Groups(**findings.once(path, "groups", classes, make, names=names))


def _recover(run: stages.Run, outputs: Mapping[str, Mapping[str, np.ndarray]]) -> Groups:
    """Recovers groups by clustering the embeddings of each class."""
    print("recovering groups", flush=True)
    config, train, validation = run.config.groups, outputs["train"], outputs["validation"]
    found = groups.recover(
        train["embedding"],
        train["coarse"],
        validation["embedding"],
        validation["coarse"],
        rule=_rule(config),
        clustering=groups.Clustering(config.clustering, config.projection),
        seed=run.config.seed,
    )
    names = [f"{run.dataset.coarse_names[c]} #{g}" for g, c in enumerate(found.classes.tolist())]
    return Groups(
        found.groups.astype(np.int32),
        found.validation_groups.astype(np.int32),
        np.array(names),
        *maps.lay_out(run, train["embedding"]),
    )


def _rule(config: Any) -> groups.SilhouetteRule | groups.ErrorRule:
    """Returns the rule of config.groups; cells are the error rule's alone."""
    clusters = config.clusters or None
    if config.choice == "error":
        return groups.ErrorRule(clusters=clusters, cells=config.cells or None)
    return groups.RULES[config.choice](clusters=clusters)


def _errors(run: stages.Run, outputs: Mapping[str, Mapping[str, np.ndarray]], steps: int) -> Groups:
    """Returns two groups per class: images that the first training of JTT gets right, and wrong.

    Raises:
      ConfigError: the first training errs on no training image.
    """
    groups_of = {}
    for name, found in outputs.items():
        wrong = found["prediction"] != found["coarse"]
        groups_of[name] = (2 * found["coarse"] + wrong).astype(np.int32)
    if not np.any(groups_of["train"] % 2):
        epochs = run.config.groups.jtt_epochs
        raise ConfigError(
            f"config.groups.jtt_epochs: after {epochs:g} epochs ({steps} steps) the first training "
            f"errs on none of the {len(groups_of['train'])} training images, and there is nothing "
            "to give more weight to; expected fewer epochs, or a lower classifier.learning_rate"
        )
    names = [f"{name}, {w}" for name in run.dataset.coarse_names for w in ("learnt", "errors")]
    return Groups(groups_of["train"], groups_of["validation"], np.array(names))


def _classifier(run: stages.Run, known: Groups, classes: np.ndarray) -> stages.Stage:
    """Builds the classifier's training by config.groups.method; all methods take equal steps."""
    config, size = run.config.groups, len(classes)
    if recovered.facts(run.config).group_dro:
        sizes = np.bincount(known.train, minlength=len(known.names))
        stage = stages.classifier(
            run,
            lambda training: classifier_losses.group_dro(training, sizes),
            columns={"group": known.train},
            rows=balanced(known.train) if config.balanced_batches else None,
        )
        state = classifier_losses.with_group_weights(stage.training, sizes)
        return stage._replace(state=state)
    if config.method == "jtt":
        repeats = np.where(known.train % 2, config.jtt_weight, 1)
        return stages.classifier(run, rows=np.repeat(np.arange(size), repeats))
    if config.method == "reweight":
        return stages.classifier(run, columns={"weight": reweighted(known.train)})
    if config.method == "undersample":
        return stages.classifier(run, rows=undersampled(known.train, run.config.seed))
    return stages.classifier(run)


def _evaluate(outputs: stages.Outputs, known: Groups) -> dict[str, float]:
    measured = _accuracies(outputs("validation"), known)
    return {
        stages.ACCURACY: measured["average_accuracy"],
        _CHOSEN_BY: measured["worst_group_accuracy"],
    }


def _accuracies(found: Mapping[str, np.ndarray], known: Groups) -> dict[str, Any]:
    correct = found["prediction"] == found["coarse"]
    return group_scores.group_accuracy(correct, known.validation, len(known.names))


def _test(
    run: stages.Run, found: Mapping[str, np.ndarray], train_groups: np.ndarray
) -> dict[str, Any]:
    """Returns the test accuracy of each true group; for two classes also areas under ROC curves."""
    names = run.dataset.fine_names
    sizes = np.bincount(train_groups, minlength=len(names))
    measured = stages.by_fine_label(run, found, sizes)
    results = stages.worst_group(run, measured)
    results["adjusted_average_accuracy"] = measured["adjusted_average_accuracy"]
    results["groups"] = stages.each_fine_label(run, found, measured, train_images=sizes)
    if len(run.dataset.coarse_names) == 2:
        scores = found["probability"][:, 1]
        area = group_scores.group_auroc(scores, found["coarse"], found["fine"], len(names))
        results |= {key: area[key] for key in ("auroc", "worst_group_auroc")}
        for group, value in area["aurocs"].items():
            results["groups"][names[group]]["auroc"] = value
    return results


def _recovery(
    config: ml_collections.ConfigDict, known: Groups, labels: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Compares recovered with true groups of training images; {} if none were recovered."""
    if recovered.are_known(config):
        return {}
    scores = group_scores.recovery_scores(labels["fine"], known.train, labels["coarse"])
    return {
        "recovery_f1": scores["f1"],
        "recovered_groups": len(known.names),
        "recovery": scores,
    }
