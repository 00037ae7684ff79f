"""A run end to end on the embedded digits: what it leaves, resuming, refusing."""

import importlib
import json
import shutil
from html import escape

import jax
import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax import resume
from thanos_jax import run as run_module
from thanos_jax.data import sources
from thanos_jax.errors import ConfigError
from thanos_jax.report import folder as report_folder
from thanos_jax.report import html
from thanos_jax.tasks import stages
from thanos_jax.train import checkpoint, metrics
from thanos_jax.train.objective import METHODS

RESULTS = {
    "dataset", "method", "seed", "steps", "train_seconds", "coarse_accuracy", "fine_accuracy",
    "worst_group_accuracy", "worst_group", "fine_accuracy_knn", "fine_accuracy_class_mean",
    "geometry", "versions", "devices",
}  # fmt: skip


def small(method="thanos", **train):
    config = schema.default()
    config.method = method
    config.augment.crop_scale = (0.5, 1.0)
    config.augment.flip = 0.0
    config.augment.jitter_probability = 0.0
    config.model.encoder = "mlp"
    config.model.arrangement = "shared"
    config.model.mlp.widths = (64, 32)
    config.train.update(batch_size=128, epochs=4.0, learning_rate=3e-3, log_every=7, **train)
    config.train.evaluate_every_epochs = 2.0
    config.train.checkpoint_every_epochs = 1.0
    config.report.map_points = 100
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run_module.run(small(), folder)


def test_leaves_what_it_promises(finished):
    folder, results = finished
    assert results.keys() >= RESULTS
    assert results == json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert (results["dataset"], results["method"], results["seed"]) == ("digits", "thanos", 0)
    # Chance is 0.1; coarse labels alone tell half the digits from the others.
    assert 0.5 < results["fine_accuracy"] <= 1.0
    assert 0.7 < results["coarse_accuracy"] <= 1.0
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert schema.flatten(config).keys() == schema.FIELDS.keys()
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "Reconstructions" in report
    records = metrics.read(folder / "metrics.jsonl")
    assert records[-1]["step"] == results["steps"]
    for name in ("loss", "cross_entropy", "contrastive", "reconstruction", "coarse_accuracy",
                 "gradient_norm", "learning_rate"):  # fmt: skip
        assert all(np.isfinite(r[name]) for r in records), name
    assert all(r["images_per_second"] > 0 for r in records)
    assert sum("validation_coarse_accuracy" in r for r in records) == 2
    assert records[-1]["loss"] < records[0]["loss"]
    # Drawn alike, so that the two coarse classes have half the batch of 128 in the mean.
    assert results["batches"]["classes_in_batch"] == 2
    assert results["batches"]["class_images_mean"] == 64
    assert 40 < results["batches"]["class_images_min"] < 60
    assert 68 < results["batches"]["class_images_max"] < 88
    spread = results["spread"]
    assert spread["within_class_spread"] == results["geometry"]["train"]["within_class_spread"]
    assert 0.97 < spread["predicted_within_class_spread"] < 0.98
    assert "<h2>Spread</h2>" in report
    assert checkpoint.steps(folder / "checkpoints")[-1] == results["steps"]


def test_the_report_is_made_again_without_the_data(finished, tmp_path):
    folder, results = finished
    again = tmp_path / "again.html"
    report = importlib.import_module("thanos_jax.report.__main__")
    assert report.main(report.PARSER.parse_args([str(folder), f"--out={again}"])) == 0
    assert again.read_bytes() == (folder / "report.html").read_bytes()
    one = report_folder.read(folder)
    test = sources.load(small().data).splits["test"]
    shown = one.image_map.layout.mapped
    assert (len(shown), one.image_map.size) == (100, len(test))
    for column, labels in zip(one.image_map.columns, (test.fine, test.coarse), strict=False):
        np.testing.assert_array_equal(column.values, labels[shown])
    wrong = one.image_map.columns[3].values
    assert abs(np.mean(wrong == 0) - results["coarse_accuracy"]) < 0.1
    # Beside itself elsewhere; a run needs no data, but its results.
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("checkpoints"))
    words = [str(folder), str(copy), f"--out={again}", f"--picture={tmp_path / 'maps.png'}"]
    assert report.main(report.PARSER.parse_args(words)) == 0
    text = again.read_text(encoding="utf-8")
    assert "Nothing differs." in text
    assert "Maps of the same images are linked." in text
    assert (tmp_path / "maps.png").read_bytes()[1:4] == b"PNG"
    (copy / "results.json").unlink()
    with pytest.raises(ConfigError, match=r"finished run, got .*copy, which has no results\.json"):
        report_folder.read(copy)


def test_a_run_is_started_again_by_the_command_of_its_report(finished, tmp_path, monkeypatch):
    folder, _ = finished
    code = html.AGAIN.removeprefix("python -c '").removesuffix("'")
    seen = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr(run_module, "run", lambda *given: seen.append(given))
    exec(code, {})
    ((config, workdir),) = seen
    assert config.to_dict() == small().to_dict()
    assert workdir == "again"
    assert escape(html.AGAIN) in (folder / "report.html").read_text(encoding="utf-8")


def test_a_finished_run_is_not_run_again(finished, capsys):
    folder, results = finished
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert run_module.run(small(), folder) == results
    assert "finished" in capsys.readouterr().out
    assert before == {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}


