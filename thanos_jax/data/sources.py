"""Loads data sets by name."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from thanos_jax.data import (
    absent,
    blank,
    cached,
    composed,
    fingerprint,
    folder,
    isic,
    rare,
    tfds_sets,
    tiny_imagenet,
    waterbirds,
)
from thanos_jax.data.dataset import (
    BACKGROUND_CHANNELS,
    Dataset,
    coarse_map_text,
    draw_test,
    hold_out,
    labels,
    moments,
)
from thanos_jax.data.fitting import fit
from thanos_jax.data.layout import Layout
from thanos_jax.data.listing import list_images
from thanos_jax.data.relabelled import with_fine_classes
from thanos_jax.data.specs import SPECS
from thanos_jax.data.splits import ArraySplit, DataError, Split

BACKGROUNDS: tuple[str, ...] = ("none", *BACKGROUND_CHANNELS)
CLASSES = ("coarse", "fine")
# Keys that only some sets read: key -> (its value for other sets, the sets that read it).
_OPTIONS = {
    "coarse_map": ("", ("tiny_imagenet", "tfds")),
    "tfds": ("", ("tfds",)),
    "fine_key": ("label", ("tfds",)),
    "coarse_key": ("", ("tfds",)),
    "test_split": ("test", ("tfds",)),
    "unlabelled": ("", ("folder",)),
}
_FILES: dict[str, Layout] = {x.name: x for x in (folder.OWN, waterbirds.LAYOUT, isic.LAYOUT)}


def load(config_data: ConfigDict) -> Dataset:
    """Loads a data set.

    The digits come with scikit-learn. `tiny_imagenet`, `folder`, `waterbirds` and `isic` are read
    from image files, the other sets from files prepared by TFDS. Images that exceed the memory
    limit stay on disk and are read one by one. If a set has no validation split, a seeded share of
    the training set is held out, after rare classes are reduced and backgrounds added; in sets of
    image files, every class keeps at least one training image. Training images that hardly differ
    cause a warning on stderr.

    Args:
      config_data: `config.data`, checked by `thanos_jax.config`, whose schema describes the keys.

    Returns:
      The data set.

    Raises:
      DatasetNotFound: there is no prepared copy; the message says how to get one.
      DataError: files or records cannot be used, or options do not apply to the set.
      ImportError: a package that this data set needs is missing.
    """
    _require_one_change(config_data)
    dataset = _from_cache(config_data) if config_data.cache else as_stored(config_data)
    dataset = _ready(dataset, config_data)
    blank.warn(config_data.name, dataset.splits["train"])
    if dataset.mean:
        return dataset
    mean, std = moments(dataset.splits["train"], seed=config_data.split_seed)
    return dataset._replace(mean=mean, std=std)


def stand_in(config_data: ConfigDict) -> Dataset | None:
    """Returns a placeholder of a data set that is not on disk: its shapes, classes and sizes.

    Args:
      config_data: as for `load`.

    Returns:
      As `load`, with black images and a mean and std of 0.5; None if shapes or classes are known
      from images only.

    Raises:
      DataError: options do not apply to the set.
    """
    _require_one_change(config_data)
    dataset = absent.stand_in(config_data)
    if dataset is None:
        return None
    dataset = _ready(dataset, config_data)
    half = (0.5,) * dataset.image_shape[2]
    return dataset._replace(mean=half, std=half)


def _require_one_change(config_data: ConfigDict) -> None:
    name, background = config_data.name, config_data.background
    if config_data.rare_fraction != 1 and background != "none":
        raise DataError(
            f"data.rare_fraction: expected 1 for {name} with data.background {background!r}, got"
            f" {config_data.rare_fraction}; only background 'none' has rare strata"
        )


def _ready(dataset: Dataset, config_data: ConfigDict) -> Dataset:
    """Returns a loaded set with rare classes, backgrounds and validation split of the config."""
    name, splits = config_data.name, dict(dataset.splits)
    if config_data.rare_fraction != 1:
        fine, coarse = labels(splits["train"])
        kept = rare.rare_counts(fine, coarse, config_data.rare_fraction, dataset.fine_names)
        chosen = rare.thin_out(fine, kept, config_data.split_seed)
        splits["train"] = splits["train"].subset(chosen)
    # Backgrounds before the hold-out, so that the images do not depend on it.
    dataset = composed.over_background(dataset._replace(splits=splits), config_data)
    splits = dict(dataset.splits)
    if "validation" not in splits:
        whole = splits["train"]
        train, validation = hold_out(
            len(whole),
            config_data.validation_fraction,
            config_data.split_seed,
            whole.fine if name in _FILES else None,
        )
        splits["train"], splits["validation"] = whole.subset(train), whole.subset(validation)
    ordered = {split: splits[split] for split in ("train", "validation", "test")}
    dataset = dataset._replace(splits=ordered)
    return with_fine_classes(dataset) if config_data.classes == "fine" else dataset


def as_stored(config_data: ConfigDict) -> Dataset:
    """Loads a data set as stored, before `load` reduces classes, adds backgrounds and holds out.

    Args and Raises as `load`; data.cache is ignored.

    Returns:
      The data set. Validation may be missing, and mean and std may be ().
    """
    name = config_data.name
    for key, (usual, readers) in _OPTIONS.items():
        if config_data[key] != usual and name not in readers:
            raise DataError(
                f"data.{key}: expected {usual!r} for {name}, got {config_data[key]!r}; only"
                f" {' or '.join(readers)} reads it"
            )
    dataset = _LOADERS[name](config_data)
    if dataset.fingerprint is None:
        dataset = dataset._replace(fingerprint=_known(config_data))
    return dataset


def is_of_files(config_data: ConfigDict) -> bool:
    """Returns whether a data set consists of image files, which can be read one by one."""
    return config_data.name in (*_FILES, "tiny_imagenet")


def _from_cache(config_data: ConfigDict) -> Dataset:
    """Loads the data set in data.cache; compares it with data.data_dir if that is given too."""
    dataset = cached.load(config_data)
    if config_data.data_dir:
        cached.require_same_data(config_data, _known(config_data), files(config_data))
    return dataset


def known(config_data: ConfigDict) -> fingerprint.Fingerprint | None:
    """Returns the fingerprint of a data set, without opening an image.

    Args:
      config_data: as for `load`.

    Returns:
      As `Dataset.fingerprint`: names, sizes and labels for a set of image files; the lines of
      data.coarse_map for another set, or None without one. With data.cache, the fingerprint of the
      data from which the cache was made.

    Raises:
      DatasetNotFound, DataError: as `load`.
    """
    return cached.known(config_data) if config_data.cache else _known(config_data)


def files(config_data: ConfigDict) -> fingerprint.Fingerprint | None:
    """Returns the fingerprint of the stored files, for sets whose own fingerprint lacks them.

    It is compared for caches only. A run may continue after the files were converted.

    Args:
      config_data: as for `load`.

    Returns:
      The fingerprint; None for sets whose `Dataset.fingerprint` covers the files, and for the
      digits.

    Raises:
      DatasetNotFound, DataError: as `load`.
    """
    if config_data.name in (*_FILES, "digits"):
        return None
    of_set = tiny_imagenet if config_data.name == "tiny_imagenet" else tfds_sets
    return of_set.fingerprint_of(config_data)


def _known(config_data: ConfigDict) -> fingerprint.Fingerprint | None:
    if config_data.name in _FILES:
        return folder.fingerprint_of(list_images(_FILES[config_data.name], config_data))
    return fingerprint.of_text(coarse_map_text(config_data)) if config_data.coarse_map else None


def _digits(config_data: ConfigDict) -> Dataset:
    from sklearn.datasets import load_digits

    spec, size = SPECS["digits"], config_data.image_size
    assert spec.coarse_of_fine is not None
    stored, fine = load_digits(return_X_y=True)
    # Grey levels 0 to 16.
    images = np.round(stored.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    if size not in (0, 8):
        from PIL import Image

        images = np.stack([fit(Image.fromarray(image), size, size) for image in images])
    fine = fine.astype(np.int32)
    whole = ArraySplit(images[..., None], fine, spec.coarse_of_fine[fine])
    test = draw_test(fine, spec.fine_names)
    splits: dict[str, Split] = {
        "train": whole.subset(np.flatnonzero(~test)),
        "test": whole.subset(np.flatnonzero(test)),
    }
    shape = (*whole.images.shape[1:3], 1)
    return Dataset("digits", splits, spec.coarse_names, spec.fine_names, shape, spec.mean, spec.std)


_LOADERS: dict[str, Callable[[ConfigDict], Dataset]] = {
    **dict.fromkeys(SPECS, tfds_sets.load),
    "digits": _digits,
    "tfds": tfds_sets.load_any,
    "tiny_imagenet": tiny_imagenet.load,
    **{name: functools.partial(folder.load, layout) for name, layout in _FILES.items()},
}
NAMES: tuple[str, ...] = tuple(_LOADERS)
