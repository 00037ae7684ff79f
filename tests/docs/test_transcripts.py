"""Commands of the pages are run, those that take seconds on data that are at hand.

Of the trainings these are the ones whose folders other commands need, with fewer steps, and dry
runs. Commands that need data, minutes or another machine are parsed alone, in test_blocks.py.
"""

import os
import shutil
import subprocess
import sys

import blocks
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from thanos_jax.__main__ import COMMANDS

pytestmark = pytest.mark.slow

MODULES = {name: command.module for name, command in COMMANDS.items()}
# What a training has fewer of.
FEWER = ("--config.train.max_steps=4", "--config.transfer.iterations=5")
SMALLER = (  # in place of the ViT of the folder's config
    *("--config.model.encoder=mlp", "--config.model.arrangement=shared"),
    *("--config.data.image_size=8", "--config.train.batch_size=32"),
)
NEEDED = ("runs/digits", "runs/supcon", "runs/thanos", "runs/own", "runs/first")
ON_RUNS = ("thanos_jax.geometry", "thanos_jax.report", "thanos_jax.embed", "thanos_jax.neighbours",
           "thanos_jax.export", "thanos_jax.theory.balance")  # fmt: skip
ABSENT = ("DATA", "DIR/tensorboard", "CACHE", "=runs/sweep_digits", "resnet50.safetensors")


def workdir(words):
    return next((w.partition("=")[2] for w in words if w.startswith("--workdir=")), None)


def asked():
    """The commands that are run: (module, *arguments), each once, trainings first."""
    found = {}
    for page in blocks.PAGES:
        for block in blocks.of(page):
            for one in blocks.commands(block) if block.kind == "shell" else ():
                command = blocks.module_of(one.words, MODULES)
                if command is None or any(word in str(one) for word in ABSENT):
                    continue
                module, words = command
                keys = [w for w in words if w.startswith("--config.") and "data_dir" not in w]
                trains = module == "thanos_jax.main" and workdir(words) in NEEDED and not keys
                dry = module == "thanos_jax.main" and "--dry_run" in words
                if trains or dry or (module in ON_RUNS and "DIR" not in words):
                    found[module, *words] = one
    return sorted(found, key=lambda key: key[0] != "thanos_jax.main")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder like the checkout, with images in DIR and FOLDER; what runs leave is its own."""
    root = tmp_path_factory.mktemp("transcripts")
    (root / "configs").symlink_to(blocks.ROOT / "configs")
    shutil.copytree(blocks.ROOT / "docs", root / "docs")
    images, labels = load_digits(return_X_y=True)
    for number in range(200):
        picture = Image.fromarray(np.uint8(images[number].reshape(8, 8) * 15))
        label = labels[number]
        for folder in ("DIR", "FOLDER"):
            file = root / folder / f"{'low' if label < 5 else 'high'}/{label}/{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.save(file)
    for name in ("a.jpg", "b.jpg"):
        picture.save(root / name)
    return root


def run(place, module, *words):
    flags = os.environ.get("XLA_FLAGS", "").split()
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=place, capture_output=True, text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(blocks.ROOT), "MPLBACKEND": "agg",
             "XLA_FLAGS": " ".join(flag for flag in flags if "device_count" not in flag)},
    )  # fmt: skip
    assert done.returncode == 0, f"{module} {' '.join(words)}\n{done.stderr[-2000:]}"
    return done.stdout


def test_commands_run(place):
    commands = asked()
    assert {workdir(words) for module, *words in commands if module == "thanos_jax.main"} > {
        *NEEDED
    }
    assert {module for module, *_ in commands} >= {"thanos_jax.main", *ON_RUNS}
    picture = place / "docs" / "pictures" / "supcon_thanos.png"
    before = picture.read_bytes()
    for module, *words in commands:
        if module == "thanos_jax.main" and "--dry_run" not in words:
            words += [*FEWER, *(SMALLER if "folder" in words[0] else ())]
        said = run(place, module, *words)
        if module == "thanos_jax.main":
            expected = "parameters" if "--dry_run" in words else f"{workdir(words)}/report.html"
            assert expected in said
    for left in ("embeddings.npz", "exported/encoder.safetensors", "runs/beside.html",
                 "runs/own/neighbours.html", "runs/digits/geometry.json"):  # fmt: skip
        assert (place / left).is_file(), left
    assert picture.read_bytes() != before
