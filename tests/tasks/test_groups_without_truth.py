"""Groups where fine labels are the classes: found and shown, and measured by nothing."""

import csv
import re

import numpy as np
import pytest
from whole_runs import config_of

from thanos_jax import run as run_module
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.splits import ArraySplit
from thanos_jax.report import numbers
from thanos_jax.tasks import recovered as task
from thanos_jax.tasks import stages

NAMES = np.array(["a #0", "a #1", "b #2"])
KNOWN = task.Groups(np.array([0, 0, 1, 2, 2, 1]), np.array([1, 0, 1, 0]), NAMES)
HELD_OUT = {
    "accuracies": {0: 0.5, 1: 0.25}, "average_accuracy": 0.4, "empty_groups": [2],
}  # fmt: skip


def split(size, prefix):
    labels = np.arange(size) % 2
    images = np.zeros((size, 4, 4, 1), np.uint8)
    return ArraySplit(images, labels, labels, np.array([f"{prefix}{n}.png" for n in range(size)]))


@pytest.fixture
def run(tmp_path):
    splits = {"train": split(6, "t"), "validation": split(4, "v"), "test": split(2, "x")}
    dataset = Dataset("own", splits, ("a", "b"), ("a", "b"), (4, 4, 1), (0.5,), (0.2,))
    return stages.Run(config_of("folder", "spread,mlp,groups"), dataset, None, tmp_path)


def test_the_worst_group_is_first_and_one_without_validation_images_last():
    found = task.recovered(KNOWN, HELD_OUT)
    assert found["recovered_groups"] == 3
    assert list(found["recovered"].items()) == [
        ("a #1", {"train_images": 2, "validation_images": 2, "validation_accuracy": 0.25}),
        ("a #0", {"train_images": 2, "validation_images": 2, "validation_accuracy": 0.5}),
        ("b #2", {"train_images": 2, "validation_images": 0}),
    ]
    for name in ("train_images", "validation_images", "validation_accuracy"):
        assert numbers.find(["recovered", "a #1", name])


def test_the_table_names_the_images_of_each_group(run):
    found = {
        name: {"coarse": part.coarse, "prediction": np.zeros(len(part), int)}
        for name, part in run.dataset.splits.items()
    }
    task.write_table(run, KNOWN, found, HELD_OUT)
    with open(run.folder / "findings.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["filename"], row["group"], row["group_validation_accuracy"]) for row in rows] == [
        ("t5.png", "a #1", "0.2500"), ("t2.png", "a #1", "0.2500"), ("v0.png", "a #1", "0.2500"),
        ("v2.png", "a #1", "0.2500"), ("t1.png", "a #0", "0.5000"), ("v1.png", "a #0", "0.5000"),
        ("v3.png", "a #0", "0.5000"), ("t0.png", "a #0", "0.5000"), ("t3.png", "b #2", ""),
        ("t4.png", "b #2", ""),
    ]  # fmt: skip
    assert rows[0] == {
        "filename": "t5.png", "split": "train", "label": "b", "group": "a #1",
        "group_validation_accuracy": "0.2500", "predicted": "a", "row": "5",
    }  # fmt: skip


def test_the_report_says_that_there_is_no_truth(run):
    assert not task.is_truth_known(run.dataset)
    assert task.is_truth_known(run.dataset._replace(fine_names=("a", "b", "c")))
    train = {"coarse": np.arange(6) % 2, "prediction": np.zeros(6, int)}
    test = {"coarse": np.arange(2), "prediction": np.zeros(2, int)}
    figures = task.figures(run, KNOWN, {"train": train, "test": test}, HELD_OUT, {}, None)
    assert list(figures) == [
        "Accuracy of the groups on validation", "Training images of a #1",
        "Training images of a #0", "Confused most, by class", "Test images of the worst class: b",
    ]  # fmt: skip
    assert "<bdi>b</bdi> taken for <bdi>a</bdi> (1 of 1)" in figures["Confused most, by class"][0]
    assert 'alt="x1.png"' in figures["Test images of the worst class: b"][0]
    # Several groups have this caption.
    for group in ("a #0", "a #1"):
        assert "Training images of a group on" in figures[f"Training images of {group}"][1]
    assert "True groups are unknown, because there are no" in next(iter(figures.values()))[1]
    # Images 2 and 5 are in the worst group; the second is predicted wrong.
    assert re.findall(r'alt="(t\d\.png)"', figures["Training images of a #1"][0]) == [
        *("t5.png", "t2.png"),
    ]


def test_with_truth_images_of_the_worst_are_those_of_the_worst_group(run):
    run = run._replace(dataset=run.dataset._replace(fine_names=("p", "q", "r")))
    train = {"coarse": np.arange(6) % 2, "prediction": np.zeros(6, int), "fine": np.arange(6) % 3}
    test = {"coarse": np.arange(2), "prediction": np.zeros(2, int), "fine": np.arange(1, 3)}
    results = {
        "worst_group": "r",
        "coarse_accuracy": 0.5,
        "groups": {name: {"train_images": 2, "accuracy": 0.5} for name in ("q", "r")},
    }
    held_out = HELD_OUT | {"worst_group": 1}
    found = {"train": train, "test": test}
    figures = task.figures(run, KNOWN, found, held_out, results, np.array([2, 2]))
    assert list(figures) == [
        "Accuracy of the true groups", "Test images of the worst group: r",
        "Recovered and true groups", "Training images of a #1", "Confused most, by fine label",
    ]  # fmt: skip
    assert "<bdi>q</bdi> taken for <bdi>r</bdi>" in figures["Confused most, by fine label"][0]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["group_dro", "erm"])
def test_a_whole_run_measures_no_truth(method, tmp_path):
    config = config_of("digits", "spread,groups")
    config.data.update(background="none", classes="fine")
    config.model.mlp.widths = (32, 16)
    config.groups.method = method
    config.train.update(batch_size=64, max_steps=12, evaluate_every_epochs=0.3, warmup_epochs=0.0)
    config.report.map_points = 60
    results = run_module.run(config, tmp_path)
    assert not results.keys() & {
        "recovery", "recovery_f1", "groups", "worst_group_accuracy", "fine_accuracy",
        "adjusted_average_accuracy",
    }  # fmt: skip
    accuracies = [one.get("validation_accuracy", 2) for one in results["recovered"].values()]
    assert accuracies == sorted(accuracies)
    assert accuracies[0] == results["validation_worst_group_accuracy"]
    assert results["recovered_groups"] == len(accuracies)
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "True groups are unknown" in report
    assert "true group" not in report.replace("(not the true groups)", "")
