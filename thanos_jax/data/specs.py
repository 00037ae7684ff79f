"""Classes and storage of each data set with fixed classes, one entry each.

A network is trained on the coarse label; a good embedding also separates the fine labels, the
strata. The class names of Tiny ImageNet, of users' own images and of other TFDS sets are read from
their files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Spec:
    """A data set of fixed classes.

    Attributes:
      fine_names: names of the fine classes, in the order of their ids.
      coarse_names: names of the coarse classes, in the order of their ids.
      coarse_of_fine: int32 [num_fine], the coarse class of each fine class; None: the coarse label
        is read from the record.
      tfds: name of the set in TFDS; "" if it does not come from TFDS.
      splits: the stored splits that are read.
      mean: mean of each channel of images in [0, 1]; (): measured on the training images.
      std: standard deviation of each channel.
      fine_keys: the feature with the fine label; several features are the bits of the label.
      coarse_key: the feature with the coarse label, which must agree with `coarse_of_fine` if both
        are given; "": none.
      values: feature -> the stored values of its classes, in the order of ids; a feature that is
        not here stores the ids.
      kept: fine class -> number of training images that are kept; other classes keep all.
    """

    fine_names: tuple[str, ...]
    coarse_names: tuple[str, ...]
    coarse_of_fine: np.ndarray | None
    tfds: str = ""
    splits: tuple[str, ...] = ("train", "test")
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    fine_keys: tuple[str, ...] = ("label",)
    coarse_key: str = ""
    values: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    kept: Mapping[int, int] = dataclasses.field(default_factory=dict)


def _grouped(
    groups: Mapping[str, Sequence[str]], fine_names: Sequence[str] = (), **others: Any
) -> Spec:
    """Returns the spec of a set whose coarse classes are groups of fine classes.

    Args:
      groups: coarse class -> its fine classes, in the order of the coarse ids.
      fine_names: fine classes in the order of their ids; (): the order in `groups`.
      **others: further attributes of the spec.
    """
    coarse_of = {fine: number for number, group in enumerate(groups.values()) for fine in group}
    names = tuple(fine_names or coarse_of)
    coarse_of_fine = np.array([coarse_of[name] for name in names], np.int32)
    return Spec(names, tuple(groups), coarse_of_fine, **others)


_DIGITS = {"0 to 4": "01234", "5 to 9": "56789"}
_CIFAR10 = {
    "animal": ("bird", "cat", "deer", "dog", "frog", "horse"),
    "vehicle": ("airplane", "automobile", "ship", "truck"),
}
_CIFAR_MOMENTS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
# The superclasses of Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009),
# numbered as TFDS's `coarse_label`.
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
_cifar100 = _grouped(
    {coarse: fine.split() for coarse, fine in _CIFAR100.items()},
    sorted(" ".join(_CIFAR100.values()).split()),
    tfds="cifar100",
    coarse_key="coarse_label",
    **_CIFAR_MOMENTS,
)

# Mean and std of MNIST and CIFAR are from the official code; for the digits and Fashion-MNIST they
# are measured on the training images. CelebA's map images to [-1, 1].
SPECS: dict[str, Spec] = {
    "digits": _grouped(_DIGITS, mean=(0.3053,), std=(0.3760,)),
    "mnist": _grouped(_DIGITS, tfds="mnist", mean=(0.1307,), std=(0.3081,)),
    "fashion_mnist": _grouped(
        {
            "tops": ("T-shirt/top", "Pullover", "Coat", "Shirt"),
            "trousers and dresses": ("Trouser", "Dress"),
            "footwear": ("Sandal", "Sneaker", "Ankle boot"),
            "bags": ("Bag",),
        },
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        tfds="fashion_mnist",
        mean=(0.2860,),
        std=(0.3530,),
    ),
    "cifar10": _grouped(
        _CIFAR10, sorted(sum(_CIFAR10.values(), ())), tfds="cifar10", **_CIFAR_MOMENTS
    ),
    "cifar100": _cifar100,
    # CIFAR100-U of Thanos: the five strata of each superclass, in the order of ids, differ in size.
    "cifar100_u": dataclasses.replace(
        _cifar100,
        kept={
            _cifar100.fine_names.index(fine): count
            for group in _CIFAR100.values()
            for fine, count in zip(group.split(), (500, 250, 100, 50, 50), strict=True)
        },
    ),
    "celeb_a": _grouped(
        {
            "not blond": ("not blond, female", "not blond, male"),
            "blond": ("blond, female", "blond, male"),
        },
        tfds="celeb_a",
        splits=("train", "validation", "test"),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        fine_keys=("attributes/Blond_Hair", "attributes/Male"),
    ),
}
