"""Presents the results of benchmarks/pairwise.py: a table and a figure."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pairwise_candidates import find

TOLERANCE = 1e-4  # of value and gradient against the definition
AGREEMENT = "value and gradient"

Row = Mapping[str, Any]


def errors(
    found: tuple[float, np.ndarray], expected: tuple[float, np.ndarray]
) -> tuple[float, float]:
    """Returns the relative errors of a value, and of a gradient (relative to its largest entry)."""
    value = abs(found[0] - expected[0]) / max(1.0, abs(expected[0]))
    gradient = np.max(np.abs(found[1] - expected[1])) / np.max(np.abs(expected[1]))
    return float(value), float(gradient)


def agreement(row: Row) -> str:
    """Returns whether a row computes the definition: "same", "unchecked", or how it differs."""
    if row["computes"]:
        return "another function"
    if row["value_error"] is None:
        return "unchecked"
    value, gradient = row["value_error"], row["gradient_error"]
    # Comparisons with NaN are False, so NaN counts as different.
    if value <= TOLERANCE and gradient <= TOLERANCE:
        return "same"
    return f"DIFFERS: value by {value:.0e}, gradient by {gradient:.0e}"


def finish(rows: Sequence[dict[str, Any]], rates: Mapping[str, float]) -> None:
    """Adds quartiles, the share of the floor and relative speeds to each row that ran.

    Args:
      rows: the rows of one number of entries.
      rates: dtype -> FLOP/s of this machine's matrix products.
    """
    ran = [row for row in rows if row["status"] == "ok"]
    for row in ran:
        row["quartile_seconds"] = np.percentile(row["seconds"], [25, 50, 75]).tolist()
        row["median_seconds"] = row["quartile_seconds"][1]
        row["agreement"] = agreement(row)
    for row in ran:
        flops = 4.0 * row["entries"] ** 2 * row["dim"]
        row["floor_seconds"] = {dtype: flops / rate for dtype, rate in rates.items()}
        row["percent_of_floor"] = {
            dtype: 100 * floor / row["median_seconds"]
            for dtype, floor in row["floor_seconds"].items()
        }
        row["times_as_fast_as"] = {
            other["candidate"]: other["median_seconds"] / row["median_seconds"] for other in ran
        }


def table(results: Mapping[str, Any]) -> str:
    """Returns the results as plain text: the measurements, then the relative speeds."""
    settings, machine, rows = results["settings"], results["machine"], results["rows"]
    ran = [row for row in rows if row["status"] == "ok"]
    text = [
        f"{settings['loss']}: value and gradient, float32, dim {settings['dim']}, "
        f"temperature {settings['temperature']:g}, {settings['classes']} classes, two views",
        f"{machine['device_kind']} ({machine['platform']}); {machine['processor']}, "
        f"{machine['cores']} cores, load average {machine['load_before']:.1f} before the run",
        *_products(results["matrix_product"]),
        *(f"the environment has {name}={value}" for name, value in machine["environment"].items()),
        *(["BUSY: others used the machine before the run; threads that wait for each other suffer "
           "most, so the ratios are not to be trusted"] if _busy(machine) else []),
        f"{settings['repeats']} calls each, "
        + ("in turns" if results["in_turns"] else "one candidate after another"),
        "",
        *_aligned(*_measurements(rows, list(results["matrix_product"][0]["jax before"]))),
        "",
        "% of floor: 100 is 4 N^2 dim FLOPs at the rate of jax's matrix product, the mean of "
        "before and after each size. Peak: bytes above the inputs, as",
        "benchmarks/pairwise_worker.py measures them ("
        + "; ".join(dict.fromkeys(row["peak_bytes_are"] for row in ran))
        + f"). same: within {TOLERANCE:g} of the definition.",
    ]  # fmt: skip
    computes = {row["candidate"]: row["computes"] for row in ran if row["computes"]}
    text += [f"{name} computes another function: {what}." for name, what in computes.items()]
    if len(ran) > 1:
        text += ["", "Times as fast as", *_aligned(*_speeds(ran))]
    return "\n".join(text)


def _products(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line for each library and dtype: the rates over all sizes."""
    lines = []
    for library in measured[0]:
        for dtype in measured[0][library] if library != "entries" else ():
            rates = [one[library][dtype] / 1e9 for one in measured]
            span = f"{min(rates):.0f} to {max(rates):.0f} GFLOP/s"
            lines.append(f"matrix product in {dtype}, {library}: {span}")
    return lines


