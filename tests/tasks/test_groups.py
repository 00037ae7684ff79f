"""Recovering groups and training against the worst, end to end on digits in red and green."""

import csv
import json

import numpy as np
import pytest
from whole_runs import config_of, mapped, records, stop, stopped, stopping, untimed

from thanos_jax import config as schema
from thanos_jax import run as run_module
from thanos_jax.data import sources
from thanos_jax.downstream.groups import SilhouetteRule
from thanos_jax.errors import ConfigError
from thanos_jax.tasks import groups as task


def small(method="group_dro", steps=18):
    config = config_of("digits", "spread,groups")
    config.model.mlp.widths = (32, 16)
    config.groups.method = method
    config.classifier.learning_rate = 3e-3
    config.train.update(
        batch_size=64, max_steps=steps, log_every=5, evaluate_every_epochs=0.3,
        checkpoint_every_epochs=0.5, warmup_epochs=0.0,
    )  # fmt: skip
    config.transfer.update(iterations=5, neighbours=3)
    config.report.map_points = 60
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    return folder, run_module.run(small(), folder)


def test_leaves_what_it_promises(finished, tmp_path):
    folder, results = finished
    assert results == json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results.keys() >= {
        "dataset", "task", "method", "robust_method", "seed", "steps", "train_seconds",
        "coarse_accuracy", "adjusted_average_accuracy", "worst_group_accuracy", "worst_group",
        "worst_group_auroc", "auroc", "fine_accuracy", "fine_accuracy_knn", "recovery_f1",
        "recovered_groups", "groups", "recovery", "chosen_step", "groups_without_validation",
        "validation_worst_group_accuracy", "skipped_steps", "versions", "devices",
    }  # fmt: skip
    assert (results["method"], results["robust_method"]) == ("spread", "group_dro")
    assert results["steps"] == 36
    each = results["groups"]
    assert list(each) == ["0 to 4, red", "0 to 4, green", "5 to 9, red", "5 to 9, green"]
    assert results["worst_group_accuracy"] == min(one["accuracy"] for one in each.values())
    assert each[results["worst_group"]]["accuracy"] == results["worst_group_accuracy"]
    total = sum(one["train_images"] for one in each.values())
    adjusted = sum(one["accuracy"] * one["train_images"] / total for one in each.values())
    assert results["adjusted_average_accuracy"] == pytest.approx(adjusted)
    accuracy = sum(one["accuracy"] * one["test_images"] for one in each.values()) / 359
    assert results["coarse_accuracy"] == pytest.approx(accuracy)
    assert results["worst_group_auroc"] == min(one["auroc"] for one in each.values())
    report = (folder / "report.html").read_text(encoding="utf-8")
    for words in ("Accuracy of the true groups", "Recovered and true groups", "Training images of",
                  "embeddings by recovered group", "Training: classifier"):  # fmt: skip
        assert words in report
    of_map = mapped(folder, tmp_path)
    assert [column.name for column in of_map.columns] == [
        "recovered group", "true group", "class", "predicted class", "right or wrong",
    ]  # fmt: skip
    with np.load(folder / "groups.npz") as found:
        shown = found["mapped"]
        np.testing.assert_array_equal(of_map.columns[0].values, found["train"][shown])
    assert of_map.split == "train"
    assert len(shown) == 60


