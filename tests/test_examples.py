"""Each file of examples/ runs, learns something, and is short."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "examples").glob("*.py"))
NEEDED = {"equinox_module": "equinox", "torch_loader": "torch"}


def run(file, **environment):
    kept = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(
        [sys.executable, str(file)], env=kept, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_they_are_short():
    assert len(FILES) >= 8
    for file in FILES:
        assert len(file.read_text(encoding="utf-8").splitlines()) < 60, file.name


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_runs(file):
    needed = NEEDED.get(file.stem)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    assert float(re.search(r"accuracy ([\d.]+)", run(file))[1]) > 0.9


@pytest.mark.slow
def test_the_mesh_has_as_many_devices_as_there_are():
    words = run(ROOT / "examples" / "mesh.py", XLA_FLAGS="--xla_force_host_platform_device_count=8")
    assert words.startswith("8 devices")
    assert float(re.search(r"accuracy ([\d.]+)", words)[1]) > 0.9
