"""Every file in configs/ for every method; the CelebA one end to end on TFDS's mock data."""

import importlib.util
import pathlib

import pytest

from thanos_jax import config as schema
from thanos_jax import run as run_module
from thanos_jax.train.objective import METHODS

FILES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


def load(file):
    spec = importlib.util.spec_from_file_location(f"configs_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_promised_configs_are_there():
    assert {"digits", "mnist", "cifar10", "cifar100", "celeba"} <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_method_and_preset_passes_the_schema(file):
    module = load(file)
    assert "python -m thanos_jax.main --config=configs/" + file.name in module.__doc__
    for method in METHODS:
        for preset in module.PRESETS:
            config = module.get_config(f"{method},{preset}")
            schema.check(config)
            assert config.method == method
    assert module.get_config().method == "thanos"
    with pytest.raises(schema.ConfigError, match="thanso"):
        module.get_config("thanso")


@pytest.mark.parametrize(
    "stream",
    [pytest.param(False, marks=pytest.mark.slow, id="memory"), pytest.param(True, id="stream")],
)
def test_celeba_runs_on_mock_data(stream, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    (file,) = [file for file in FILES if file.stem == "celeba"]
    # Compiling a ResNet takes longer than all the rest; one of the two runs is enough.
    config = load(file).get_config("thanos,mlp" if stream else "spread,resnet18")
    config.model.arrangement = "shared"
    config.data.image_size = 16
    config.data.data_dir = str(tmp_path / "data")
    config.data.memory_limit_gib = 0.0 if stream else 4.0
    config.model.resnet.width = 4
    config.train.update(batch_size=16, max_steps=2)
    config.report.map_points = 40
    with tfds.testing.mock_data(num_examples=48):
        results = run_module.run(config, tmp_path / "run")
    assert results["dataset"] == "celeb_a"
    assert results["steps"] == 2
    assert 0 <= results["fine_accuracy"] <= 1
    assert (tmp_path / "run" / "report.html").exists()
