"""Noisy labels, made, found, borne and mended, end to end on scikit-learn's digits."""

import csv
import json

import numpy as np
import pytest
from whole_runs import config_of, mapped, records, stop, stopped, stopping, untimed

from thanos_jax import config as schema
from thanos_jax import resume
from thanos_jax import run as run_module
from thanos_jax.data import sources
from thanos_jax.data.corruption import corrupt
from thanos_jax.downstream import noisy_labels
from thanos_jax.errors import ConfigError
from thanos_jax.tasks import noise as task
from thanos_jax.train import metrics
from thanos_jax.workdir import WorkdirError


def small(method="mend", steps=16, **settings):
    config = config_of("digits", "spread,noise")
    config.model.mlp.widths = (32, 16)
    config.noise.update(**{"method": method, "forget_epochs": 0.5} | settings)
    config.train.update(
        batch_size=64, max_steps=steps, log_every=5, evaluate_every_epochs=0.25,
        checkpoint_every_epochs=0.4, warmup_epochs=0.0, learning_rate=3e-3,
    )  # fmt: skip
    config.report.map_points = 60
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    return folder, run_module.run(small(rule="mixture"), folder)


def arrays_of(folder):
    with np.load(folder / "labels.npz") as file:
        return dict(file)


def test_leaves_what_it_promises(finished, tmp_path):
    folder, results = finished
    assert results == json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert (results["task"], results["method"], results["noise_method"]) == (
        "noise", "spread", "mend",
    )  # fmt: skip
    assert results["steps"] == 32
    assert results["noise_rate"] == round(0.2 * 1294) / 1294
    report = (folder / "report.html").read_text(encoding="utf-8")
    for words in ("Suspected labels", "Suspicion of right and of wrong labels", "by given label",
                  "by whether it is wrong", "Training: classifier",
                  "Training: representation"):  # fmt: skip
        assert words in report
    of_map, found = mapped(folder, tmp_path), arrays_of(folder)
    shown, columns = of_map.layout.mapped, {one.name: one for one in of_map.columns}
    assert len(shown) == 60
    for name, array in (("suspicion", "suspicion"), ("given label", "given"),
                        ("suggested label", "suggested"), ("suspected", "flagged"),
                        ("whether it is wrong", "changed")):  # fmt: skip
        np.testing.assert_array_equal(columns[name].values, found[array][shown])
    np.testing.assert_array_equal(of_map.layout.neighbours, found["neighbours"])


def test_labels_are_wrong_as_told_and_mended_as_found(finished):
    folder, results = finished
    found = arrays_of(folder)
    right = sources.load(small().data).splits["train"].fine
    np.testing.assert_array_equal(found["right"], right)
    given, changed = corrupt(right, 0.2, num_classes=10, seed=0)
    np.testing.assert_array_equal(found["given"], given)
    np.testing.assert_array_equal(found["changed"], changed)
    scores = noisy_labels.detection_scores(found["suspicion"], found["flagged"], changed)
    assert results["detection"] == scores
    assert scores["auroc"] > 0.9  # after hardly a training: the digits' pixels tell enough
    half = noisy_labels.flag(found["suspicion"])
    assert np.all(half[found["flagged"]])
    assert np.count_nonzero(found["flagged"]) < np.count_nonzero(half)  # noise.rule
    mended = np.where(found["flagged"], found["suggested"], given)
    assert results["labels_right"] == pytest.approx(np.mean(mended == right))
    assert results["labels_right"] > 0.82  # of labels of which 0.8 were right
    assert results["images_trained_on"] == len(right)


