"""Pictures of the model's experiments; pyplot's global figures are not used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thanos_jax.report.plots import INK, PALETTE, dress

_COLORS = _CLASS, _SUBCLASS = PALETTE[0], PALETTE[2]
_FEATURES = ("class $|Wv_1|$", "subclass $|Wv_2|$")


def learned_then_unlearned(curves: Mapping[str, Any], *, steps: int) -> Figure:
    """Draws |W v_1| and |W v_2| against the step of supervised descent, a panel for each curve.

    Args:
      curves: title -> |W v_k| after each step, [s, K].
      steps: largest number of steps shown.

    Source: Xue et al., ICML 2023, https://arxiv.org/abs/2305.16536
    """
    figure, grid = _panels(len(curves))
    for axes, (title, lengths) in zip(grid, curves.items(), strict=True):
        shown = np.asarray(lengths)[: steps + 1].T
        for color, name, values in zip(_COLORS, _FEATURES, shown, strict=False):
            axes.plot(values, color=color, label=name)
        _dress(axes, title, "step")
    grid[0].legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def suppression(
    sweeps: Mapping[str, tuple[Sequence[float], Mapping[str, Any]]],
    thresholds: Mapping[str, float],
) -> Figure:
    """Draws |W v_1| of minimizers against phi_k, a panel for each number of features.

    Args:
      sweeps: title -> (strengths [s], name of the loss -> |W v_k| [s, K]).
      thresholds: title -> the strength from which v_1 is expected to be lost.

    Source: Xue et al., ICML 2023
    """
    figure, grid = _panels(len(sweeps))
    # Filled and open markers, because the two losses agree below the threshold.
    looks: tuple[dict[str, Any], ...] = (
        {"color": _SUBCLASS, "markersize": 3},
        {"color": _CLASS, "markersize": 5, "markerfacecolor": "none"},
    )
    for axes, (title, (strengths, losses)) in zip(grid, sweeps.items(), strict=True):
        axes.axvline(thresholds[title], color=INK, linestyle=":", linewidth=1.0)
        for (name, lengths), look in zip(losses.items(), looks, strict=True):
            axes.plot(strengths, np.asarray(lengths)[:, 0], "o-", linewidth=1.2, label=name, **look)
        _dress(axes, title, r"$\phi_k$, dotted: $\phi_1\sqrt{K-2}$")
        axes.set_ylabel(_FEATURES[0], color=INK, fontsize=9)
    grid[0].legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def joint(sweeps: Mapping[str, tuple[Sequence[float], Any]]) -> Figure:
    """Draws |W v_1| and |W v_2| of the joint loss's minimizer against beta.

    Args:
      sweeps: title -> (betas [b], |W v_k| [b, K]).

    Source: Xue et al., ICML 2023
    """
    figure, grid = _panels(len(sweeps))
    for axes, (title, (betas, lengths)) in zip(grid, sweeps.items(), strict=True):
        for color, name, values in zip(_COLORS, _FEATURES, np.asarray(lengths).T, strict=False):
            axes.plot(betas, values, "o-", color=color, markersize=3, linewidth=1.2, label=name)
        _dress(axes, title, r"$\beta$: 0 unsupervised, 1 supervised")
    grid[0].legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower center")
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    lines = math.ceil(count / 2)
    figure = Figure(figsize=(7.2, 2.6 * lines), dpi=160, layout="constrained")
    grid = list(figure.subplots(lines, 2, squeeze=False, sharey=True).flat)
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid[:count]


def _dress(axes: Axes, title: str, below: str) -> None:
    dress(axes)
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.set_xlabel(below, color=INK, fontsize=9)
