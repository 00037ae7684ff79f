"""Real files in every test: MNIST as TFDS stores it, and small data sets written here.

The small ones have the real feature specifications of TFDS and real PNG and JPEG images, and are
written without TensorFlow.
"""

import dataclasses
import io
import json
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax.data import DatasetNotFound, fitting, prepared, sources
from thanos_jax.data.batches import train_batches
from thanos_jax.data.rare import thin_out
from thanos_jax.data.specs import SPECS
from thanos_jax.data.splits import ArraySplit, DataError, RecordSplit, to_memory
from thanos_jax.errors import ConfigError

MNIST = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "tfds"
needs_mnist = pytest.mark.skipif(
    not (MNIST / "mnist").exists(), reason="no MNIST beside the checkout (../shared/data/tfds)"
)


def config(name, **changes):
    found = schema.default()
    found.data.update({"name": name, **changes})
    schema.check(found)
    return found.data


def as_arrays(split):
    return split.read(np.arange(len(split)))


def assert_equal_batches(first, second):
    assert first.keys() == second.keys()
    for key in first:
        assert first[key].dtype == second[key].dtype
        np.testing.assert_array_equal(first[key], second[key])


def encode(image, kind="PNG"):
    from PIL import Image

    image = np.asarray(image)
    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(stream, format=kind)
    return stream.getvalue()


def example(image, **integers):
    """A tf.train.Example as TFDS writes it; a / in a feature's name is spelt __."""
    from tensorflow_datasets.proto import tf_example_pb2

    result = tf_example_pb2.Example()
    result.features.feature["image"].bytes_list.value.append(image)
    for key, value in integers.items():
        name = key.replace("__", "/")
        result.features.feature[name].int64_list.value.append(int(value))
    return result.SerializeToString()


