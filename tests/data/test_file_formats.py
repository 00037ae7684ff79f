"""TFRecord files and other formats, and their conversion."""

import json

import numpy as np
import pytest
from stored_sets import as_arrays, assert_equal_batches, config, digit_records, write_digits

from thanos_jax.data import prepared, sources
from thanos_jax.data.splits import DataError


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
