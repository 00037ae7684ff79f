"""The confusion matrix as a table in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from thanos_jax.checks import check_labels

# Largest number of classes in a table; if there are more, the ones confused most are shown.
MOST = 10
_PAIRS = 3


def html(labels: Any, predictions: Any, names: Sequence[str], *, most: int = MOST) -> str:
    """Returns the confusion matrix, and a sentence on the pairs of classes confused most.

    Args:
      labels: integer [n], indices of names.
      predictions: integer [n], indices of names.
      names: of the classes.
      most: largest number of classes shown. If there are more, the classes of the pairs confused
        most are shown, and a last column counts other predictions.

    Returns:
      HTML; empty if every prediction is right.

    Raises:
      TypeError: labels or predictions are not integers.
      ValueError: lengths that differ, or a class without a name.
    """
    length, classes = np.size(labels), len(names)
    right = check_labels(labels, "labels", length=length, num_classes=classes)
    found = check_labels(predictions, "predictions", length=length, num_classes=classes)
    wrong = right != found
    if not wrong.any():
        return ""
    # For 10,000 classes the matrix would have 10^8 cells: only pairs that occur are counted.
    codes, times = np.unique(
        right[wrong].astype(np.int64) * classes + found[wrong], return_counts=True
    )
    order = np.argsort(-times, kind="stable")
    pairs = [divmod(code, classes) for code in codes[order].tolist()]
    totals = np.bincount(right, minlength=classes)
    shown = _classes(pairs, classes, most)
    said = ", ".join(
        f"<bdi>{escape(names[a])}</bdi> taken for <bdi>{escape(names[b])}</bdi> "
        f"({count:,} of {totals[a]:,})"
        for (a, b), count in zip(pairs[:_PAIRS], times[order[:_PAIRS]].tolist(), strict=True)
    )
    left_out = (
        f" The {len(shown)} confused most of {classes} are shown." if len(shown) < classes else ""
    )
    counts = _counts(right, found, shown, classes)
    table = _table(counts, totals[shown], [names[k] for k in shown], len(shown) < classes)
    return f"<p>Most often: {said}.{left_out}</p>{table}"


def _classes(pairs: Sequence[tuple[int, int]], count: int, most: int) -> list[int]:
    """Returns all classes, or the classes of the first pairs, ascending."""
    if count <= most:
        return list(range(count))
    found: list[int] = []
    for pair in pairs:
        found += [one for one in pair if one not in found]
        if len(found) >= most:
            break
    return sorted(found[:most])


def _counts(right: np.ndarray, found: np.ndarray, shown: Sequence[int], classes: int) -> np.ndarray:
    """Returns the confusion matrix of the classes shown, int64 [shown, shown]."""
    place = np.full(classes, -1)
    place[shown] = np.arange(len(shown))
    rows, columns = place[right], place[found]
    inside = (rows >= 0) & (columns >= 0)
    counts = np.zeros((len(shown), len(shown)), np.int64)
    np.add.at(counts, (rows[inside], columns[inside]), 1)
    return counts


def _table(counts: np.ndarray, totals: np.ndarray, names: Sequence[str], others: bool) -> str:
    """Returns the table of counts [k, k]; totals [k] are all images of each label."""
    heads = "".join(
        f'<th scope="col"><span><bdi>{escape(name)}</bdi></span></th>' for name in names
    ) + ('<th scope="col"><span>others</span></th>' if others else "")
    highest = max(int((counts - np.diag(np.diag(counts))).max()), 1)
    lines = []
    for row, name in enumerate(names):
        total, cells = int(totals[row]), []
        for column, count in enumerate(counts[row].tolist()):
            # The page's text colour is legible on both colours, in light and dark mode.
            if row == column:
                colour = f"63 144 218 / {0.1 + 0.4 * count / max(total, 1):.2f}"
            else:
                colour = f"222 70 30 / {0.1 + 0.5 * count / highest:.2f}"
            cells.append(
                f'<td style="background:rgb({colour})">{count:,}</td>'
                if count
                else '<td class="quiet">0</td>'
            )
        if others:
            cells.append(f"<td>{total - int(counts[row].sum()):,}</td>")
        head = f'<th scope="row"><bdi>{escape(name)}</bdi></th>'
        lines.append(f"<tr>{head}{''.join(cells)}</tr>")
    words = "Number of images; rows: their label, columns: what is predicted"
    return (
        '<div class="wide" role="region" tabindex="0" aria-label="Confusion matrix">'
        f'<table class="matrix" aria-label="{words}"><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
