"""Tiny ImageNet: 200 classes of ImageNet at 64 x 64 pixels, as distributed in a zip file."""

from __future__ import annotations

import importlib.resources
import os
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from thanos_jax.data import fingerprint
from thanos_jax.data.dataset import Dataset, number_coarse, read_coarse_map
from thanos_jax.data.image_files import ImageFiles, open_splits
from thanos_jax.data.listing import find
from thanos_jax.data.pixels import in_mode
from thanos_jax.data.splits import DataError

FOLDER = "tiny-imagenet-200"
_SIDE = 64
_SUFFIX = ".JPEG"


def load(config_data: ConfigDict) -> Dataset:
    """Loads Tiny ImageNet.

    The distributed validation images are the test split; the distributed test images have no
    labels and are not used. The validation split is held out of the training images.

    Fine classes are numbered in the order of their WordNet ids and named by their first name in
    words.txt. Superclasses are read from `coarse_map`, a CSV with the columns wnid and coarse, or
    from a table of this package, a grouping of our own along WordNet's hypernyms, which differs
    from the paper's. Mean and standard deviation are measured on 10,000 training images.

    Args:
      config_data: `config.data`. data_dir is the folder tiny-imagenet-200 or
        the one that holds it.

    Returns:
      The data set.

    Raises:
      DatasetNotFound: there is no wnids.txt.
      DataError: files are missing or cannot be used.
    """
    listing = _list(config_data)
    fine_names, coarse_names = listing.fine_names, listing.coarse_names
    side = config_data.image_size or _SIDE
    splits, skipped = open_splits(
        config_data,
        {name: _files(labelled, listing.coarse_of_fine) for name, labelled in listing.images},
        # Some images are grey.
        lambda image: in_mode(image, "RGB"),
        dataset="tiny_imagenet",
        num_fine=len(fine_names),
        num_coarse=len(coarse_names),
        image_shape=(side, side, 3),
    )
    return Dataset(
        "tiny_imagenet", splits, coarse_names, fine_names, (side, side, 3), (), (), skipped
    )


def fingerprint_of(config_data: ConfigDict) -> fingerprint.Fingerprint:
    """Returns the fingerprint of the image files; arguments and errors as `load`."""
    listing = _list(config_data)
    every = [(path, split, fine) for split, labelled in listing.images for path, fine in labelled]
    return fingerprint.of_images(
        names=[os.path.relpath(path, listing.root) for path, _, _ in every],
        sizes=[os.path.getsize(path) for path, _, _ in every],
        splits=[split for _, split, _ in every],
        fine=[fine for _, _, fine in every],
        classes=[
            f"{name} of {listing.coarse_names[coarse]}"
            for name, coarse in zip(listing.fine_names, listing.coarse_of_fine, strict=True)
        ],
    )


class _Listing(NamedTuple):
    """The classes and image files of Tiny ImageNet.

    Attributes:
      root: the folder that holds wnids.txt.
      fine_names: names of the fine classes.
      coarse_names: names of the coarse classes.
      coarse_of_fine: int32 [num_fine], the coarse class of each fine class.
      images: for each split, its name and (path, fine label) of each image.
    """

    root: str
    fine_names: tuple[str, ...]
    coarse_names: tuple[str, ...]
    coarse_of_fine: np.ndarray
    images: tuple[tuple[str, list[tuple[str, int]]], ...]


def _list(config_data: ConfigDict) -> _Listing:
    """Lists the classes and images; errors as `load`."""
    table = find(
        config_data.data_dir,
        "wnids.txt",
        f"the folder that holds {FOLDER}/, with wnids.txt in it (docs/data.md)",
        inside=FOLDER,
    )
    root = os.path.dirname(table)
    wnids = _read_wnids(root)
    fine_names = _fine_names(root, wnids)
    superclass_of = superclasses(config_data.coarse_map)
    for wnid, name in zip(wnids, fine_names, strict=True):
        if wnid not in superclass_of:
            source = config_data.coarse_map or "the package's own table"
            raise DataError(
                f"data.coarse_map: expected a superclass for each wnid of {root}/wnids.txt, got"
                f" none for {wnid} ({name}) in {source}"
            )
    coarse_names, coarse_of_fine = number_coarse([superclass_of[wnid] for wnid in wnids])
    images = ("train", _training_images(root, wnids)), ("test", _labelled_images(root, wnids))
    return _Listing(root, fine_names, coarse_names, coarse_of_fine, images)


