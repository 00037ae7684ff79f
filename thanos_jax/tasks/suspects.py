"""Suspected labels, for people: a row of findings.csv for each, and pictures of the worst."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from thanos_jax.data.splits import Split
from thanos_jax.report import plots
from thanos_jax.tasks import findings

_EXAMPLES = 24
_LONGEST = 18  # letters above a picture


def short(name: Any) -> str:
    """Returns the end of the name of an image, as far as there is place for it."""
    words = str(name)
    return words if len(words) <= _LONGEST else f"…{words[1 - _LONGEST :]}"


def write_table(
    folder: pathlib.Path,
    names: np.ndarray,
    splits: Any,
    classes: Sequence[str],
    *,
    given: np.ndarray,
    suggested: np.ndarray,
    suspicion: np.ndarray,
    flagged: np.ndarray,
) -> None:
    """Writes findings.csv, the most suspicious label first.

    Args:
      folder: of the run.
      names: [n], of the images.
      splits: str [n].
      classes: names of the classes.
      given: integer [n], the labels.
      suggested: integer [n], the labels in their place.
      suspicion: floating point [n].
      flagged: bool [n], taken to be wrong.

    Raises:
      WorkdirError: it cannot be written.
    """
    order = np.argsort(-suspicion, kind="stable")
    columns = {
        "filename": names,
        "split": np.asarray(splits),
        "label": np.array(classes)[given],
        "suggested": np.array(classes)[suggested],
        "suspicion": np.round(suspicion.astype(np.float64), 4),
        "suspected": np.where(flagged, "yes", "no"),
        "row": np.arange(len(names)),
    }
    findings.write_table(folder, {name: values[order] for name, values in columns.items()})


def figure(
    split: Split,
    classes: Sequence[str],
    *,
    given: np.ndarray,
    suggested: np.ndarray,
    suspicion: np.ndarray,
    flagged: np.ndarray,
    named: bool = False,
) -> Any:
    """Draws the images of the most suspicious labels that have another suggestion.

    Args:
      split: n images.
      classes: names of the classes.
      given: integer [n], the labels.
      suggested: integer [n], the labels in their place.
      suspicion: floating point [n].
      flagged: bool [n], taken to be wrong.
      named: whether files are named above their images.

    Returns:
      The figure; None if there is no such label.
    """
    order = np.argsort(-suspicion, kind="stable")
    order = order[(flagged & (suggested != given))[order]][:_EXAMPLES]
    if not order.size:
        return None
    ascending = np.sort(order)
    read = split.read(ascending)["image"]
    pictures = read[np.searchsorted(ascending, order)] / np.float32(255)
    captions = [
        f"{classes[a]} → {classes[b]}" for a, b in zip(given[order], suggested[order], strict=True)
    ]
    if named:
        names = split.names[order]
        captions = [f"{short(name)}\n{words}" for name, words in zip(names, captions, strict=True)]
    return plots.images(pictures, captions)
