"""Sets of image files: class folders, or a folder with a table that has a line per image.

OWN is the layout of a user's own images. Its labels.csv has the columns filename (relative to its
folder), coarse, fine and perhaps split; or one column label instead of coarse and fine. Classes
are numbered in the order of their names. A fine class is a pair of a coarse and a fine name; a fine
name that occurs with several coarse names is shown as "coarse / fine".
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from thanos_jax.data import fingerprint, pixels
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.image_files import ImageFiles, open_image, open_splits
from thanos_jax.data.layout import SPLITS, Layout, one_of
from thanos_jax.data.listing import Listing, list_images
from thanos_jax.data.splits import DataError, in_threads


def load(layout: Layout, config_data: ConfigDict) -> Dataset:
    """Loads a set of image files; `list_images` describes its classes and splits.

    Images are converted by `pixels.convert`. Mean and standard deviation are the layout's, or are
    left to be measured on the training images.

    Args:
      layout: layout of the set.
      config_data: `config.data`. image_size may be 0 only if all images have the same size.

    Returns:
      The data set; validation may be missing.

    Raises:
      DatasetNotFound: there is no such set in data_dir.
      DataError: a table or an image cannot be used; the message names the line and the file.
    """
    listing = list_images(layout, config_data)
    members = {name: [listing.rows[n] for n in numbers] for name, numbers in listing.splits.items()}
    labels = {name: (listing.fine[n], listing.coarse[n]) for name, n in listing.splits.items()}
    if listing.unlabelled:
        members["unlabelled"] = listing.unlabelled
        # These labels are not used.
        labels["unlabelled"] = (np.zeros(len(listing.unlabelled), np.int32),) * 2
    files = {
        name: ImageFiles(
            [os.path.join(listing.folder, row.filename) for row in rows],
            *labels[name],
            [row.source for row in rows],
            np.array([row.filename for row in rows]),
        )
        for name, rows in members.items()
    }
    size = config_data.image_size
    height, width, found_mode = _inspect(layout.name, listing, config_data)
    mode = layout.mode or found_mode
    image_shape = (size or height, size or width, len(mode))
    splits, skipped = open_splits(
        config_data,
        files,
        lambda image: pixels.convert(image, mode, matte=config_data.matte),
        dataset=layout.name,
        num_fine=len(listing.fine_names),
        num_coarse=len(listing.coarse_names),
        image_shape=image_shape,
    )
    return Dataset(
        layout.name,
        splits,
        listing.coarse_names,
        listing.fine_names,
        image_shape,
        *layout.units,
        skipped,
        unlabelled=splits.pop("unlabelled", None),
        unlabelled_dropped=listing.dropped,
        one_level=layout.own and listing.one_level,
        fingerprint=fingerprint_of(listing),
    )


def fingerprint_of(listing: Listing) -> fingerprint.Fingerprint:
    """Returns the fingerprint of a set of files; see `thanos_jax.data.fingerprint`."""
    split_of = np.empty(len(listing.rows), object)
    for name, numbers in listing.splits.items():
        split_of[numbers] = name
    every = [
        *zip(listing.rows, split_of, listing.fine.tolist(), strict=True),
        *((row, "unlabelled", -1) for row in listing.unlabelled),
    ]
    coarse_of = dict(zip(listing.fine.tolist(), listing.coarse.tolist(), strict=True))
    return fingerprint.of_images(
        names=[row.filename for row, _, _ in every],
        sizes=[row.size for row, _, _ in every],
        splits=[split for _, split, _ in every],
        fine=[fine for _, _, fine in every],
        # With the coarse name, because a fine name may occur with several coarse ones.
        classes=[
            name
            if name == listing.coarse_names[coarse_of[number]]
            else f"{name} of {listing.coarse_names[coarse_of[number]]}"
            for number, name in enumerate(listing.fine_names)
        ],
    )


def _inspect(dataset: str, listing: Listing, config_data: ConfigDict) -> tuple[int, int, str]:
    """Returns (height, width, mode) of all images; sizes must agree if image_size is 0."""
    image_size = config_data.image_size
    rows = [*listing.rows, *listing.unlabelled]

    def header(number: int) -> pixels.Header | DataError:
        path = os.path.join(listing.folder, rows[number].filename)
        try:
            with open_image(path, config_data.max_megapixels) as image:
                return pixels.header(image, with_size=not image_size)
        except Exception as error:
            damage = DataError(f"{dataset}: {rows[number].source}: {error}")
            if config_data.on_damaged == "stop":
                raise damage from error
            return damage

    found = in_threads(header, range(len(rows)))
    # Unreadable images are left out when they are read.
    headers = {n: one for n, one in enumerate(found) if not isinstance(one, DataError)}
    if not headers:
        raise DataError(f"no image can be read; the first: {found[0]}")
    first = min(headers)
    height, width = headers[first].height, headers[first].width
    for number, one in headers.items():
        try:
            pixels.require_depth(one, config_data.deep_images)
        except ValueError as error:
            raise DataError(f"{dataset}: {rows[number].source}: {error}") from error
        if not image_size and (one.height, one.width) != (height, width):
            raise DataError(
                f"{dataset}: data.image_size: expected the side to which images are resized,"
                f" because they differ in size, got 0: {rows[number].source}, is {one.width} x"
                f" {one.height} pixels, {rows[first].source}, {width} x {height}"
            )
    return height, width, "L" if all(one.grey for one in headers.values()) else "RGB"


def _required(header: Sequence[str]) -> tuple[str, ...]:
    one_label = "label" in header and not {"coarse", "fine"} & set(header)
    return ("label",) if one_label else ("coarse", "fine")


def _classify(cells: Mapping[str, str], where: str) -> tuple[str, str, str]:
    named = ("coarse", "fine") if "coarse" in cells and "fine" in cells else ("label", "label")
    for column in ("filename", *named):
        if not cells[column]:
            raise DataError(f"{where}: {column} is empty")
    coarse, fine = (unicodedata.normalize("NFC", cells[column]) for column in named)
    return coarse, fine, one_of(cells, "split", SPLITS, where) if "split" in cells else ""


OWN = Layout(
    name="folder",
    table="labels.csv",
    expected="a folder that holds labels.csv, with the columns filename, coarse, fine (or label"
    " alone) and perhaps split, or a folder of images for each class",
    column="filename",
    required=_required,
    classify=_classify,
    own=True,
)
