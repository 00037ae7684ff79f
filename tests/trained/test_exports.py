"""Exports: weights that come back, a program for others, a card whose lines run."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import thanos_jax
from thanos_jax import config as schema
from thanos_jax import sharding
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.splits import ArraySplit
from thanos_jax.errors import ConfigError
from thanos_jax.models import MLP, ConvNet, ResNet, ViT, pretrained, resnet18, resnet50
from thanos_jax.models.safetensors import WeightsError, read_safetensors, write_safetensors
from thanos_jax.train import description
from thanos_jax.train.build import build
from thanos_jax.train.checkpoint import Checkpoints
from thanos_jax.trained import exports


@pytest.fixture(scope="module")
def model(finished):
    return thanos_jax.load(finished.folder)


@pytest.fixture(scope="module")
def exported(finished, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    names = exports.export(model, folder, exports.results_of(finished.folder, model))
    assert sorted(names) == sorted(path.name for path in folder.iterdir())
    return folder


@pytest.fixture(scope="module")
def images(finished, model):
    return model.preprocess(sorted(finished.pictures.rglob("*.png")))


PROGRAM = """
import sys, jax, jax.export, numpy
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
images = numpy.load(sys.argv[2])["images"]
sizes = [int(size) for size in sys.argv[4:]]
found = {str(n): numpy.asarray(jax.jit(program.call)(images[:n])["embedding"]) for n in sizes}
assert not {"thanos_jax", "flax"} & set(sys.modules)
numpy.savez(sys.argv[3], **found)
"""


def test_the_program_does_what_the_model_does(exported, model, images):
    call, many = exports.read(exported), np.concatenate([images, images[:56]])
    embeddings, probabilities = model.encode(many), model.predict(many).probabilities
    for size in (1, 7, 256):
        found = call(many[:size])
        np.testing.assert_allclose(found["embedding"], embeddings[:size], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["probability"], probabilities[:size], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_program_is_the_same_in_another_process(exported, images, tmp_path):
    call = exports.read(exported)
    many = np.concatenate([images, images[:56]])
    np.savez(tmp_path / "in.npz", images=many)
    arguments = [sys.executable, "-c", PROGRAM, exported / exports.PROGRAM, tmp_path / "in.npz"]
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run(
        [*arguments, tmp_path / "out.npz", "1", "7", "256"], env=environment, check=True, cwd="/"
    )
    with np.load(tmp_path / "out.npz") as there:
        for size in (1, 7, 256):
            here = call(many[:size])
            np.testing.assert_array_equal(there[str(size)], here["embedding"])


def test_the_program_is_lowered_for_all_platforms(exported):
    content = bytearray((exported / exports.PROGRAM).read_bytes())
    program = jax.export.deserialize(content)
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert program.nr_devices == 1
    assert str(program.in_avals[0].shape) == "(n, 8, 8, 1)"
    assert program.in_avals[0].dtype == np.uint8


def test_a_program_that_cannot_be_read_is_said(exported, tmp_path):
    with pytest.raises(exports.ExportError, match=r"expected an export, with encoder\.stablehlo"):
        exports.read(tmp_path)
    (tmp_path / "model.json").write_text('{"export": {"jax": "9.8.7"}}', encoding="utf-8")
    program = jax.export.deserialize(bytearray((exported / exports.PROGRAM).read_bytes()))
    younger = dataclasses.replace(program, mlir_module_serialized=b"ML\xefR of the future")
    for content in (b"another format", b"", bytes(younger.serialize())):
        (tmp_path / exports.PROGRAM).write_bytes(content)
        with pytest.raises(
            exports.ExportError,
            match=rf"was written by jax 9\.8\.7, and jax {jax.__version__} cannot read it; exp",
        ):
            exports.read(tmp_path)


def test_weights_come_back_and_start_another_run(exported, model, finished):
    shape = (8, 8, 1)
    found = pretrained.load(exported / "encoder.safetensors", model.module.encoders[0], shape)
    jax.tree.map(
        np.testing.assert_array_equal, found["params"], model.variables["params"]["encoders_0"]
    )
    config = model.config.copy_and_resolve_references()
    config.model.weights = str(exported / "encoder.safetensors")
    schema.check(config)
    split = ArraySplit(np.zeros((64, *shape), np.uint8), np.zeros(64, int), np.zeros(64, int))
    dataset = description.dataset_of(model.described)._replace(splits={"train": split})
    state = build(config, dataset, sharding.make_mesh()).state
    jax.tree.map(np.testing.assert_array_equal, state.params["encoders_0"], found["params"])
    first = model.variables["params"]["classifier_0"]["kernel"]
    assert not np.array_equal(state.params["classifier_0"]["kernel"], first)


def test_the_card_says_what_the_model_is(exported, finished, model):
    card = (exported / "README.md").read_text(encoding="utf-8")
    for words in ("144 training images", "2 classes: high, low", "fine classes within them: 0, 1",
                  "worst_group_accuracy", "collapse_index", "Intended use"):  # fmt: skip
        assert words in card, words
    accuracy = f"{100 * finished.results['fine_accuracy']:.1f}"
    assert re.search(rf"\| `fine_accuracy` \| {accuracy}", card)
    assert str(finished.folder.parent) not in card
    described = json.loads((exported / "model.json").read_text(encoding="utf-8"))
    assert described["export"]["step"] == 3
    assert str(finished.folder.parent) not in json.dumps(described)
    # Its first lines of Python run, as they stand.
    found = {"images": np.zeros((5, 8, 8, 1), np.uint8)}
    code = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)[0]
    assert len(code.splitlines()) <= 8
    here = pathlib.Path.cwd()
    os.chdir(exported)
    try:
        exec(code, found)
    finally:
        os.chdir(here)
    np.testing.assert_allclose(
        found["outputs"]["embedding"], model.encode(found["images"]), rtol=1e-5, atol=1e-6
    )


def test_a_folder_of_something_else_is_refused(model, exported, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match="out: expected a new folder, or an earlier export, got"):
        exports.export(model, tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_safetensors_are_read_as_they_are_written(tmp_path):
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "b": np.array(7, np.int64),
        "c": np.array([0.1, -2], jnp.bfloat16),
        "d": np.zeros((0, 2), np.float64),
        "e": np.array([True, False]),
        "f": np.array([1.5], ">f4"),
    }
    write_safetensors(tmp_path / "t.safetensors", tensors, {"format": "pt"})
    found = read_safetensors(tmp_path / "t.safetensors")
    assert list(found) == list(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(WeightsError, match=r"x: expected a dtype of .*, got <U1"):
        write_safetensors(tmp_path / "t.safetensors", {"x": np.array(["a"])})


def test_the_library_reads_what_is_written(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write_safetensors(tmp_path / "t.safetensors", {"a": array, "b": np.zeros(3)}, {"c": "d"})
    np.testing.assert_array_equal(library.load_file(tmp_path / "t.safetensors")["a"], array)


def random_variables(encoder, shape, seed=0):
    image = jax.ShapeDtypeStruct((1, *shape), np.float32)
    shapes = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, train=False), image)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype(np.float32), dict(shapes))


ENCODERS = {
    "resnet": (ResNet((1, 1), bottleneck=True, width=4), (8, 8, 2)),
    "vit": (ViT(patch=4, width=8, depth=1, heads=2, mlp_width=8), (8, 8, 1)),
    "mlp": (MLP((6, 4)), (4, 4, 1)),
    "convnet": (ConvNet((2, 3), widths=(5, 4)), (6, 6, 1)),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_encoder_comes_back_bit_for_bit(kind, tmp_path):
    encoder, shape = ENCODERS[kind]
    variables = random_variables(encoder, shape)
    write = pretrained.to_torchvision if kind == "resnet" else pretrained.to_ours
    layer = {"kernel": np.ones((4, 2), np.float32), "bias": np.ones(2, np.float32)}
    path = tmp_path / "w.safetensors"
    write_safetensors(path, write(variables, layer))
    found = pretrained.load(path, encoder, shape)
    jax.tree.map(np.testing.assert_array_equal, found, {"batch_stats": {}, **variables})
    if kind == "resnet":
        assert read_safetensors(path)["fc.weight"].shape == (2, 4)
    else:
        resnet, of = ENCODERS["resnet"]
        tensors = pretrained.to_torchvision(random_variables(resnet, of))
        write_safetensors(path, tensors)
        with pytest.raises(WeightsError, match=r"expected names such as params/.*, got 'layer1"):
            pretrained.load(path, encoder, shape)


@pytest.mark.slow
@pytest.mark.parametrize("make", [resnet18, resnet50])
@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_torchvision_loads_our_tensors(make, stem, tmp_path):
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision.models")
    encoder = make(stem=stem)
    variables = random_variables(encoder, (64, 64, 3))
    variables["params"] = jax.tree.map(lambda x: (x - 0.5) / x.size**0.25, variables["params"])
    network = getattr(models, make.__name__)()
    network.fc = torch.nn.Identity()
    if stem == "small":
        network.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        network.maxpool = torch.nn.Identity()
    tensors = pretrained.to_torchvision(variables)
    network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in tensors.items()})
    images = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = network.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    ours = np.asarray(encoder.apply(variables, images, train=False))
    assert np.abs(ours).max() > 1e-3
    assert np.abs(theirs - ours).max() < 1e-4 * max(1, np.abs(ours).max())


def untrained(folder, **settings):
    """What a run of no steps would leave; of another encoder than the fixture's."""
    config = schema.default()
    for key, value in settings.items():
        *sections, name = key.split(".")
        node = config
        for section in sections:
            node = node[section]
        node[name] = value
    images = np.random.default_rng(0).integers(256, size=(16, 8, 8, 1), dtype=np.uint8)
    split = ArraySplit(images, np.arange(16) % 2, np.arange(16) % 2)
    names = ("a", "b")
    dataset = Dataset("small", {"train": split}, names, names, (8, 8, 1), (0.4,), (0.3,))
    training = build(config, dataset, sharding.make_mesh())
    with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(training.state, 0)
    description.write(folder, training, "")
    return thanos_jax.load(folder), images


