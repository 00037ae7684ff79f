"""The training images that a coreset keeps, and what the report says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from thanos_jax.downstream import coreset
from thanos_jax.errors import ConfigError
from thanos_jax.report import plots
from thanos_jax.report.cards import Card
from thanos_jax.tasks import findings, problems, stages

_EXAMPLES = 18
_BY_SCORE = ("Training images dropped first", "Those that stay longest")
_AT_RANDOM = ("Some training images that are dropped", "Some that are kept")


class Chosen(NamedTuple):
    """The training images that are kept.

    Attributes:
      stays: bool [n], True for images that are kept.
      scores: float64 [n]; [0] for methods without scores.
    """

    stays: np.ndarray
    scores: np.ndarray


def choose(config: Any, classes: np.ndarray, **found: np.ndarray) -> Chosen:
    """Chooses images by "scores" or "embeddings", or at random.

    Raises:
      ConfigError: no image of a class is kept.
    """
    scores = found.get("scores")
    kept = select(
        config, config.coreset.method if scores is None else scores, classes,
        embeddings=found.get("embeddings"),
    )  # fmt: skip
    stays = np.zeros(len(classes), bool)
    stays[kept] = True
    lost = np.setdiff1d(classes, classes[kept])
    if lost.size:
        raise ConfigError(
            f"config.coreset.fraction: expected one that keeps images of every class, got "
            f"{config.coreset.fraction:g}, which keeps none of class {lost[0]} by the scores of "
            f"{config.coreset.method}; raise it, or set coreset.balanced"
        )
    return Chosen(stays, np.zeros(0) if scores is None else np.asarray(scores, np.float64))


def select(config: Any, scores: Any, classes: np.ndarray, **keywords: Any) -> np.ndarray:
    """Returns the images to keep, as `coreset.select` with the config's options.

    Raises:
      ConfigError: an option does not suit the images.
    """
    settings = config.coreset
    try:
        return coreset.select(
            scores,
            classes,
            settings.fraction,
            drop=settings.drop,
            balanced=settings.balanced,
            seed=config.seed,
            **keywords,
        )
    except ValueError as error:
        raise ConfigError(f"config.coreset: {error}") from error


def results(
    run: stages.Run, fine: np.ndarray, chosen: Chosen, test: Mapping[str, np.ndarray], measured: Any
) -> dict[str, Any]:
    """Returns the test accuracy, and for each fine label the share kept and its accuracy."""
    names = run.dataset.fine_names
    every, kept = (np.bincount(x, minlength=len(names)) for x in (fine, fine[chosen.stays]))
    return {
        **stages.worst_group(run, measured),
        "kept_share": {names[f]: float(kept[f] / every[f]) for f in np.flatnonzero(every)},
        "fine_labels": stages.each_fine_label(
            run, test, measured, train_images=every, kept_images=kept
        ),
    }


def _drop_order(config: ml_collections.ConfigDict, chosen: Chosen) -> np.ndarray:
    """Returns the training images in the order of dropping, int64 [n]; [0] without scores."""
    sign = 1 if config.coreset.drop == "lowest" else -1
    return np.argsort(sign * chosen.scores, kind="stable")


def write_table(run: stages.Run, chosen: Chosen, names: np.ndarray, classes: np.ndarray) -> None:
    """Writes findings.csv, starting with the images that are dropped first."""
    order = _drop_order(run.config, chosen) if len(chosen.scores) else np.argsort(chosen.stays)
    columns = {
        "filename": names,
        "split": np.full(len(names), "train"),
        "label": np.array(run.dataset.coarse_names)[classes],
        "kept": np.where(chosen.stays, "yes", "no"),
        **({"score": chosen.scores} if len(chosen.scores) else {}),
        "row": np.arange(len(names)),
    }
    findings.write_table(run.folder, {name: values[order] for name, values in columns.items()})


def figures(
    run: stages.Run,
    chosen: Chosen,
    results: Mapping[str, Any],
    classes: np.ndarray,
    test: Mapping[str, np.ndarray],
) -> stages.Figures:
    """Returns the figures of the report, each with a sentence on how to read it."""
    shares = results["kept_share"]
    images = results["fine_labels"]
    names = run.dataset.coarse_names
    return {
        **_first_and_last(run, chosen, classes),
        "Share kept of each fine label": (
            plots.group_bars(
                [
                    f"{name} ({images[name]['train_images']:,})" if name in images else name
                    for name in shares
                ],
                list(shares.values()),
                average=results["kept_images"] / len(chosen.stays),
                meaning="kept, in per cent",
            ),
            plots.HOW_TO_READ["kept_share"],
        ),
        **problems.classes(
            run.dataset.splits["test"], test["coarse"], test["prediction"], names, kind="class"
        ),
    }


def _first_and_last(run: stages.Run, chosen: Chosen, classes: np.ndarray) -> stages.Figures:
    """Shows the images dropped first and kept longest; without scores, some dropped, some kept."""
    if len(chosen.scores):
        order = _drop_order(run.config, chosen)
        kept = order[chosen.stays[order]][::-1]
        titles, readings = _BY_SCORE, ("dropped_images", "kept_images")
    else:
        order = np.random.default_rng(0).permutation(len(chosen.stays))
        kept = order[chosen.stays[order]]
        titles, readings = _AT_RANDOM, ("chosen_images", "chosen_images")
    figures: stages.Figures = {}
    split, names = run.dataset.splits["train"], run.dataset.coarse_names
    for title, reading, rows in zip(
        titles, readings, (order[~chosen.stays[order]], kept), strict=True
    ):
        rows = rows[:_EXAMPLES]
        made = [
            Card(
                named,
                (names[classes[row]],),
                f"score {chosen.scores[row]:.4g}" if len(chosen.scores) else "",
            )
            for named, row in zip(problems.named(split, rows, "train"), rows.tolist(), strict=True)
        ]
        if made:
            figures[title] = (problems.as_cards(split, rows, made), plots.HOW_TO_READ[reading])
    return figures
