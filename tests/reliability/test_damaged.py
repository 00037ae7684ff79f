"""A run on images of which some cannot be read; loaders are in tests/data."""

import numpy as np
import pytest
from PIL import Image

from thanos_jax import run as run_module
from thanos_jax.data import sources


@pytest.fixture
def damaged(tmp_path):
    """60 images of three classes with labels.csv; the first training image is cut short."""
    lines = ["filename,coarse,fine,split"]
    for fine, coarse in (("cat", "pet"), ("dog", "pet"), ("cow", "farm")):
        for number in range(20):
            pixels = np.random.default_rng(len(lines)).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{fine}{number}.png")
            split = {0: "test", 1: "test", 2: "validation"}.get(number, "train")
            lines.append(f"{fine}{number}.png,{coarse},{fine},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("cat3.png", "cow1.png"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-40])
    return tmp_path


def configured(runs, folder, **changes):
    return runs.config(**{
        "data.name": "folder",
        "data.data_dir": str(folder),
        "data.memory_limit_gib": 0.0,
        "data.read_threads": 2,
        "train.batch_size": 16,
        "train.max_steps": 5,
        "train.log_every": 2,
        "train.evaluate_every_epochs": 1e6,
        "report.map_points": 10,
        "transfer.neighbours": 3,
        **changes,
    })  # fmt: skip


def test_a_run_goes_on_without_them_and_counts_them(runs, damaged, tmp_path, capsys):
    with pytest.raises(sources.DataError, match=r"folder: cat3\.png, .*truncated"):
        run_module.run(configured(runs, damaged), tmp_path / "run")
    config = configured(runs, damaged, **{"data.on_damaged": "skip"})
    results = run_module.run(config, tmp_path / "run")
    assert results["skipped_examples"] == 2
    assert [r["skipped_examples"] for r in runs.records(tmp_path / "run")] == [2, 2, 2]
    captured = capsys.readouterr()
    assert captured.err.count("cannot be read and are left out") == 2
    assert "folder: train 50, validation 3, test 5" in captured.out


def test_processes_that_read_other_examples_are_refused(monkeypatch):
    dataset = sources.Dataset("folder", {"train": [0] * 5, "test": [0]}, (), (), (1, 1, 1), (), ())
    run_module._require_same_data(dataset)
    monkeypatch.setattr(run_module.jax, "process_count", lambda: 2)
    seen = []

    def gather(own):
        seen.append(own)
        return np.stack([seen[0], own])

    monkeypatch.setattr(run_module.multihost_utils, "process_allgather", gather)
    run_module._require_same_data(dataset._replace(skipped=("train 3",)))
    for other in (dataset._replace(skipped=("train 4",)), dataset):
        with pytest.raises(sources.DataError, match=r"same examples; by process, .* 5/1, 5/1 in"):
            run_module._require_same_data(other)