def rows_of(folder):
    with open(folder / "findings.csv", encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_findings_name_the_images_the_worst_group_first(finished):
    folder, results = finished
    with np.load(folder / "groups.npz") as file:
        found = dict(file)
    splits = sources.load(small().data).splits
    rows = rows_of(folder)
    assert len(rows) == sum(len(splits[name]) for name in ("train", "validation"))
    for row in rows[:: len(rows) // 40]:
        split, number = row["split"], int(row["row"])
        np.testing.assert_array_equal(found[f"filenames_of_{split}"], splits[split].names)
        assert row["filename"] == str(splits[split].names[number])
        assert row["group"] == found["names"][found[split][number]]
    known = [float(row["group_validation_accuracy"] or 2) for row in rows]
    assert known == sorted(known)
    assert known[0] == round(results["validation_worst_group_accuracy"], 4)
    wrong = [row["label"] != row["predicted"] for row in rows if row["group"] == rows[0]["group"]]
    assert wrong == sorted(wrong, reverse=True)


def test_the_best_on_validation_is_kept_and_no_true_group_decides(finished):
    folder, results = finished
    measured = records(folder, "classifier")
    key = "validation_worst_group_accuracy"
    assert [r["step"] for r in measured if key in r] == [6, 11, 17, 18]
    best = max(r[key] for r in measured if key in r)
    assert results[key] == best
    assert results["chosen_step"] == max(r["step"] for r in measured if r.get(key) == best)
    assert sum(1 for _ in (folder / "classifier" / "checkpoints").glob("[0-9]*")) in (2, 3)
    with np.load(folder / "groups.npz") as file:
        sizes = np.bincount(file["train"])
        assert len(file["names"]) == len(sizes) == results["recovered_groups"]
        assert len(file["validation"]) == 288
    assert sizes.min() >= 25


@pytest.mark.slow
def test_stopped_in_every_stage_it_comes_to_the_same_end(finished, tmp_path):
    folder, results = finished
    for module, name, replacement, left in (
        (task.stages, "make_step", stopping(task.stages.make_step, 13), "representation"),
        (task.groups, "recover", stop, "representation"),
        (task.stages, "make_step", stopping(task.stages.make_step, 13, number=2), "groups.npz"),
        (task.ending.html, "write", stop, "classifier"),
    ):
        stopped(small(), tmp_path, module, name, replacement, left=left)
    other = small()
    other.groups.choice = "silhouette"
    with pytest.raises(ConfigError, match=r"another config.*(?s:.)*groups\.choice: 'error'"):
        run_module.run(other, tmp_path)
    resumed = run_module.run(small(), tmp_path)
    assert resumed["train_seconds"] > 0
    assert untimed(resumed) == untimed(results)
    for stage in ("representation", "classifier"):
        assert records(tmp_path, stage) == records(folder, stage)
    assert run_module.run(small(), tmp_path) == resumed


@pytest.mark.sampled(4)
@pytest.mark.parametrize("method", ["reweight", "erm", "undersample", "none"])
def test_other_methods_run(method, tmp_path, no_report):
    config = small(method, steps=2)
    config.groups.clusters = 1
    results = run_module.run(config, tmp_path)
    stages = {"erm": ["classifier"], "none": ["representation"]}
    assert [one.name for one in sorted(tmp_path.iterdir()) if one.is_dir()] == sorted(
        stages.get(method, ["representation", "classifier"])
    )
    assert results["steps"] == 2 * len(stages.get(method, "ab"))
    assert ("recovery_f1" in results) == (method != "erm")
    if method != "erm":
        # One cluster a class: the groups are the classes.
        assert results["recovered_groups"] == 2
        assert results["recovery"]["rarest_recall"] == 0


def test_just_train_twice_repeats_the_errors(tmp_path, monkeypatch, no_report):
    seen = {}
    real = task.stages.train

    def watching(run, stage, **keywords):
        seen[stage.name] = stage.split
        return real(run, stage, **keywords)

    monkeypatch.setattr(task.stages, "train", watching)
    config = small("jtt", steps=2)
    config.groups.jtt_weight = 7
    results = run_module.run(config, tmp_path)
    assert results["steps"] == 4
    assert results["recovered_groups"] == 4
    assert not (tmp_path / "representation").exists()
    assert len(seen["identification"]) == 1150
    with np.load(tmp_path / "groups.npz") as file:
        wrong = file["train"] % 2 == 1
    assert wrong.any()
    assert not wrong.all()
    times = np.bincount(seen["classifier"].rows, minlength=1150)
    np.testing.assert_array_equal(times, np.where(wrong, 7, 1))


def test_just_train_twice_without_errors_says_so(tmp_path):
    config = small("jtt", steps=60)
    config.data.correlation = 1.0  # the colour tells the class, and is learnt at once
    config.classifier.learning_rate = 1e-2
    config.groups.jtt_epochs = 3.0
    expected = r"groups\.jtt_epochs: after 3 epochs \(54 steps\).*none of the 1150 training images"
    with pytest.raises(ConfigError, match=expected):
        run_module.run(config, tmp_path)


def without(dataset, split, fine):
    kept = np.flatnonzero(dataset.splits[split].fine != fine)
    splits = {**dataset.splits, split: dataset.splits[split].subset(kept)}
    return dataset._replace(splits=splits)


def test_groups_that_a_split_lacks(tmp_path, no_report):
    def load(data):
        return without(without(sources.load(data), "validation", 1), "train", 2)

    results = run_module.run(small("group_dro_true", steps=8), tmp_path, load=load)
    assert results["groups_without_validation"] == ["0 to 4, green"]
    assert results["groups"]["5 to 9, red"]["train_images"] == 0
    assert 0 <= results["validation_worst_group_accuracy"] <= 1
    assert not (tmp_path / "representation").exists()
    # What has no images has no weight: a third each, at first.
    first = records(tmp_path, "classifier")[0]
    assert 0.33 < first["largest_group_weight"] < 0.36


@pytest.mark.slow
@pytest.mark.sampled(2)
def test_a_set_on_the_devices_trains_alike(tmp_path, no_report):
    found = []
    for resident in ("no", "yes"):
        config = small("group_dro_true", steps=12)
        config.train.resident = resident
        config.train.on_nonfinite = "skip"
        run_module.run(config, tmp_path / resident)
        found.append(records(tmp_path / resident, "classifier"))
    assert len(found[0]) == len(found[1]) > 2
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_what_cannot_be_run_is_refused_before_anything_is_written(tmp_path):
    config = small()
    config.classifier.batch_size = 12
    with pytest.raises(
        ConfigError, match=r"classifier\.batch_size: expected 0 or a multiple of the 8 .*got 12"
    ):
        run_module.run(config, tmp_path / "run")

    def load(data):
        return sources.load(data)._replace(coarse_names=("all",))

    with pytest.raises(ConfigError, match=r"at least two classes .*'groups', got 1 in digits"):
        run_module.run(small(), tmp_path / "run", load=load)
    assert not (tmp_path / "run").exists()


def test_a_classifiers_own_settings():
    config = small()
    config.classifier.update(epochs=3.0, batch_size=16, learning_rate=0.5, weight_decay=0.25)
    config.train.micro_batch_size = 32
    one = task.stages.classifier_config(config).train
    assert (one.epochs, one.batch_size, one.learning_rate, one.weight_decay) == (3, 16, 0.5, 0.25)
    assert one.micro_batch_size == 0
    config.classifier.update(epochs=0.0, batch_size=0, learning_rate=0.0)
    one = task.stages.classifier_config(config).train
    assert (one.epochs, one.batch_size, one.learning_rate) == (30, 64, 1e-3)


SETS = np.array([3, 0, 0, 3, 0, 0, 0, 1])


def test_samplings_make_groups_equal():
    rows = task.balanced(SETS)
    assert np.bincount(SETS[rows]).tolist() == [5, 5, 0, 5]
    assert set(rows.tolist()) == set(range(8))
    assert np.bincount(rows).tolist() == [3, 1, 1, 2, 1, 1, 1, 5]
    rows = task.undersampled(np.repeat(SETS, 10), seed=1)
    assert np.bincount(np.repeat(SETS, 10)[rows]).tolist() == [10, 10, 0, 10]
    assert len(set(rows.tolist())) == len(rows)
    assert rows.tolist() != task.undersampled(np.repeat(SETS, 10), seed=2).tolist()
    weights = task.reweighted(SETS)
    assert weights.mean() == pytest.approx(1)
    sums = np.bincount(SETS, weights=weights)
    assert sums == pytest.approx([8 / 3, 8 / 3, 0, 8 / 3])


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_configs_keep_the_colour(name):
    config = config_of(name, "groups")
    schema.check(config)
    assert config.task == "groups"
    assert config.data.background == "colour"
    assert config.augment.grey_probability == config.augment.jitter_probability == 0


def test_cells_are_those_of_the_error_rule():
    config = small("none").groups
    assert task._rule(config).cells is None
    config.cells = 50
    assert task._rule(config).cells == 50
    config.update(choice="silhouette", clusters=3)
    assert task._rule(config) == SilhouetteRule(clusters=3)
