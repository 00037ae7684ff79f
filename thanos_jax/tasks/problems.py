"""Errors of a model, for its report: confused classes, and images of the worst class."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from thanos_jax.data.splits import Split
from thanos_jax.report import cards, confusion, plots
from thanos_jax.report.cards import Card
from thanos_jax.report.image_map import split_word
from thanos_jax.tasks.stages import Figures

_CARDS = 24


def confused(
    labels: np.ndarray, predictions: np.ndarray, names: Sequence[str], *, kind: str
) -> Figures:
    """Returns a table of the classes that are confused most; {} if there are no errors.

    Args:
      labels: integer [n], indices of names.
      predictions: integer [n].
      names: of the classes.
      kind: what a class is called, as "fine label".
    """
    table = confusion.html(labels, predictions, names)
    return {f"Confused most, by {kind}": (table, plots.HOW_TO_READ["confused"])} if table else {}


def classes(
    split: Split, labels: np.ndarray, predictions: np.ndarray, names: Sequence[str], *, kind: str
) -> Figures:
    """Returns the table of `confused`, and images of the worst class; {} if there are no errors.

    Args:
      split: the n test images.
      labels: integer [n], indices of names.
      predictions: integer [n].
      names: of the classes.
      kind: what a class is called, as "fine label".
    """
    table = confused(labels, predictions, names, kind=kind)
    if not table:
        return {}
    correct = predictions == labels
    counts, right = (np.bincount(labels[x], minlength=len(names)) for x in (..., correct))
    accuracy = np.where(counts > 0, right / np.maximum(counts, 1), np.inf)
    worst = int(np.argmin(accuracy))
    images = images_of(
        split,
        np.flatnonzero(labels == worst),
        correct,
        "test",
        lambda row: names[predictions[row]],
    )
    title = f"Test images of the worst {kind}: {names[worst]}"
    return {**table, title: (images, plots.HOW_TO_READ["worst_class"])}


def images_of(
    split: Split,
    rows: np.ndarray,
    correct: np.ndarray,
    name: str,
    predicted: Callable[[int], str],
    *,
    most: int = _CARDS,
) -> str:
    """Returns images as cards of HTML; wrong predictions come first and are marked.

    Args:
      split: n images.
      rows: integer [k], the images to show.
      correct: bool [n], True where the prediction is right.
      name: of the split, as "train".
      predicted: row -> the predicted class.
      most: largest number of cards.
    """
    order = rows[np.argsort(correct[rows], kind="stable")][:most]
    made = [
        Card(one, (predicted(row),), "right" if correct[row] else "wrong", not correct[row])
        for one, row in zip(named(split, order, name), order.tolist(), strict=True)
    ]
    return as_cards(split, order, made)


def named(split: Split, rows: np.ndarray, name: str | np.ndarray) -> list[str]:
    """Returns the names of images for people: their files, or as in "training image 7".

    Args:
      split: n images.
      rows: integer [k], the images to name.
      name: of their split, as "train"; or str [n], the split of each image.
    """
    stored = split.names[rows]
    if np.issubdtype(stored.dtype, np.integer):
        splits = np.broadcast_to(name, len(split))[rows]
        pairs = zip(splits.tolist(), stored.tolist(), strict=True)
        return [f"{split_word(part)} image {number}" for part, number in pairs]
    return stored.astype(str).tolist()


def as_cards(split: Split, rows: np.ndarray, made: Sequence[Card]) -> str:
    """Returns cards of the images `rows`, integer [k] in any order, as HTML."""
    ascending = np.sort(rows)
    images = split.read(ascending)["image"]
    return cards.html(images[np.searchsorted(ascending, rows)], made)
