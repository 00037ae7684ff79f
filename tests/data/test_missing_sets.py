"""Settings out of range, data sets and packages that are missing."""

import json
import shutil
import sys

import pytest
from stored_sets import config, digit_records, write_dataset, write_digits

from thanos_jax.data import DatasetNotFound, prepared, sources
from thanos_jax.data.splits import DataError
from thanos_jax.errors import ConfigError


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
