"""Many images to files: names, rows, shards that go on, images that cannot be read."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import thanos_jax
from thanos_jax import config as schema
from thanos_jax import errors
from thanos_jax.data import sources
from thanos_jax.data.preprocess import Rule
from thanos_jax.data.splits import DataError
from thanos_jax.errors import ConfigError
from thanos_jax.trained import embeddings, images, tables

ROOT = pathlib.Path(__file__).parents[2]
MNIST = ROOT.parent / "shared" / "data" / "tfds"


def rule_of(*shape):
    return Rule(shape, matte="white", deep_images="refuse", max_megapixels=200.0)


@pytest.fixture(scope="module")
def model(finished):
    return thanos_jax.load(finished.folder)


@pytest.fixture(scope="module")
def source(finished, model):
    return images.open_source(str(finished.pictures), model.rule)


SETTINGS = embeddings.Settings(read_threads=2)


@pytest.fixture(scope="module")
def whole(model, source, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "new" / "all.npz"
    done = embeddings.to_file(model, source, path, SETTINGS)
    assert done[:2] == (200, 0)
    return path, embeddings.read(path)


def equal(found, expected):
    for name in tables.Table._fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def test_one_file_has_every_image_by_name(finished, model, whole):
    path, table = whole
    names = table.filename.tolist()
    assert names == sorted(names)
    every = sorted(file.relative_to(finished.pictures).as_posix()
                   for file in finished.pictures.rglob("*.png"))  # fmt: skip
    assert names == every
    files = [finished.pictures / name for name in names]
    np.testing.assert_array_equal(table.embedding, model.encode(files))
    predicted = model.predict(files)
    np.testing.assert_array_equal(table.prediction, predicted.names)
    np.testing.assert_array_equal(table.probability, predicted.probability)
    with np.load(path) as file:  # without this package
        assert {"filename", "embedding", "prediction", "probability"} <= set(file)
        assert file["embedding"].dtype == file["probability"].dtype == np.float32
    assert [one.name for one in path.parent.iterdir()] == ["all.npz"]


def test_parquet_holds_the_same(model, source, whole, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    embeddings.to_file(model, source, tmp_path / "all.parquet", SETTINGS)
    equal(embeddings.read(tmp_path / "all.parquet"), whole[1])
    found = parquet.read_table(tmp_path / "all.parquet").to_pydict()
    assert list(found) == ["filename", "embedding", "prediction", "probability"]
    np.testing.assert_array_equal(np.float32(found["embedding"]), whole[1].embedding)


def test_a_missing_extra_is_said_before_anything_is_read(model, source, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setattr(model, "submit", None)
    with pytest.raises(errors.MissingDependencyError, match=r"pip install '\.\[parquet\]'"):
        embeddings.to_file(model, source, tmp_path / "all.parquet", SETTINGS)


def shards(model, source, folder, *, rows=64, settings=SETTINGS):
    return embeddings.to_shards(model, source, folder, settings, shard_rows=rows)


def test_shards_go_on_where_they_were_stopped(model, source, whole, tmp_path, monkeypatch):
    folder, real, seen = tmp_path / "shards", images.read, []

    def read(source, rows, **options):
        seen.extend(rows)
        if len(seen) > 130:
            raise KeyboardInterrupt
        return real(source, rows, **options)

    with monkeypatch.context() as patch:
        patch.setattr(images, "read", read)
        with pytest.raises(KeyboardInterrupt):
            shards(model, source, folder)
    there = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    assert 0 < len(there) < 4
    with pytest.raises(tables.TableError, match=r"expected 4 shards, of which \d are missing"):
        embeddings.read(folder)
    done = shards(model, source, folder)
    assert done.images == 200 - 64 * len(there)  # none twice
    assert all((folder / name).stat().st_mtime_ns == moment for name, moment in there.items())
    equal(embeddings.read(folder), whole[1])
    assert shards(model, source, folder).images == 0
    assert not list(folder.glob("*.tmp"))


def test_a_folder_of_something_else_is_refused(model, source, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match="out: expected a new folder, or one of shards"):
        shards(model, source, tmp_path / "mine")
    folder = tmp_path / "shards"
    folder.mkdir()
    embeddings._claim(folder, embeddings._plan(model, source, SETTINGS, 64, "npz"))
    other = images.Source(source.names[:-1], source.records, source.root)
    normalized = SETTINGS._replace(normalize=True)
    for source_now, options, words in (
        (other, {}, "images: 200 there, 199 now"),
        (source, {"rows": 65}, "shard_rows: 64 there, 65 now"),
        (source, {"settings": normalized}, "normalize: False there, True now"),
    ):
        with pytest.raises(ConfigError, match=words):
            shards(model, source_now, folder, **options)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["model"] = "0"
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"model: '0' there, '{model.fingerprint}' now"):
        shards(model, source, folder)


@pytest.fixture
def damaged(finished, tmp_path):
    """Twelve images, of which one is cut short and one is no image."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for number, file in enumerate(sorted(finished.pictures.rglob("*.png"))[:10]):
        (folder / f"{number}.PNG").write_bytes(file.read_bytes())
    (folder / "cut.png").write_bytes((folder / "0.PNG").read_bytes()[:60])
    (folder / "none.jpg").write_text("no image")
    for ignored in (".hidden.png", "notes.txt"):
        (folder / ignored).write_text("")
    return folder


