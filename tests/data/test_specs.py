"""The classes of every data set that has an entry, against lists written down here."""

import numpy as np
import pytest

from thanos_jax.data.specs import SPECS

# Superclass ids by fine id, written down independently of the table of names.
CIFAR100_COARSE = (
    "4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 "
    "6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13 14 17 18 10 "
    "16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 "
    "12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13 "
)


def superclass(fine):
    spec = SPECS["cifar100"]
    return spec.coarse_names[spec.coarse_of_fine[spec.fine_names.index(fine)]]


@pytest.mark.parametrize("name", SPECS)
def test_every_fine_class_has_a_coarse_class_and_every_coarse_class_a_fine_one(name):
    spec = SPECS[name]
    assert spec.coarse_of_fine.dtype == np.int32
    assert spec.coarse_of_fine.shape == (len(spec.fine_names),)
    assert set(spec.coarse_of_fine.tolist()) == set(range(len(spec.coarse_names)))
    assert len(set(spec.fine_names)) == len(spec.fine_names)
    assert len(set(spec.coarse_names)) == len(spec.coarse_names)
    assert len(spec.mean) == len(spec.std)
    assert set(spec.kept) <= set(range(len(spec.fine_names)))


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_digits_are_split_at_five(name):
    np.testing.assert_array_equal(SPECS[name].coarse_of_fine, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    assert SPECS[name].fine_names == tuple("0123456789")


def test_fashion_mnist_has_four_groups_of_clothes():
    spec = SPECS["fashion_mnist"]
    assert spec.coarse_names == ("tops", "trousers and dresses", "footwear", "bags")
    np.testing.assert_array_equal(spec.coarse_of_fine, [0, 1, 0, 1, 0, 2, 0, 2, 3, 2])


def test_cifar10_vehicles_are_one():
    spec = SPECS["cifar10"]
    np.testing.assert_array_equal(spec.coarse_of_fine, [1, 1, 0, 0, 0, 0, 0, 0, 1, 1])
    assert spec.coarse_names == ("animal", "vehicle")
    assert " ".join(spec.fine_names) == (
        "airplane automobile bird cat deer dog frog horse ship truck"
    )


def test_celeb_a_groups_are_hair_and_sex():
    spec = SPECS["celeb_a"]
    np.testing.assert_array_equal(spec.coarse_of_fine, [0, 0, 1, 1])
    assert spec.fine_names[2 * 1 + 1] == "blond, male"
    assert spec.fine_names[2 * 0 + 0] == "not blond, female"


@pytest.mark.parametrize("name", ["cifar100", "cifar100_u"])
def test_cifar100_superclasses(name):
    spec = SPECS[name]
    coarse = spec.coarse_of_fine
    np.testing.assert_array_equal(np.bincount(coarse, minlength=20), np.full(20, 5))
    np.testing.assert_array_equal(coarse, [int(word) for word in CIFAR100_COARSE.split()])
    assert list(spec.fine_names) == sorted(spec.fine_names)
    assert list(spec.coarse_names) == sorted(spec.coarse_names)
    assert len(spec.fine_names) == 100


@pytest.mark.parametrize(
    ("fine", "coarse"),
    [
        ("apple", "fruit_and_vegetables"),
        ("whale", "aquatic_mammals"),
        ("ray", "fish"),
        ("worm", "non-insect_invertebrates"),
        ("train", "vehicles_1"),
        ("tank", "vehicles_2"),
        ("bear", "large_carnivores"),
        ("sea", "large_natural_outdoor_scenes"),
    ],
)
def test_cifar100_examples(fine, coarse):
    assert superclass(fine) == coarse
