"""Draws the pictures of a run from arrays, without pyplot's global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thanos_jax.checks import check_labels
from thanos_jax.downstream.arrays import check_embeddings
from thanos_jax.report.captions import HOW_TO_READ as HOW_TO_READ

# Text and axes. A grey that occurs nowhere else, so that the report can replace it by the page's
# text colour.
INK = "#454647"
# Inches. Narrow, so that text stays legible where the report shrinks a figure to a phone's width.
WIDTH = 5.6
# Made for colour-blind readers: M. A. Petroff, "Accessible Color Sequences for Data Visualization",
# arXiv 2107.02270, the ten-colour sequence. All ten show on white and on dark grey.
PALETTE = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)

_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss", "cross_entropy", "contrastive", "reconstruction")),
    (
        "accuracy",
        (
            *("coarse_accuracy", "validation_coarse_accuracy", "validation_fine_accuracy"),
            "validation_worst_group_accuracy",
        ),
    ),
    ("largest weight of a group", ("largest_group_weight",)),
    ("collapse index", ("validation_collapse_index",)),
    ("gradient norm", ("gradient_norm",)),
    ("learning rate", ("learning_rate",)),
)


def curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws losses, accuracies, gradient norm and learning rate against the step.

    Args:
      records: lines of metrics.jsonl, each with "step". A name that a record lacks, or whose value
        is None or not finite, is left out at that step; a panel without any value is left out.

    Returns:
      The figure, with one panel above the other.

    Raises:
      ValueError: a record without "step".
    """
    for number, record in enumerate(records):
        if "step" not in record:
            raise ValueError(f"records[{number}]: expected a key 'step', got {sorted(record)}")
    panels = []
    for title, names in _PANELS:
        series = {name: values for name in names if (values := _series(records, name))}
        if series:
            panels.append((title, series))
    figure = Figure(figsize=(WIDTH, max(1.0, 0.4 + 1.9 * len(panels))), layout="constrained")
    if not panels:
        figure.text(0.5, 0.5, "No metrics were recorded.", ha="center", va="center", color=INK)
        return figure
    every_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, series) in zip(every_axes, panels, strict=True):
        for color, (name, values) in zip(PALETTE, series.items(), strict=False):
            line = "--" if name.startswith("validation") else "-"
            marker = "o" if line == "--" or len(values) == 1 else None  # a lone value has no line
            axes.plot(
                *zip(*values, strict=True), line, marker=marker, markersize=3, color=color,
                linewidth=1.4, label=name.replace("_", " "),
            )  # fmt: skip
        heights = [y for values in series.values() for _, y in values]
        if title == "gradient norm" and 0 < 10 * min(heights) < max(heights):
            axes.set_yscale("log")
        else:
            axes.ticklabel_format(axis="y", scilimits=(-3, 5))
        dress(axes)
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        if len(series) > 1:
            # Beside the title; smaller for long names, which would run into it.
            size = 8 if sum(map(len, series)) < 60 else 6.5
            axes.legend(
                loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2, ncols=len(series),
                columnspacing=1.0, handlelength=1.4, frameon=False, fontsize=size, labelcolor=INK,
            )  # fmt: skip
    every_axes[-1].set_xlabel("step", color=INK, fontsize=9)
    return figure


