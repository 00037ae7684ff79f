"""Fingerprints of data sets: names and sizes of files, and labels, but not pixels.

A run compares fingerprints to detect that its data have changed. A fingerprint is a dictionary of
lists that JSON can hold, so that the comparison can say what has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Fingerprint = Mapping[str, list[Any]]

_NAMED = 3


def of_images(
    *,
    names: Sequence[str],
    sizes: Sequence[int],
    splits: Sequence[str],
    fine: Sequence[int],
    classes: Sequence[str],
) -> Fingerprint:
    """Returns the fingerprint of n image files, in their order.

    Args:
      names: names of the files.
      sizes: sizes of the files in bytes.
      splits: split of each image.
      fine: label of each image, a position in `classes`; -1: no label.
      classes: names of the classes.
    """
    return {
        "names": list(names),
        "sizes": list(sizes),
        "splits": list(splits),
        "fine": list(fine),
        "classes": list(classes),
    }


def of_records(
    *, names: Sequence[str], sizes: Sequence[int], metadata: Sequence[str]
) -> Fingerprint:
    """Returns the fingerprint of a set stored in record files.

    Args:
      names: names of the files.
      sizes: sizes of the files in bytes.
      metadata: lines that describe the contents of the files.
    """
    return {"names": list(names), "sizes": list(sizes), "metadata": list(metadata)}


def of_text(text: str) -> Fingerprint:
    """Returns the fingerprint of a published set whose classes come from a table, its text."""
    return {"lines": text.splitlines()}


def changes(before: Fingerprint, now: Fingerprint, *, sizes: bool = True) -> list[str]:
    """Returns a line for each change between two fingerprints; [] if they agree.

    Args:
      before: the earlier fingerprint.
      now: the later fingerprint.
      sizes: whether the sizes of files are compared.
    """
    if before.keys() != now.keys():
        return ["other data altogether"]

    def of_key(what: str, key: str) -> list[str]:
        return [
            _line(f"{what} gone", _without(before[key], now[key])),
            _line(f"{what} new", _without(now[key], before[key])),
        ]

    if "lines" in now:
        lines = of_key("lines", "lines")
    elif "metadata" in now:
        lines = [*of_key("lines of metadata", "metadata"), *of_key("record files", "names")]
    else:
        lines = [
            *of_key("images", "names"),
            *of_key("classes", "classes"),
            _differ("images with another label", before, now, _labels),
            _differ("images in another split", before, now, lambda one: one["splits"]),
        ]
    if sizes and "sizes" in now:
        lines.append(_differ("files of another size", before, now, lambda one: one["sizes"]))
    if not any(lines) and before.get("names") != now.get("names"):
        lines = ["images in another order"]
    return [line for line in lines if line]


def _differ(
    what: str,
    before: Fingerprint,
    now: Fingerprint,
    values: Callable[[Fingerprint], list[Any]],
) -> str:
    """Returns a line that lists the names in both fingerprints whose values differ."""
    place = {name: number for number, name in enumerate(now["names"])}
    then, later = values(before), values(now)
    common = [(number, name) for number, name in enumerate(before["names"]) if name in place]
    return _line(what, [name for number, name in common if then[number] != later[place[name]]])


def _without(names: list[str], others: list[str]) -> list[str]:
    known = set(others)
    return [name for name in names if name not in known]


def _labels(one: Fingerprint) -> list[str]:
    # Label -1 stands for the last entry, "".
    classes = [*one["classes"], ""]
    return [classes[number] for number in one["fine"]]


def _line(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > _NAMED else ""
    return f"{len(names)} {what}: {', '.join(names[:_NAMED])}{more}"
