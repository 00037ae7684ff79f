"""Every data set the library can train on, by name."""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from thanos_jax.data import (
    backgrounds,
    damaged,
    folder,
    isic,
    labels,
    prepared,
    rare,
    served,
    spurious,
    tiny_imagenet,
    waterbirds,
)
from thanos_jax.data.dataset import Dataset, fine_labels, hold_out, moments
from thanos_jax.data.prepared import DatasetNotFound
from thanos_jax.data.relabelled import with_fine_classes
from thanos_jax.data.splits import ArraySplit, DataError, RecordSplit, Split
from thanos_jax.permutations import SUBSAMPLE, TEST_SPLIT, permutation

__all__ = [
    "BACKGROUNDS",
    "CLASSES",
    "NAMES",
    "ArraySplit",
    "DataError",
    "Dataset",
    "DatasetNotFound",
    "RecordSplit",
    "Split",
    "load",
]

# Training images kept of the five subclasses of a superclass, in ascending id (Thanos, CIFAR100-U).
UNBALANCED_COUNTS = (500, 250, 100, 50, 50)

_CIFAR_MOMENTS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
# Mean and standard deviation per channel of images in [0, 1]. MNIST's and CIFAR's are those of the
# official code, the digits' those of their 1,438 training images. CelebA's bring images to [-1, 1].
_MOMENTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": ((0.3053,), (0.3760,)),
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": _CIFAR_MOMENTS,
    "cifar100": _CIFAR_MOMENTS,
    "cifar100_u": _CIFAR_MOMENTS,
    "celeb_a": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
# What digits can be laid over -> channels of the images that result.
_CHANNELS = {"none": 1, "photographs": 3, "colour": 3, "texture": 1}
BACKGROUNDS: tuple[str, ...] = tuple(_CHANNELS)
CLASSES = ("coarse", "fine")
_ONE_CHANNEL = tuple(name for name, (mean, _) in _MOMENTS.items() if len(mean) == 1)


def load(config_data: ConfigDict) -> Dataset:
    """Loads a data set.

    The digits come with scikit-learn; `tiny_imagenet`, `folder`, `waterbirds` and `isic` read files
    of their own. The others are read from files prepared by TFDS. Images that exceed the memory
    limit stay on disk and are read one by one. CelebA and Waterbirds bring their own validation
    split. Elsewhere a seeded share of the training set is held out, after the training set of
    CIFAR100-U, or of rare digits, has been thinned out.

    Args:
      config_data: `config.data`, with the keys
        name: one of `NAMES`.
        data_dir: folder of the TFDS data sets, "" for TFDS's default; of the sets that read files
          of their own, the folder of these.
        validation_fraction: share of the training set held out, in (0, 1); unused where there is a
          validation split.
        split_seed: seeds the validation split, the subsample of cifar100_u and of rare digits, and
          the backgrounds.
        image_size: side of the square images are resized and cropped to; 0 to leave them as stored.
        memory_limit_gib: GiB of images above which they stay on disk.
        classes: "coarse", or "fine": the coarse labels are then the fine ones.
        background: "none"; behind digits or mnist also "photographs", see `backgrounds`, or
          "colour" or "texture", see `spurious`: the fine label is then the group.
        correlation: of background "colour" or "texture", the share of each class's training images
          on the background of the class, in [0.5, 1].
        rare_fraction: of digits or mnist, the share of the training images of 3, 4, 8 and 9 that
          is kept, in (0, 1]; see `rare`.
        coarse_map: a CSV of tiny_imagenet's superclasses; "" for the package's own.
        on_damaged: "stop" or "skip", what is done about stored examples that cannot be read; see
          `damaged`.

    Returns:
      The data set.

    Raises:
      DatasetNotFound: no prepared copy; the message says how to get one.
      DataError: files or records that cannot be used.
      ImportError: a package that this data set needs is missing.
      ValueError: a config value out of range, or files in a format that cannot be read here.
    """
    name = labels.check_name(config_data.name, NAMES)
    if config_data.image_size < 0:
        raise ValueError(f"data.image_size must be 0 or positive, got {config_data.image_size}")
    if not config_data.memory_limit_gib >= 0:
        raise ValueError(
            f"data.memory_limit_gib must not be negative, got {config_data.memory_limit_gib}"
        )
    if not 0 < config_data.validation_fraction < 1:
        raise ValueError(
            "data.validation_fraction must lie between 0 and 1, got"
            f" {config_data.validation_fraction}"
        )
    if not 0.5 <= config_data.correlation <= 1:
        raise ValueError(
            f"data.correlation must lie between 0.5 and 1, got {config_data.correlation}"
        )
    if not 0 < config_data.rare_fraction <= 1:
        raise ValueError(
            f"data.rare_fraction must be above 0 and at most 1, got {config_data.rare_fraction}"
        )
    if config_data.background != "none" and name not in _ONE_CHANNEL:
        raise DataError(
            f"data.background: expected 'none' for {name}, got {config_data.background!r}; only"
            f" {' and '.join(_ONE_CHANNEL)} can be laid over a background"
        )
    if config_data.background not in BACKGROUNDS:
        raise DataError(
            f"data.background: expected one of {', '.join(BACKGROUNDS)}, got"
            f" {config_data.background!r}"
        )
    if config_data.rare_fraction != 1 and not (
        name in _ONE_CHANNEL and config_data.background == "none"
    ):
        raise DataError(
            f"data.rare_fraction: expected 1 for {name} with data.background"
            f" {config_data.background!r}, got {config_data.rare_fraction}; only"
            f" {' and '.join(_ONE_CHANNEL)} with background 'none' have rare digits"
        )
    if config_data.on_damaged not in damaged.OPTIONS:
        raise ValueError(
            f"data.on_damaged must be one of {', '.join(damaged.OPTIONS)}, got"
            f" {config_data.on_damaged!r}"
        )
    if config_data.coarse_map and name != "tiny_imagenet":
        raise DataError(
            f"data.coarse_map: expected '' for {name}, got {config_data.coarse_map!r}; only"
            " tiny_imagenet reads it"
        )
    if config_data.classes not in CLASSES:
        raise ValueError(
            f"data.classes must be one of {', '.join(CLASSES)}, got {config_data.classes!r}"
        )
    dataset = _LOADERS[name](config_data)
    return with_fine_classes(dataset) if config_data.classes == "fine" else dataset