def embedding_map(points: Any, labels: Any, names: Sequence[str], title: str) -> Figure:
    """Draws points of the plane, coloured by label.

    Up to 10 names use a palette for colour-blind readers, up to 20 matplotlib's tab20. More names
    use a continuous colour map, with a colour bar in place of the legend.

    Args:
      points: floating point [n, 2], for instance from `project`.
      labels: integer [n], indices of `names`.
      names: of the labels.
      title: what the colours mean.

    Returns:
      The figure; above 3,000 points its dots are rasterized, also in SVG.

    Raises:
      TypeError: points are not floating point, or labels not integers.
      ValueError: a wrong shape, points not finite, or a label without a name.
    """
    points = _checked_points(points)
    labels = check_labels(labels, "labels", length=len(points), num_classes=len(names))
    by_label = colors(len(names))
    figure = Figure(figsize=(WIDTH, 5.2), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    size = min(14.0, max(1.5, 2e4 / len(points)))
    axes.scatter(
        points[:, 0], points[:, 1], c=by_label[labels], s=size, alpha=0.85, linewidths=0,
        rasterized=len(points) > 3000,
    )  # fmt: skip
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", fontsize=10, color=INK, parse_math=False)
    if len(names) <= 20:
        dots = [
            Line2D([], [], linestyle="", marker="o", markersize=6, color=color)
            for color in by_label
        ]
        legend_below(figure, dots, names, columns=4, fontsize=9, handletextpad=0.1)
    else:
        mappable = matplotlib.cm.ScalarMappable(
            matplotlib.colors.Normalize(0, len(names) - 1), matplotlib.colormaps["turbo"]
        )
        bar = figure.colorbar(mappable, ax=axes, location="bottom", shrink=0.6, aspect=40, pad=0.02)
        bar.set_label(f"number of the label (of {len(names)})", color=INK, fontsize=9)
        bar.ax.tick_params(colors=INK, labelsize=8)
        bar.outline.set_visible(False)
    return figure


def maps_beside(
    points: Mapping[str, Any],
    labels: Mapping[str, Any],
    names: Sequence[str],
    meaning: str = "",
    columns: int = 2,
) -> Figure:
    """Draws maps side by side, all at one scale.

    Args:
      points: title -> floating point [m, 2], at least one.
      labels: title -> integer [m], indices of names.
      names: of the labels.
      meaning: what the colours mean, added to the titles; "" for nothing.
      columns: number of maps in a line.

    Raises:
      TypeError, ValueError: as `embedding_map`.
    """
    lines, by_label = math.ceil(len(points) / columns), colors(len(names))
    checked = {title: _checked_points(one) for title, one in points.items()}
    reach = 0.53 * np.max([np.ptp(one, axis=0) for one in checked.values()], axis=0)
    reach = np.maximum(reach, max(0.2 * float(reach.max()), 1e-6))
    width = 1.6 * WIDTH
    height = lines * (width / columns * float(reach[1] / reach[0]) + 0.3) + 0.5
    figure = Figure(figsize=(width, height), dpi=200, layout="constrained")
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, (title, xy) in zip(grid, checked.items(), strict=False):
        shown = check_labels(labels[title], "labels", length=len(xy), num_classes=len(names))
        axes.scatter(
            xy[:, 0], xy[:, 1], c=by_label[shown], s=min(14.0, max(1.5, 2e4 / len(xy))),
            alpha=0.85, linewidths=0, rasterized=len(xy) > 3000,
        )  # fmt: skip
        centre = (xy.max(axis=0) + xy.min(axis=0)) / 2
        axes.set_aspect("equal")
        axes.set_xlim(centre[0] - reach[0], centre[0] + reach[0])
        axes.set_ylim(centre[1] - reach[1], centre[1] + reach[1])
        title = f"{title}, by {meaning}" if meaning else title
        axes.set_title(title, fontsize=10, color=INK, parse_math=False)
    if len(names) <= 20:
        dots = [
            Line2D([], [], linestyle="", marker="o", markersize=6, color=color)
            for color in by_label
        ]
        legend_below(figure, dots, names, columns=10, fontsize=9, handletextpad=0.1)
    return figure


def reconstructions(inputs: Any, outputs: Any) -> Figure:
    """Draws images and, under each, its reconstruction.

    Args:
      inputs: numbers [k, h, w, c] in [0, 1], c = 1 or 3; values outside are clipped.
      outputs: reconstructions, of the same shape.

    Returns:
      The figure, six images a line.

    Raises:
      ValueError: a wrong shape, or shapes that differ.
    """
    inputs, outputs = _checked_images(inputs, "inputs"), np.asarray(outputs, np.float32)
    if outputs.shape != inputs.shape:
        raise ValueError(f"outputs: expected the inputs' shape {inputs.shape}, got {outputs.shape}")
    count, height, width, _ = inputs.shape
    columns, side = min(6, count), WIDTH / 6
    lines = math.ceil(count / columns)
    figure = Figure(
        figsize=(side * columns + 0.2, lines * 2 * side * min(height / width, 3.0) + 0.1),
        layout="constrained",
    )
    grid = figure.subplots(2 * lines, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for below, (word, pictures) in enumerate((("input", inputs), ("output", outputs))):
        rows = grid[below::2]
        for axes, picture in zip(rows.flat, pictures, strict=False):
            _show(axes, picture)
        for axes in rows[:, 0]:
            axes.text(
                -0.06, 0.5, word, rotation=90, ha="right", va="center", fontsize=8, color=INK,
                transform=axes.transAxes,
            )  # fmt: skip
    return figure


def group_bars(
    names: Sequence[str],
    accuracies: Sequence[float],
    *,
    average: float,
    meaning: str = "accuracy in per cent",
) -> Figure:
    """Draws a bar for the accuracy of each group, and a line at the average accuracy.

    Args:
      names: of the groups, from top to bottom.
      accuracies: of the groups, fractions of 1.
      average: over all images, a fraction of 1.
      meaning: label of the axis, if the bars do not show accuracies.

    Returns:
      The figure; the lowest bar has another colour.

    Raises:
      ValueError: no groups, or different numbers of names and accuracies.
    """
    if not len(names) == len(accuracies) > 0:
        raise ValueError(
            f"accuracies: expected one for each name, and at least one, got {len(accuracies)} for "
            f"{len(names)} names"
        )
    figure = Figure(figsize=(WIDTH, 0.8 + 0.3 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(names))
    worst = int(np.argmin(accuracies))
    percent = 100 * np.asarray(accuracies, np.float64)
    axes.barh(
        places, percent, color=[PALETTE[2] if place == worst else PALETTE[0] for place in places]
    )
    for place, value in zip(places, percent, strict=True):
        axes.text(102, float(place), f"{value:.1f}", va="center", fontsize=8, color=INK)
    axes.axvline(100 * average, color=INK, linestyle="--", linewidth=1)
    dress(axes)
    axes.set_yticks(places, list(names), parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(meaning, color=INK, fontsize=9)
    return figure


def contingency(
    true_groups: Any, recovered: Any, true_names: Sequence[str], recovered_names: Sequence[str]
) -> Figure:
    """Draws the contingency table of true and recovered groups, darker for a larger share of a row.

    Args:
      true_groups: integer [n], indices of true_names.
      recovered: integer [n], indices of recovered_names.
      true_names: of the rows.
      recovered_names: of the columns.

    Returns:
      The figure; counts are written into its cells where there are at most 12 columns.

    Raises:
      TypeError: labels are not integers.
      ValueError: a wrong shape, or a label without a name.
    """
    length = np.size(true_groups)
    rows = check_labels(true_groups, "true_groups", length=length, num_classes=len(true_names))
    columns = check_labels(recovered, "recovered", length=length, num_classes=len(recovered_names))
    counts = np.zeros((len(true_names), len(recovered_names)), np.int64)
    np.add.at(counts, (rows, columns), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(WIDTH, 1.2 + 0.34 * len(true_names)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="none")
    if len(recovered_names) <= 12:
        for (row, column), count in np.ndenumerate(counts):
            ink = "white" if shares[row, column] > 0.5 else "#333333"
            axes.text(column, row, f"{count}", ha="center", va="center", fontsize=8, color=ink)
    dress(axes)
    axes.grid(visible=False)
    axes.set_yticks(range(len(true_names)), list(true_names), parse_math=False)
    axes.set_xticks(
        range(len(recovered_names)), list(recovered_names), rotation=90, parse_math=False
    )
    axes.set_xlabel("recovered group", color=INK, fontsize=9)
    axes.set_ylabel("true group", color=INK, fontsize=9)
    return figure


def suspicion(values: Any, wrong: Any) -> Figure:
    """Draws histograms of suspicion for right and for wrong labels.

    Args:
      values: floating point [n], in [0, 1].
      wrong: bool [n].

    Returns:
      The figure. Each histogram sums to 100 per cent; one without labels is left out.

    Raises:
      ValueError: values and wrong have different or wrong shapes, or wrong is not bool.
    """
    values, wrong = np.asarray(values, np.float64), np.asarray(wrong)
    if values.ndim != 1 or wrong.shape != values.shape or wrong.dtype != np.bool_:
        raise ValueError(
            f"wrong: expected bool [n] for values [n], got {wrong.dtype} {wrong.shape} for "
            f"{values.shape}"
        )
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    axes = figure.add_subplot()
    for name, chosen, color in (("right", ~wrong, PALETTE[0]), ("wrong", wrong, PALETTE[2])):
        count = int(np.count_nonzero(chosen))
        if count:
            axes.hist(
                values[chosen],
                bins=np.linspace(0, 1, 41).tolist(),
                weights=np.full(count, 100 / count),
                color=color,
                alpha=0.6,
                label=f"{count:,} {name} labels",
            )
    dress(axes)
    axes.set_xlabel("suspicion", color=INK, fontsize=9)
    axes.set_ylabel("per cent", color=INK, fontsize=9)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def _checked_images(images: Any, name: str) -> np.ndarray:
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"{name}: expected [k, h, w, 1 or 3], got shape {images.shape}")
    return images


def _checked_points(points: Any) -> np.ndarray:
    points = check_embeddings(points, "points")
    if points.shape[1] != 2:
        raise ValueError(f"points: expected [n, 2], got shape {points.shape}")
    return points


def _show(axes: Axes, image: np.ndarray) -> None:
    image = np.clip(np.nan_to_num(image), 0, 1)
    image = image.squeeze(2) if image.shape[2] == 1 else image
    # "none" keeps the image's own pixels in SVG.
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="none")


def _series(records: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    found = ((record["step"], record.get(name)) for record in records)
    return [(step, y) for step, y in found if y is not None and math.isfinite(y)]


def colors(count: int) -> np.ndarray:
    """Returns the colours of `count` labels, RGBA [count, 4]."""
    if count <= len(PALETTE):
        return np.array([to_rgba(color) for color in PALETTE[:count]])
    if count <= 20:
        return matplotlib.colormaps["tab20"](np.arange(count))
    return matplotlib.colormaps["turbo"](np.linspace(0, 1, count))


def legend_below(
    figure: Figure, handles: Sequence[Any], names: Sequence[Any], *, columns: int, **look: Any
) -> None:
    """Puts a legend of at most `columns` columns below a figure; names are shown verbatim."""
    # Older matplotlib leaves out labels that begin with an underscore.
    labels = [f" {name}" if str(name).startswith("_") else str(name) for name in names]
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=min(columns, len(labels)),
        frameon=False, labelcolor=INK, **look,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def dress(axes: Axes) -> None:
    """Gives axes the common style: a light grid, and text in `INK`."""
    axes.tick_params(which="both", colors=INK, labelsize=8)
    axes.yaxis.get_offset_text().set(color=INK, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.grid(color="#808080", alpha=0.25, linewidth=0.5)
