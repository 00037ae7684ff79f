"""The table of a training step beside PyTorch's, through the command."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PEERS = ("torch", "torchvision", "pytorch_metric_learning")


def run(*arguments):
    environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT), XLA_FLAGS="")
    return subprocess.run(
        [sys.executable, "benchmarks/training.py", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


def measured(folder):
    file = folder / "numbers.json"
    done = run(
        "--config=configs/digits.py:supcon,mlp", "--config.model.mlp.widths=(32, 16)",
        "--turns=1", "--steps=3", "--peer_steps=2", "--workers=0", f"--json={file}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(file.read_text())


@pytest.mark.slow
@pytest.mark.skipif(
    all(importlib.util.find_spec(name) for name in PEERS), reason="PyTorch is installed"
)
def test_packages_that_are_absent_are_named(tmp_path):
    text, numbers = measured(tmp_path)
    absent = [name for name in PEERS if importlib.util.find_spec(name) is None]
    assert f"PyTorch: not run: {', '.join(absent)} not installed" in text
    assert numbers["not_run"]["PyTorch"] == absent
    ((name, parts),) = numbers["found"].items()
    assert name == "thanos_jax"
    assert all(seconds > 0 and used > 0 for seconds, used in parts.values())
    assert parts["whole"] > parts["input"]


@pytest.mark.slow
def test_the_step_of_torch_is_the_same_and_timed_beside_ours(tmp_path):
    """The command ends with an error where loss or gradient differ."""
    for name in PEERS:
        pytest.importorskip(name)
    _, numbers = measured(tmp_path)
    assert {"thanos_jax", "PyTorch"} <= set(numbers["found"])
    for parts in numbers["found"].values():
        assert all(seconds > 0 for seconds, _ in parts.values())
    assert numbers["model_flops"] > 0


def test_a_training_that_the_peers_lack_is_refused():
    found = run("--config=configs/digits.py:thanos,mlp")
    assert found.returncode == 1
    assert "method" in found.stderr
    assert "supcon" in found.stderr
