"""TFDS sets: those with an entry in `specs`, and any other image set with integer labels."""

from __future__ import annotations

import os
import re

import numpy as np
from ml_collections import ConfigDict

from thanos_jax.data import fingerprint, prepared
from thanos_jax.data.damaged import open_records
from thanos_jax.data.dataset import (
    Dataset,
    draw_test,
    exceeds_memory,
    labels,
    number_coarse,
    read_coarse_map,
)
from thanos_jax.data.rare import thin_out
from thanos_jax.data.specs import SPECS, Spec
from thanos_jax.data.splits import DataError, Split

# NAME[/CONFIG][:VERSION]
PATTERN = r"([A-Za-z]\w*(?:/[\w.-]+)?)(?::(\d+\.\d+\.\d+))?"


def load(config_data: ConfigDict) -> Dataset:
    """Loads a data set that has an entry in `specs`.

    Args:
      config_data: `config.data`.

    Returns:
      The data set.

    Raises:
      DatasetNotFound: there is no prepared copy.
      DataError: files or records cannot be used.
    """
    name, spec = config_data.name, SPECS[config_data.name]
    stored = prepared.find(spec.tfds, config_data.data_dir)
    if spec.mean and stored.image_shape[2] != len(spec.mean):
        raise DataError(
            f"{name}: image: expected {len(spec.mean)} channels in {stored.folder}, got the shape"
            f" {stored.image_shape}"
        )
    dataset = _open(config_data, stored, spec, name)
    if spec.kept:
        train = dataset.splits["train"]
        chosen = thin_out(labels(train)[0], spec.kept, config_data.split_seed)
        dataset.splits["train"] = train.subset(chosen)
    return dataset


def load_any(config_data: ConfigDict) -> Dataset:
    """Loads `config_data.tfds`, any image set with integer labels.

    The fine label is the feature `fine_key`. The coarse label is the feature `coarse_key`, or comes
    from the CSV file `coarse_map` with the columns fine (names or ids of fine classes) and coarse;
    without either, it is the fine label. Class names are from TFDS's metadata. If the metadata has
    none, the classes are the values in the splits, and every record is read once to find them.

    The stored validation split is used if there is one. `test_split` names the stored split used
    for testing; with "train", a fifth of each fine class of the training images is held out.

    Args, Returns and Raises as `load`; DataError also if a key does not apply to the set.
    """
    name, test = config_data.tfds, config_data.test_split
    stored = _find_any(config_data)
    if None in stored.image_shape and not config_data.image_size:
        raise DataError(
            "data.image_size: expected the side to which images are resized, because those of"
            f" {name} differ in size, got 0"
        )
    if "train" not in stored.sizes:
        raise DataError(
            f"data.tfds: expected a set with the split 'train', got {name!r} with"
            f" {', '.join(sorted(stored.sizes))}"
        )
    if test not in stored.sizes:
        raise DataError(
            f"data.test_split: expected one of {', '.join(sorted(stored.sizes))}, the splits of"
            f" {name} (train: a fifth of each fine class of its images), got {test!r}"
        )
    wanted = [split for split in ("train", "validation", test) if split in stored.sizes]
    spec = _describe(config_data, stored, tuple(dict.fromkeys(wanted)))
    dataset = _open(config_data, stored, spec, name)
    splits = dict(dataset.splits)
    whole = splits["train"]
    if test == "train":
        chosen = draw_test(labels(whole)[0], spec.fine_names)
        splits["train"] = whole.subset(np.flatnonzero(~chosen))
        splits["test"] = whole.subset(np.flatnonzero(chosen))
    else:
        splits["test"] = splits.pop(test)
    return dataset._replace(splits=splits)


def fingerprint_of(config_data: ConfigDict) -> fingerprint.Fingerprint:
    """Returns the fingerprint of the stored files; arguments and errors as `load`, `load_any`."""
    if config_data.name in SPECS:
        stored = prepared.find(SPECS[config_data.name].tfds, config_data.data_dir)
    else:
        stored = _find_any(config_data)
    return prepared.fingerprint_of(stored)


