"""Methods side by side."""

import json
import statistics

import pytest

from thanos_jax import compare as compare_module
from thanos_jax import run as run_module


def _result(fine):
    return {
        "fine_accuracy": fine, "fine_accuracy_knn": 0.5, "fine_accuracy_class_mean": 0.25,
        "coarse_accuracy": 1.0, "train_seconds": 3.0, "geometry": {"test": {"collapse_index": 0.1}},
    }  # fmt: skip


def test_table_is_mean_and_sample_deviation():
    text = compare_module.table({"ce": [_result(0.8), _result(0.9)], "thanos": [_result(0.95)]})
    lines = text.splitlines()
    assert lines[2].startswith(f"| ce | 85.0 ± {statistics.stdev([80, 90]):.1f} | 50.0 ± 0.0 | ")
    assert lines[2].endswith("| 0.100 ± 0.000 | 3.0 ± 0.0 | 2 |")
    assert lines[3] == "| thanos | 95.0 | 50.0 | 25.0 | 100.0 | 0.100 | 3.0 | 1 |"


def test_runs_what_is_missing_and_keeps_what_is_there(tmp_path, monkeypatch):
    from thanos_jax import config as schema

    ran, broken = [], True

    def fake(config, workdir):
        if config.method == "supcon" and broken:
            raise RuntimeError("stopped here")
        ran.append((config.method, config.seed, workdir.relative_to(tmp_path).as_posix()))
        return {**_result(0.5 + 0.1 * config.seed), "method": config.method}

    monkeypatch.setattr(run_module, "run", fake)
    arguments = (schema.default(), ["ce", "supcon"], 2, tmp_path)
    with pytest.raises(RuntimeError):
        compare_module.compare(*arguments)
    assert "| ce | 50.0 |" in (tmp_path / "table.md").read_text(encoding="utf-8")
    broken = False
    text = compare_module.compare(*arguments)
    assert ran[-4:] == [
        ("ce", 0, "ce/0"), ("supcon", 0, "supcon/0"), ("ce", 1, "ce/1"), ("supcon", 1, "supcon/1")
    ]  # fmt: skip
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == text
    assert len(json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))) == 4