def _load_tabulated(config_data: ConfigDict) -> Dataset:
    """Loads a data set whose classes are listed in `labels`."""
    name, background = config_data.name, config_data.background
    coarse_names, fine_names = labels.coarse_names(name), labels.fine_names(name)
    skipped: tuple[str, ...] = ()
    if name == "digits":
        splits, shape = _digits(config_data.image_size)
    else:
        splits, shape, skipped = _open(config_data)
    if name == "cifar100_u":
        chosen = _unbalanced(fine_labels(splits["train"]), config_data.split_seed)
        splits["train"] = splits["train"].subset(chosen)
    if config_data.rare_fraction != 1:
        chosen = rare.thin_out(
            fine_labels(splits["train"]), config_data.rare_fraction, config_data.split_seed
        )
        splits["train"] = splits["train"].subset(chosen)
    # Before the hold-out, so that it does not change an image. The test split is the same for every
    # seed, and balanced.
    if background != "none":
        for split, seed, correlation in (
            ("train", config_data.split_seed, config_data.correlation),
            ("test", 0, 0.5),
        ):
            if background == "photographs":
                splits[split] = backgrounds.lay_over_photographs(splits[split], seed, split)
            else:
                splits[split] = spurious.lay_over_backgrounds(
                    splits[split],
                    labels.coarse_of_fine(name)[fine_labels(splits[split])],
                    kind=background,
                    correlation=correlation,
                    seed=seed,
                    split=split,
                )
        shape = (*shape[:2], _CHANNELS[background])
    if background in spurious.BACKGROUNDS:
        fine_names = spurious.group_names(coarse_names, background)
    if "validation" not in splits:
        train, validation = hold_out(
            len(splits["train"]), config_data.validation_fraction, config_data.split_seed
        )
        whole = splits["train"]
        splits["train"], splits["validation"] = whole.subset(train), whole.subset(validation)
    mean, std = _MOMENTS[name]
    if background != "none":
        mean, std = moments(splits["train"], seed=config_data.split_seed)
    return Dataset(
        name=name,
        splits={split: splits[split] for split in ("train", "validation", "test")},
        coarse_names=coarse_names,
        fine_names=fine_names,
        image_shape=shape,
        mean=mean,
        std=std,
        skipped=skipped,
    )


