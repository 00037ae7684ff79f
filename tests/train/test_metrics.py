"""metrics.jsonl."""

import json

import numpy as np
import pytest

from thanos_jax import workdir
from thanos_jax.train import metrics


def test_resuming_drops_later_records_and_a_line_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": step / 2}) for step in (1, 2, 3)]
    path.write_text("\n".join(lines) + '\n{"step": 4, "lo', encoding="utf-8")
    assert [r["step"] for r in metrics.read(path)] == [1, 2, 3]
    file = metrics.MetricsFile(path, resume_step=2)
    file.append({"step": 3, "loss": 9.0})
    assert metrics.read(path) == [
        {"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 9.0}
    ]  # fmt: skip


def test_no_file_is_no_records(tmp_path):
    assert metrics.read(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_names_step_and_metric(bad):
    loss = np.array([1.0, 2.0, 3.0], np.float32)
    metrics.require_finite(7, {"loss": loss, "gradient_norm": loss})
    gradient_norm = np.array([1.0, bad, bad], np.float32)
    with pytest.raises(metrics.NonFiniteError, match=r"step 8: gradient_norm = .*not applied"):
        metrics.require_finite(7, {"loss": loss, "gradient_norm": gradient_norm})


def test_atomic_write_leaves_no_temporary_file(tmp_path):
    workdir.write_atomically(tmp_path / "x.json", "1")
    workdir.write_atomically(tmp_path / "x.json", "2")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == "2"
