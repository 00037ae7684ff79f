"""Which classes are taken for which, as a table in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from thanos_jax.checks import check_labels

# Classes of a table; of more, those confused most.
MOST = 10
_PAIRS = 3


def html(labels: Any, predictions: Any, names: Sequence[str], *, most: int = MOST) -> str:
    """Returns the table of labels and predictions, and the pairs confused most in words.

    Args:
      labels: integer [n], indices of names.
      predictions: integer [n], as well.
      names: of the classes.
      most: classes shown. Of more, those of the pairs confused most are, and a last column counts
        what is predicted besides.

    Returns:
      HTML; empty where every prediction is right.

    Raises:
      TypeError: labels or predictions are not integers.
      ValueError: lengths that differ, or a class without a name.
    """
    length, classes = np.size(labels), len(names)
    right = check_labels(labels, "labels", length=length, num_classes=classes)
    found = check_labels(predictions, "predictions", length=length, num_classes=classes)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (right, found), 1)
    wrong = counts - np.diag(np.diag(counts))
    pairs = [divmod(int(k), len(names)) for k in np.argsort(-wrong, axis=None, kind="stable")]
    pairs = pairs[: np.count_nonzero(wrong)]
    if not pairs:
        return ""
    shown = _classes(pairs, len(names), most)
    said = ", ".join(
        f"<bdi>{escape(names[a])}</bdi> taken for <bdi>{escape(names[b])}</bdi> "
        f"({wrong[a, b]:,} of {counts[a].sum():,})"
        for a, b in pairs[:_PAIRS]
    )
    left_out = (
        f" The {len(shown)} confused most of {len(names)} are shown."
        if len(shown) < len(names)
        else ""
    )
    return f"<p>Most often: {said}.{left_out}</p>{_table(counts, wrong, shown, names)}"


def _classes(pairs: Sequence[tuple[int, int]], count: int, most: int) -> list[int]:
    """Returns all classes, or those of the first pairs, ascending."""
    if count <= most:
        return list(range(count))
    found: list[int] = []
    for pair in pairs:
        found += [one for one in pair if one not in found]
        if len(found) >= most:
            break
    return sorted(found[:most])


def _table(
    counts: np.ndarray, wrong: np.ndarray, shown: Sequence[int], names: Sequence[str]
) -> str:
    others = len(shown) < len(names)
    heads = "".join(
        f'<th scope="col"><span><bdi>{escape(names[k])}</bdi></span></th>' for k in shown
    ) + ('<th scope="col"><span>others</span></th>' if others else "")
    highest = max(int(wrong[np.ix_(shown, shown)].max()), 1)
    lines = []
    for row in shown:
        total = max(int(counts[row].sum()), 1)
        cells = []
        for column in shown:
            count = int(counts[row, column])
            # Ink of the page is legible on both colours, on white and in the dark.
            if row == column:
                colour = f"63 144 218 / {0.1 + 0.4 * count / total:.2f}"
            else:
                colour = f"222 70 30 / {0.1 + 0.5 * count / highest:.2f}"
            cells.append(
                f'<td style="background:rgb({colour})">{count:,}</td>'
                if count
                else '<td class="quiet">0</td>'
            )
        if others:
            cells.append(f"<td>{total - int(counts[row, shown].sum()):,}</td>")
        name = f'<th scope="row"><bdi>{escape(names[row])}</bdi></th>'
        lines.append(f"<tr>{name}{''.join(cells)}</tr>")
    words = "Number of images; rows: their label, columns: what is predicted"
    return (
        '<div class="wide" role="region" tabindex="0" aria-label="Confusion matrix">'
        f'<table class="matrix" aria-label="{words}"><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