def test_findings_name_the_images_the_most_suspicious_first(finished):
    folder, _ = finished
    found = arrays_of(folder)
    names = found["filenames_of_train"]
    np.testing.assert_array_equal(names, sources.load(small().data).splits["train"].names)
    with open(folder / "findings.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    order = np.argsort(-found["suspicion"], kind="stable")
    for row, number in zip(rows, order, strict=True):
        assert row == {
            "filename": str(names[number]), "split": "train", "label": str(found["given"][number]),
            "suggested": str(found["suggested"][number]), "row": str(number),
            "suspicion": str(round(float(found["suspicion"][number]), 4)),
            "suspected": "yes" if found["flagged"][number] else "no",
        }  # fmt: skip


def watch(monkeypatch):
    """Name of each training -> (split, config), in order."""
    seen, real = {}, task.stages.train

    def watching(run, stage, **keywords):
        seen[stage.name] = (stage.split, stage.training.config)
        return real(run, stage, **keywords)

    monkeypatch.setattr(task.stages, "train", watching)
    return seen


def classes_of(split):
    return split.read(np.arange(len(split)))["coarse"]


def test_no_training_sees_right_labels_and_the_classifier_sees_mended_ones(
    tmp_path, monkeypatch, no_report
):
    seen = watch(monkeypatch)
    run_module.run(small(steps=3), tmp_path)
    found = arrays_of(tmp_path)
    mended = np.where(found["flagged"], found["suggested"], found["given"])
    np.testing.assert_array_equal(classes_of(seen["representation"][0]), found["given"])
    np.testing.assert_array_equal(classes_of(seen["classifier"][0]), mended)
    assert not np.array_equal(mended, found["given"])
    config = seen["classifier"][1]
    assert config.method == "ce"
    assert tuple(config.augment.crop_scale) == (1.0, 1.0)
    assert tuple(seen["representation"][1].augment.crop_scale) == (0.7, 1.0)


def test_labels_found_wrong_can_be_dropped(tmp_path, monkeypatch, no_report):
    seen = watch(monkeypatch)
    results = run_module.run(small(steps=3, action="drop", assumed_rate=0.25), tmp_path)
    found = arrays_of(tmp_path)
    assert found["flagged"].sum() == round(0.25 * 1294)
    assert results["images_trained_on"] == len(seen["classifier"][0]) == 1294 - round(0.25 * 1294)
    kept = ~found["flagged"]
    np.testing.assert_array_equal(classes_of(seen["classifier"][0]), found["given"][kept])
    right = np.mean((found["given"] == found["right"])[kept])
    assert results["labels_right"] == pytest.approx(right)
    assert metrics.read(tmp_path / "classifier" / "metrics.jsonl")[-1]["step"] == 3


def test_labels_can_be_softened(tmp_path, monkeypatch, no_report):
    seen, config = watch(monkeypatch), small(steps=16, action="soften")
    whole = run_module.run(config, tmp_path / "whole")
    split, found = seen["classifier"][0], arrays_of(tmp_path / "whole")
    batch = split.read(np.arange(len(split)))
    np.testing.assert_array_equal(batch["coarse"], found["given"])
    targets, rows = batch["target"], np.arange(len(split))
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
    # Labels made wrong are less probable.
    assert targets[rows, found["given"]][found["changed"]].mean() < 0.45
    assert targets[rows, found["given"]][~found["changed"]].mean() > 0.7
    right = np.mean(targets.argmax(axis=1) == found["right"])
    assert whole["labels_right"] == right > 0.83  # 0.8 were right
    assert whole["images_trained_on"] == len(split)

    # A run that resumes in the classifier has the same soft labels.
    replacement = stopping(task.stages.make_step, 3, number=2)
    folder = tmp_path / "resumed"
    stopped(config, folder, task.stages, "make_step", replacement, left="labels.npz")
    assert untimed(run_module.run(config, folder)) == untimed(whole)
    np.testing.assert_array_equal(seen["classifier"][0].read(rows)["target"], targets)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("ce", marks=pytest.mark.slow),
        "co_teaching",
        pytest.param("elr", marks=pytest.mark.slow),
    ],
)
def test_methods_without_a_representation(method, tmp_path, monkeypatch, no_report):
    seen = watch(monkeypatch)
    results = run_module.run(small(method, steps=48), tmp_path)
    assert list(seen) == ["classifier"]
    found = arrays_of(tmp_path)
    np.testing.assert_array_equal(classes_of(seen["classifier"][0]), found["given"])
    assert results["coarse_accuracy"] > 0.5  # of ten digits, most of the labels being right
    assert "labels_right" not in results
    # Suspicion is what the classifier thinks of the label it was given.
    assert results["detection"]["auroc"] > 0.7
    np.testing.assert_array_equal(found["flagged"], found["suggested"] != found["given"])
    records = metrics.read(tmp_path / "classifier" / "metrics.jsonl")
    name = {"co_teaching": "keep_rate", "elr": "early_learning_regularization"}.get(method)
    assert name is None or all(name in record for record in records)


