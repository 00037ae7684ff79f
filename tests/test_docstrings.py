"""Examples in docstrings outside of the losses, whose own are collected from their folder."""

import doctest
import importlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# These are run by the tests of their modules, beside what they compile.
ELSEWHERE = {"thanos_jax/losses", "thanos_jax/theory/balance", "thanos_jax/train/grad_cache.py"}
FILES = [
    name
    for file in sorted((ROOT / "thanos_jax").rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
    and not (name := file.relative_to(ROOT).as_posix()).startswith(tuple(ELSEWHERE))
]


def test_evaluations_have_examples():
    assert {"coreset.py", "geometry.py", "noisy_labels.py", "scores.py", "transfer.py"} <= {
        pathlib.PurePath(name).name for name in FILES if "/downstream/" in name
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.endswith("backgrounds.py") else name
        for name in FILES  # that one reads photographs
    ],
)
def test_examples_say_what_is_so(name):
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 0
    assert found.failed == 0
