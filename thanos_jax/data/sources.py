"""Every data set the library can train on, by name."""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from thanos_jax.data import backgrounds, folder, labels, prepared, served, tiny_imagenet
from thanos_jax.data.dataset import Dataset, fine_labels, hold_out, moments
from thanos_jax.data.permutations import SUBSAMPLE, TEST_SPLIT, permutation
from thanos_jax.data.prepared import DatasetNotFound
from thanos_jax.data.splits import ArraySplit, DataError, RecordSplit, Split, to_memory

__all__ = [
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
_ONE_CHANNEL = tuple(name for name, (mean, _) in _MOMENTS.items() if len(mean) == 1)


def load(config_data: ConfigDict) -> Dataset:
    """Loads a data set.

    The digits come with scikit-learn; `tiny_imagenet` and `folder` read files of their own. The
    others are read from files prepared by TFDS. Images that exceed the memory limit stay on disk
    and are read one by one. CelebA brings its own validation split. Elsewhere a seeded share of the
    training set is held out, after CIFAR100-U's training set has been thinned out.

    Args:
      config_data: `config.data`, with the keys
        name: one of `NAMES`.
        data_dir: folder of the TFDS data sets, "" for TFDS's default; of tiny_imagenet or folder,
          the folder of its files.
        validation_fraction: share of the training set held out, in (0, 1); unused where there is a
          validation split.
        split_seed: seeds the validation split, the subsample of cifar100_u and the backgrounds.
        image_size: side of the square images are resized and cropped to; 0 to leave them as stored.
        memory_limit_gib: GiB of images above which they stay on disk.
        background: "none", or "photographs" behind digits or mnist; see `backgrounds`.
        coarse_map: a CSV of tiny_imagenet's superclasses; "" for the package's own.

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
    if config_data.background != "none" and name not in _ONE_CHANNEL:
        raise DataError(
            f"data.background: expected 'none' for {name}, got {config_data.background!r}; only"
            f" {' and '.join(_ONE_CHANNEL)} can be laid over photographs"
        )
    if config_data.coarse_map and name != "tiny_imagenet":
        raise DataError(
            f"data.coarse_map: expected '' for {name}, got {config_data.coarse_map!r}; only"
            " tiny_imagenet reads it"
        )
    return _LOADERS[name](config_data)


def _load_tabulated(config_data: ConfigDict) -> Dataset:
    """Loads a data set whose classes are listed in `labels`."""
    name, over_photographs = config_data.name, config_data.background == "photographs"
    if name == "digits":
        splits, shape = _digits(config_data.image_size)
    else:
        splits, shape = _open(config_data)
    if name == "cifar100_u":
        chosen = _unbalanced(fine_labels(splits["train"]), config_data.split_seed)
        splits["train"] = splits["train"].subset(chosen)
    if over_photographs:
        # Before the hold-out, so that it does not change an image. The test split is the same for
        # every seed.
        for split, seed in (("train", config_data.split_seed), ("test", 0)):
            splits[split] = backgrounds.lay_over_photographs(splits[split], seed, split)
        shape = (*shape[:2], 3)
    if "validation" not in splits:
        train, validation = hold_out(
            len(splits["train"]), config_data.validation_fraction, config_data.split_seed
        )
        whole = splits["train"]
        splits["train"], splits["validation"] = whole.subset(train), whole.subset(validation)
    mean, std = _MOMENTS[name]
    if over_photographs:
        mean, std = moments(splits["train"], seed=config_data.split_seed)
    return Dataset(
        name=name,
        splits={split: splits[split] for split in ("train", "validation", "test")},
        coarse_names=labels.coarse_names(name),
        fine_names=labels.fine_names(name),
        image_shape=shape,
        mean=mean,
        std=std,
    )


def _open(config_data: ConfigDict) -> tuple[dict[str, Split], tuple[int, int, int]]:
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
        return mocked, shape
    height, width, channels = stored.image_shape
    shape = (size or height, size or width, channels)
    if channels != len(_MOMENTS[name][0]):
        raise DataError(f"{name}: {stored.folder} declares images of shape {stored.image_shape}")
    pixels = shape[0] * shape[1]
    held_channels = channels if config_data.background == "none" else 3
    gib = sum(stored.sizes.get(split, 0) for split in wanted) * pixels * held_channels / 2**30
    stream = gib > config_data.memory_limit_gib
    # Small images cost more in Python than in Pillow, and Python runs one thread at a time.
    threads = None if height * width > 64 * 64 else 1
    splits: dict[str, Split] = {}
    for split in wanted:
        records = prepared.open_split(stored, split, dataset=name, image_size=size, stream=stream)
        splits[split] = records if stream else to_memory(records, threads=threads)
    return splits, shape


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
}
NAMES: tuple[str, ...] = tuple(_LOADERS)