def test_a_folder_of_another_config_is_refused(finished):
    folder, _ = finished
    other = small()
    other.loss.alpha = 0.25
    with pytest.raises(ConfigError, match=r"(?s)another config.*loss\.alpha: 0\.5 there"):
        run_module.run(other, folder)


def test_a_key_younger_than_the_run_is_at_its_default(finished, tmp_path):
    folder, _ = finished
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["data"]["random_bits"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")
    resume.same_run(tmp_path, small())
    other = small()
    other.data.random_bits = 2
    with pytest.raises(ConfigError, match=r"data\.random_bits: 0 there, 2 now"):
        resume.same_run(tmp_path, other)


@pytest.mark.slow
def test_an_interrupted_run_continues_to_the_same_end(finished, tmp_path, monkeypatch):
    folder, results = finished

    class StopHereError(Exception):
        pass

    real = stages.make_step

    def stops_in_the_third_epoch(*arguments, **keywords):
        step = real(*arguments, **keywords)

        def counting(state, batch, seed):
            if not isinstance(state.step, jax.core.Tracer) and int(state.step) == 25:
                raise StopHereError
            return step(state, batch, seed)

        return counting

    with monkeypatch.context() as patch:
        patch.setattr(stages, "make_step", stops_in_the_third_epoch)
        with pytest.raises(StopHereError):
            run_module.run(small(), tmp_path)
    assert not (tmp_path / "results.json").exists()
    resumed = run_module.run(small(), tmp_path)

    def comparable(folder):
        timing = ("seconds", "images_per_second")
        records = metrics.read(folder / "metrics.jsonl")
        return [{k: v for k, v in r.items() if k not in timing} for r in records]

    assert comparable(tmp_path) == comparable(folder)
    assert resumed["fine_accuracy"] == results["fine_accuracy"]


@pytest.mark.slow
def test_random_bits_projection_and_transfer_on_the_way(tmp_path, capsys):
    config = small(max_steps=24)
    config.loss.alpha = 0.01
    config.data.random_bits = 3
    config.model.projection = (16, 8)
    config.transfer.every_epochs = 1.0
    results = run_module.run(config, tmp_path)
    records = metrics.read(tmp_path / "metrics.jsonl")
    measured = [r for r in records if "validation_fine_accuracy" in r]
    assert [r["step"] for r in measured] == [11, 21, 24]  # 10.1 steps to an epoch
    assert measured[-1]["validation_fine_accuracy"] == results["fine_accuracy_validation"]
    curve = [r["validation_fine_accuracy"] for r in measured]
    assert results["along_training"]["validation_fine_accuracy"] == curve
    assert all(0 <= r["validation_collapse_index"] <= 1 for r in measured)
    assert "Reconstructions" in (tmp_path / "report.html").read_text(encoding="utf-8")
    words = "WARNING: method thanos with alpha 0.01 at temperature 0.5 collapses 2 classes"
    assert words in capsys.readouterr().err
    assert results["spread"]["predicted_within_class_spread"] == 0
    assert "the projection head" in results["spread"]["prediction_leaves_out"]


@pytest.mark.sampled(9)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs(method, tmp_path):
    config = small(method, max_steps=2)
    results = run_module.run(config, tmp_path)
    assert results["steps"] == 2
    reports = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ("Reconstructions" in reports) == METHODS[method].reconstruct


def test_divergence_stops_the_run_and_names_the_step(tmp_path):
    config = small()
    # Large enough for the squared error to overflow float32 within a few steps.
    config.train.update(learning_rate=1e12, warmup_epochs=0.0)
    with pytest.raises(metrics.NonFiniteError, match=r"step \d+: .*(loss|gradient_norm)"):
        run_module.run(config, tmp_path)
    assert not (tmp_path / "results.json").exists()
    assert checkpoint.steps(tmp_path / "checkpoints") == []


def test_a_run_that_cannot_start_claims_nothing(tmp_path):
    config = small()
    config.model.encoder = "vit"
    config.model.vit.patch = 5
    with pytest.raises(ValueError, match="patch"):
        run_module.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_nothing_to_lose_is_free(tmp_path, capsys):
    other = {**small().to_dict(), "seed": 7}
    (tmp_path / "config.json").write_text(json.dumps(other), encoding="utf-8")
    results = run_module.run(small("ce", max_steps=1), tmp_path)
    assert results["seed"] == 0
    assert "spread" not in results  # cross-entropy alone predicts none, and nothing is said
    assert "WARNING" not in capsys.readouterr().err
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["seed"] == 0


def test_a_missing_fine_class_is_named_before_training(tmp_path, monkeypatch):
    whole = run_module.sources.load

    def without_threes(config):
        dataset = whole(config)
        test = dataset.splits["test"]
        dataset.splits["test"] = test.subset(np.flatnonzero(test.fine != 3))
        return dataset

    monkeypatch.setattr(run_module.sources, "load", without_threes)
    with pytest.raises(run_module.sources.DataError, match=r"digits, split 'test'.*fine class '3'"):
        run_module.run(small(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_devices_cannot_share_is_refused(tmp_path):
    config = small()
    config.train.batch_size = 12
    expected = (
        rf"train\.batch_size: expected a multiple of the {jax.device_count()} devices, got 12"
    )
    with pytest.raises(ConfigError, match=expected):
        run_module.run(config, tmp_path)
    assert not list(tmp_path.iterdir())
