"""What tests of runs of several trainings share: their configs, stopping them, comparing them."""

import importlib.util
import pathlib

import jax
import pytest

from thanos_jax import run as run_module
from thanos_jax.report import folder as report_folder
from thanos_jax.report import html
from thanos_jax.train import metrics

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
TIMING = ("seconds", "train_seconds", "scoring_seconds", "images_per_second")


class StopHereError(Exception):
    pass


def config_of(name, argument=""):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def untimed(values):
    return {key: value for key, value in values.items() if key not in TIMING}


def records(folder, training):
    return [untimed(record) for record in metrics.read(folder / training / "metrics.jsonl")]


def mapped(folder, tmp_path):
    """The map of a run, whose report is made again without its data, byte for byte."""
    again, found = tmp_path / "again.html", report_folder.read(folder)
    html.write(again, **found._asdict())
    assert again.read_bytes() == (folder / "report.html").read_bytes()
    return found.image_map


def stop(*arguments, **keywords):
    raise StopHereError


def stopping(real, at, number=1):
    """`real` makes steps; of those that this one makes the `number`-th stops after `at` steps."""
    made = []

    def make(*arguments, **keywords):
        step = real(*arguments, **keywords)
        made.append(step)
        if len(made) != number:
            return step

        def counting(state, batch, seed):
            if not isinstance(state.step, jax.core.Tracer) and int(state.step) == at:
                raise StopHereError
            return step(state, batch, seed)

        return counting

    return make


def stopped(config, folder, module, name, replacement, *, left):
    """Starts a run that ends where module.name is called; of it `left` is there, and no results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, replacement)
        with pytest.raises(StopHereError):
            run_module.run(config, folder)
    assert (folder / left).exists()
    assert not (folder / "results.json").exists()
