"""Pictures of the predictions; pyplot's global figures are not used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thanos_jax.report.plots import INK, PALETTE, dress

_SPREAD = "within-class spread $W$"


def spread(curves: Mapping[str, Mapping[str, Any]], weights: Sequence[float], name: str) -> Figure:
    """Draws W against the weight, a panel for each number of classes.

    Args:
      curves: title of a panel -> name of a curve -> W [len(weights)].
      weights: alphas or betas.
      name: "alpha" or "beta".
    """
    figure, grid = _panels(len(curves))
    for axes, (title, by_name) in zip(grid, curves.items(), strict=True):
        _lines(axes, weights, by_name)
        _dress(axes, title, f"$\\{name}$", _SPREAD)
        axes.set_ylim(-0.03, 1.03)
    _legend(grid[0])
    return figure


def thresholds(classes: Sequence[int], curves: Mapping[str, Any], name: str) -> Figure:
    """Draws the threshold against the number of classes.

    Args:
      classes: numbers of classes, ascending.
      curves: name of a curve -> thresholds [len(classes)].
      name: "alpha" or "beta".
    """
    figure, (axes,) = _panels(1)
    _lines(axes, classes, curves)
    axes.set_xscale("log")
    side = "at and below" if name == "alpha" else "at and above"
    _dress(axes, f"class collapse {side} the threshold", "classes", f"$\\{name}$")
    _legend(axes, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def ranges(found: Mapping[str, Mapping[str, Any]], name: str) -> Figure:
    """Draws the weights at which sets beat collapse and the uniform set, against their spread.

    Args:
      found: title of a panel -> "spread" [s], "low" [s], "high" [s], and "best" [s], the weight
        whose minimum has this spread.
      name: "alpha" or "beta".
    """
    figure, grid = _panels(len(found))
    for axes, (title, values) in zip(grid, found.items(), strict=True):
        w = values["spread"]
        axes.fill_between(
            w, values["low"], values["high"], color=PALETTE[0], alpha=0.3, linewidth=0
        )
        axes.plot(w, values["low"], color=PALETTE[0], label="as good as collapse")
        axes.plot(w, values["high"], color=PALETTE[1], label="as good as uniform")
        axes.plot(
            w, values["best"], color=PALETTE[2], linestyle="--", label="better than all others"
        )
        _dress(axes, title, _SPREAD, f"$\\{name}$")
        axes.set_ylim(-0.03, 1.03)
    _legend(grid[0])
    return figure


def measured(panels: Mapping[str, Any], name: str) -> Figure:
    """Draws measured W on predicted curves, a panel for each folder of runs.

    Args:
      panels: title -> "weights" [s]; "curves", name -> W [s]; "points", name of a curve -> list of
        (weight, measured W).
      name: "alpha" or "beta".
    """
    figure, grid = _panels(len(panels))
    for axes, (title, values) in zip(grid, panels.items(), strict=True):
        _lines(axes, values["weights"], values["curves"])
        for color, points in zip(_colors(), values["points"].values(), strict=False):
            axes.plot(*zip(*points, strict=True), "o", color=color, markersize=4.5)
        _dress(axes, f"{title}: predicted, and measured (dots)", f"$\\{name}$", _SPREAD)
        axes.set_ylim(-0.03, 1.03)
        _legend(axes)
    return figure


def _colors() -> tuple[str, ...]:
    return (*PALETTE[:3], *PALETTE[4:])  # without the grey


def _lines(axes: Axes, x: Sequence[float], curves: Mapping[str, Any]) -> None:
    for color, (name, values) in zip(_colors(), curves.items(), strict=False):
        axes.plot(x, np.asarray(values), color=color, linewidth=1.4, label=name)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(count, 2)
    lines = math.ceil(count / columns)
    size = (3.8 * columns, 2.8 * lines)
    figure = Figure(figsize=size, dpi=160, layout="constrained")
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid[:count]


def _dress(axes: Axes, title: str, below: str, beside: str) -> None:
    dress(axes)
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.set_xlabel(below, color=INK, fontsize=9)
    axes.set_ylabel(beside, color=INK, fontsize=9)


def _legend(axes: Axes, **place: Any) -> None:
    axes.legend(frameon=False, fontsize=7, labelcolor=INK, **place)
