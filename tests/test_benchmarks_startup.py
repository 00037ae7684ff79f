"""The seconds of a whole run, by phase; another seed compiles nothing."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_another_seed_compiles_nothing(monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    found = subprocess.run(
        [sys.executable, "benchmarks/startup.py", "--config=configs/digits.py:thanos,mlp",
         "--runs=1", "--config.model.mlp.widths=(16, 8)", "--config.train.max_steps=3",
         "--config.transfer.every_epochs=0.05", "--config.transfer.iterations=5",
         "--config.report.map_points=20"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    rows = {line[:16].strip(): line[16:].split() for line in found.stdout.splitlines()}
    assert int(rows["compiled"][0]) > 5
    assert int(rows["compiled"][1]) == 0
    # A warm run has less to compile, on one core or on several.
    assert float(rows["processor"][0]) > float(rows["processor"][1]) > 1
    phases = ("imports, data", "first steps", "training", "evaluation", "report")
    for column in (0, 1):
        parts = [float(rows[phase][column]) for phase in phases]
        assert sum(parts) == pytest.approx(float(rows["whole"][column]), rel=0.02)


def test_a_failing_run_shows_what_it_said():
    found = subprocess.run(
        [sys.executable, "benchmarks/startup.py", "--config=configs/digts.py"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 1
    assert "did you mean 'configs/digits.py'" in found.stderr
