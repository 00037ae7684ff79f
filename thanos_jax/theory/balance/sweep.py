"""The command's results: spread, thresholds and ranges over classes and temperatures, and pictures.

Finished runs are compared with their predictions.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from thanos_jax.theory.balance import figures, weights
from thanos_jax.theory.balance.batches import BalanceError
from thanos_jax.theory.balance.claim import uniform_spread, winning_range
from thanos_jax.theory.balance.predictions import alpha_for, threshold, within_class_spread
from thanos_jax.workdir import write_atomically

# Weights of the printed tables, and the finer grids of the pictures.
TABLE = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_FINE = tuple(np.linspace(0.0, 1.0, 61).tolist())
_CLASSES = (2, 3, 4, 5, 7, 10, 14, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)
# The W for which the command reports the weight.
_WANTED = 0.5
_PAPERS = 0.5  # the papers' temperature
# Method -> its loss, for losses with a weight.
_LOSSES = {"spread": "spread", "thanos": "spread", "joint": "joint"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of the command, one per flag.

    Attributes:
      loss: "spread" or "joint".
      classes: numbers of classes.
      temperatures: temperatures that are compared.
      batch_size: images of a batch.
      images_per_class: 0: batches are drawn uniformly; k: batches of batch_size / k classes, k
        images each.
      images_in_all: number of training images of a class; infinite for many.
      denominator: denominator of supcon.
      views: "all" or "cross".
    """

    loss: str = "spread"
    classes: tuple[int, ...] = (2, 10, 100, 1000)
    temperatures: tuple[float, ...] = (0.07, 0.1, 0.2, 0.5, 1.0)
    batch_size: int = 256
    images_per_class: int = 0
    images_in_all: float = math.inf
    denominator: str = "all"
    views: str = "all"

    @property
    def weight(self) -> str:
        """Returns the name of the loss's weight."""
        return "beta" if self.loss == "joint" else "alpha"

    def drawn(self, classes: int) -> dict[str, Any]:
        """Returns the keywords of predictions for how batches of these classes are drawn."""
        found: dict[str, Any] = {"classes": classes, "images_in_all": self.images_in_all}
        each = self.images_per_class
        if each == 0:
            return {**found, "images_per_class": self.batch_size / classes, "draw": "uniform"}
        if each < 0 or self.batch_size % each:
            raise BalanceError(
                f"images_per_class: expected 0 or a divisor of batch_size {self.batch_size}, "
                f"got {each}"
            )
        present = min(self.batch_size // each, classes)
        return {**found, "images_per_class": each, "classes_in_batch": present}

    def form(self, temperature: float) -> dict[str, Any]:
        """Returns the keywords of predictions for the loss at a temperature."""
        return {
            "loss": self.loss, "temperature": temperature,
            "denominator": self.denominator, "views": self.views,
        }  # fmt: skip


class Finished(NamedTuple):
    """A finished run.

    Attributes:
      name: folder of the run.
      settings: loss, temperature and batches of the run.
      weight: alpha or beta of the run.
      measured: W measured on its training images.
      predicted: W predicted from its contrastive loss alone.
    """

    name: str
    settings: Settings
    weight: float
    measured: float
    predicted: float


def run(
    settings: Settings, workdir: str | os.PathLike[str], runs: Sequence[str] = ()
) -> dict[str, Any]:
    """Calculates all predictions and writes them with pictures.

    Args:
      settings: settings of the loss and its batches.
      workdir: folder for balance.json, spread.png, thresholds.png, ranges.png and, with runs,
        measured.png.
      runs: folders that hold finished runs at any depth, with the first number of classes.

    Returns:
      The contents of balance.json.

    Raises:
      BalanceError: a setting is out of range, or a folder has no runs.
    """
    if not settings.classes or not settings.temperatures:
        raise BalanceError("classes, temperature: expected at least one each, got none")
    weights.require(weights.make_loss(settings.loss, 1.0, settings.denominator, settings.views))
    found: dict[str, Any] = {"settings": dataclasses.asdict(settings), "table": list(TABLE)}
    found["spread"] = {
        str(m): {str(t): _spreads(settings, m, t, TABLE) for t in settings.temperatures}
        for m in settings.classes
    }
    for name, calculate in (("threshold", _threshold), ("for_half", _for_half), ("wins", _wins)):
        found[name] = {
            str(m): {str(t): calculate(settings, m, t) for t in settings.temperatures}
            for m in settings.classes
        }
    measured = {folder: _finished(settings, pathlib.Path(folder)) for folder in runs}
    found["measured"] = {
        folder: [
            {
                "run": run.name,
                settings.weight: run.weight,
                "temperature": run.settings.temperatures[0],
                "measured": run.measured,
                "predicted": run.predicted,
            }
            for run in of_folder
        ]
        for folder, of_folder in measured.items()
    }
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = _figures(settings)
    if measured:
        panels = {
            pathlib.Path(name).name: _beside(of_folder) for name, of_folder in measured.items()
        }
        drawn["measured"] = figures.measured(panels, settings.weight)
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.png")
    write_atomically(folder / "balance.json", json.dumps(found, indent=2) + "\n")
    return found


def _spreads(settings: Settings, classes: int, t: float, grid: Sequence[float]) -> list[float]:
    keywords = {**settings.form(t), **settings.drawn(classes)}
    return [within_class_spread(**{**keywords, settings.weight: weight}) for weight in grid]


def _threshold(settings: Settings, classes: int, t: float) -> float:
    return threshold(**settings.form(t), **settings.drawn(classes))


def _for_half(settings: Settings, classes: int, t: float) -> float | None:
    """Returns the weight for W = 0.5; None if no weight reaches it."""
    try:
        return alpha_for(_WANTED, **settings.form(t), **settings.drawn(classes))
    except BalanceError:
        return None


def _wins(settings: Settings, classes: int, t: float) -> list[float]:
    return list(winning_range(**settings.form(t), **settings.drawn(classes)))


def _figures(settings: Settings) -> dict[str, Figure]:
    name = settings.weight
    shown = settings.classes[:6]
    curves = {
        f"{m} classes": {f"$\\tau={t:g}$": _spreads(settings, m, t, _FINE) for t in
                         settings.temperatures}
        for m in shown
    }  # fmt: skip
    counts = sorted({*_CLASSES, *settings.classes})
    lines = {
        f"$\\tau={t:g}$": [_threshold(settings, m, t) for m in counts]
        for t in settings.temperatures
    }
    t = min(settings.temperatures, key=lambda value: abs(value - _PAPERS))
    sets = {f"{m} classes, $\\tau={t:g}$": _sets(settings, m, t) for m in shown}
    return {
        "spread": figures.spread(curves, _FINE, name),
        "thresholds": figures.thresholds(counts, lines, name),
        "ranges": figures.ranges(sets, name),
    }


def _sets(settings: Settings, classes: int, t: float) -> dict[str, list[float]]:
    """Returns the weights at which sets win, for sets from nearly collapsed to nearly uniform."""
    keywords = {**settings.form(t), **settings.drawn(classes)}
    shares = np.linspace(0.0, 1.0, 52)[1:-1] * uniform_spread(**settings.drawn(classes))
    ends = np.array([winning_range(float(w), **keywords) for w in shares])
    low, high = (1, 0) if settings.loss == "joint" else (0, 1)
    best = []
    for w in shares:
        try:
            best.append(alpha_for(float(w), **keywords))
        except BalanceError:
            best.append(math.nan)
    return {
        "spread": shares.tolist(), "low": ends[:, low].tolist(), "high": ends[:, high].tolist(),
        "best": best,
    }  # fmt: skip


def _finished(settings: Settings, folder: pathlib.Path) -> list[Finished]:
    """Returns the finished runs in a folder, with the measured and the predicted W."""
    found = []
    for path in sorted(folder.glob("**/results.json")):
        if not (path.parent / "config.json").exists():
            continue  # the table of a comparison
        results, config = (
            json.loads((path.parent / name).read_text(encoding="utf-8"))
            for name in ("results.json", "config.json")
        )
        shape = results.get("geometry", {}).get("train", {})
        if _LOSSES.get(config["method"]) != settings.loss or "within_class_spread" not in shape:
            continue
        loss, train = config["loss"], config["train"]
        own = dataclasses.replace(
            settings, denominator=loss["denominator"], views=loss["views"],
            temperatures=(loss["temperature"],), batch_size=train["batch_size"],
            images_per_class=train.get("images_per_class", 0),
        )  # fmt: skip
        weight = loss[settings.weight]
        predicted = _spreads(own, settings.classes[0], loss["temperature"], [weight])[0]
        name = str(path.parent.relative_to(folder))
        found.append(Finished(name, own, weight, shape["within_class_spread"], predicted))
    if not found:
        raise BalanceError(
            f"runs: expected a folder with finished runs of the {settings.loss} loss, got {folder}"
        )
    return sorted(found, key=lambda run: (run.settings.temperatures, run.weight, run.name))


def _beside(runs: Sequence[Finished]) -> dict[str, Any]:
    """Returns a panel of runs; runs with the same loss and batches share a curve."""
    curves, points = {}, {}
    for settings in dict.fromkeys(run.settings for run in runs):
        (t,) = settings.temperatures
        name = f"$\\tau={t:g}$"
        if settings.images_per_class:
            name += f", {settings.images_per_class} of a class"
        if (settings.denominator, settings.views) != ("all", "all"):
            name += f", {settings.denominator}, {settings.views}"
        curves[name] = _spreads(settings, settings.classes[0], t, _FINE)
        alike = [run for run in runs if run.settings == settings]
        points[name] = [(run.weight, run.measured) for run in alike]
    return {"weights": _FINE, "curves": curves, "points": points}
