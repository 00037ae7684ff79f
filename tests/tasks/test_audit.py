"""Labels as they are: each is judged by a model trained without it, and named by its file."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from whole_runs import config_of, mapped, stop, stopped, untimed

from thanos_jax import run as run_module
from thanos_jax.data import sources
from thanos_jax.tasks import audit as task

DIGITS, EACH, WRONG = (0, 1, 4, 7), 30, 6


def write(root, each=EACH):
    """Images of four digits in class folders, six of them in a wrong one; returns these."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    planted = {}
    for digit in DIGITS:
        (root / f"digit {digit}").mkdir(parents=True)
    for place, digit in enumerate(DIGITS):
        for number, image in enumerate(images[labels == digit][:each]):
            folder, name = f"digit {digit}", f"{digit}_{number}.png"
            if number < 2 and place < WRONG / 2:
                right, folder = folder, f"digit {rng.choice([d for d in DIGITS if d != digit])}"
                planted[f"{folder}/{name}"] = right
            grey = np.round(image.reshape(8, 8) * (255 / 16)).astype(np.uint8)
            Image.fromarray(grey).save(root / folder / name)
    assert len(planted) == WRONG
    return planted


def small(root, **noise):
    config = config_of("folder", "spread,mlp,audit")
    config.data.update(data_dir=str(root), image_size=8)
    config.augment.update(crop_scale=(0.7, 1.0), flip=0.0, jitter_probability=0.0)
    config.model.mlp.widths = (64, 32)
    config.noise.update({"folds": 3, **noise})
    config.train.update(batch_size=40, epochs=40.0, learning_rate=3e-3, warmup_epochs=0.0,
                        evaluate_every_epochs=20.0, checkpoint_every_epochs=40.0)  # fmt: skip
    return config


