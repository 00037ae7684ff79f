"""Presents recovered groups: results, findings.csv and figures, with or without true groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from thanos_jax.data.dataset import Dataset
from thanos_jax.downstream.projection import Layout
from thanos_jax.methods import GROUPS, Method
from thanos_jax.report import plots
from thanos_jax.tasks import findings, problems, stages

_EXAMPLES = 12
# Number of worst groups whose images are shown if the true groups are unknown.
_WORST = 3


class Groups(NamedTuple):
    """Groups that a classifier is trained with, each within a class.

    Attributes:
      train: int32 [n], 0 to len(names) - 1.
      validation: int32 [m].
      names: str [groups], for people.
      points, mapped, plane, neighbours, seconds: of the map of training images, see
        `thanos_jax.downstream.projection.Layout`; empty where the classifier's embeddings make it.
    """

    train: np.ndarray
    validation: np.ndarray
    names: np.ndarray
    points: np.ndarray = Layout().points
    mapped: np.ndarray = Layout().mapped
    plane: np.ndarray = Layout().plane
    neighbours: np.ndarray = Layout().neighbours
    seconds: np.ndarray = Layout().seconds


def facts(config: ml_collections.ConfigDict) -> Method:
    """Returns the properties of the config's method."""
    return GROUPS[config.groups.method]


def are_known(config: ml_collections.ConfigDict) -> bool:
    """Whether the method trains with groups that are known: classes, or the true groups."""
    return facts(config).needs in ("", "fine")


def is_truth_known(dataset: Dataset) -> bool:
    """Whether fine labels divide the classes further, so that they are the true groups."""
    return len(dataset.fine_names) > len(dataset.coarse_names)


def _worst_first(known: Groups, held_out: Mapping[str, Any]) -> list[int]:
    """Returns groups by ascending validation accuracy, with unmeasured groups last."""
    accuracies = held_out["accuracies"]
    return sorted(range(len(known.names)), key=lambda group: accuracies.get(group, np.inf))


