"""What a save costs, through the command."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_the_share_of_saves_is_measured(tmp_path):
    environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    flags = os.environ.get("XLA_FLAGS", "").split()
    environment["XLA_FLAGS"] = " ".join(flag for flag in flags if "device_count" not in flag)
    done = subprocess.run(
        [sys.executable, "benchmarks/checkpoint_overhead.py", "--config=configs/digits.py:supcon",
         "--config.model.mlp.widths=(16,8)", "--config.train.batch_size=16", "--side=8",
         "--steps=2", "--saves=1", f"--folder={tmp_path}", f"--json={tmp_path}/found.json"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["share"] == pytest.approx((found["call"] + found["delay"]) / 60)
    # Compiling is in none of them.
    assert 0 < found["step"] < 1
    assert 0 < found["call"] < 1
    assert found["write"] > max(0, found["delay"])
    assert found["bytes"] > 4 * 3 * (64 * 16 + 16 * 8)  # float32 parameters and two moments
    assert f"one save a minute: {found['share']:.2%}" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