def rows_of(folder):
    with open(folder / "findings.csv", encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("audit")
    planted = write(root / "images")
    config = small(root / "images")
    config.log.tensorboard = True
    return root, planted, run_module.run(config, root / "run")


def test_planted_labels_come_first(tmp_path, no_report):
    """The same with less: two parts, one loss, no report."""
    planted = write(tmp_path / "images")
    config = small(tmp_path / "images", folds=2)
    config.method = "ce"
    config.train.epochs = 60.0
    run_module.run(config, tmp_path / "run")
    assert set(planted) <= {row["filename"] for row in rows_of(tmp_path / "run")[:10]}


def test_every_part_is_held_out_by_one_training_and_not_among_what_it_is_trained_on(tmp_path):
    write(tmp_path, each=12)
    config = small(tmp_path)
    dataset = sources.load(config.data)
    run = task.stages.Run(config, dataset, None, tmp_path)
    whole = task._join(run)
    every = [name for split in dataset.splits.values() for name in split.names]
    assert whole.images.names.tolist() == every
    held = []
    for number in range(3):
        splits = task._without(run, whole, number).dataset.splits
        trained_on, judged = (set(splits[name].names) for name in ("train", "validation"))
        assert not trained_on & judged
        assert trained_on | judged == set(every)
        held += judged
    assert sorted(held) == sorted(every)
    assert task.trainings(run).keys() == {"sample_0", "sample_1", "sample_2"}
    for method, rate, expected in (("mend", 0.0, True), ("mend", 0.1, False), ("ce", 0.0, False)):
        config.noise.update(method=method, rate=rate)
        assert task.is_audit(config) == expected


@pytest.mark.slow
def test_planted_labels_are_in_the_first_ten_rows(finished):
    root, planted, results = finished
    rows = rows_of(root / "run")
    first = {row["filename"]: row for row in rows[:10]}
    assert set(planted) <= set(first)
    for name, right in planted.items():
        assert first[name]["label"] == name.split("/")[0]
        assert first[name]["suggested"] == right
        assert first[name]["suspected"] == "yes"
    assert len(rows) == results["judged_images"] == EACH * len(DIGITS)
    suspicion = [float(row["suspicion"]) for row in rows]
    assert suspicion == sorted(suspicion, reverse=True)


@pytest.mark.slow
def test_every_image_of_every_split_is_judged_once(finished):
    root, _, results = finished
    rows = rows_of(root / "run")
    dataset = sources.load(small(root / "images").data)
    expected = {name: split for split, part in dataset.splits.items() for name in part.names}
    assert {row["filename"]: row["split"] for row in rows} == expected
    with np.load(root / "run" / "labels.npz") as file:
        found = dict(file)
    every = np.concatenate([found[f"filenames_of_{split}"] for split in dataset.splits])
    assert [every[int(row["row"])] for row in rows] == [row["filename"] for row in rows]
    assert results["suspected_images"] == found["flagged"].sum() >= WRONG


@pytest.mark.slow
def test_what_it_reports_is_suspected_and_not_measured(finished):
    root, _, results = finished
    assert results == json.loads((root / "run" / "results.json").read_text(encoding="utf-8"))
    assert (results["noise_method"], results["noise_rate"]) == ("audit", 0)
    assert set(results["detection"]) == {"flagged"}
    assert 0.8 < results["coarse_accuracy"] <= 1
    report = (root / "run" / "report.html").read_text(encoding="utf-8")
    assert "images whose label is suspected" in report
    assert "Suspected labels" in report
    assert {path.name for path in (root / "run").iterdir()} == {
        "config.json", "data.json", "sample_0", "sample_1", "sample_2", "labels.npz",
        "findings.csv", "results.json", "report.html", "pictures.json", "map.npz", "tensorboard",
        "log.json",
    }  # fmt: skip


@pytest.mark.slow
def test_its_map_has_the_images_of_every_split_as_they_were_judged(finished, tmp_path):
    root, _, _ = finished
    of_map = mapped(root / "run", tmp_path)
    with np.load(root / "run" / "labels.npz") as file:
        found = dict(file)
    assert of_map.size == len(of_map.files) == EACH * len(DIGITS)
    names = [found[f"filenames_of_{split}"] for split in ("train", "validation", "test")]
    np.testing.assert_array_equal(of_map.files, np.concatenate(names))
    columns = {one.name: one for one in of_map.columns}
    for name, array in (("suspicion", "suspicion"), ("given label", "given"),
                        ("suspected", "flagged"), ("suggested label", "suggested")):  # fmt: skip
        np.testing.assert_array_equal(columns[name].values, found[array])
    np.testing.assert_array_equal(columns["right or wrong"].values, ~found["predicted_right"])
    splits = np.array(columns["split"].names)[columns["split"].values]
    words = np.where(found["split"] == "train", "training", found["split"])
    np.testing.assert_array_equal(splits, words)
    # Embeddings are in the order of the images: most of the nearest have the same label.
    nearest = found["given"][of_map.layout.neighbours[:, 0]]
    assert np.mean(nearest == found["given"]) > 0.7


@pytest.mark.slow
def test_stopped_it_comes_to_the_same_end(finished, tmp_path):
    root, _, results = finished
    config = small(root / "images")
    for module, name, left in (
        (task.audit, "judge", "sample_0"),
        (task.findings, "once", "sample_2"),
        (task.ending.html, "write", "labels.npz"),
    ):
        stopped(config, tmp_path / "run", module, name, stop, left=left)
    assert untimed(run_module.run(config, tmp_path / "run")) == untimed(results)
    assert rows_of(tmp_path / "run") == rows_of(root / "run")


@pytest.mark.slow
def test_methods_that_do_not_mend_train_on_the_labels_as_they_are(tmp_path, no_report):
    write(tmp_path / "images", each=12)
    config = small(tmp_path / "images", method="ce")
    config.train.epochs = 1.0
    results = run_module.run(config, tmp_path / "run")
    assert results["noise_method"] == "ce"
    assert {row["split"] for row in rows_of(tmp_path / "run")} == {"train"}


@pytest.mark.slow
def test_its_log_has_the_results_and_all_images_of_the_map(finished, capsys):
    root, _, results = finished
    folder = root / "run" / "tensorboard"
    points = (folder / "projector" / "tensors.tsv").read_text(encoding="utf-8").splitlines()
    assert len(points) == results["judged_images"]
    assert json.loads((root / "run" / "log.json").read_text(encoding="utf-8"))["errors"] == {}
    assert list(folder.glob("events*"))  # of the run itself: its results