def superclasses(path: str = "") -> dict[str, str]:
    """Reads the superclass of each WordNet id.

    Args:
      path: a CSV with the columns wnid and coarse, others are ignored; "": the package's table.

    Returns:
      wnid -> name of its superclass.

    Raises:
      DataError: the file is missing, a cell is empty, or a wnid is in two lines.
    """
    own = importlib.resources.files("thanos_jax.data") / "tiny_imagenet_superclasses.csv"
    with importlib.resources.as_file(own) as own_path:
        return read_coarse_map(path or str(own_path), "wnid")


def _lines(path: str) -> list[tuple[int, str]]:
    """Returns (number, text) of each line that is not empty."""
    try:
        with open(path, encoding="utf-8") as file:
            numbered = [(number, line.rstrip("\r\n")) for number, line in enumerate(file, 1)]
    except FileNotFoundError as error:
        raise DataError(f"tiny_imagenet: no file {path}") from error
    return [(number, line) for number, line in numbered if line.strip()]


def _read_wnids(root: str) -> list[str]:
    wnids = sorted(line.strip() for _, line in _lines(os.path.join(root, "wnids.txt")))
    train = os.path.join(root, "train")
    folders = os.listdir(train) if os.path.isdir(train) else []
    found = {name for name in folders if os.path.isdir(os.path.join(train, name))}
    if not wnids or len(set(wnids)) < len(wnids) or found != set(wnids):
        raise DataError(
            f"tiny_imagenet: expected a folder in {train} for each wnid of wnids.txt, once each;"
            f" only in wnids.txt: {sorted(set(wnids) - found)}, only in train:"
            f" {sorted(found - set(wnids))}, wnids: {len(wnids)}"
        )
    return wnids


def _fine_names(root: str, wnids: list[str]) -> tuple[str, ...]:
    """Returns the first synonym of each wnid, with the wnid appended if it is not unique."""
    path = os.path.join(root, "words.txt")
    words = dict(line.split("\t", 1) for _, line in _lines(path) if "\t" in line)
    for wnid in wnids:
        if wnid not in words:
            raise DataError(f"tiny_imagenet: {path}: expected a line for {wnid}, got none")
    names = [words[wnid].split(",")[0].strip() for wnid in wnids]
    return tuple(
        f"{name} ({wnid})" if names.count(name) > 1 else name
        for name, wnid in zip(names, wnids, strict=True)
    )


def _images(folder: str) -> list[str]:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(name for name in names if name.endswith(_SUFFIX))


def _training_images(root: str, wnids: list[str]) -> list[tuple[str, int]]:
    """Returns (path, fine label) of each training image."""
    labelled = []
    for fine, wnid in enumerate(wnids):
        folder = os.path.join(root, "train", wnid, "images")
        names = _images(folder)
        if not names:
            raise DataError(f"tiny_imagenet: expected images *{_SUFFIX} in {folder}, got none")
        labelled += [(os.path.join(folder, name), fine) for name in names]
    return labelled


def _labelled_images(root: str, wnids: list[str]) -> list[tuple[str, int]]:
    """Returns (path, fine label) of each image in val."""
    folder = os.path.join(root, "val", "images")
    annotations = os.path.join(root, "val", "val_annotations.txt")
    fine_of = {wnid: fine for fine, wnid in enumerate(wnids)}
    unlabelled = set(_images(folder))
    labelled = []
    for number, line in _lines(annotations):
        where = f"tiny_imagenet: {annotations}, line {number}"
        # The bounding box that follows is not used.
        name, *rest = line.split("\t")
        if not rest or rest[0] not in fine_of:
            raise DataError(f"{where}: expected an image and a wnid of wnids.txt, got {line!r}")
        if name not in unlabelled:
            raise DataError(f"{where}: {name} is not in {folder}, or in an earlier line too")
        unlabelled.remove(name)
        labelled.append((os.path.join(folder, name), fine_of[rest[0]]))
    if unlabelled or not labelled:
        raise DataError(
            f"tiny_imagenet: {annotations}: expected a line for each image in {folder};"
            f" {len(unlabelled)} have none, such as {min(unlabelled, default='')!r}"
        )
    return labelled


def _files(labelled: list[tuple[str, int]], coarse_of_fine: np.ndarray) -> ImageFiles:
    paths = [path for path, _ in labelled]
    fine = np.array([label for _, label in labelled], np.int32)
    return ImageFiles(paths, fine, coarse_of_fine[fine], paths)
