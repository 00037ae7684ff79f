"""A model out of a run's folder: the run's own outputs, of any kind of image, without its data."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import thanos_jax
from thanos_jax import errors
from thanos_jax import run as run_module
from thanos_jax.data import sources
from thanos_jax.data.splits import DataError
from thanos_jax.errors import ConfigError, NotARunError
from thanos_jax.train import checkpoint

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(finished):
    return thanos_jax.load(finished.folder)


def kept(folder, split="test"):
    with np.load(folder / f"embeddings_{split}.npz") as file:
        return dict(file)


def config_of_digits(argument):
    spec = importlib.util.spec_from_file_location("digits", ROOT / "configs" / "digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def files_of(finished):
    return sorted(finished.pictures.rglob("*.png"), key=lambda path: path.name)


def test_importing_the_package_is_light(finished):
    program = (
        "import sys, thanos_jax; print(thanos_jax.load.__name__, thanos_jax.__version__);"
        "heavy = {'jax', 'flax', 'numpy', 'tensorflow', 'orbax'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or None)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


def test_outputs_are_those_of_the_run(finished, model):
    files = files_of(finished)
    every = model.preprocess(files)
    own = kept(finished.folder)
    # The test split, found again by what the run kept of it.
    encoded = model.encode(every)
    rows = [int(np.flatnonzero((encoded == one).all(axis=1))[0]) for one in own["embedding"]]
    assert rows == sorted(set(rows))
    assert len(rows) == 40
    names = [files[row].relative_to(finished.pictures).as_posix() for row in rows]
    assert names == own["filename"].tolist()
    assert [files[row].parts[-3] for row in rows] == own["coarse"].tolist()
    assert [files[row].parts[-2] for row in rows] == own["fine"].tolist()
    test = [files[row] for row in rows]
    np.testing.assert_array_equal(model.encode(test), own["embedding"])
    predicted = model.predict(every[rows])
    np.testing.assert_array_equal(predicted.names, own["prediction"])
    np.testing.assert_array_equal(predicted.probability, own["probability"])
    np.testing.assert_allclose(predicted.probabilities.sum(axis=1), 1, rtol=1e-6)
    accuracy = np.mean(predicted.names == own["coarse"])
    assert accuracy == pytest.approx(finished.results["coarse_accuracy"])


def test_any_kind_of_image_is_brought_to_the_shape_of_training(finished, model, tmp_path):
    file = files_of(finished)[7]
    assert model.image_shape == (8, 8, 1)
    expected = model.preprocess([file])
    assert (expected.dtype, expected.shape) == (np.uint8, (1, 8, 8, 1))
    # The largest centred square.
    with Image.open(file) as image:
        square = image.resize((8, 8), Image.Resampling.BILINEAR, box=(0, 2, 16, 18))
        np.testing.assert_array_equal(expected[0, ..., 0], np.asarray(square))
        stored = np.asarray(image)
        turned = image.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        turned.save(tmp_path / "turned.png", exif=exif)
        same = [
            str(file), image, [image.convert("RGB")], [image.convert("RGBA")],
            stored, stored[None, :, :, None], np.repeat(stored[..., None], 3, axis=2),
            (path for path in [file]), tmp_path / "turned.png", expected,
        ]  # fmt: skip
        for images in same:
            np.testing.assert_array_equal(model.preprocess(images)[-1:], expected)
    with (tmp_path / "turned.png").open("rb") as opened:
        np.testing.assert_array_equal(model.preprocess(opened), expected)
    assert model.preprocess([]).shape == (0, 8, 8, 1)
    assert model.encode([]).shape == (0, 8)
    assert model.embedding_dim == 8


def test_options_of_encode(finished, model):
    images = model.preprocess(files_of(finished)[:30])
    plain = model.encode(images)
    assert (plain.dtype, plain.shape) == (np.float32, (30, 8))
    assert not np.allclose(np.linalg.norm(plain, axis=1), 1, atol=0.1)
    unit = model.encode(images, normalize=True)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1)[:, None], rtol=1e-6)
    # Filled up to 8 devices, more batches than one, the last of them short.
    np.testing.assert_allclose(model.encode(images, batch_size=7), plain, rtol=1e-5, atol=1e-6)
    projected = model.encode(images, projected=True)
    head = model.variables["params"]["projection_0"]
    expected = plain.astype(np.float64) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    np.testing.assert_allclose(projected, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        model.encode(images, batch_size=0)


def test_reconstructions_are_pictures(finished, model):
    images = model.preprocess(files_of(finished)[:3])
    found = model.reconstruct(images)
    assert (found.dtype, found.shape) == (np.float32, (3, 8, 8, 1))
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.std() > 0


def test_what_the_model_says_of_itself(finished, model):
    assert model.classes == ("high", "low")
    assert model.fine_classes == tuple("0123456789")
    assert (model.part, model.step, model.dataset) == ("representation", 3, "folder")
    assert model.config.method == "thanos"
    assert model.config.model.mlp.widths == (16, 8)
    assert model.batch_size == 64


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((8, 8, 1), np.float32), "expected uint8 .*got float32"),
        (np.zeros((8, 8, 2), np.uint8), r"c one of 1, 3 and 4, got shape \(8, 8, 2\)"),
        (np.zeros((0, 8, 1), np.uint8), r"got shape \(0, 8, 1\)"),
        (7, "expected a path, a PIL image or an array uint8 .*, got int"),
        ("no.png", "No such file"),
        (__file__, "not an image in a format that Pillow can read"),
    ],
)
def test_images_that_cannot_be_used_are_named(model, image, words):
    sound = np.zeros((8, 8, 1), np.uint8)
    with pytest.raises(DataError, match=rf"image 1(: | \().*{words}"):
        model.encode([sound, image])


def test_what_is_not_there_is_said(finished, tmp_path):
    with pytest.raises(NotARunError, match=r"workdir: expected the folder of a run, with model"):
        thanos_jax.load(tmp_path)
    with pytest.raises(NotARunError, match=r"step: expected one of 3 in .*, got 2"):
        thanos_jax.load(finished.folder, step=2)
    with pytest.raises(ConfigError, match=r"part: expected one of representation in .*'classif"):
        thanos_jax.load(finished.folder, part="classifier")
    for name, text, words in (
        ("model.json", "{", "expected the description of a model"),
        ("model.json", "{}", "expected the description of a model, without"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(NotARunError, match=words):
            thanos_jax.load(tmp_path)
    shutil.copy(finished.folder / "model.json", tmp_path)
    with pytest.raises(NotARunError, match=r"expected a checkpoint in .*, got none yet"):
        thanos_jax.load(tmp_path)
    shutil.copytree(finished.folder / "checkpoints", tmp_path / "checkpoints")
    described = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    described["config"]["model"]["mlp"]["widths"] = [16, 9]
    (tmp_path / "model.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(checkpoint.CheckpointError, match=r"differs at params\.classifier_0"):
        thanos_jax.load(tmp_path)
    assert issubclass(NotARunError, errors.UserError)


PROGRAM = """
import sys, numpy, jax, thanos_jax
model = thanos_jax.load(sys.argv[1])
numpy.savez(sys.argv[2], devices=jax.device_count(), found=model.encode(sorted(sys.argv[3:])))
"""


@pytest.mark.slow
def test_one_device_is_as_eight(finished, model, tmp_path):
    files = sorted(map(str, files_of(finished)))
    arguments = [sys.executable, "-c", PROGRAM, finished.folder, tmp_path / "out.npz", *files]
    words = os.environ.get("XLA_FLAGS", "").split()
    flags = " ".join(word for word in words if "device_count" not in word)
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    subprocess.run(arguments, env=environment, check=True)
    with np.load(tmp_path / "out.npz") as file:
        assert file["devices"] == 1
        np.testing.assert_allclose(file["found"], model.encode(files), rtol=1e-6, atol=1e-6)


TASKS = {
    "groups": {"groups.method": "group_dro_true"},
    "noise": {"noise.method": "co_teaching", "noise.forget_epochs": 0.1},
    "coreset": {"coreset.method": "forgetting", "train.evaluate_every_epochs": 0.1},
}


@pytest.mark.slow
@pytest.mark.parametrize("task", [*TASKS, "noise_mend"])
def test_every_task_can_be_loaded(task, tmp_path):
    settings = dict(TASKS.get(task, {}))
    config = config_of_digits(f"spread,{task.partition('_')[0]}")
    config.train.max_steps = 4
    config.report.keep_embeddings = True
    config.model.mlp.widths = (16, 8)
    for key, value in settings.items():
        section, name = key.split(".")
        config[section][name] = value
    run_module.run(config, tmp_path)
    images = sources.load(config.data).splits["test"].read(np.arange(359))["image"]
    model = thanos_jax.load(tmp_path)
    assert model.part == "classifier"
    own = kept(tmp_path)
    np.testing.assert_array_equal(model.encode(images), own["embedding"])
    np.testing.assert_array_equal(model.predict(images).names, own["prediction"])
    if (tmp_path / "representation").exists():
        first = thanos_jax.load(tmp_path, part="representation")
        assert first.config.method == "spread"
        assert not np.allclose(first.encode(images), own["embedding"], atol=1e-3)
