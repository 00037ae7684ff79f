"""What a set of image files is known again by: names, sizes and labels, not pixels.

A fingerprint is a dictionary of lists, which JSON can hold, so that one can say what has changed
since another was taken.
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
    """The fingerprint of n image files, in their order.

    Args:
      names: of the files.
      sizes: of the files, in bytes.
      splits: of the images.
      fine: numbers in `classes`; -1: no label.
      classes: what the labels are called.
    """
    return {
        "names": list(names),
        "sizes": list(sizes),
        "splits": list(splits),
        "fine": list(fine),
        "classes": list(classes),
    }


def of_text(text: str) -> Fingerprint:
    """The fingerprint of a table that gives the classes of a set whose images are as published."""
    return {"lines": text.splitlines()}


def changes(before: Fingerprint, now: Fingerprint, *, sizes: bool = True) -> list[str]:
    """What has changed between two fingerprints, a line each; [] if nothing has.

    Args:
      before: the earlier fingerprint.
      now: the later fingerprint.
      sizes: whether files of another size are a change.
    """
    if before.keys() != now.keys():
        return ["other data altogether"]
    if "lines" in now:
        pairs = {"lines gone": (before, now), "lines new": (now, before)}
        found = [
            _line(what, _without(one["lines"], other["lines"]))
            for what, (one, other) in pairs.items()
        ]
        return [line for line in found if line]
    place = {name: number for number, name in enumerate(now["names"])}
    common = [(number, place[name]) for number, name in enumerate(before["names"]) if name in place]

    def differs(what: str, values: Callable[[Fingerprint], list[Any]]) -> str:
        then, later = values(before), values(now)
        return _line(what, [before["names"][a] for a, b in common if then[a] != later[b]])

    lines = [
        _line("images gone", _without(before["names"], now["names"])),
        _line("images new", _without(now["names"], before["names"])),
        _line("classes gone", _without(before["classes"], now["classes"])),
        _line("classes new", _without(now["classes"], before["classes"])),
        differs("images with another label", _labels),
        differs("images in another split", lambda one: one["splits"]),
        differs("files of another size", lambda one: one["sizes"]) if sizes else "",
    ]
    if not any(lines) and before["names"] != now["names"]:
        lines = ["images in another order"]
    return [line for line in lines if line]


def _without(names: list[str], others: list[str]) -> list[str]:
    known = set(others)
    return [name for name in names if name not in known]


def _labels(one: Fingerprint) -> list[str]:
    # Of no label, the last.
    classes = [*one["classes"], ""]
    return [classes[number] for number in one["fine"]]


def _line(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > _NAMED else ""
    return f"{len(names)} {what}: {', '.join(names[:_NAMED])}{more}"
