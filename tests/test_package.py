"""What is installed, and what importing it costs."""

import pathlib
import re
import subprocess
import sys

import setuptools
import yaml

ROOT = pathlib.Path(__file__).parents[1]


def test_every_folder_with_code_is_a_package_of_the_wheel():
    found = set(setuptools.find_packages(ROOT, include=["thanos_jax", "thanos_jax.*"]))
    folders = {file.parent for file in (ROOT / "thanos_jax").rglob("*.py")}
    assert found == {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert (ROOT / "thanos_jax" / "py.typed").exists()


def test_the_default_job_imports_no_optional_dependency():
    program = (
        "import sys, thanos_jax.run\n"
        "from thanos_jax import config\n"
        "from thanos_jax.data import sources\n"
        "sources.load(config.default().data)\n"
        "print([m for m in ('tensorflow', 'tensorflow_datasets', 'grain', 'array_record', 'chex')"
        " if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # Orbax and optax may bring chex and grain along where they are installed.
    assert not {"tensorflow", "tensorflow_datasets", "array_record"} & set(
        re.findall(r"'(\w+)'", found.stdout)
    )


def test_the_forge_and_the_hooks_run_what_ci_runs():
    ci = {path.name: path for path in (ROOT / ".ci").iterdir()}
    called = {}
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        (job,) = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"].values()
        steps = job["steps"]
        versions = next(one["with"] for one in steps if "setup-python" in one.get("uses", ""))
        (called[file.stem],) = (one["run"] for one in steps if "run" in one)
        # The last one is python3: the oldest, with which the formulas and types are checked.
        *newer, oldest = versions["python-version"].split()
        assert (newer[0], oldest) == ("3.13", "3.11")
    assert called == {name: f".ci/{name}" for name in ("run", "release")}
    for name in called:
        assert ci[name].stat().st_mode & 0o111, name
    tools = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"].removeprefix('bash -c "').rstrip('"') for hook in local["hooks"]]
    assert len(entries) == 4
    for entry in entries:
        words = re.sub(r" --(fix|force-exclude)", "", entry).split()
        assert all(word in tools for word in words), entry