def write_array_record(path, records):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def write_dataset(root, name, splits, *, file_format="array_record", declare=None, shards=1):
    """A data set folder with TFDS's own features; `splits` maps a name to its records."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_cls(name)(data_dir=str(root / "nowhere"))
    folder = root / name / str(builder.version)
    folder.mkdir(parents=True)
    builder.info.features.save_config(str(folder))
    described = []
    for split, records in splits.items():
        parts = [part.tolist() for part in np.array_split(np.arange(len(records)), shards)]
        for number, part in enumerate(parts):
            if file_format == "array_record":
                file = f"{name}-{split}.array_record-{number:05d}-of-{shards:05d}"
                write_array_record(folder / file, [records[index] for index in part])
        lengths = [str(len(part)) for part in parts] if declare is None else [str(declare)]
        described.append(
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": "1",
                "shardLengths": lengths,
            }
        )
    info = {
        "name": name,
        "version": str(builder.version),
        "fileFormat": file_format,
        "splits": described,
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def grey(number, side=28):
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (side, side, 1), np.uint8)


def digit_records(size, side=28):
    return [example(encode(grey(i, side)), label=i % 10) for i in range(size)]


def write_digits(root, **options):
    return write_dataset(
        root, "mnist", {"train": digit_records(30), "test": digit_records(10)}, **options
    )


# The digits


def test_digits_hold_every_image_once():
    from sklearn.datasets import load_digits

    dataset = sources.load(config("digits"))
    assert dataset.name == "digits"
    assert dataset.image_shape == (8, 8, 1)
    assert {key: len(split) for key, split in dataset.splits.items()} == {
        "train": 1294,
        "validation": 144,
        "test": 359,
    }
    batches = [as_arrays(split) for split in dataset.splits.values()]
    images = np.concatenate([batch["image"] for batch in batches])
    fine = np.concatenate([batch["fine"] for batch in batches])
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    stored, target = load_digits(return_X_y=True)
    expected = np.round(stored * 255 / 16).astype(np.uint8)
    found = {(image.tobytes(), int(label)) for image, label in zip(images, fine, strict=True)}
    assert found == {
        (image.tobytes(), int(label)) for image, label in zip(expected, target, strict=True)
    }
    for batch in batches:
        assert batch["fine"].dtype == batch["coarse"].dtype == np.int32
        np.testing.assert_array_equal(batch["coarse"], batch["fine"] >= 5)


def test_digits_test_split_is_stratified_and_the_same_for_every_seed():
    first, second = (sources.load(config("digits", split_seed=seed)) for seed in (1, 2))
    again = sources.load(config("digits", split_seed=1))
    assert_equal_batches(as_arrays(first.splits["test"]), as_arrays(second.splits["test"]))
    for split in ("train", "validation"):
        assert_equal_batches(as_arrays(first.splits[split]), as_arrays(again.splits[split]))
        assert (first.splits[split].images != second.splits[split].images).any()
    counts = np.bincount(first.splits["test"].fine, minlength=10)
    # load_digits has 174 to 183 images of each digit.
    np.testing.assert_array_equal(counts, [36, 36, 35, 37, 36, 36, 36, 36, 35, 36])
    # The very images: a test set that moves makes numbers incomparable. The sum pins it.
    weights = np.arange(1, 360)[:, None, None, None]
    assert int((first.splits["test"].images * weights).sum()) == 322628817


def test_digits_moments_are_those_of_the_training_images():
    dataset = sources.load(config("digits"))
    parts = [dataset.splits[split].images for split in ("train", "validation")]
    pixels = np.concatenate(parts) / 255.0
    np.testing.assert_allclose(dataset.mean, [pixels.mean()], atol=5e-5)
    np.testing.assert_allclose(dataset.std, [pixels.std()], atol=5e-5)


def test_digits_need_no_optional_package(monkeypatch):
    for package in ("tensorflow", "tensorflow_datasets", "grain", "array_record", "PIL"):
        monkeypatch.setitem(sys.modules, package, None)
    dataset = sources.load(config("digits"))
    batch = next(
        train_batches(dataset.splits["train"], seed=0, batch_size=4, first_step=0, last_step=1)
    )
    assert batch["image"].shape == (4, 8, 8, 1)


def test_image_size_resizes_digits():
    dataset = sources.load(config("digits", image_size=16))
    assert dataset.image_shape == (16, 16, 1)
    assert dataset.splits["test"].images.shape == (359, 16, 16, 1)


def test_resize_is_the_shorter_side_and_a_centre_crop():
    from PIL import Image

    # Sides at which the two-pass way needs no rounding.
    for height, width in ((120, 80), (80, 240), (20, 40), (64, 64)):
        image = Image.fromarray(
            np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        )
        short = min(height, width)
        scaled = image.resize(
            (width * 40 // short, height * 40 // short), Image.Resampling.BILINEAR
        )
        left, top = (scaled.width - 40) // 2, (scaled.height - 40) // 2
        expected = np.asarray(scaled.crop((left, top, left + 40, top + 40)))
        found = np.asarray(fitting.fit(image, 40, 40))
        assert found.shape == (40, 40, 3)
        np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=1)
    assert fitting.bring(image, lambda one: one, fitting.square(0)) is image


# Config values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "minst"}, "config.data.name: expected one of .*mnist.*, got 'minst'"),
        ({"image_size": -1}, "config.data.image_size: expected at least 0.*, got -1"),
        ({"memory_limit_gib": -1.0}, "config.data.memory_limit_gib: expected at least 0.*, got -1"),
        ({"validation_fraction": 0.0}, "config.data.validation_fraction: expected .*, got 0"),
        ({"validation_fraction": 1.0}, "config.data.validation_fraction: expected .*, got 1"),
        ({"split_seed": -1}, "config.data.split_seed: expected at least 0.*, got -1"),
        ({"on_damaged": "x"}, "config.data.on_damaged: expected one of stop, skip, got 'x'"),
        ({"tfds": "a/b/c"}, r"config.data.tfds: expected NAME\[/CONFIG\]\[:VERSION\].*'a/b/c'"),
    ],
)
def test_config_values_out_of_range_are_refused_by_the_schema(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**{"name": "digits", **changes})


def test_a_hold_out_of_nothing_is_refused(tmp_path):
    write_dataset(tmp_path, "mnist", {"train": digit_records(4), "test": digit_records(1)})
    with pytest.raises(DataError, match=r"got 0\.1: of 4 training examples, 4 and 0"):
        sources.load(config("mnist", data_dir=str(tmp_path)))


# MNIST


@pytest.fixture(scope="module")
def mnist():
    return sources.load(config("mnist", data_dir=str(MNIST)))


@pytest.mark.slow
@needs_mnist
def test_mnist_is_whole(mnist):
    assert {key: len(split) for key, split in mnist.splits.items()} == {
        "train": 54000,
        "validation": 6000,
        "test": 10000,
    }
    assert mnist.image_shape == (28, 28, 1)
    assert all(split.in_memory for split in mnist.splits.values())
    train, validation, test = mnist.splits.values()
    # The counts every description of MNIST gives.
    both = np.bincount(np.concatenate([train.fine, validation.fine]), minlength=10)
    np.testing.assert_array_equal(
        both, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    )
    np.testing.assert_array_equal(
        np.bincount(test.fine), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    )
    pixels = np.concatenate([train.images, validation.images])
    np.testing.assert_allclose(mnist.mean, [pixels.mean() / 255], atol=5e-5)
    np.testing.assert_allclose(mnist.std, [pixels.std() / 255], atol=5e-5)
    np.testing.assert_array_equal(train.coarse, train.fine >= 5)


@pytest.mark.slow
@needs_mnist
def test_mnist_is_what_tfds_reads(mnist):
    import tensorflow_datasets as tfds

    (folder,) = (MNIST / "mnist").iterdir()
    builder = tfds.builder_from_directory(folder)
    test = builder.as_data_source("test")
    for index in range(0, 10000, 97):
        np.testing.assert_array_equal(mnist.splits["test"].images[index], test[index]["image"])
        assert mnist.splits["test"].fine[index] == test[index]["label"]


@pytest.mark.slow
@needs_mnist
def test_mnist_from_disk_is_mnist_in_memory(mnist):
    streamed = sources.load(config("mnist", data_dir=str(MNIST), memory_limit_gib=0.0))
    for key, split in streamed.splits.items():
        assert not split.in_memory
        assert len(split) == len(mnist.splits[key])
        indices = np.random.default_rng(0).integers(0, len(split), 300)
        assert_equal_batches(split.read(indices), mnist.splits[key].read(indices))


def test_memory_limit_counts_the_bytes_of_all_images(tmp_path):
    write_digits(tmp_path)
    needed = 40 * 28 * 28 / 2**30
    for limit, in_memory in ((needed * 1.001, True), (needed * 0.999, False)):
        dataset = sources.load(config("mnist", data_dir=str(tmp_path), memory_limit_gib=limit))
        assert all(split.in_memory == in_memory for split in dataset.splits.values())


def test_moments_that_an_entry_leaves_out_are_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(SPECS, "mnist", dataclasses.replace(SPECS["mnist"], mean=(), std=()))
    write_digits(tmp_path)
    dataset = sources.load(config("mnist", data_dir=str(tmp_path)))
    pixels = dataset.splits["train"].images / 255
    np.testing.assert_allclose([*dataset.mean, *dataset.std], [pixels.mean(), pixels.std()])


# What is missing


def test_missing_data_set_says_where_it_looked_and_both_ways_out(tmp_path):
    with pytest.raises(DatasetNotFound) as caught:
        sources.load(config("cifar10", data_dir=str(tmp_path)))
    message = str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    assert str(tmp_path / "cifar10") in message
    assert "pip install '.[prepare]'" in message
    assert f"tfds build cifar10 --file_format=array_record --data_dir={tmp_path}" in message
    assert "--config.data.data_dir=DIR" in message


def test_default_folder_is_that_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "here"))
    with pytest.raises(DatasetNotFound, match=str(tmp_path / "here" / "mnist")):
        sources.load(config("mnist"))
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DatasetNotFound, match=str(tmp_path / "tensorflow_datasets" / "mnist")):
        sources.load(config("mnist"))


def test_cifar100_u_is_prepared_as_cifar100(tmp_path):
    with pytest.raises(DatasetNotFound, match="tfds build cifar100 "):
        sources.load(config("cifar100_u", data_dir=str(tmp_path)))


@pytest.mark.parametrize(
    "package", ["tensorflow_datasets", "array_record.python.array_record_data_source", "PIL.Image"]
)
def test_missing_packages_name_the_extra(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install '\.\[tfds\]'"):
        sources.load(config("mnist", data_dir=str(tmp_path)))


def test_newest_version_is_read_and_interrupted_downloads_are_not(tmp_path):
    folder = write_digits(tmp_path)
    for version in ("3.0.9", "3.0.10"):
        newer = folder.parent / version
        shutil.copytree(folder, newer)
        info = json.loads((newer / "dataset_info.json").read_text())
        (newer / "dataset_info.json").write_text(json.dumps({**info, "version": version}))
    shutil.copytree(folder, folder.parent / "incomplete.ABCDEF_9.9.9")
    assert prepared.find("mnist", str(tmp_path)).folder.name == "3.0.10"
    for version in ("3.0.1", "3.0.9", "3.0.10"):
        shutil.rmtree(folder.parent / version)
    with pytest.raises(DatasetNotFound):
        prepared.find("mnist", str(tmp_path))


def test_missing_split_is_named(tmp_path):
    write_dataset(tmp_path, "mnist", {"train": digit_records(3)})
    with pytest.raises(DataError, match=r"mnist, split 'test': .* has only \['train'\]"):
        sources.load(config("mnist", data_dir=str(tmp_path)))


# File formats


def convert_command(folder):
    return f"tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record"


def test_tfrecord_without_tensorflow_says_how_to_convert(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "_has_tensorflow", lambda: False)
    folder = write_digits(tmp_path, file_format="tfrecord")
    with pytest.raises(ValueError, match="needs TensorFlow, which is not installed") as caught:
        sources.load(config("mnist", data_dir=str(tmp_path)))
    assert convert_command(folder) in str(caught.value)
    assert "pip install '.[prepare]'" in str(caught.value)


def test_tfrecord_cannot_be_streamed(tmp_path):
    folder = write_digits(tmp_path, file_format="tfrecord")
    with pytest.raises(ValueError, match=r"data\.memory_limit_gib") as caught:
        sources.load(config("mnist", data_dir=str(tmp_path), memory_limit_gib=0.0))
    assert convert_command(folder) in str(caught.value)


def test_other_formats_say_how_to_convert(tmp_path):
    folder = write_digits(tmp_path, file_format="riegeli")
    with pytest.raises(ValueError, match="are riegeli") as caught:
        sources.load(config("mnist", data_dir=str(tmp_path)))
    assert convert_command(folder) in str(caught.value)


def test_files_converted_in_place_are_read_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "_has_tensorflow", lambda: False)
    folder = write_digits(tmp_path)
    expected = as_arrays(sources.load(config("mnist", data_dir=str(tmp_path))).splits["test"])
    # What `tfds convert_format` leaves behind.
    info = json.loads((folder / "dataset_info.json").read_text())
    info.update(fileFormat="tfrecord", alternativeFileFormats=["array_record"])
    (folder / "dataset_info.json").write_text(json.dumps(info))
    dataset = sources.load(config("mnist", data_dir=str(tmp_path)))
    assert_equal_batches(as_arrays(dataset.splits["test"]), expected)


def test_tfrecord_with_tensorflow_equals_array_record(tmp_path):
    tf = pytest.importorskip("tensorflow")

    expected = write_digits(tmp_path / "array_record", shards=2)
    folder = write_digits(tmp_path / "tfrecord", file_format="tfrecord", shards=2)
    for split, size in (("train", 30), ("test", 10)):
        for number, part in enumerate(np.array_split(np.arange(size), 2)):
            path = str(folder / f"mnist-{split}.tfrecord-{number:05d}-of-00002")
            with tf.io.TFRecordWriter(path) as writer:
                for index in part:
                    writer.write(digit_records(size)[index])
    first, second = (
        sources.load(config("mnist", data_dir=str(path.parents[1]))) for path in (expected, folder)
    )
    for key, split in first.splits.items():
        assert_equal_batches(as_arrays(split), as_arrays(second.splits[key]))
    damaged = folder / "mnist-test.tfrecord-00001-of-00002"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"mnist, split 'test': .*mnist-test\.tfrecord-00001"):
        sources.load(config("mnist", data_dir=str(tmp_path / "tfrecord")))


# Damage


def damage(path, kind):
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "last byte missing":
        path.write_bytes(content[:-1])
    elif kind == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()


@pytest.mark.parametrize("kind", ["truncated", "last byte missing", "emptied", "removed"])
@pytest.mark.parametrize("limit", [0.0, 4.0])
def test_damaged_file_is_named_at_once(kind, limit, tmp_path):
    folder = write_digits(tmp_path)
    path = folder / "mnist-test.array_record-00000-of-00001"
    damage(path, kind)
    with pytest.raises(DataError) as caught:
        sources.load(config("mnist", data_dir=str(tmp_path), memory_limit_gib=limit))
    assert str(caught.value).startswith("mnist, split 'test', record 0 (")
    assert str(path) in str(caught.value)


@needs_mnist
def test_truncated_mnist_is_named(tmp_path):
    shutil.copytree(MNIST / "mnist", tmp_path / "mnist", copy_function=shutil.copyfile)
    (path,) = (tmp_path / "mnist").glob("*/mnist-train.array_record*")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3)
    with pytest.raises(DataError, match="mnist, split 'train'") as caught:
        sources.load(config("mnist", data_dir=str(tmp_path)))
    assert str(path) in str(caught.value)


def test_flipped_bit_is_found_in_its_record(tmp_path):
    records = digit_records(30)
    folder = write_dataset(tmp_path, "mnist", {"train": records, "test": records})
    path = folder / "mnist-train.array_record-00000-of-00001"
    content = bytearray(path.read_bytes())
    # Incompressible pixels lie in the file as they are; find those of record 17.
    start = content.find(encode(grey(17))[100:130])
    assert start > 0
    content[start] ^= 1
    path.write_bytes(content)
    options = config("mnist", data_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"mnist, split 'train', record 17 \(.*mnist-train.*hash"):
        sources.load(options)
    # From disk the other records can still be used.
    options.memory_limit_gib = 0.0
    split = sources.load(options).splits["train"]
    numbers = split.numbers
    assert len(split.read(np.flatnonzero(numbers != 17))["fine"]) == len(split) - 1
    with pytest.raises(DataError, match="record 17 "):
        split.read(np.flatnonzero(numbers == 17))


@pytest.mark.parametrize("limit", [0.0, 4.0])
def test_damaged_records_can_be_left_out(limit, tmp_path, capsys):
    records = digit_records(100)
    records[99] = example(encode(grey(0))[:-300], label=1)  # the last of its file
    folder = write_dataset(tmp_path, "mnist", {"train": records, "test": digit_records(30)})
    path = folder / "mnist-train.array_record-00000-of-00001"
    content = bytearray(path.read_bytes())
    start = content.find(encode(grey(17))[100:130])
    content[start] ^= 1
    path.write_bytes(content)
    options = config("mnist", data_dir=str(tmp_path), memory_limit_gib=limit, on_damaged="skip")
    dataset = sources.load(options)
    assert dataset.skipped == ("train 17", "train 99")
    said = capsys.readouterr().err
    assert "mnist, split 'train': 2 of 100 examples cannot be read and are left out" in said
    assert re.search(r"record 17 \(.*\n.*record 99 \(", said)
    parts = [as_arrays(dataset.splits[name])["image"] for name in ("train", "validation")]
    images = np.concatenate(parts)[..., 0]
    kept = {grey(number)[..., 0].tobytes() for number in range(100) if number not in (17, 99)}
    assert len(images) == 98
    assert {image.tobytes() for image in images} == kept
    # The same in a later start.
    again = as_arrays(sources.load(options).splits["train"])
    assert_equal_batches(again, as_arrays(dataset.splits["train"]))


def test_fewer_records_than_declared_is_an_error(tmp_path):
    write_dataset(
        tmp_path, "mnist", {"train": digit_records(30), "test": digit_records(30)}, declare=31
    )
    with pytest.raises(DataError, match=r"mnist, split 'train', record 30 \(.*mnist-train"):
        sources.load(config("mnist", data_dir=str(tmp_path)))


def test_unusable_metadata_is_named(tmp_path):
    folder = write_digits(tmp_path)
    (folder / "features.json").write_text("{")
    with pytest.raises(DataError, match=f"mnist: cannot use the metadata in {folder}"):
        sources.load(config("mnist", data_dir=str(tmp_path)))


@pytest.mark.parametrize("limit", [0.0, 4.0])
@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            lambda: example(encode(grey(0, side=27)), label=1),
            "image: expected 28 x 28 pixels, mode L, got 27 x 27, mode L",
        ),
        (
            lambda: example(encode(np.zeros((28, 28, 3), np.uint8)), label=1),
            "expected 28 x 28 pixels, mode L, got 28 x 28, mode RGB",
        ),
        (lambda: example(b"not an image", label=1), "cannot identify image file"),
        (lambda: example(encode(grey(0))[:-300], label=1), "truncated"),
        (
            lambda: example(encode(grey(0)), label=10),
            r"fine label: expected one in \[0, 10\), got 10",
        ),
        (
            lambda: example(encode(grey(0)), label=-1),
            r"fine label: expected one in \[0, 10\), got -1",
        ),
        (
            lambda: example(encode(grey(0)), class_=1),
            "label: expected one integer in the record, which has .*class_",
        ),
        (lambda: b"\xff\xff", "Error parsing message"),
    ],
)
def test_unusable_record_is_named(record, message, limit, tmp_path):
    records = digit_records(30)
    records[20] = record()
    write_dataset(tmp_path, "mnist", {"train": digit_records(30), "test": records}, shards=2)
    where = r"mnist, split 'test', record 20 \(.*mnist-test.array_record-00001-of-00002\): "
    with pytest.raises(DataError, match=where + ".*" + message):
        as_arrays(
            sources.load(config("mnist", data_dir=str(tmp_path), memory_limit_gib=limit)).splits[
                "test"
            ]
        )


# CIFAR100


def colour(number, side=32):
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)


def cifar100_records(fine, coarse=None):
    coarse = SPECS["cifar100"].coarse_of_fine[fine] if coarse is None else coarse
    image = encode(colour(0))
    return [
        example(image, label=label, coarse_label=superclass)
        for label, superclass in zip(fine, coarse, strict=True)
    ]


def test_cifar100_has_the_stored_superclasses(tmp_path):
    fine = np.arange(100)
    write_dataset(
        tmp_path, "cifar100", {"train": cifar100_records(fine), "test": cifar100_records(fine)}
    )
    dataset = sources.load(config("cifar100", data_dir=str(tmp_path)))
    assert dataset.image_shape == (32, 32, 3)
    assert len(dataset.fine_names) == 100
    assert len(dataset.coarse_names) == 20
    test = dataset.splits["test"]
    np.testing.assert_array_equal(test.fine, fine)
    np.testing.assert_array_equal(test.coarse, SPECS["cifar100"].coarse_of_fine)
    np.testing.assert_array_equal(test.images[0], colour(0))
    kept = np.concatenate([dataset.splits[split].fine for split in ("train", "validation")])
    np.testing.assert_array_equal(np.sort(kept), fine)


@pytest.mark.parametrize("name", ["cifar100", "cifar100_u"])
def test_cifar100_with_other_superclasses_is_refused(name, tmp_path):
    fine = np.arange(100)
    coarse = SPECS["cifar100"].coarse_of_fine.copy()
    coarse[7] = 0
    train, test = cifar100_records(fine, coarse), cifar100_records(fine)
    write_dataset(tmp_path, "cifar100", {"train": train, "test": test})
    message = rf"{name}, split 'train', record 7 .*coarse_label: expected 7 for fine label 7, got 0"
    with pytest.raises(DataError, match=message):
        sources.load(config(name, data_dir=str(tmp_path)))


def test_cifar100_u_counts():
    fine = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 500))
    first, second, again = (thin_out(fine, SPECS["cifar100_u"].kept, seed) for seed in (1, 2, 1))
    assert first.shape == (20 * 950,)
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()
    assert (np.diff(first) > 0).all()  # in order, and nothing twice
    coarse_of_fine = SPECS["cifar100"].coarse_of_fine
    for chosen in (first, second):
        counts = np.bincount(fine[chosen], minlength=100)
        for coarse in range(20):
            np.testing.assert_array_equal(counts[coarse_of_fine == coarse], [500, 250, 100, 50, 50])


def test_cifar100_u_draws_each_subclass_by_itself():
    chosen = thin_out(np.repeat(np.arange(100), 500), SPECS["cifar100_u"].kept, 0)
    coarse_of_fine = SPECS["cifar100"].coarse_of_fine
    smallest = [np.flatnonzero(coarse_of_fine == coarse)[4] for coarse in range(20)]
    draws = {tuple(chosen[chosen // 500 == subclass] % 500) for subclass in smallest}
    assert len(draws) == 20


@pytest.mark.parametrize("limit", [0.0, 4.0])
def test_cifar100_u_thins_out_the_training_set_only(limit, tmp_path, monkeypatch):
    spec = SPECS["cifar100_u"]
    by_coarse = [np.flatnonzero(spec.coarse_of_fine == coarse).tolist() for coarse in range(20)]
    kept = {
        fine: count
        for group in by_coarse
        for fine, count in zip(group, (5, 4, 3, 2, 1), strict=True)
    }
    monkeypatch.setitem(SPECS, "cifar100_u", dataclasses.replace(spec, kept=kept))
    fine = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 5))
    write_dataset(
        tmp_path, "cifar100", {"train": cifar100_records(fine), "test": cifar100_records(fine)}
    )
    options = config("cifar100_u", data_dir=str(tmp_path), memory_limit_gib=limit)
    dataset = sources.load(options)
    assert {key: len(split) for key, split in dataset.splits.items()} == {
        "train": 270,
        "validation": 30,
        "test": 500,
    }
    kept = np.concatenate(
        [as_arrays(dataset.splits[split])["fine"] for split in ("train", "validation")]
    )
    counts = np.bincount(kept, minlength=100)
    for coarse in range(20):
        subclasses = SPECS["cifar100"].coarse_of_fine == coarse
        np.testing.assert_array_equal(counts[subclasses], [5, 4, 3, 2, 1])
    options.split_seed = 43
    other = sources.load(options).splits["train"]
    assert (as_arrays(other)["fine"] != as_arrays(dataset.splits["train"])["fine"]).any()


def test_cifar100_u_needs_enough_images():
    with pytest.raises(
        DataError, match=r"fine class \d+: expected 500 or more training .* got 499"
    ):
        thin_out(np.repeat(np.arange(100), 499), SPECS["cifar100_u"].kept, 0)


# CelebA


@pytest.fixture(scope="module")
def celeb_a(tmp_path_factory):
    from PIL import Image
    from tensorflow_datasets.datasets.celeb_a import celeb_a_dataset_builder as celeb_a

    root = tmp_path_factory.mktemp("celeb_a")
    rng = np.random.default_rng(0)
    truth, splits = {}, {}
    for split, size in (("train", 23), ("validation", 8), ("test", 8)):
        truth[split], splits[split] = [], []
        for _ in range(size):
            noise = Image.fromarray(rng.integers(0, 256, (22, 18, 3), np.uint8))
            picture = np.asarray(noise.resize((178, 218), Image.Resampling.BICUBIC))
            jpeg = encode(picture, "JPEG")
            attributes = {name: rng.integers(2) for name in celeb_a.ATTR_HEADINGS}
            others = {f"landmarks__{name}": 100 for name in celeb_a.LANDMARK_HEADINGS}
            marks = {f"attributes__{name}": value for name, value in attributes.items()}
            record = example(jpeg, **marks, **others, identity__Identity_No=1)
            splits[split].append(record)
            truth[split].append((jpeg, attributes["Blond_Hair"], attributes["Male"]))
    write_dataset(root, "celeb_a", splits, shards=2)
    return root, truth


def celeb_a_config(root, **changes):
    return config("celeb_a", **{"data_dir": str(root), "memory_limit_gib": 0.0, **changes})


def test_celeb_a_streams_groups_and_squares(celeb_a):
    from PIL import Image

    root, truth = celeb_a
    dataset = sources.load(celeb_a_config(root, image_size=64))
    assert dataset.image_shape == (64, 64, 3)
    assert {key: len(split) for key, split in dataset.splits.items()} == {
        "train": 23,
        "validation": 8,
        "test": 8,
    }
    for key, split in dataset.splits.items():
        assert not split.in_memory
        batch = as_arrays(split)
        blond = np.array([record[1] for record in truth[key]])
        male = np.array([record[2] for record in truth[key]])
        np.testing.assert_array_equal(batch["coarse"], blond)
        np.testing.assert_array_equal(batch["fine"], 2 * blond + male)
        for image, (jpeg, _, _) in zip(batch["image"], truth[key], strict=True):
            square = Image.open(io.BytesIO(jpeg)).crop((0, 20, 178, 198))
            expected = square.resize((64, 64), Image.Resampling.BILINEAR)
            difference = np.abs(image.astype(int) - np.asarray(expected).astype(int))
            # Pillow looks past the crop when it has the whole picture: only the rim may differ.
            assert difference[1:-1, 1:-1].max() <= 1


def test_celeb_a_as_stored(celeb_a):
    from PIL import Image

    root, truth = celeb_a
    dataset = sources.load(celeb_a_config(root))
    assert dataset.image_shape == (218, 178, 3)
    batch = as_arrays(dataset.splits["test"])
    for image, (jpeg, _, _) in zip(batch["image"], truth["test"], strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(jpeg))))


def test_celeb_a_in_memory_is_celeb_a_from_disk(celeb_a):
    root, _ = celeb_a
    options = celeb_a_config(root, image_size=64)
    streamed = sources.load(options)
    options.memory_limit_gib = 4.0
    held = sources.load(options)
    for key, split in held.splits.items():
        assert split.in_memory
        assert_equal_batches(as_arrays(split), as_arrays(streamed.splits[key]))


@pytest.mark.parametrize("first_step", [0, 3, 7])
def test_celeb_a_batches_read_ahead_and_resume(first_step, celeb_a):
    root, _ = celeb_a
    train = sources.load(celeb_a_config(root, image_size=64)).splits["train"]
    options = {"seed": 5, "batch_size": 6, "last_step": 9}
    plain = list(train_batches(train, first_step=0, read_threads=0, **options))
    ahead = list(train_batches(train, first_step=first_step, **options))
    assert len(ahead) == 9 - first_step
    for found, expected in zip(ahead, plain[first_step:], strict=True):
        assert_equal_batches(found, expected)


# Splits


def test_array_split_checks_its_arrays():
    images, label = np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3, int)
    for changes, message in (
        ({"images": images.astype(np.float32)}, "images: expected uint8, got float32"),
        ({"images": images[0]}, r"images: expected shape \[n, h, w, c\], got \(2, 2, 1\)"),
        ({"fine": label.astype(float)}, "fine labels: expected integers"),
        ({"coarse": label - 1}, "coarse labels: expected labels 0 to"),
        ({"fine": label[:2]}, "expected one length, got 3, 2 and 3"),
    ):
        arrays = {"images": images, "fine": label, "coarse": label, **changes}
        with pytest.raises((TypeError, ValueError), match=message):
            ArraySplit(**arrays)


def decoded(record):
    return np.full((2, 2, 1), record, np.uint8), record % 4, record % 4 // 2


def record_split(records, decode=decoded):
    return RecordSplit(
        records,
        decode,
        image_shape=(2, 2, 1),
        num_fine=4,
        num_coarse=2,
        dataset="few",
        split="train",
        file_of=lambda number: f"file {number // 10}",
    )


@pytest.mark.parametrize("kind", [record_split, lambda records: to_memory(record_split(records))])
def test_splits_read_and_subset_by_number(kind):
    split = kind(list(range(20)))
    assert len(split) == 20
    chosen = np.array([3, 17, 3, 0])
    batch = split.read(chosen)
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], chosen)
    np.testing.assert_array_equal(batch["fine"], chosen % 4)
    np.testing.assert_array_equal(batch["coarse"], chosen % 4 // 2)
    part = split.subset(np.array([5, 19, 2])).subset(np.array([2, 1]))
    np.testing.assert_array_equal(as_arrays(part)["image"][:, 0, 0, 0], [2, 19])
    assert split.read(np.zeros(0, int))["image"].shape == (0, 2, 2, 1)
    for wrong in ([20], [-1]):
        for method in (split.read, split.subset):
            with pytest.raises(IndexError, match=r"indices: expected numbers in \[0, 20\)"):
                method(np.array(wrong))
    for wrong in (np.array([0.0]), np.array([[0]])):
        with pytest.raises(TypeError, match=r"indices: expected integers \[b\]"):
            split.read(wrong)


@pytest.mark.parametrize("threads", [1, 3])
def test_to_memory_keeps_the_order(threads):
    split = record_split([number % 251 for number in range(1000)])
    held = to_memory(split, threads=threads)
    assert held.in_memory
    assert_equal_batches(as_arrays(held), as_arrays(split))


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (
            lambda record: (np.zeros((2, 3, 1), np.uint8), 0, 0),
            r"expected uint8 \(2, 2, 1\), got uint8 \(2, 3, 1\)",
        ),
        (
            lambda record: (np.zeros((2, 2, 1), np.float32), 0, 0),
            "image: expected uint8 .*, got float32",
        ),
        (
            lambda record: (np.zeros((2, 2, 1), np.uint8), 4, 0),
            r"fine label: expected one in \[0, 4\), got 4",
        ),
        (
            lambda record: (np.zeros((2, 2, 1), np.uint8), 0, 2),
            r"coarse label: expected one in \[0, 2\), got 2",
        ),
    ],
)
def test_record_split_checks_every_example(decode, message):
    split = record_split(list(range(20)), decode).subset(np.array([15]))
    where = r"few, split 'train', record 15 \(file 1\): "
    with pytest.raises(DataError, match=where + ".*" + message):
        split.read(np.array([0]))
