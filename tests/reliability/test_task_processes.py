"""Groups, noise and coreset in two processes: as in one, and stopped in one of them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from thanos_jax.train import metrics

LOOSE = 1e-5
# Task -> what is set, and the training in which one process is stopped.
TASKS = {
    "groups": ("spread,groups", {}, "classifier"),
    "jtt": ("ce,groups", {"groups.method": "jtt"}, "classifier"),
    "noise": ("supcon,noise", {}, "representation"),
    "soften": ("supcon,noise", {"noise.action": "soften"}, "classifier"),
    "elr": ("ce,noise", {"noise.method": "elr"}, "classifier"),
    "coreset": ("spread,coreset", {"coreset.runs": 2}, "sample_1"),
    "forgetting": ("ce,coreset", {"coreset.method": "forgetting"}, "representation"),
}
SETTINGS = {
    "model.mlp.widths": (32, 16),
    "train.max_steps": 30,
    "train.batch_size": 64,
    "train.log_every": 5,
    "train.evaluate_every_epochs": 0.5,
    "groups.jtt_epochs": 0.5,
    "noise.forget_epochs": 1.0,
    "transfer.regularization": (1e-3,),
    "transfer.iterations": 20,
    "report.map_points": 20,
}


def arguments(runs, task, folder):
    argument, changes, _ = TASKS[task]
    keys = [f"--config.{key}={value}" for key, value in {**SETTINGS, **changes}.items()]
    return [f"--config={runs.root}/configs/digits.py:{argument}", f"--workdir={folder}", *keys]


def alone(runs, task, folder):
    """A run of one process with two devices."""
    words = os.environ.get("XLA_FLAGS", "").split()
    flags = " ".join(word for word in words if "device_count" not in word)
    process = subprocess.run(
        [sys.executable, "-m", "thanos_jax.main", *arguments(runs, task, folder)],
        env={
            **os.environ,
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=2",
            "PYTHONPATH": str(runs.root),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return process


def results_of(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def flat(value, prefix=""):
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(inner, f"{prefix}.{key}")
    else:
        yield prefix, value


def require_close(folder, other):
    """Accuracies and counts exactly, other numbers to 1e-5; losses of every record too."""
    timing = ("seconds", "images_per_second", "devices")
    found, expected = (dict(flat(results_of(one))) for one in (folder, other))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if any(word in key for word in timing):
            continue
        # The linear head stops at its limit of iterations, wherever it is then.
        close = "fine_" not in key or key.endswith("gradient_norm")
        if isinstance(value, float) and "accuracy" not in key and close:
            np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
        else:
            assert found[key] == value, key
    names = sorted(path.parent.name for path in other.glob("*/metrics.jsonl"))
    assert names == sorted(path.parent.name for path in folder.glob("*/metrics.jsonl"))
    for name in names:
        records = [metrics.read(one / name / "metrics.jsonl") for one in (folder, other)]
        assert [r["step"] for r in records[0]] == [r["step"] for r in records[1]]
        losses = [[r["loss"] for r in one] for one in records]
        np.testing.assert_allclose(*losses, rtol=LOOSE, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_two_processes_are_as_one_and_one_goes_on_where_two_were_stopped(task, runs, tmp_path):
    one, two, stopped = (tmp_path / name for name in ("one", "two", "stopped"))
    alone(runs, task, one)
    both = [runs.start(*arguments(runs, task, two), *each) for each in runs.several(2)]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    require_close(two, one)

    program = (str(runs.root / "tests" / "reliability" / "signalled.py"),)
    settings = {"program": program, "STOP_IN": TASKS[task][2]}
    both = [
        runs.start(*arguments(runs, task, stopped), *each, **settings, STOP_AT=at)
        for each, at in zip(runs.several(2), ("0", "3"), strict=True)
    ]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert not (stopped / "results.json").exists()
    process = alone(runs, task, stopped)
    assert "continuing from the checkpoint of step" in process.stdout
    require_close(stopped, one)
