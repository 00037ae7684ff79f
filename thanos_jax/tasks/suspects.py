"""Presents suspected labels: findings.csv, and image cards of the most suspicious."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from thanos_jax.data.splits import Split
from thanos_jax.report.cards import Card
from thanos_jax.tasks import findings, problems
from thanos_jax.tasks.stages import Figures

_EXAMPLES = 48


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
      splits: str [n], the split of each image.
      classes: names of the classes.
      given: integer [n], the labels.
      suggested: integer [n], the suggested labels.
      suspicion: floating point [n].
      flagged: bool [n], True where a label is suspected.

    Raises:
      WorkdirError: the file cannot be written.
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


def figures(
    split: Split,
    name: str | np.ndarray,
    classes: Sequence[str],
    *,
    given: np.ndarray,
    suggested: np.ndarray,
    suspicion: np.ndarray,
    flagged: np.ndarray,
    reading: str,
) -> Figures:
    """Shows the most suspicious labels for which another is suggested; {} if there are none.

    Args:
      split: n images.
      name: of their split, as "train"; or str [n], the split of each image.
      classes: names of the classes.
      given: integer [n], the labels.
      suggested: integer [n], the suggested labels.
      suspicion: floating point [n].
      flagged: bool [n], True where a label is suspected.
      reading: a sentence on how to read the figure.
    """
    order = np.argsort(-suspicion, kind="stable")
    order = order[(flagged & (suggested != given))[order]]
    if not order.size:
        return {}
    title = "Suspected labels"
    if len(order) > _EXAMPLES:
        title += f", the first {_EXAMPLES} of {len(order):,}"
    order = order[:_EXAMPLES]
    words = zip(problems.named(split, order, name), order.tolist(), strict=True)
    made = [
        Card(
            named,
            (classes[given[row]], classes[suggested[row]]),
            f"suspicion {suspicion[row]:.3f}",
        )
        for named, row in words
    ]
    return {title: (problems.as_cards(split, order, made), reading)}
