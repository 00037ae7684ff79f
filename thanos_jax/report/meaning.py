"""Explains a run's collapse index in words: whether classes have collapsed, and what to change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

# Shares of the variance within coarse classes. Below the first, the images of a class hardly differ
# in distance; above the second, class means hardly differ.
COLLAPSED, PAST = 0.2, 0.9
# config.method -> the key that spreads its classes, its direction for more spread, and for less.
_KEYS = {
    "spread": ("loss.alpha", "higher", "lower"),
    "thanos": ("loss.alpha", "higher", "lower"),
    "joint": ("loss.beta", "lower", "higher"),
}

STYLE = """
.gauge, .gauge i { print-color-adjust: exact; }
.gauge { position: relative; max-width: 26rem; margin: .8rem 0 .3rem; height: .8rem;
  border-radius: .4rem; border: 1px solid var(--line);
  background: linear-gradient(90deg, #bd1f01 0 20%, #3f90da 20% 90%, #ffa90e 90%); }
.gauge i { position: absolute; top: -.35rem; width: .3rem; height: 1.4rem; margin-left: -.15rem;
  background: var(--text); border: 1px solid var(--page); border-radius: .15rem; }
.gauge i.predicted { background: none; border: 2px solid var(--text); height: 1.1rem; top: -.2rem; }
.gauge-ends { display: flex; justify-content: space-between; max-width: 26rem; font-size: .85rem;
  color: var(--quiet); }
"""


def collapse(results: Mapping[str, Any]) -> str:
    """Returns a gauge of collapse and its explanation as HTML; empty if nothing was measured.

    Args:
      results: the content of results.json. The predicted spread,
        `predicted_within_class_spread` in the section `spread`, is shown if it is there.
    """
    test = results.get("geometry", {}).get("test", {})
    index, within = test.get("collapse_index"), test.get("within_class_spread")
    if not isinstance(index, float) or not math.isfinite(index):
        return ""
    predicted = results.get("spread", {}).get("predicted_within_class_spread")
    marks = [f'<i style="left:{100 * min(1, max(0, index)):.1f}%"></i>']
    lines = sentences(results)
    words = f"collapse index {index:.2f}; 0: collapsed, 1: class means coincide"
    if isinstance(predicted, float) and math.isfinite(predicted):
        # For embeddings of length 1 and mean 0, spreads within and between classes add up to 1.
        place = 100 * min(1, max(0, predicted))
        marks.append(f'<i class="predicted" style="left:{place:.1f}%"></i>')
        lines.append(
            "The contrastive loss alone leads to a spread within classes of "
            f"{predicted:.2f} (hollow mark); measured on test images: {within:.2f}."
        )
    return (
        f'<div class="gauge" role="img" aria-label="{words}">{"".join(marks)}</div>'
        '<div class="gauge-ends" aria-hidden="true"><span>collapsed</span><span>balanced</span>'
        "<span>spread past its classes</span></div>"
        f"<p>{escape(' '.join(lines))}</p>"
    )


def sentences(results: Mapping[str, Any]) -> list[str]:
    """Returns sentences on the collapse index of the test split, and the key to change."""
    index = results["geometry"]["test"]["collapse_index"]
    share = f"{100 * index:.0f} % of the variance of the test embeddings lies within coarse classes"
    method = results.get("method", "")
    key, more, less = _KEYS.get(method, ("", "", ""))
    if index < COLLAPSED:
        turn = (
            f"a {more} {key} spreads them"
            if key
            else "config.method 'spread' or 'thanos' spreads them"
        )
        found = [f"The classes have collapsed, or nearly: {share}; {turn}."]
    elif index > PAST:
        turn = f"a {less} {key} draws them together" if key else "longer training may part them"
        found = [f"The embedding is spread past its classes: {share}; {turn}."]
    else:
        found = [f"The classes are spread and apart: {share}."]
    accuracy, ceiling = (results.get(f"fine_accuracy{end}") for end in ("", "_collapsed"))
    if accuracy is not None and ceiling is not None:
        found.append(
            f"Fine labels are predicted from it for {100 * accuracy:.1f} % of the images; an "
            f"embedding whose classes are points allows {100 * ceiling:.1f} %."
        )
    return found