@pytest.mark.slow
def test_co_teaching_forgets_what_is_assumed_wrong(tmp_path, no_report):
    rates = {}
    for assumed in (-1.0, 0.4):
        folder = tmp_path / str(assumed)
        config = small("co_teaching", steps=8, assumed_rate=assumed, forget_epochs=0.2)
        run_module.run(config, folder)
        rates[assumed] = metrics.read(folder / "classifier" / "metrics.jsonl")[-1]["keep_rate"]
    # The record's last window is past the 4 steps over which the rate falls.
    assert rates == {-1.0: pytest.approx(1 - 259 / 1294), 0.4: pytest.approx(0.6)}


def test_the_state_stopped_early_is_that_of_the_best_noisy_validation(finished):
    folder, results = finished
    records = metrics.read(folder / "classifier" / "metrics.jsonl")
    key = "validation_coarse_accuracy"
    best = max(record[key] for record in records if key in record)
    assert results["chosen_step"] == max(r["step"] for r in records if r.get(key) == best)


@pytest.mark.slow
def test_stopped_in_every_stage_it_comes_to_the_same_end(finished, tmp_path):
    folder, results = finished
    for module, name, replacement, left in (
        (task.stages, "make_step", stopping(task.stages.make_step, 11), "representation"),
        (task.noisy_labels, "suspicion", stop, "representation"),
        (task.stages, "make_step", stopping(task.stages.make_step, 11, number=2), "labels.npz"),
        (task.ending.html, "write", stop, "classifier"),
    ):
        stopped(small(rule="mixture"), tmp_path, module, name, replacement, left=left)
    assert untimed(run_module.run(small(rule="mixture"), tmp_path)) == untimed(results)
    for name in ("representation", "classifier"):
        assert records(folder, name) == records(tmp_path, name)


@pytest.mark.slow
@pytest.mark.sampled(2)
@pytest.mark.parametrize("method", ["co_teaching", "elr"])
def test_two_networks_and_targets_go_on_where_they_were(method, tmp_path, no_report):
    whole = run_module.run(small(method), tmp_path / "whole")
    replacement = stopping(task.stages.make_step, 11)
    folder = tmp_path / "resumed"
    stopped(small(method), folder, task.stages, "make_step", replacement, left="classifier")
    assert untimed(run_module.run(small(method), tmp_path / "resumed")) == untimed(whole)


def test_labels_wrong_within_classes_are_fine_ones(tmp_path, no_report):
    config = small("ce", steps=3, kind="within_class")
    config.data.classes = "coarse"
    results = run_module.run(config, tmp_path)
    found = arrays_of(tmp_path)
    assert results["noise_kind"] == "within_class"
    changed = found["changed"]
    assert changed.sum() == round(0.2 * 1294)
    # Digits 0 to 4 are one class, 5 to 9 the other.
    np.testing.assert_array_equal(found["given"] >= 5, found["right"] >= 5)
    assert (found["given"] != found["right"]).sum() == changed.sum()
    assert set(np.unique(found["given"])) == set(range(10))


def test_without_noise_nothing_is_wrong_and_nothing_is_scored_for_it(tmp_path, no_report):
    results = run_module.run(small(steps=3, rate=0.0, folds=2), tmp_path)
    found = arrays_of(tmp_path)
    assert not found["changed"].any()
    np.testing.assert_array_equal(found["given"], found["right"])
    assert results["noise_rate"] == 0
    assert results["detection"] == {"flagged": np.mean(found["flagged"])}
    assert "labels_right" not in results


