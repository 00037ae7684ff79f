"""What the benchmarks of input and of training print, through their commands."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(script, *words):
    environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    flags = os.environ.get("XLA_FLAGS", "").split()
    environment["XLA_FLAGS"] = " ".join(flag for flag in flags if "device_count" not in flag)
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", *words], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_readers_are_compared_and_what_a_step_needs_is_said(tmp_path):
    out = run(
        "input.py", "--sides=40", "--final=8", "--cores=1", "--repetitions=1", "--seconds=0.02",
        "--tflops=1", f"--json={tmp_path}/found.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    rates = found["rates"]["40, 1"]
    ours = {"Pillow", "JPEG full", "JPEG scaled", "PNG", "TFDS records", "Grain workers", "cache"}
    assert ours <= rates.keys()
    assert min(rates.values()) > 0
    assert not rates.keys() & found["not_run"].keys()
    for name, package in found["not_run"].items():
        assert f"{name}: not run: {package} is not installed" in out
    # ResNet50 at 224 has 4.1 billion multiplications forwards; at 8 pixels less than a hundredth.
    assert 0 < found["resnet50_flops"] < 2 * 3 * 2 * 4.1e7
    assert found["needed"] == pytest.approx(1e12 / found["resnet50_flops"])
    assert 0 < found["interpreter"] < 0.1


@pytest.mark.slow
def test_a_training_is_beside_its_peers_or_says_what_is_missing(tmp_path):
    out = run(
        "training.py", "--config=configs/mnist.py:supcon", "--synthetic=80", "--side=8",
        "--config.train.batch_size=16", "--config.model.mlp.widths=(16,8)", "--steps=3",
        "--peer_steps=2", "--turns=1", f"--json={tmp_path}/found.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    ours = found["found"]["thanos_jax"]
    parts = {"input", "augmentation", "encoder", "contrastive", "optimizer"}
    assert ours.keys() == {"whole", "step", *parts}
    assert min(map(min, ours.values())) > 0
    # 3 products of 32 rows with each of three matrices.
    assert found["model_flops"] == 2 * 32 * 3 * (64 * 16 + 16 * 8 + 8 * 2)
    for who, names in found["not_run"].items():
        if names:
            assert f"{who}: not run: {', '.join(names)} not installed" in out
        else:
            assert min(found["found"][who]["whole"]) > 0
