"""Damaged files, records and metadata of stored sets."""

import re
import shutil

import numpy as np
import pytest
from stored_sets import (
    MNIST,
    as_arrays,
    assert_equal_batches,
    config,
    digit_records,
    encode,
    example,
    grey,
    needs_mnist,
    write_dataset,
    write_digits,
)

from thanos_jax.data import sources
from thanos_jax.data.splits import DataError


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
