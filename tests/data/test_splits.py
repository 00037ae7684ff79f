"""Splits: arrays and records, read and subset by number."""

import numpy as np
import pytest
from stored_sets import as_arrays, assert_equal_batches

from thanos_jax.data.splits import ArraySplit, DataError, RecordSplit, to_memory


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