KINDS = {
    "vit": {"model.encoder": "vit", "model.vit.width": 16, "model.vit.depth": 2,
            "model.vit.heads": 2, "model.embedding_dim": 5, "method": "thanos"},
    "resnet18": {"model.encoder": "resnet18", "model.resnet.width": 4, "method": "spread",
                 "data.random_bits": 3},
    "resnet50": {"model.encoder": "resnet50", "model.resnet.width": 4, "method": "ce",
                 "data.random_bits": 5, "data.random_bits_form": "integer",
                 "model.resnet.stem": "imagenet"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_exported(kind, tmp_path):
    model, images = untrained(tmp_path / "run", **KINDS[kind])
    names = exports.export(model, tmp_path / "out", {})
    assert ("second_encoder.safetensors" in names) == (kind == "vit")
    call = exports.read(tmp_path / "out")
    for size in (1, 7, 16):
        found, expected = call(images[:size])["embedding"], model.encode(images[:size])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    for number, name in enumerate(exports.WEIGHTS[: len(model.module.encoders)]):
        channels = 1 + {"resnet18": 3, "resnet50": 1}.get(kind, 0)
        found = pretrained.load(
            tmp_path / "out" / name, model.module.encoders[number], (8, 8, channels)
        )
        own = model.variables["params"][f"encoders_{number}"]
        jax.tree.map(np.testing.assert_array_equal, found["params"], own)
