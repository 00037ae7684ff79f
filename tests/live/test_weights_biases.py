"""Weights & Biases, by a module of the same interface; the real one is in test_watched_runs.py."""

import json
import sys

import numpy as np
import pytest
from watching import ending, fake_wandb

from thanos_jax.live import weights_biases

RECORDS = [{"step": step, "loss": 1 / step, "seconds": float(step)} for step in range(1, 5)]
PICTURE = np.zeros((2, 2, 1), np.uint8)


@pytest.fixture
def wandb(monkeypatch):
    module = fake_wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    return module


def test_a_step_is_written_once_over_all_starts(wandb, tmp_path):
    config = {"loss.alpha": 0.5}
    first = weights_biases.BACKEND.open(tmp_path, config)
    first.images("", 0, {"views": PICTURE})
    for record in RECORDS[:3]:
        first.scalars("", record, 0.0)
        first.scalars("classifier", record, 0.0)
    first.finish(None)
    second = weights_biases.BACKEND.open(tmp_path, config)
    second.images("", 0, {"views": PICTURE})
    for record in RECORDS:
        second.scalars("", record, 0.0)
    second.finish(ending())
    one, other = wandb.runs
    assert one.finished
    assert other.finished
    assert one.arguments["config"] == config
    assert one.arguments["id"] == other.arguments["id"] != ""
    assert (one.arguments["resume"], one.arguments["dir"]) == ("allow", str(tmp_path))
    assert (one.arguments["project"], one.arguments["name"]) == ("thanos_jax", tmp_path.name)
    assert one.axes == {name + "/*": f"{name}/step" for name in ("train", "classifier")}
    scalars = [
        {f"{name}/{key}": value for key, value in record.items()}
        for record in RECORDS[:3]
        for name in ("train", "classifier")
    ]
    assert one.history[1:] == scalars
    assert one.history[0]["train/views"][0] == "image"
    assert other.history[:-1] == [{f"train/{k}": v for k, v in RECORDS[3].items()}]
    assert other.summary["results/fine_accuracy"] == 0.5
    _, table = other.history[-1]["results/embedding"]
    assert table["columns"] == ["label", "dimension 0", "dimension 1"]
    points = ending().points
    assert list(table["data"][1]) == ["class 1", *points.embedding[1].tolist()]
    written = json.loads((tmp_path / "wandb.json").read_text(encoding="utf-8"))["written"]
    assert written == {
        "train/views": 0, "train/scalars": 4, "classifier/scalars": 3, "results/embedding": 7
    }  # fmt: skip


def test_project_and_name_are_those_of_the_environment(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    weights_biases.BACKEND.open(tmp_path, {})
    assert wandb.runs[0].arguments["project"] == "mine"