def test_every_seed_has_noise_of_its_own(tmp_path):
    dataset = sources.load(small().data)
    config = small()
    first, noisy = task.corrupted(config, dataset)
    config.seed = 1
    second, _ = task.corrupted(config, dataset)
    assert not np.array_equal(first["train"].changed, second["train"].changed)
    for name in ("train", "validation"):
        np.testing.assert_array_equal(noisy.splits[name].coarse, first[name].given)
        np.testing.assert_array_equal(noisy.splits[name].fine, first[name].right)
    assert first["validation"].changed.mean() == pytest.approx(0.2, abs=0.01)
    np.testing.assert_array_equal(noisy.splits["test"].coarse, dataset.splits["test"].fine)


def test_what_cannot_be_run_is_refused(tmp_path, no_report):
    for rate in (-0.5, 1.5):
        config = small(assumed_rate=rate)
        with pytest.raises(ConfigError, match=r"noise\.assumed_rate: expected a number fr"):
            schema.check(config)
    # Each class has one fine label, and none to change to.
    with pytest.raises(ConfigError, match=r"data\.classes: expected 'coarse' with noise\.k"):
        run_module.run(small(kind="within_class"), tmp_path)
    with pytest.raises(ConfigError, match=r"assumed_rate: expected one that leaves some"):
        run_module.run(small(assumed_rate=1.0), tmp_path)
    with pytest.raises(ConfigError, match=r"forget_epochs: expected no more than the 0"):
        run_module.run(small("co_teaching", forget_epochs=1.0), tmp_path)
    with pytest.raises(ConfigError, match=r"assumed_rate: expected less than 0\.9 with noise"):
        run_module.run(small(action="soften", assumed_rate=0.9), tmp_path)
    config = small()
    config.transfer.every_epochs = 1.0
    with pytest.raises(ConfigError, match=r"transfer\.every_epochs: expected 0 .*noise"):
        run_module.run(config, tmp_path)
    assert not any(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"none of \d+ training images labelled '\d'"):
        run_module.run(small(steps=2, action="drop", assumed_rate=0.999), tmp_path)


def test_labels_are_not_softened_if_nearly_all_are_suspected(tmp_path, no_report, monkeypatch):
    def flag(suspicion, *_, **__):
        return np.ones(len(suspicion), bool)

    monkeypatch.setattr(noisy_labels, "flag", flag)
    with pytest.raises(ConfigError, match=r"below 0\.9 with 10 .*1 are suspected; expected 'rel"):
        run_module.run(small(steps=2, action="soften"), tmp_path)


def test_findings_of_other_labels_are_not_taken(tmp_path, no_report):
    stopped(small(steps=2), tmp_path, task.stages, "classifier", stop, left="labels.npz")
    other = sources.load(small().data)
    train = other.splits["train"]
    other.splits["train"] = train.subset(np.arange(len(train))[::-1])
    with pytest.raises(ConfigError, match=r"labels of train images of which \d+ have other"):
        run_module.run(small(steps=2), tmp_path, load=lambda data: other)
    (tmp_path / "labels.npz").write_bytes(b"damaged")
    with pytest.raises(WorkdirError, match=r"labels\.npz cannot be read: .*Remove it"):
        run_module.run(small(steps=2), tmp_path)


def test_what_a_dead_run_of_another_config_left_is_not_counted(tmp_path, no_report):
    """One that was killed before its first checkpoint: there is nothing to lose, nor to count."""
    config = small(steps=3)
    resume.claim(tmp_path, config)
    (tmp_path / "representation").mkdir()
    text = '{"step": 1000, "seconds": 9.0}\n'
    (tmp_path / "representation" / "metrics.jsonl").write_text(text, encoding="utf-8")
    assert run_module.run(small("ce", steps=3), tmp_path)["steps"] == 3
    assert not (tmp_path / "representation").exists()
