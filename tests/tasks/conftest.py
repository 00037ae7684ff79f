"""Makes `whole_runs` importable, and runs without a report."""

import importlib
import pathlib
import sys

import pytest

from thanos_jax.downstream.projection import Layout

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture
def no_report(monkeypatch):
    """Drawing is half of what a short run costs."""
    ending = importlib.import_module("thanos_jax.tasks.ending")
    drawing = {"transfer": "_figures", "groups": "_figures", "noise": "_figures"}
    for module, name in {**drawing, "chosen": "figures"}.items():
        task = importlib.import_module(f"thanos_jax.tasks.{module}")
        monkeypatch.setattr(task, name, lambda *arguments: {})
    monkeypatch.setattr(ending, "training_figures", lambda *arguments: {})
    maps = importlib.import_module("thanos_jax.tasks.maps")
    monkeypatch.setattr(maps, "of_split", lambda *arguments: None)
    monkeypatch.setattr(maps.projection, "lay_out", lambda *arguments, **limit: Layout())
    monkeypatch.setattr(ending.html, "write", lambda *arguments, **keywords: None)
