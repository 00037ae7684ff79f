"""What is installed, and what importing it costs."""

import pathlib
import re
import subprocess
import sys

import setuptools

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
