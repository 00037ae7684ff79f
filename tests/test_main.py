"""The command as a user gives it: a real process, its exit code and its words."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from thanos_jax.config import flatten
from thanos_jax.report import numbers

ROOT = pathlib.Path(__file__).parents[1]


def command(*arguments, cwd=ROOT, as_for_users=False):
    environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    flags = environment.get("XLA_FLAGS", "").split()
    environment["XLA_FLAGS"] = " ".join(f for f in flags if "device_count" not in f)
    if as_for_users:  # and not to compile quickly
        for name in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS"):
            environment.pop(name, None)
    return subprocess.run(
        [sys.executable, "-m", "thanos_jax.main", *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def unexplained(folder):
    """The numbers and words of a run's results and records that have no entry."""
    lines = [(folder / "results.json").read_text(encoding="utf-8")]
    for path in folder.rglob("metrics.jsonl"):
        lines += path.read_text(encoding="utf-8").splitlines()
    keys = {key for line in lines for key in flatten(json.loads(line))}
    return {key for key in keys if not numbers.find(key.split("."))}


def test_runs_from_the_command_line(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"seed": 1}', encoding="utf-8")
    (tmp_path / "run" / "results.json").write_text("{}", encoding="utf-8")
    found = command(
        "--config=configs/digits.py:supcon", f"--workdir={tmp_path}/run", "--overwrite",
        "--config.train.max_steps=3", "--config.report.map_points=50",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "fine_accuracy" in found.stdout
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "config.json", "metrics.jsonl", "checkpoints", "results.json", "report.html", "model.json",
        "map.npz", "pictures.json",
    }  # fmt: skip
    assert not unexplained(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["groups", "noise", "coreset"])
def test_every_task_ends_well_and_stays_ended(task, tmp_path):
    arguments = (
        f"--config=configs/digits.py:ce,{task}", f"--workdir={tmp_path}/run",
        "--config.train.max_steps=3", "--config.report.map_points=50",
        "--config.model.mlp.widths=(16, 8)", "--config.noise.method=ce",
        "--config.coreset.method=random", "--config.groups.method=erm",
    )  # fmt: skip
    first, second = command(*arguments), command(*arguments)
    for found in (first, second):
        assert found.returncode == 0, found.stderr
        assert "coarse_accuracy: 0." in found.stdout
        assert "report: " in found.stdout
    assert "nothing to do" in second.stdout
    assert not unexplained(tmp_path / "run")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--config=configs/digits.py", "--config.loss.tempreature=0.1"],
            "config.loss.tempreature: no such key; did you mean 'loss.temperature'?",
        ),
        (["--config=configs/digits.py:thanso"], "did you mean 'thanos'"),
        (["--config=configs/digits.py", "--config.loss.alpha=2.0"], "config.loss.alpha: expected"),
        (["--config=configs/digits.py", "--config.train.batch_size=abc"], "batch_size"),
        (["--config=configs/digits.py", "surplus"], "surplus"),
        ([], "--config"),
    ],
    ids=["key", "method", "range", "type", "argument", "nothing"],
)
def test_misuse_fails_with_words(arguments, words, tmp_path):
    found = command(*arguments, f"--workdir={tmp_path}/run")
    assert found.returncode != 0
    assert words in found.stderr + found.stdout
    if words.startswith("config."):
        assert "Traceback" not in found.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_missing_data_name_folder_and_remedy(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    found = command(
        "--config=configs/mnist.py", f"--workdir={tmp_path}/run",
        f"--config.data.data_dir={tmp_path}/data",
    )  # fmt: skip
    assert found.returncode != 0
    for words in ("mnist", f"{tmp_path}/data", "tfds build", "[prepare]", "data.data_dir"):
        assert words in found.stderr, words
    assert "Traceback" not in found.stderr


@pytest.mark.slow
def test_a_second_run_finds_the_programs_of_the_first(tmp_path, monkeypatch):
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = []
    for run in "ab":
        found = command(
            "--config=configs/digits.py:spread", f"--workdir={tmp_path}/{run}",
            "--config.train.max_steps=2", "--config.report.map_points=20", as_for_users=True,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        kept.append({path.name for path in (tmp_path / "cache" / "thanos_jax").rglob("*-cache")})
    assert any(name.startswith("jit_step") for name in kept[0])
    assert kept[1] == kept[0]