def _open(
    config_data: ConfigDict,
) -> tuple[dict[str, Split], tuple[int, int, int], tuple[str, ...]]:
    """Returns the stored splits, the shape of their images, and which were left out."""
    name, size = config_data.name, config_data.image_size
    tfds_name = "cifar100" if name == "cifar100_u" else name
    wanted = ("train", "validation", "test") if name == "celeb_a" else ("train", "test")
    try:
        stored = prepared.find(tfds_name, config_data.data_dir)
    except DatasetNotFound:
        mocked: dict[str, Split] = {}
        for split in wanted:
            served_split = served.open_split(
                tfds_name, config_data.data_dir, split, dataset=name, image_size=size
            )
            if served_split is None:
                raise
            mocked[split], shape = served_split, served_split.image_shape
        return mocked, shape, ()
    height, width, channels = stored.image_shape
    shape = (size or height, size or width, channels)
    if channels != len(_MOMENTS[name][0]):
        raise DataError(f"{name}: {stored.folder} declares images of shape {stored.image_shape}")
    pixels = shape[0] * shape[1]
    background = config_data.background
    held_channels = channels if background == "none" else _CHANNELS[background]
    gib = sum(stored.sizes.get(split, 0) for split in wanted) * pixels * held_channels / 2**30
    stream = gib > config_data.memory_limit_gib
    # Small images cost more in Python than in Pillow, and Python runs one thread at a time.
    threads = None if height * width > 64 * 64 else 1
    splits: dict[str, Split] = {}
    skipped: tuple[str, ...] = ()
    for split in wanted:
        records = prepared.open_split(
            stored,
            split,
            dataset=name,
            image_size=size,
            stream=stream,
            check_ends=config_data.on_damaged == "stop",
        )
        splits[split], found = damaged.open_records(
            records, stream=stream, on_damaged=config_data.on_damaged, threads=threads
        )
        skipped += found
    return splits, shape, skipped


def _digits(size: int) -> tuple[dict[str, Split], tuple[int, int, int]]:
    from sklearn.datasets import load_digits

    stored, fine = load_digits(return_X_y=True)
    # Grey levels 0 to 16.
    images = np.round(stored.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    if size not in (0, 8):
        from PIL import Image

        images = np.stack([prepared.resize(Image.fromarray(image), size) for image in images])
    fine = labels.check_labels(fine, 10, "digits labels")
    coarse = labels.coarse_of_fine("digits")[fine]
    whole = ArraySplit(images[..., None], fine, coarse)
    # One fifth of each digit, whatever the config's seed: the test set is the same for everybody.
    test = np.zeros(len(whole), bool)
    for digit in range(10):
        members = np.flatnonzero(fine == digit)
        order = permutation(digit, TEST_SPLIT, len(members))
        test[members[order[: round(len(members) / 5)]]] = True
    side = size or 8
    splits: dict[str, Split] = {
        "train": whole.subset(np.flatnonzero(~test)),
        "test": whole.subset(np.flatnonzero(test)),
    }
    return splits, (side, side, 1)


def _unbalanced(fine: np.ndarray, seed: int) -> np.ndarray:
    """CIFAR100-U: which training examples stay, drawn without replacement, ascending."""
    coarse_of_fine = labels.coarse_of_fine("cifar100_u")
    chosen = []
    for coarse in range(len(labels.coarse_names("cifar100_u"))):
        subclasses = np.flatnonzero(coarse_of_fine == coarse)
        for subclass, count in zip(subclasses, UNBALANCED_COUNTS, strict=True):
            members = np.flatnonzero(fine == subclass)
            if len(members) < count:
                raise DataError(
                    f"cifar100_u needs {count} training images of fine class {subclass}, the data"
                    f" set has {len(members)}"
                )
            order = permutation(seed, SUBSAMPLE + int(subclass), len(members))
            chosen.append(members[order[:count]])
    return np.sort(np.concatenate(chosen))


_LOADERS: dict[str, Callable[[ConfigDict], Dataset]] = {
    **dict.fromkeys(labels.NAMES, _load_tabulated),
    "tiny_imagenet": tiny_imagenet.load,
    "folder": folder.load,
    "waterbirds": waterbirds.load,
    "isic": isic.load,
}
NAMES: tuple[str, ...] = tuple(_LOADERS)
