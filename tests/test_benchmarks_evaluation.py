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
    assert list(found) == ["head", "neighbours", "means", "geometry", "scikit-learn", "product"]
    assert all(float(row[0]) > 0 for row in found.values())
    assert found["neighbours"][2].endswith("%")


@pytest.mark.slow
def test_each_weight_has_its_objective_accuracy_and_steps():
    found = table("--rows=2000", "--width=16", "--path")
    assert list(found) == ["0.01", "0.001", "0.0001", "1e-05", "0"]
    objectives, accuracies, steps = zip(*found.values(), strict=True)
    # A smaller weight allows a lower loss; ten classes at the start have log(10).
    values = [float(value) for value in objectives]
    assert 2.302 > values[0] > values[1] > values[2] > values[3] > values[4] > 0
    assert all(0.2 < float(value) < 1 for value in accuracies)
    assert all(int(value) >= 1 for value in steps)


@pytest.mark.slow
def test_memory_above_many_embeddings_is_bounded():
    """Inputs are 51 and 205 MB: a part that made float64 of them, or an array as large, shows."""
    few, many = (
        table(
            f"--rows={rows}", "--width=256", "--classes=100", "--queries=512", "--once",
            "--parts=head,neighbours,means,geometry,herding", "--iterations=1",
        )
        for rows in (50_000, 200_000)
    )  # fmt: skip
    for part, row in many.items():
        held, before = float(row[2]), float(few[part][2])
        assert held < 300, part
        # Half of what the inputs grow by: neighbours keep 512 products of one row in 8.
        assert held - before < 0.5 * 154, part