def _find_any(config_data: ConfigDict) -> prepared.Prepared:
    """Finds the prepared files of `config_data.tfds`."""
    match = re.fullmatch(PATTERN, config_data.tfds)
    if not match:
        raise DataError(
            "data.tfds: expected NAME[/CONFIG][:VERSION] of a set of TFDS, got"
            f" {config_data.tfds!r}"
        )
    return prepared.find(match[1], config_data.data_dir, match[2] or "")


def _open(config_data: ConfigDict, stored: prepared.Prepared, spec: Spec, name: str) -> Dataset:
    """Opens the splits of a spec as they are stored."""
    height, width, channels = stored.image_shape
    size = config_data.image_size
    # Without image_size, the stored images have one size.
    shape = (size or int(height or 0), size or int(width or 0), channels)
    total = sum(stored.sizes.get(split, 0) for split in spec.splits)
    stream = exceeds_memory(total, shape, config_data)
    # Small images spend more time in Python, which runs one thread at a time, than in Pillow.
    small = height is not None and width is not None and height * width <= 64 * 64
    splits: dict[str, Split] = {}
    skipped: tuple[str, ...] = ()
    for split in spec.splits:
        records = prepared.open_split(
            stored,
            split,
            prepared.decoder(spec, stored.image_shape, size, config_data.decode),
            image_shape=shape,
            num_fine=len(spec.fine_names),
            num_coarse=len(spec.coarse_names),
            dataset=name,
            stream=stream,
            check_ends=config_data.on_damaged == "stop",
        )
        splits[split], found = open_records(
            records,
            stream=stream,
            on_damaged=config_data.on_damaged,
            threads=1 if small else None,
        )
        skipped += found
    return Dataset(
        name, splits, spec.coarse_names, spec.fine_names, shape, spec.mean, spec.std, skipped
    )


def _describe(config_data: ConfigDict, stored: prepared.Prepared, splits: tuple[str, ...]) -> Spec:
    """Returns the spec of a set without an entry, from the config and the metadata."""
    fine_key, coarse_key = config_data.fine_key, config_data.coarse_key
    names = prepared.integer_features(stored)
    for option, key in (("fine_key", fine_key), ("coarse_key", coarse_key)):
        if key not in names and not (option == "coarse_key" and not key):
            raise DataError(
                f"data.{option}: expected one of the integer features of {config_data.tfds}"
                f" ({', '.join(sorted(names)) or 'it has none'}), got {key!r}"
            )
    if coarse_key and config_data.coarse_map:
        raise DataError(
            f"data.coarse_map: expected '' with data.coarse_key {coarse_key!r}, got"
            f" {config_data.coarse_map!r}"
        )
    values = {
        key: prepared.label_values(stored, splits, key, config_data.on_damaged)
        for key in {fine_key, coarse_key} - {""}
        if not names[key]
    }
    names.update({key: tuple(map(str, found)) for key, found in values.items()})
    fine_names = coarse_names = names[fine_key]
    coarse_of_fine: np.ndarray | None = np.arange(len(fine_names), dtype=np.int32)
    if coarse_key:
        coarse_names, coarse_of_fine = names[coarse_key], None
    elif config_data.coarse_map:
        coarse_of = read_coarse_map(config_data.coarse_map, "fine")
        found = [coarse_of.get(name, coarse_of.get(str(n))) for n, name in enumerate(fine_names)]
        for number, (name, coarse) in enumerate(zip(fine_names, found, strict=True)):
            if coarse is None:
                raise DataError(
                    f"data.coarse_map: expected a line for fine class {name!r} ({number}) of"
                    f" {config_data.tfds}, got none in {os.path.expanduser(config_data.coarse_map)}"
                )
        coarse_names, coarse_of_fine = number_coarse([str(coarse) for coarse in found])
    return Spec(
        fine_names,
        coarse_names,
        coarse_of_fine,
        splits=splits,
        fine_keys=(fine_key,),
        coarse_key=coarse_key,
        values=values,
    )
