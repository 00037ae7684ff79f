"""What the launchers would start is what the command understands."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
GIVEN = ["--config=configs/digits.py:supcon", "--workdir=/runs/a b", "--config.loss.alpha=0.25"]
PARSE = """
import json, os, sys
from absl import flags
from thanos_jax import main
for line in sys.stdin.read().splitlines():
    if os.fork():  # a process parses its flags once
        assert os.wait()[1] == 0
        continue
    sys.argv = ["main", *json.loads(line)]
    flags.FLAGS(sys.argv)
    names = "workdir", "coordinator", "num_processes", "process_id", "distributed"
    found = {name: flags.FLAGS[name].value for name in names + ("stopped_exit_code",)}
    config = flags.FLAGS.config
    print(json.dumps({**found, "method": config.method, "alpha": config.loss.alpha}), flush=True)
    os._exit(0)
"""


def shown(*command, **environment):
    """The commands that a dry run prints, as lists of words."""
    found = subprocess.run(
        ["bash", *command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [shlex.split(line) for line in found.stdout.splitlines()]


def after_module(words):
    place = words.index("thanos_jax.main")
    assert words[place - 1] == "-m"
    return words[:place], words[place + 1 :]


@pytest.fixture(scope="module")
def commands():
    """Name -> flags that each launcher gives the command."""
    local = shown("launch/local.sh", "--dry-run", "2", *GIVEN, PORT="7", PYTHON="py", GPUS="1")
    assert [after_module(words)[0] for words in local] == [
        ["env", f"CUDA_VISIBLE_DEVICES={i}", "py", "-m"] for i in range(2)
    ]
    (slurm,) = shown("launch/slurm.sbatch", *GIVEN, DRY_RUN="1")
    assert after_module(slurm)[0] == ["srun", "--kill-on-bad-exit=1", "python", "-m"]
    (tpu,) = shown("launch/tpu_vm.sh", "--dry-run", "slice", "zone-a", *GIVEN)
    assert tpu[:8] == [*["gcloud", "compute", "tpus", "tpu-vm", "ssh", "slice"], "--zone=zone-a",
                       "--worker=all"]  # fmt: skip
    remote = shlex.split(tpu[8].partition("=")[2])
    assert after_module(remote)[0] == ["cd", "thanos_jax", "&&", "exec", "python3", "-m"]
    yaml = pytest.importorskip("yaml")
    jobset = yaml.safe_load((ROOT / "launch/gke_jobset.yaml").read_text(encoding="utf-8"))
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == 4
    (container,) = spec["template"]["spec"]["containers"]
    assert after_module(container["command"])[0] == ["python", "-m"]
    return {
        "local 0": after_module(local[0])[1],
        "local 1": after_module(local[1])[1],
        "slurm": after_module(slurm)[1],
        "tpu": after_module(remote)[1],
        "gke": after_module(container["command"])[1],
    }


@pytest.mark.slow
def test_the_command_understands_what_it_is_given(commands):
    process = subprocess.run(
        [sys.executable, "-c", PARSE],
        input="".join(json.dumps(words) + "\n" for words in commands.values()),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    lines = map(json.loads, process.stdout.splitlines())
    found = dict(zip(commands, lines, strict=True))
    for index in range(2):
        local = found[f"local {index}"]
        assert (local["coordinator"], local["num_processes"]) == ("localhost:7", 2)
        assert (local["process_id"], local["distributed"]) == (index, False)
    for name in ("slurm", "tpu", "gke"):
        assert found[name]["distributed"]
    for name in ("local 0", "local 1", "slurm", "tpu"):
        assert found[name]["workdir"] == "/runs/a b"
        assert (found[name]["method"], found[name]["alpha"]) == ("supcon", 0.25)
        assert found[name]["stopped_exit_code"] == 0
    # Kubernetes takes 0 for finished.
    assert found["gke"]["stopped_exit_code"] == 75


@pytest.mark.parametrize("name", ["local.sh", "slurm.sbatch", "tpu_vm.sh"])
def test_syntax_and_usage(name):
    path = str(ROOT / "launch" / name)
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", path], check=True)
    misused = subprocess.run(["bash", path, "--help"], capture_output=True, text=True, check=False)
    assert misused.returncode == 2
    assert "usage: " in misused.stderr


def test_local_runs_forwards_signals_and_returns_the_first_failure(tmp_path):
    stub = tmp_path / "stub.py"
    stub.write_text(
        "import signal, sys, time\n"
        "index = int([w for w in sys.argv if w.startswith('--process_id=')][0][-1])\n"
        "def stop(*_):\n"
        "    time.sleep(0.3)\n"
        "    sys.exit(3 * index)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/usr/bin/env bash\nexec {sys.executable} {stub} "$@"\n')
    python.chmod(0o755)
    process = subprocess.Popen(
        ["bash", str(ROOT / "launch/local.sh"), "3", *GIVEN],
        env={"PATH": os.environ["PATH"], "PYTHON": str(python)},
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(3):
        assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(20) == 3
