"""The command as a user gives it."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from PIL import Image

from thanos_jax.errors import UserError
from thanos_jax.theory import experiments

ROOT = pathlib.Path(__file__).parents[2]


def command(*arguments):
    environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT))
    # One device, compiled as quickly as the other tests.
    flags = os.environ.get("XLA_FLAGS", "").split()
    environment["XLA_FLAGS"] = " ".join(flag for flag in flags if "device_count" not in flag)
    return subprocess.run(
        [sys.executable, "-m", "thanos_jax.theory", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_writes_numbers_and_pictures(tmp_path):
    found = command(
        f"--workdir={tmp_path}/new/run", "--dim=200", "--samples=80", "--suppression_samples=384",
        "--wide=8", "--steps=90", "--wide_steps=60", "--seeds=2",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "|W v2| peaks at step" in found.stdout
    folder = tmp_path / "new" / "run"
    pictures = ("learned_then_unlearned.png", "suppression.png", "joint.png")
    assert {path.name for path in folder.iterdir()} == {"theory.json", *pictures}
    for name in pictures:
        with Image.open(folder / name) as image:
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(1 << 20)) > 20  # something is drawn
    numbers = json.loads((folder / "theory.json").read_text(encoding="utf-8"))
    assert numbers["settings"]["dim"] == 200
    narrow = numbers["learned_then_unlearned"]["rows=3, mu=1"]
    assert narrow["v2_peak"] > 3 * narrow["v2_last"]
    assert len(numbers["learned_then_unlearned"]["seeds"]["v2_peak_steps"]) == 2
    for features in (3, 50):
        swept = numbers["suppression"][f"features={features}"]
        assert swept["unsupervised_v1"][0] > 1.2 > 0.1 > swept["unsupervised_v1"][-1]
        assert min(swept["joint_v1"]) > 1.2
        joint = numbers["joint"][f"features={features}"]
        assert len(joint["beta"]) == len(joint["v1"]) == len(joint["v2"])


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--samples=12"], "error: samples: expected a multiple of 8, got 12"),
        (["--dim=many", "surplus"], "flag --dim=many"),
    ],
    ids=["multiple", "type"],
)
def test_misuse_fails_with_words(arguments, words, tmp_path):
    found = command(f"--workdir={tmp_path}/run", *arguments)
    assert found.returncode != 0
    assert words in found.stderr + found.stdout
    if words.startswith("error"):
        assert "Traceback" not in found.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": 0}, "^samples: expected an integer of at least 8, got 0"),
        ({"suppression_samples": 12}, "^suppression_samples: expected a multiple of 8, got 12"),
        ({"augmentations": 0}, r"^augmentations: .* got 0"),
        ({"dim": 50}, "^dim: expected an integer of at least 51, got 50"),
        ({"seed": -1}, r"^seed: .* got -1"),
        ({"narrow": 0}, r"^narrow: .* got 0"),
        ({"wide": 0}, r"^wide: .* got 0"),
        ({"steps": 0}, r"^steps: .* got 0"),
        ({"wide_steps": 0}, r"^wide_steps: .* got 0"),
        ({"seeds": 0}, r"^seeds: .* got 0"),
        ({"step_size": 0.0}, r"^step_size: .* got 0.0"),
    ],
)
def test_bad_settings_are_named_before_anything_is_written(change, words, tmp_path):
    with pytest.raises(UserError, match=words):
        experiments.run(experiments.Settings(**change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_descent_that_diverges_names_the_step_size(tmp_path):
    settings = experiments.Settings(dim=60, samples=8, steps=20, step_size=90.0)
    with pytest.raises(UserError, match=r"^step_size: .* got 90.0, .*not finite at step \d"):
        experiments.run(settings, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "file"])
def test_bad_workdir_is_named(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^workdir: expected a folder"):
        experiments.run(experiments.Settings(), name and tmp_path / name)


def test_workdir_is_required():
    found = command()
    assert found.returncode != 0
    assert "--workdir" in found.stderr + found.stdout
