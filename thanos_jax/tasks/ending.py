"""The end of a run: writes report.html and results.json."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from thanos_jax import agree, workdir
from thanos_jax.beside import beside
from thanos_jax.data.balanced import class_counts
from thanos_jax.data.batches import sample_indices
from thanos_jax.data.dataset import known_coarse
from thanos_jax.downstream import placing
from thanos_jax.downstream.projection import Sample
from thanos_jax.live import contract
from thanos_jax.report import folder as report_folder
from thanos_jax.report import html, plots
from thanos_jax.report.image_map import ImageMap
from thanos_jax.tasks import fits, predicted_spread, watched
from thanos_jax.tasks.stages import Figures, Run, Stage, Trained, skipped_examples
from thanos_jax.train import metrics, nonfinite
from thanos_jax.version import __version__


def finish(
    run: Run,
    first: Stage,
    trained: Trained,
    results: dict[str, Any],
    figures: Callable[[], Figures],
    shown: Callable[[], ImageMap] | None = None,
    embedding: Sample | None = None,
) -> dict[str, Any]:
    """Writes the report, then results.json, and returns the results; only the first process writes.

    Args:
      run: the run.
      first: its first training, whose config names the method.
      trained: the training that the results are about.
      results: results of the task; the entries that all runs share are added.
      figures: returns title -> (figure, sentence on how to read it).
      shown: makes the map of images, as in `thanos_jax.tasks.maps`; None: the report has none.
      embedding: embeddings of the map's images by the trained model, for the log; None: the log
        gets none.

    Raises:
      WorkdirError: a file cannot be written.
    """
    kept = _outputs_to_keep(run, trained)
    speeds = [r["images_per_second"] for r in trained.records if "images_per_second" in r]
    results = {
        "dataset": run.dataset.name,
        **({"task": run.config.task} if run.config.task != "transfer" else {}),
        "method": first.training.config.method,
        **totals(run),
        **results,
        "batches": batch_classes(first),
        **predicted_spread.results(first.training.config, first.training.dataset, results),
        "parameters": sum(x.size for x in jax.tree.leaves(trained.training.state.params)),
        "images_per_second": float(np.median(speeds)) if speeds else None,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {"jax": jax.__version__, "thanos_jax": __version__},
    }
    if not agree.is_first():
        return results
    with workdir.writing(run.folder):
        for name, arrays in kept.items():
            workdir.write_arrays(run.folder / name, arrays)
    print("report", flush=True)
    # t-SNE and the drawing of figures take about as long, on a core each.
    laid_out = beside(shown) if shown else None
    drawn = {**figures(), **training_figures(run.folder)}
    found = laid_out() if laid_out else None
    html.write(
        run.folder / "report.html",
        config=run.config.to_dict(),
        results=report_folder.shown(results),
        records=trained.records,
        figures=report_folder.keep(run.folder, drawn, trained.records, found),
        image_map=found,
    )
    numbers = contract.numbers(report_folder.shown(results))
    run.log.finish(
        lambda: contract.Ending(trained.records[-1]["step"], numbers, None),
        None if found is None or embedding is None else partial(watched.points, found, embedding),
    )
    # Last: its presence says that everything else was written.
    with workdir.writing(run.folder):
        text = json.dumps(results, indent=2) + "\n"
        workdir.write_atomically(run.folder / "results.json", text)
    return results


def totals(run: Run) -> dict[str, Any]:
    """Returns the steps, seconds and skipped steps of all trainings of a run, for its results."""
    names = ("", *workdir.trainings(run.folder))
    every = [metrics.read(run.folder / name / "metrics.jsonl") for name in names]
    last = [records[-1] for records in every if records]
    skipped = sum(record.get(nonfinite.SKIPPED, 0) for records in every for record in records)
    return {
        "seed": run.config.seed,
        "steps": sum(record["step"] for record in last),
        "train_seconds": sum(record["seconds"] for record in last),
        nonfinite.SKIPPED: int(skipped),
        **skipped_examples(run),
        **fits.unlabelled_images(run.config, run.dataset),
    }


def batch_classes(stage: Stage) -> dict[str, float]:
    """Returns `class_counts` of some batches of a training, spread over all of its steps.

    Args:
      stage: the training. Fewer batches are taken if labels are known only from reading images.
    """
    training, split, known = stage.training, stage.split, known_coarse(stage.split)
    steps = np.unique(np.linspace(0, training.steps - 1, 5 if known is None else 20, dtype=int))

    def labels_of(step: int) -> np.ndarray:
        rows = sample_indices(
            seed=training.config.seed,
            step=step,
            batch_size=training.config.train.batch_size,
            size=len(split),
            balance=training.balance,
        )
        return split.read(rows)["coarse"] if known is None else known[rows]

    return class_counts(map(labels_of, steps.tolist()))


def _outputs_to_keep(run: Run, trained: Trained) -> dict[str, dict[str, Any]]:
    """Returns {file name: arrays [n, ...]} if config.report.keep_embeddings is set, else {}."""
    found: dict[str, dict[str, Any]] = {}
    if not run.config.report.keep_embeddings:
        return found
    dataset = trained.training.dataset
    classes, strata = np.array(dataset.coarse_names), np.array(dataset.fine_names)
    for name in workdir.EMBEDDINGS:
        split = name.removeprefix("embeddings_").removesuffix(".npz")
        outputs = trained.outputs(split, "probability")
        chosen = outputs["prediction"]
        found[name] = {
            "filename": dataset.splits[split].names,
            "embedding": placing.whole(outputs["embedding"]),
            "prediction": classes[chosen],
            "probability": outputs["probability"][np.arange(len(chosen)), chosen],
            "coarse": classes[outputs["coarse"]],
            "fine": strata[outputs["fine"]],
        }
    return found


def training_figures(folder: pathlib.Path, *, of_samples: str = "sample_0") -> Figures:
    """Draws the curves of every training of a run, each with a sentence on how to read it.

    Args:
      folder: of the run.
      of_samples: the only training on a sample that is drawn, because all of them look alike.
    """
    figures = {}
    for name in workdir.trainings(folder):
        records = metrics.read(folder / name / "metrics.jsonl")
        if records and (name == of_samples or not name.startswith("sample_")):
            title = f"Training: {name.replace('_', ' ')}"
            figures[title] = (plots.curves(records), plots.HOW_TO_READ["curves"])
    return figures
