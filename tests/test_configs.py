"""Every file in configs/ for every method, end to end on small files in the layout of its data."""

import importlib.util
import itertools
import pathlib
import sys

import jax
import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax import dry_run
from thanos_jax import run as run_module
from thanos_jax.config.presets import presets
from thanos_jax.data import sources
from thanos_jax.data.dataset import labels
from thanos_jax.data.specs import SPECS
from thanos_jax.errors import ConfigError
from thanos_jax.tasks import stages
from thanos_jax.train import metrics
from thanos_jax.train.objective import METHODS

# The tests of data write files in the layout of the real sets.
sys.path.insert(0, str(pathlib.Path(__file__).parent / "data"))
import own_images
import stored_sets
import test_isic
import test_tiny_imagenet
import test_waterbirds

FILES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("[!_]*.py"))


def load(file):
    spec = importlib.util.spec_from_file_location(f"configs_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_promised_configs_are_there():
    assert {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "celeba"} <= {
        file.stem for file in FILES
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_method_and_preset_passes_the_schema(file):
    module, kinds = load(file), {"encoder": ("",), "task": ("",), "data": ("",)}
    assert "python -m thanos_jax.main --config=configs/" + file.name in module.__doc__
    assert set(presets(file)) <= set(kinds)
    for method, encoder, task, data in itertools.product(
        METHODS, *(kinds | presets(file)).values()
    ):
        words = [word for word in (data, task, encoder, method) if word]  # the order is free
        config = module.get_config(",".join(words))
        schema.check(config)
        # The audit of labels as they are is the task noise, which makes none wrong.
        expected = "noise" if task == "audit" else task or "transfer"
        assert (config.method, config.task) == (method, expected)
        assert (config.noise.rate == 0) == (task == "audit")
        assert not encoder or config.model.encoder == encoder
        assert not data or config.data.name == data
    assert module.get_config().method == ("joint" if file.stem == "randbit" else "thanos")
    with pytest.raises(ConfigError, match="thanso"):
        module.get_config("thanso")


def tfds_records(root, name, labels):
    """A prepared TFDS data set of a few random images of each class."""
    rng = np.random.default_rng(0)

    def records(each):
        for label in labels * each:
            image = rng.integers(256, size=SHAPES[name], dtype=np.uint8)
            yield stored_sets.example(stored_sets.encode(image), **label)

    splits = {"train": list(records(5)), "validation": list(records(2)), "test": list(records(1))}
    stored_sets.write_dataset(root, name, splits)
    return root


def of_cifar100(root):
    coarse = SPECS["cifar100"].coarse_of_fine
    labels = [{"label": fine, "coarse_label": coarse[fine]} for fine in range(100)]
    return tfds_records(root, "cifar100", labels)


def of_celeba(root):
    keys = ("attributes__Blond_Hair", "attributes__Male")
    labels = [dict(zip(keys, bits, strict=True)) for bits in ((0, 0), (0, 1), (1, 0), (1, 1))]
    return tfds_records(root, "celeb_a", 4 * labels)


def of_tiny_imagenet(root):
    test_tiny_imagenet.write(root / "tiny-imagenet-200", training=8)
    return root


SHAPES = {
    "mnist": (28, 28, 1),
    "fashion_mnist": (28, 28, 1),
    "cifar10": (32, 32, 3),
    "cifar100": (32, 32, 3),
    "celeb_a": (218, 178, 3),
}
# Config -> what writes its data into a folder; returns config.data.data_dir.
DATA = {
    "digits": lambda root: "",
    "mnist": lambda root: tfds_records(root, "mnist", [{"label": k} for k in range(10)]),
    "randbit": lambda root: DATA["mnist"](root),
    "fashion_mnist": lambda root: tfds_records(
        root, "fashion_mnist", [{"label": k} for k in range(10)]
    ),
    "cifar10": lambda root: tfds_records(root, "cifar10", [{"label": k} for k in range(10)]),
    "cifar100": of_cifar100,
    "celeba": of_celeba,
    "tiny_imagenet": of_tiny_imagenet,
    "folder": own_images.write,
    "waterbirds": test_waterbirds.write,
    "isic": test_isic.write,
}


class StopHereError(Exception):
    pass


# The others are slow: each compiles programs of its own.
QUICK = ("digits",)


def slow_but(names, quick):
    return [
        pytest.param(name, marks=() if name in quick else pytest.mark.slow, id=name)
        for name in names
    ]


@pytest.mark.parametrize("name", slow_but([file.stem for file in FILES], QUICK))
def test_every_config_trains_resumes_and_evaluates(name, tmp_path, monkeypatch):
    (file,) = [file for file in FILES if file.stem == name]
    if file.stem not in ("digits", "folder", "tiny_imagenet", "waterbirds", "isic"):
        pytest.importorskip("tensorflow_datasets")
    config = load(file).get_config("thanos")
    # Its own encoder is built, and its shapes are traced; a small one is trained.
    schema.check(config)
    config.model.encoder = "mlp"
    config.model.decoder = "auto"
    config.model.arrangement = "shared"
    config.model.mlp.widths = (16, 8)
    config.data.data_dir = str(DATA[file.stem](tmp_path / "data"))
    if config.data.image_size:
        config.data.image_size = 16
    config.train.update(batch_size=8, max_steps=3, log_every=1, checkpoint_every_epochs=1e-3)
    config.transfer.update(iterations=5, neighbours=3)
    config.report.map_points = 20
    real = stages.make_step

    def stops_after_two(*arguments, **keywords):
        step = real(*arguments, **keywords)

        def counting(state, batch, seed):
            if not isinstance(state.step, jax.core.Tracer) and int(state.step) == 2:
                raise StopHereError
            return step(state, batch, seed)

        return counting

    with monkeypatch.context() as patch:
        patch.setattr(stages, "make_step", stops_after_two)
        with pytest.raises(StopHereError):
            run_module.run(config, tmp_path / "run")
    results = run_module.run(config, tmp_path / "run")
    records = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3]
    assert results["dataset"] == config.data.name
    assert results["steps"] == 3
    assert 0 <= results["fine_accuracy"] <= 1
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("name", slow_but(["waterbirds", "celeba", "isic"], []))
def test_hidden_groups_of_the_papers_data_are_recovered_and_trained_against(name, tmp_path):
    if name == "celeba":
        pytest.importorskip("tensorflow_datasets")
    (file,) = [file for file in FILES if file.stem == name]
    config = load(file).get_config("spread,groups")
    config.model.update(encoder="mlp", decoder="auto", arrangement="shared")
    config.model.mlp.widths = (16, 8)
    config.data.data_dir = str(DATA[name](tmp_path / "data"))
    config.data.image_size = 16
    config.train.update(batch_size=8, max_steps=2, log_every=1)
    config.transfer.update(iterations=5, neighbours=3)
    config.report.map_points = 20
    results = run_module.run(config, tmp_path / "run")
    assert (results["task"], results["robust_method"]) == ("groups", "group_dro")
    # The published groups, those of which the test split has images.
    names = sources.load(config.data).fine_names
    assert set(results["groups"]) <= set(names)
    assert len(names) == {"waterbirds": 4, "celeba": 4, "isic": 3}[name]
    assert 0 <= results["worst_group_accuracy"] <= results["coarse_accuracy"] <= 1
    assert 0 <= results["worst_group_auroc"] <= 1
    assert (tmp_path / "run" / "report.html").exists()


# As GEORGE, group DRO and Just Train Twice were published.
PROTOCOLS = {
    "waterbirds": (
        "sgd, momentum 0.9, learning rate 1e-05, constant after 0 epochs of warm-up, weight decay "
        "1 on all parameters",
        "config.train.epochs = 300.0",
        "of 128 images",
        "config.groups.group_dro_adjustment = 2.0",
        "config.groups.jtt_epochs = 60.0",
        "config.groups.jtt_weight = 100",
    ),
    "celeba": (
        "sgd, momentum 0.9, learning rate 1e-05, constant after 0 epochs of warm-up, weight decay "
        "0.1 on all parameters",
        "config.train.epochs = 50.0",
        "of 128 images",
        "config.groups.group_dro_adjustment = 3.0",
        "config.groups.jtt_weight = 50",  # after 1 epoch, the default
    ),
    "isic": (
        "sgd, momentum 0.9, learning rate 0.001, constant after 0 epochs of warm-up, weight decay "
        "0.001 on all parameters",
        "learning rate 0.0005, constant",
        "of 16 images, 20 epochs",
    ),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_papers_protocols_are_shown_before_they_are_run(name, tmp_path):
    if name == "celeba":
        pytest.importorskip("tensorflow_datasets")
    (file,) = [file for file in FILES if file.stem == name]
    config = load(file).get_config("thanos,resnet50,groups")
    config.data.data_dir = str(DATA[name](tmp_path / "data"))
    lines = dry_run.describe(config, costs=())
    text = "\n".join(lines)
    for words in PROTOCOLS[name]:
        assert words in text, (words, text)
    assert "thanos, 2 x resnet50, " in text
    assert "ce, 1 x resnet50, " in text
    assert config.groups.jtt_epochs == {"waterbirds": 60, "celeba": 1, "isic": 1}[name]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "name", ["waterbirds", "mnist", "cifar100", "celeba", "isic", "fashion_mnist", "cifar10"]
)
def test_what_stands_for_absent_data_has_their_shapes_and_classes(name, tmp_path):
    if name not in ("waterbirds", "isic"):
        pytest.importorskip("tensorflow_datasets")
    (file,) = [file for file in FILES if file.stem == name]
    config = load(file).get_config("mlp" if "mlp" in presets(file).get("encoder", ()) else "")
    config.data.data_dir = str(DATA[name](tmp_path))
    real, absent = sources.load(config.data), sources.stand_in(config.data)
    for attribute in ("name", "coarse_names", "fine_names", "image_shape"):
        assert getattr(absent, attribute) == getattr(real, attribute), attribute
    assert list(absent.splits) == list(real.splits)
    for split in absent.splits:
        there, here = (data.splits[split].read(np.arange(1)) for data in (real, absent))
        assert {key: (x.shape, x.dtype) for key, x in here.items()} == {
            key: (x.shape, x.dtype) for key, x in there.items()
        }
    # The coarse class of each fine one.
    pairs = [set(zip(*labels(data.splits["train"]), strict=True)) for data in (real, absent)]
    assert pairs[0] <= pairs[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "stream",
    [pytest.param(False, id="memory"), pytest.param(True, id="stream")],
)
def test_celeba_runs_from_memory_and_from_disk(stream, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    (file,) = [file for file in FILES if file.stem == "celeba"]
    # Compiling a ResNet takes longer than all the rest; one of the two runs is enough.
    config = load(file).get_config("thanos,mlp" if stream else "spread,resnet18")
    config.model.arrangement = "shared"
    config.data.image_size = 16
    config.data.data_dir = str(of_celeba(tmp_path / "data"))
    config.data.memory_limit_gib = 0.0 if stream else 4.0
    config.model.resnet.width = 4
    config.train.update(batch_size=16, max_steps=2)
    config.report.map_points = 10
    results = run_module.run(config, tmp_path / "run")
    assert results["dataset"] == "celeb_a"
    assert results["steps"] == 2
    assert 0 <= results["fine_accuracy"] <= 1
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_row_of_the_convnet_is_its_preset(name):
    """cAuto's weight, chosen for it alone, does not reach the other rows."""
    (file,) = (file for file in FILES if file.stem == name)
    module = load(file)
    weights = {"supcon": 1.0, "cauto": 0.3, "thanos": 1.0}
    every = {method: module.get_config(f"{method},convnet") for method in weights}
    for method, weight in weights.items():
        row = module.of_method(every["cauto"], method)
        assert row["loss.reconstruction_weight"] == weight
        assert row.items() <= schema.flatten(every[method]).items()
