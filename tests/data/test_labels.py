import numpy as np
import pytest

from thanos_jax.data import labels

# Superclass ids by fine id, written down independently of the table of names in labels.py.
CIFAR100_COARSE = (
    "4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 "
    "6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13 14 17 18 10 "
    "16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 "
    "12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13 "
)


def superclass(fine):
    index = labels.fine_names("cifar100").index(fine)
    return labels.coarse_names("cifar100")[labels.coarse_of_fine("cifar100")[index]]


@pytest.mark.parametrize("name", labels.NAMES)
def test_every_fine_class_has_a_coarse_class_and_every_coarse_class_a_fine_one(name):
    coarse = labels.coarse_of_fine(name)
    assert coarse.dtype == np.int32
    assert coarse.shape == (len(labels.fine_names(name)),)
    assert set(coarse.tolist()) == set(range(len(labels.coarse_names(name))))
    assert len(set(labels.fine_names(name))) == len(labels.fine_names(name))
    assert len(set(labels.coarse_names(name))) == len(labels.coarse_names(name))


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_digits_are_split_at_five(name):
    np.testing.assert_array_equal(labels.coarse_of_fine(name), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1])


def test_cifar10_vehicles_are_one():
    np.testing.assert_array_equal(labels.coarse_of_fine("cifar10"), [1, 1, 0, 0, 0, 0, 0, 0, 1, 1])
    assert labels.coarse_names("cifar10") == ("animal", "vehicle")


def test_celeb_a_groups_are_hair_and_sex():
    np.testing.assert_array_equal(labels.coarse_of_fine("celeb_a"), [0, 0, 1, 1])
    assert labels.fine_names("celeb_a")[2 * 1 + 1] == "blond, male"
    assert labels.fine_names("celeb_a")[2 * 0 + 0] == "not blond, female"


@pytest.mark.parametrize("name", ["cifar100", "cifar100_u"])
def test_cifar100_superclasses(name):
    coarse = labels.coarse_of_fine(name)
    np.testing.assert_array_equal(np.bincount(coarse, minlength=20), np.full(20, 5))
    np.testing.assert_array_equal(coarse, [int(word) for word in CIFAR100_COARSE.split()])
    assert list(labels.fine_names(name)) == sorted(labels.fine_names(name))
    assert list(labels.coarse_names(name)) == sorted(labels.coarse_names(name))
    assert len(labels.fine_names(name)) == 100


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


def test_unknown_name_is_refused_with_the_nearest_one():
    for function in (labels.fine_names, labels.coarse_names, labels.coarse_of_fine):
        with pytest.raises(ValueError, match=r"'cifar_100'.*did you mean 'cifar100'"):
            function("cifar_100")


def test_check_labels_returns_int32():
    checked = labels.check_labels(np.array([0, 2, 1], np.int64), 3, "labels")
    assert checked.dtype == np.int32
    np.testing.assert_array_equal(checked, [0, 2, 1])
    assert labels.check_labels(np.zeros(0, np.uint8), 3, "labels").shape == (0,)


@pytest.mark.parametrize("wrong", [-1, 3, 2**31 + 1])
def test_check_labels_names_the_first_label_out_of_range(wrong):
    message = rf"train labels: expected labels 0 to 2, got {wrong} in row 1 \(1 of 3"
    with pytest.raises(ValueError, match=message):
        labels.check_labels(np.array([0, wrong, 2], np.int64), 3, "train labels")


def test_check_labels_refuses_other_types_and_ranks():
    with pytest.raises(TypeError, match=r"train labels: expected integers \[n\], got dtype float"):
        labels.check_labels(np.array([0.0, 1.0]), 3, "train labels")
    with pytest.raises(ValueError, match=r"train labels: expected \[n\], got shape \(2, 1\)"):
        labels.check_labels(np.array([[0], [1]]), 3, "train labels")
