"""Class names, and the coarse class of every fine class.

A network is trained on the coarse label; the fine label (the stratum) is what a good embedding
keeps all the same. `cifar100_u` has the labels of `cifar100`. Tiny ImageNet and users' own images
bring their names along.
"""

import difflib
from collections.abc import Sequence

import numpy as np

from thanos_jax import checks

_DIGITS = tuple("0123456789")
_DIGIT_HALVES = ("0 to 4", "5 to 9")

_CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_CIFAR10_VEHICLES = frozenset({"airplane", "automobile", "ship", "truck"})

# The superclasses of Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009),
# in the order of their ids.
_CIFAR100 = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
_SUPERCLASS = {fine: coarse for coarse, members in _CIFAR100.items() for fine in members.split()}

_CELEB_A_HAIR = ("not blond", "blond")
# Group 2 * Blond_Hair + Male.
_CELEB_A_GROUPS = ("not blond, female", "not blond, male", "blond, female", "blond, male")

_FINE: dict[str, tuple[str, ...]] = {
    "digits": _DIGITS,
    "mnist": _DIGITS,
    "cifar10": _CIFAR10,
    "cifar100": tuple(sorted(_SUPERCLASS)),
    "cifar100_u": tuple(sorted(_SUPERCLASS)),
    "celeb_a": _CELEB_A_GROUPS,
}
_COARSE: dict[str, tuple[str, ...]] = {
    "digits": _DIGIT_HALVES,
    "mnist": _DIGIT_HALVES,
    "cifar10": ("animal", "vehicle"),
    "cifar100": tuple(_CIFAR100),
    "cifar100_u": tuple(_CIFAR100),
    "celeb_a": _CELEB_A_HAIR,
}
NAMES: tuple[str, ...] = tuple(_FINE)


def check_name(name: str, known: Sequence[str] = NAMES) -> str:
    """The name of a data set, if there is one of that name.

    Args:
      name: one of `known`.
      known: names of data sets; by default those whose classes are listed here.

    Returns:
      The name.

    Raises:
      ValueError: there is no such data set; the message has the nearest name.
    """
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown data set {name!r}, did you mean {near!r}? Known: {', '.join(known)}"
        )
    return name


def fine_names(name: str) -> tuple[str, ...]:
    """Names of the fine classes, in the order of their ids.

    Args:
      name: one of `NAMES`.

    Returns:
      A tuple of num_fine names; for celeb_a the four groups of hair colour and sex.

    Raises:
      ValueError: unknown name.
    """
    return _FINE[check_name(name)]


def coarse_names(name: str) -> tuple[str, ...]:
    """Names of the coarse classes, in the order of their ids.

    Args:
      name: one of `NAMES`.

    Returns:
      A tuple of num_coarse names.

    Raises:
      ValueError: unknown name.
    """
    return _COARSE[check_name(name)]


def coarse_of_fine(name: str) -> np.ndarray:
    """The coarse class of each fine class.

    Digits and MNIST: digit >= 5. CIFAR10: vehicles 1, animals 0. CIFAR100: the 20 official
    superclasses, numbered as TFDS's `coarse_label`. CelebA: the fine class is the group
    2 * Blond_Hair + Male, the coarse class is Blond_Hair.

    Args:
      name: one of `NAMES`.

    Returns:
      int32 [num_fine].

    Raises:
      ValueError: unknown name.
    """
    fine, coarse = fine_names(name), coarse_names(name)
    if name in ("digits", "mnist"):
        ids = [int(digit) // 5 for digit in fine]
    elif name == "cifar10":
        ids = [int(animal_or_vehicle in _CIFAR10_VEHICLES) for animal_or_vehicle in fine]
    elif name == "celeb_a":
        ids = [group // 2 for group in range(len(fine))]
    else:
        ids = [coarse.index(_SUPERCLASS[member]) for member in fine]
    return np.array(ids, np.int32)


def check_labels(labels: np.ndarray, num_classes: int, what: str) -> np.ndarray:
    """Returns labels as int32 [n], checked as `thanos_jax.checks.check_labels` does.

    Labels out of range would pass through one_hot, segment_sum and indexing without an error.
    """
    return checks.check_labels(labels, what, num_classes=num_classes).astype(np.int32)
