"""Pictures of the model; none of them touches pyplot's global figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thanos_jax.report.plots import INK, PALETTE

_CLASS, _SUBCLASS = PALETTE[0], PALETTE[2]


def learned_then_unlearned(curves: Mapping[str, Any], *, steps: int) -> Figure:
    """Draws |W v_1| and |W v_2| against the step of supervised descent, a panel for each curve.

    Args:
      curves: by title, |W v_k| of the steps, [s, K].
      steps: how many steps are shown, at most.

    Returns:
      The figure.

    Source: Xue et al., ICML 2023, https://arxiv.org/abs/2305.16536
    """
    figure, grid = _panels(len(curves), columns=2)
    for axes, (title, lengths) in zip(grid, curves.items(), strict=True):
        lengths = np.asarray(lengths)[: steps + 1]
        axes.plot(lengths[:, 0], color=_CLASS, label="class $|Wv_1|$")
        axes.plot(lengths[:, 1], color=_SUBCLASS, label="subclass $|Wv_2|$")
        _dress(axes, title, "step")
    grid[0].legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def suppression(
    sweeps: Mapping[str, tuple[Sequence[float], Mapping[str, Any]]],
    thresholds: Mapping[str, float],
) -> Figure:
    """Draws |W v_1| of minimizers against phi_k, a panel for each number of features.

    Args:
      sweeps: by title, strengths [s] and, by name of the loss, |W v_k| [s, K].
      thresholds: by title, the strength from which v_1 is expected to be lost.

    Returns:
      The figure.

    Source: Xue et al., ICML 2023
    """
    figure, grid = _panels(len(sweeps), columns=2)
    for axes, (title, (strengths, losses)) in zip(grid, sweeps.items(), strict=True):
        axes.axvline(thresholds[title], color=INK, linestyle=":", linewidth=1.0)
        # Filled and open: the two losses agree below the threshold.
        for (name, lengths), color, face in zip(
            losses.items(), (_SUBCLASS, _CLASS), (_SUBCLASS, "none"), strict=True
        ):
            axes.plot(
                strengths,
                np.asarray(lengths)[:, 0],
                color=color,
                marker="o",
                markerfacecolor=face,
                markersize=5 if face == "none" else 3,
                linewidth=1.2,
                label=name,
            )
        _dress(axes, title, r"$\phi_k$, dotted: $\phi_1\sqrt{K-2}$")
        axes.set_ylabel("class $|Wv_1|$", color=INK, fontsize=9)
    grid[0].legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def joint(sweeps: Mapping[str, tuple[Sequence[float], Any]]) -> Figure:
    """Draws |W v_1| and |W v_2| of the joint loss's minimizer against beta.

    Args:
      sweeps: by title, betas [b] and |W v_k| [b, K].

    Returns:
      The figure.

    Source: Xue et al., ICML 2023
    """
    figure, grid = _panels(len(sweeps), columns=2)
    for axes, (title, (betas, lengths)) in zip(grid, sweeps.items(), strict=True):
        lengths = np.asarray(lengths)
        for feature, color, name in ((0, _CLASS, "class"), (1, _SUBCLASS, "subclass")):
            axes.plot(
                betas,
                lengths[:, feature],
                color=color,
                marker="o",
                markersize=3,
                linewidth=1.2,
                label=f"{name} $|Wv_{feature + 1}|$",
            )
        _dress(axes, title, r"$\beta$: 0 unsupervised, 1 supervised")
    grid[0].legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower center")
    return figure


def _panels(count: int, *, columns: int) -> tuple[Figure, list[Axes]]:
    lines = -(-count // columns)
    figure = Figure(figsize=(3.6 * columns, 2.6 * lines), dpi=160, layout="constrained")
    grid = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid[:count]


def _dress(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.set_xlabel(below, color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.grid(color="#808080", alpha=0.25, linewidth=0.5)
