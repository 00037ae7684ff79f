"""The table of evaluations, through the command."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def table(*arguments):
    environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT), XLA_FLAGS="")
    done = subprocess.run(
        [sys.executable, "benchmarks/evaluation.py", "--repetitions=1", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split("|") for line in done.stdout.splitlines()[2:]]
    return {name.strip(): [value.strip() for value in rest] for name, *rest in rows}


@pytest.mark.slow
def test_every_part_is_timed():
    found = table("--rows=2000", "--width=16")
    assert list(found) == ["head", "neighbours", "means", "scikit-learn", "product"]
    assert all(float(row[0]) > 0 for row in found.values())
    assert found["neighbours"][2].endswith("%")


@pytest.mark.slow
def test_memory_above_many_embeddings_is_bounded():
    found = table(
        "--rows=200000", "--width=64", "--queries=64", "--nopeer", "--parts=neighbours,means"
    )
    assert float(found["neighbours"][3]) < 300
    assert float(found["means"][3]) < 100
