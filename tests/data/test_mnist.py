"""MNIST as TFDS stores it, in memory and from disk."""

import dataclasses

import numpy as np
import pytest
from stored_sets import MNIST, assert_equal_batches, config, needs_mnist, write_digits

from thanos_jax.data import sources
from thanos_jax.data.specs import SPECS


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
