"""Lists the images of a set of files, with labels and splits, without opening them."""

from __future__ import annotations

import collections
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from thanos_jax.data import class_folders, table_rows
from thanos_jax.data.dataset import draw_test
from thanos_jax.data.layout import SPLITS, Layout, Row
from thanos_jax.data.prepared import DatasetNotFound
from thanos_jax.data.splits import DataError

UNLABELLED_USES = ("train", "drop")


class Listing(NamedTuple):
    """The images of a set of files.

    Attributes:
      folder: folder of the images.
      place: the table or the folder, for messages.
      rows: n images with labels.
      fine: int32 [n], fine labels.
      coarse: int32 [n], coarse labels.
      fine_names: names of the fine classes, in the order of ids.
      coarse_names: names of the coarse classes, in the order of ids.
      splits: "train", "test" and perhaps "validation" -> positions in `rows`.
      unlabelled: training images without labels that are used.
      dropped: number of images without labels that are left out.
    """

    folder: str
    place: str
    rows: list[Row]
    fine: np.ndarray
    coarse: np.ndarray
    fine_names: tuple[str, ...]
    coarse_names: tuple[str, ...]
    splits: dict[str, np.ndarray]
    unlabelled: list[Row]
    dropped: int

    @property
    def one_level(self) -> bool:
        """Whether every image has one label, so that coarse and fine class are the same."""
        return all(row.coarse == row.fine for row in self.rows)


def list_images(layout: Layout, config_data: ConfigDict) -> Listing:
    """Lists a set of image files without opening them.

    If no splits are given, a fifth of each fine class (at least one image) is the test split, the
    same for every seed.

    Args:
      layout: layout of the set.
      config_data: `config.data`: data_dir, unlabelled and unlabelled_use are used.

    Raises:
      DatasetNotFound: there is no such set in data_dir.
      DataError: a table, row or class cannot be used; the message names it.
    """
    place, folder, every = _rows(layout, config_data)
    rows = [row for row in every if row.coarse]
    unlabelled = [row for row in every if not row.coarse]
    if not rows:
        raise DataError(f"{place}: expected images with labels, got {len(every)} without")
    kept = [
        row
        for row in unlabelled
        if row.split in ("train", "") and config_data.unlabelled_use == "train"
    ]
    pairs, fine_names = layout.pairs, tuple(fine for _, fine in layout.pairs)
    if not pairs:
        pairs, fine_names = _name_classes(rows)
    coarse_names = tuple(sorted({coarse for coarse, _ in pairs}))
    fine_of = {pair: number for number, pair in enumerate(pairs)}
    coarse_of = {coarse: number for number, coarse in enumerate(coarse_names)}
    fine = np.array([fine_of[row.coarse, row.fine] for row in rows], np.int32)
    coarse = np.array([coarse_of[row.coarse] for row in rows], np.int32)
    split_of = _split(place, rows, fine, fine_names)
    splits = {name: np.flatnonzero(split_of == name) for name in SPLITS if name in split_of}
    _check_classes(place, rows, fine, fine_names, splits)
    return Listing(
        folder, place, rows, fine, coarse, fine_names, coarse_names, splits, kept,
        len(unlabelled) - len(kept),
    )  # fmt: skip


def find(data_dir: str, table: str, expected: str, *, inside: str = "") -> str:
    """Returns the path of a table.

    Args:
      data_dir: `config.data.data_dir`: the folder of the table, or the one that holds `inside`.
      table: file name of the table.
      expected: what data_dir should be, for the message.
      inside: name of the folder of the table if the set is distributed with it; "" for any.

    Raises:
      DatasetNotFound: there is no such table.
    """
    given = os.path.expanduser(data_dir)
    for root in (os.path.join(given, inside), given):
        if given and os.path.isfile(os.path.join(root, table)):
            return os.path.join(root, table)
    there = sorted(os.listdir(given)) if os.path.isdir(given) else []
    tables = [name for name in there if name.lower().endswith((".csv", ".tsv", ".txt"))]
    beside = f", which has {', '.join(map(repr, tables[:3]))}" if tables else ""
    raise DatasetNotFound(f"data.data_dir: expected {expected}, got {data_dir!r}{beside}")


def _rows(layout: Layout, config_data: ConfigDict) -> tuple[str, str, list[Row]]:
    """Returns the table or folder that lists the images, their folder, and one or more rows."""
    mark = config_data.unlabelled
    try:
        table = find(config_data.data_dir, layout.table, layout.expected, inside=layout.inside)
    except DatasetNotFound:
        folder = os.path.expanduser(config_data.data_dir)
        rows = class_folders.list_rows(folder, mark) if layout.own and os.path.isdir(folder) else []
        if not rows:
            raise
        return folder, folder, rows
    return table, os.path.dirname(table), table_rows.read_rows(table, layout, mark)


def _name_classes(rows: Sequence[Row]) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Returns (coarse, fine) and the shown name of each fine class, in the order of the names."""
    pairs = {(row.coarse, row.fine) for row in rows}
    count = collections.Counter(fine for _, fine in pairs)
    name_of = {pair: f"{pair[0]} / {pair[1]}" if count[pair[1]] > 1 else pair[1] for pair in pairs}
    ordered = sorted(pairs, key=lambda pair: (name_of[pair], pair))
    return ordered, tuple(name_of[pair] for pair in ordered)


def _split(
    place: str, rows: Sequence[Row], fine: np.ndarray, fine_names: tuple[str, ...]
) -> np.ndarray:
    """Returns the split of every row, before validation images are held out."""
    if rows[0].split:
        split_of = np.array([row.split for row in rows], object)
        for name in ("train", "test"):
            if name not in split_of:
                raise DataError(
                    f"{place}: split: expected rows for train and test, got none for {name}"
                )
        return split_of
    for number, name in enumerate(fine_names):
        members = np.flatnonzero(fine == number)
        if len(members) == 1:
            raise DataError(
                f"{rows[members[0]].where or rows[members[0]].filename}: the only image of fine"
                f" class {name!r}; expected two or more, for training and test. Add images, or"
                " leave the class out"
            )
    return np.where(draw_test(fine, fine_names), "test", "train").astype(object)


def _check_classes(
    place: str,
    rows: Sequence[Row],
    fine: np.ndarray,
    fine_names: tuple[str, ...],
    splits: Mapping[str, np.ndarray],
) -> None:
    for number, name in enumerate(fine_names):
        if number not in fine:
            raise DataError(f"{place}: expected lines of fine class {name!r}, got none")
    for split in ("train", "test"):
        absent = np.setdiff1d(np.arange(len(fine_names)), fine[splits[split]])
        if absent.size:
            members = np.flatnonzero(fine == absent[0])
            held_out = np.isin(members, splits.get("validation", ())).sum()
            first = rows[members[0]]
            raise DataError(
                f"{first.where or first.filename}: fine class {fine_names[absent[0]]!r} has"
                f" {len(members)} images, none of them in the {split} split ({held_out} in"
                " validation); training and test need every class"
            )
