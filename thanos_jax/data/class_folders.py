"""Images without a table: the class, and perhaps the split, of an image is given by its folder.

DIR/CLASS/...                       coarse and fine class are the same
DIR/COARSE/FINE/...
DIR/train|val|test/CLASS/...        or with COARSE/FINE
"""

from __future__ import annotations

import functools
import os
import sys
import unicodedata

from thanos_jax.data.layout import Row
from thanos_jax.data.splits import DataError

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Files that operating systems and archives leave beside the images.
_IGNORED = ("__MACOSX", "Thumbs.db", "desktop.ini")
# Formats that Pillow opens but cannot decode by itself: data, films, drawings.
_NO_PIXELS = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
_NAMED = 3


def list_rows(folder: str, unlabelled: str = "") -> list[Row]:
    """Returns the images below a folder, in the order of their paths; [] if there are none.

    Names that begin with a dot are ignored. Files whose extension Pillow does not know are reported
    on stderr. If there is a validation folder but no test folder, it becomes the test split.

    Args:
      folder: holds the folders of classes or splits.
      unlabelled: name of the class folder whose images have no label; "": there is none.

    Raises:
      DataError: an image is in no class folder, too deep, or at another depth than the others; or
        folders of splits are mixed with other folders.
    """
    paths = _images(folder)
    tops = sorted({path[0] for path in paths if len(path) > 1})
    splits = _splits(folder, tops) if paths else {}
    levels: dict[int, tuple[str, ...]] = {}
    rows = []
    for path in paths:
        split, classes = "", path[:-1]
        if splits and len(path) > 1:
            split, classes = splits[path[0]], path[1:-1]
        _require_level(folder, path, classes)
        if classes[0] == unlabelled:
            names = ("", "")
        else:
            if levels.setdefault(len(classes), path) is path and len(levels) > 1:
                first, other = (os.path.join(*levels[level]) for level in sorted(levels))
                raise DataError(
                    f"data.data_dir: expected all images of {folder} in CLASS/ or all in"
                    f" COARSE/FINE/, got {first!r} and {other!r}"
                )
            names = (_name(classes[0]), _name(classes[-1]))
        filename = os.path.join(*path)
        size = os.path.getsize(os.path.join(folder, filename))
        rows.append(Row(filename, "", *names, split, size))
    return rows


def _images(folder: str) -> list[tuple[str, ...]]:
    """Returns the paths of the images below a folder, each as a tuple of its parts; sorted."""
    found: list[tuple[str, ...]] = []
    others: list[tuple[str, ...]] = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(
            name for name in folders if not _hidden(name) and not _leads_back(parent, name)
        )
        below = os.path.relpath(parent, folder)
        parts = () if below == os.curdir else tuple(below.split(os.sep))
        for name in sorted(files):
            if not _hidden(name):
                known = os.path.splitext(name)[1].lower() in _endings()
                (found if known else others).append((*parts, name))
    if found and others:
        first = ", ".join(os.path.join(*path) for path in others[:_NAMED])
        print(
            f"WARNING: {folder}: {len(others)} files without the extension of an image are ignored;"
            f" the first: {first}",
            file=sys.stderr,
            flush=True,
        )
    return sorted(found)


@functools.cache
def _endings() -> frozenset[str]:
    """Returns the extensions of the image files that Pillow reads, in lower case."""
    from PIL import Image

    kinds = Image.registered_extensions().items()
    return frozenset(
        ending for ending, kind in kinds if kind in Image.OPEN and kind not in _NO_PIXELS
    )


def _leads_back(parent: str, name: str) -> bool:
    """Returns whether a folder is a symbolic link to one of its parents."""
    path = os.path.join(parent, name)
    if not os.path.islink(path):
        return False
    return (os.path.realpath(parent) + os.sep).startswith(os.path.realpath(path) + os.sep)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _IGNORED


def _splits(folder: str, tops: list[str]) -> dict[str, str]:
    """Returns the split of each top-level folder; {} if the folders are classes.

    Raises:
      DataError: there are folders for train and test and other folders too, or there is no folder
        for training.
    """
    split_of = {top: _SPLITS[top.lower()] for top in tops if top.lower() in _SPLITS}
    others = [top for top in tops if top not in split_of]
    there = set(split_of.values())
    if others:
        if {"train", "test"} <= there:
            raise DataError(
                f"data.data_dir: expected only folders of splits in {folder}, as"
                f" {', '.join(split_of)} are, got {others[0]!r} too"
            )
        return {}  # classes that happen to have the name of a split
    if there and "train" not in there:
        raise DataError(
            f"data.data_dir: expected a folder train in {folder}, got {', '.join(split_of)}"
        )
    if "validation" in there and "test" not in there:
        names = ", ".join(top for top, split in split_of.items() if split == "validation")
        print(f"{folder}: {names} is the test split, because there is no other", flush=True)
        split_of = {
            top: "test" if split == "validation" else split for top, split in split_of.items()
        }
    if there == {"train"}:
        split_of = dict.fromkeys(split_of, "")
    return split_of


def _require_level(folder: str, path: tuple[str, ...], classes: tuple[str, ...]) -> None:
    if not 1 <= len(classes) <= 2:
        expected = "a folder of its class" if not classes else "CLASS/ or COARSE/FINE/"
        raise DataError(
            f"data.data_dir: expected each image of {folder} in {expected}, got"
            f" {os.path.join(*path)!r}; with a labels.csv, images may be in any folder below it"
        )


def _name(folder: str) -> str:
    return unicodedata.normalize("NFC", folder).strip()