def _busy(machine: Mapping[str, Any]) -> bool:
    return machine["load_before"] > 0.5 * machine["cores"]


def _measurements(rows: Sequence[Row], dtypes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    titles = [
        "N", "candidate", "ms, median", "quartiles", "peak MB", "XLA temp MB",
        *(f"% of floor, {dtype}" for dtype in dtypes), "cores busy", AGREEMENT,
    ]  # fmt: skip
    lines = []
    for row in rows:
        start = [str(row["entries"]), row["candidate"]]
        if row["status"] != "ok":
            lines.append([*start, row["status"]])
            continue
        low, median, high = (_number(1e3 * seconds) for seconds in row["quartile_seconds"])
        shares = (f"{row['percent_of_floor'][dtype]:.1f}" for dtype in dtypes)
        memory = [_megabytes(row["peak_bytes"]), _megabytes(row["xla_temp_bytes"])]
        cores = f"{row['cores_busy']:.2f}"
        lines.append([*start, median, f"{low}-{high}", *memory, *shares, cores, row["agreement"]])
    return titles, lines


def _speeds(ran: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    others = list(dict.fromkeys(row["candidate"] for row in ran))
    lines = []
    for row in ran:
        speeds = (row["times_as_fast_as"].get(name) for name in others)
        cells = ("" if speed is None else f"{speed:.3g}" for speed in speeds)
        lines.append([str(row["entries"]), row["candidate"], *cells])
    return ["N", "candidate", *(find(name).short for name in others)], lines


def _aligned(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Aligns words left, numbers right; the last cell of a shorter line may be wider."""
    whole = [line for line in lines if len(line) == len(titles)]
    widths = [
        max(len(line[column]) for line in [titles, *(lines if column < 2 else whole)])
        for column in range(len(titles))
    ]
    text = []
    for line in [titles, *lines]:
        last = len(line) - 1 if len(line) < len(titles) or titles[-1] == AGREEMENT else len(line)
        cells = [
            cell.ljust(widths[column]) if column in (1, last) else cell.rjust(widths[column])
            for column, cell in enumerate(line)
        ]
        text.append("  ".join(cells).rstrip())
    return text


def _number(value: float) -> str:
    return f"{value:.4g}" if value < 1e4 else f"{value:.0f}"


def _megabytes(amount: int | None) -> str:
    return "" if amount is None else f"{amount / 1e6:.1f}"


def plot(results: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draws time, with quartiles and floor, and memory over the number of entries, log-log."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    settings, machine = results["settings"], results["machine"]
    ran = [row for row in results["rows"] if row["status"] == "ok"]
    figure, (times, memory) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    sizes = sorted({row["entries"] for row in ran})
    floors = {row["entries"]: row["floor_seconds"] for row in ran}
    for dtype in ran[0]["floor_seconds"]:
        floor = [1e3 * floors[size][dtype] for size in sizes]
        dashes = {"float32": "--", "bfloat16": ":"}[dtype]
        times.plot(sizes, floor, dashes, color="black", label=f"floor, {dtype} matrix product")
    for index, name in enumerate(dict.fromkeys(row["candidate"] for row in results["rows"])):
        rows = sorted((r for r in ran if r["candidate"] == name), key=lambda row: row["entries"])
        if not rows:
            continue
        marks = {row["agreement"].partition(":")[0] for row in rows} - {"same", "unchecked"}
        label = f"{name} ({', '.join(sorted(marks))})" if marks else name
        style: dict[str, Any] = {
            "color": f"C{index}",
            "marker": "osD^vPX*"[index % 8],
            "markersize": 5,
        }
        low, median, high = 1e3 * np.array([row["quartile_seconds"] for row in rows]).T
        times.errorbar(
            [row["entries"] for row in rows], median, [median - low, high - median],
            label=label, capsize=3, **style,
        )  # fmt: skip
        known = [row for row in rows if row["peak_bytes"]]
        if known:
            peaks = [row["peak_bytes"] / 1e6 for row in known]
            memory.plot([row["entries"] for row in known], peaks, label=label, **style)
    for axes, title in (
        (times, "milliseconds, median and quartiles"),
        (memory, "peak memory above the inputs, MB"),
    ):
        axes.set(xlabel="entries N", title=title)
        if not axes.has_data():  # all sizes were too small to measure
            continue
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.suptitle(
        f"{settings['loss']}, value and gradient, dim {settings['dim']}: "
        f"{machine['device_kind'] if machine['platform'] != 'cpu' else machine['processor']}",
        fontsize=11,
    )
    figure.legend(*times.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=150)
    plt.close(figure)
