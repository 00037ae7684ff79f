"""CIFAR-100 with its superclasses, and CIFAR-100-U."""

import dataclasses

import numpy as np
import pytest
from stored_sets import as_arrays, config, encode, example, write_dataset

from thanos_jax.data import sources
from thanos_jax.data.rare import thin_out
from thanos_jax.data.specs import SPECS
from thanos_jax.data.splits import DataError


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