def test_damaged_images_are_named_and_refused_or_left_out(model, damaged, tmp_path, capsys):
    source = images.open_source(str(damaged), model.rule)
    assert len(source.names) == 12
    with pytest.raises(DataError, match=r"\(cut\.png\)"):
        embeddings.to_file(model, source, tmp_path / "a.npz", SETTINGS)
    assert not (tmp_path / "a.npz").exists()
    done = embeddings.to_file(
        model, source, tmp_path / "a.npz", SETTINGS._replace(on_damaged="skip")
    )
    assert done[:2] == (12, 2)
    table = embeddings.read(tmp_path / "a.npz")
    assert table.filename.tolist() == [f"{number}.PNG" for number in range(10)]
    assert table.skipped.tolist() == ["cut.png", "none.jpg"]
    np.testing.assert_allclose(
        table.embedding, model.encode([damaged / name for name in table.filename]), rtol=1e-5
    )
    said = capsys.readouterr().err
    assert "2 images cannot be read and are left out" in said
    assert "cut.png" in said
    assert "none.jpg" in said
    for path in damaged.glob("*.PNG"):
        path.unlink()
    source = images.open_source(str(damaged), model.rule)
    with pytest.raises(DataError, match="expected at least one image that can be read, got none"):
        embeddings.to_file(model, source, tmp_path / "b.npz", SETTINGS._replace(on_damaged="skip"))


def test_a_csv_names_files_below_its_folder(damaged, model):
    table = damaged / "some.csv"
    table.write_text("filename,other\n3.PNG,x\n./1.PNG,\n", encoding="utf-8")
    source = images.open_source(str(table), model.rule)
    assert source.names == ["1.PNG", "3.PNG"]
    part = images.read(source, [1, 0], on_damaged="stop")
    expected = model.preprocess([damaged / "3.PNG", damaged / "1.PNG"])
    np.testing.assert_array_equal(part.images, expected)
    assert images.open_source(str(damaged / "3.PNG"), model.rule).names == ["3.PNG"]
    table.write_text("filename\n1.PNG\n1.PNG\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 3: filename: '1\.PNG' was there before, in line 2"):
        images.open_source(str(table), model.rule)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("no/such", r"expected a folder of images, a CSV .*, got 'no/such', which is not there"),
        ("tfds:1nothing", "got 'tfds:1nothing'"),
        ("EMPTY", "in which there is no image"),
    ],
)
def test_what_holds_no_images_is_said(where, words, tmp_path):
    with pytest.raises(DataError, match=words):
        images.open_source(where.replace("EMPTY", str(tmp_path)), rule_of(8, 8, 1))


@pytest.mark.slow
@pytest.mark.skipif(not (MNIST / "mnist").is_dir(), reason="no prepared MNIST beside the checkout")
def test_records_of_tfds_are_the_images_of_their_split():
    source = images.open_source("tfds:mnist", rule_of(28, 28, 1), split="test", data_dir=str(MNIST))
    assert (len(source.names), source.names[7]) == (10_000, "test/0007")
    config = schema.default()
    config.data.update(name="mnist", data_dir=str(MNIST))
    expected = sources.load(config.data).splits["test"].read(np.arange(0, 10_000, 333))["image"]
    part = images.read(source, range(0, 10_000, 333), on_damaged="stop")
    np.testing.assert_array_equal(part.images, expected)
    small = images.open_source("tfds:mnist:3.0.1", rule_of(14, 7, 3), data_dir=str(MNIST))
    assert images.read(small, [3], on_damaged="stop").images.shape == (1, 14, 7, 3)


def test_files_of_something_else_are_refused(tmp_path):
    (tmp_path / "a.npz").write_text("no")
    np.savez(tmp_path / "b.npz", other=1)
    for name in ("a.npz", "b.npz", "c.npz"):
        with pytest.raises(tables.TableError, match=rf"{name}: expected a file of embeddings"):
            embeddings.read(tmp_path / name)
    with pytest.raises(tables.TableError, match="expected a folder of embeddings"):
        embeddings.read(tmp_path)


def start(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "thanos_jax.embed", *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_killed_command_goes_on(finished, whole, tmp_path):
    arguments = (
        f"--workdir={finished.folder}", f"--images={finished.pictures}", f"--out={tmp_path}/out",
        "--shard_rows=8", "--batch_size=8", "--read_threads=1",
    )  # fmt: skip
    killed = start(*arguments)
    shards = tmp_path / "out"
    while not len(list(shards.glob("shard-*.npz"))) > 3:
        assert killed.poll() is None
        time.sleep(0.001)
    killed.send_signal(signal.SIGTERM)
    assert killed.communicate()[1] == ""
    assert killed.returncode == -signal.SIGTERM
    there = {path: path.stat().st_mtime_ns for path in shards.glob("shard-*.npz")}
    again = start(*arguments)
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert f"{25 - len(there)} of 25 shards to do" in out
    assert "images/s" in out
    assert all(path.stat().st_mtime_ns == moment for path, moment in there.items())
    found = embeddings.read(shards)
    np.testing.assert_array_equal(found.filename, whole[1].filename)
    np.testing.assert_allclose(found.embedding, whole[1].embedding, rtol=1e-5, atol=1e-6)
    missing = start(*arguments[:1], f"--images={tmp_path}/no", arguments[2])
    _, err = missing.communicate()
    assert missing.returncode == 1
    assert err.startswith("error: images: expected a folder of images")


@pytest.mark.slow
def test_each_of_two_processes_does_its_shards(finished, whole, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = [
        start(
            f"--workdir={finished.folder}", f"--images={finished.pictures}",
            f"--out={tmp_path}/out", "--shard_rows=30", f"--coordinator={address}",
            "--num_processes=2", f"--process_id={index}",
        )
        for index in range(2)
    ]  # fmt: skip
    said = [one.communicate() for one in started]
    assert [one.returncode for one in started] == [0, 0], said
    assert "4 of 7 shards to do in this process" in said[0][0]
    assert "embeddings:" not in said[1][0]
    equal(embeddings.read(tmp_path / "out"), whole[1])