def recovered(known: Groups, held_out: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the size and validation accuracy of each group, by name, the worst first."""
    sizes = np.bincount(known.train, minlength=len(known.names))
    held = np.bincount(known.validation, minlength=len(known.names))
    accuracies = held_out["accuracies"]
    found = {
        str(known.names[group]): {
            "train_images": int(sizes[group]),
            "validation_images": int(held[group]),
            **({"validation_accuracy": accuracies[group]} if group in accuracies else {}),
        }
        for group in _worst_first(known, held_out)
    }
    return {"recovered_groups": len(found), "recovered": found}


def write_table(
    run: stages.Run,
    known: Groups,
    found: Mapping[str, Mapping[str, np.ndarray]],
    held_out: Mapping[str, Any],
) -> None:
    """Writes findings.csv: the worst group first, and within a group wrong predictions first."""
    parts = {"train": known.train, "validation": known.validation}
    group = np.concatenate(list(parts.values()))
    label, predicted = (
        np.concatenate([found[split][name] for split in parts]) for name in ("coarse", "prediction")
    )
    rank = np.empty(len(known.names), np.int64)
    rank[_worst_first(known, held_out)] = np.arange(len(known.names))
    order = np.lexsort((predicted == label, rank[group]))
    accuracies = [held_out["accuracies"].get(g, "") for g in range(len(known.names))]
    in_words = np.array([a if a == "" else f"{a:.4f}" for a in accuracies])
    classes = np.array(run.dataset.coarse_names)
    columns = {
        "filename": np.concatenate([run.dataset.splits[split].names for split in parts]),
        "split": np.repeat(list(parts), [len(part) for part in parts.values()]),
        "label": classes[label],
        "group": known.names[group],
        "group_validation_accuracy": in_words[group],
        "predicted": classes[predicted],
        "row": np.concatenate([np.arange(len(part)) for part in parts.values()]),
    }
    findings.write_table(run.folder, {name: values[order] for name, values in columns.items()})


def figures(
    run: stages.Run,
    known: Groups,
    found: Mapping[str, Mapping[str, np.ndarray]],
    held_out: Mapping[str, Any],
    results: Mapping[str, Any],
    fine: np.ndarray | None,
) -> stages.Figures:
    """Returns the figures of the report, each with a sentence on how to read it.

    Args:
      run: the run.
      known: the groups.
      found: split -> outputs of the classifier.
      held_out: accuracies of the groups on validation.
      results: of the run.
      fine: integer [n], fine labels predicted from the embeddings of test images; None: true
        groups are unknown.
    """
    if fine is None:
        return _figures_without_truth(run, known, found, held_out)
    names, test = run.dataset.fine_names, found["test"]
    correct = test["prediction"] == test["coarse"]
    worst = names.index(results["worst_group"])
    members = np.flatnonzero(test["fine"] == worst)
    drawn: stages.Figures = {
        "Accuracy of the true groups": (
            plots.group_bars(
                [f"{name} ({one['train_images']:,})" for name, one in results["groups"].items()],
                [one["accuracy"] for one in results["groups"].values()],
                average=results["coarse_accuracy"],
            ),
            plots.HOW_TO_READ["group_bars"],
        ),
        f"Test images of the worst group: {names[worst]}": (
            problems.images_of(
                run.dataset.splits["test"], members, correct, "test", _predicted(run, test)
            ),
            plots.HOW_TO_READ["worst_group"],
        ),
    }
    if not are_known(run.config):
        drawn["Recovered and true groups"] = (
            plots.contingency(found["train"]["fine"], known.train, list(names), list(known.names)),
            plots.HOW_TO_READ["contingency"],
        )
        drawn |= _training_images(run, known, found["train"], held_out["worst_group"])
    # No images of the worst fine label: images of the worst group are already shown.
    return {**drawn, **problems.confused(test["fine"], fine, names, kind="fine label")}


def _predicted(run: stages.Run, outputs: Mapping[str, np.ndarray]) -> Callable[[int], str]:
    """Returns a function from an image's row to its predicted class."""
    return lambda row: run.dataset.coarse_names[outputs["prediction"][row]]


def _training_images(
    run: stages.Run, known: Groups, train: Mapping[str, np.ndarray], group: int
) -> stages.Figures:
    """Shows some training images of a group, wrong predictions first; {} if there are none."""
    members = np.flatnonzero(known.train == group)
    if not members.size:
        return {}
    order = np.random.default_rng(0).permutation(members)
    correct = train["prediction"] == train["coarse"]
    images = problems.images_of(
        run.dataset.splits["train"],
        order,
        correct,
        "train",
        _predicted(run, train),
        most=_EXAMPLES,
    )
    title = f"Training images of {known.names[group]}"
    return {title: (images, plots.HOW_TO_READ["worst_recovered"])}


def _figures_without_truth(
    run: stages.Run,
    known: Groups,
    found: Mapping[str, Mapping[str, np.ndarray]],
    held_out: Mapping[str, Any],
) -> stages.Figures:
    """Draws recovered groups, the worst first, and then classes, where true groups are unknown."""
    measured = [g for g in _worst_first(known, held_out) if g in held_out["accuracies"]]
    sizes = np.bincount(known.train, minlength=len(known.names))
    drawn: stages.Figures = {
        "Accuracy of the groups on validation": (
            plots.group_bars(
                [f"{known.names[group]} ({sizes[group]:,})" for group in measured],
                [held_out["accuracies"][group] for group in measured],
                average=held_out["average_accuracy"],
            ),
            plots.HOW_TO_READ["groups_without_truth"],
        )
    }
    for group in measured[:_WORST]:
        drawn |= _training_images(run, known, found["train"], group)
    test = found["test"]
    return drawn | problems.classes(
        run.dataset.splits["test"],
        test["coarse"],
        test["prediction"],
        run.dataset.coarse_names,
        kind="class",
    )
