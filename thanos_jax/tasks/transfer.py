"""Coarse-to-fine transfer: trains config.method, then predicts fine labels from its embedding.

The run has one training, in its own folder: metrics.jsonl, checkpoints/, results.json, report.html.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from thanos_jax import sharding
from thanos_jax.data import augment
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.splits import DataError
from thanos_jax.downstream import geometry, transfer
from thanos_jax.live import pictures
from thanos_jax.report import plots
from thanos_jax.tasks import ending, maps, problems, stages
from thanos_jax.train.objective import METHODS


class Prepared(NamedTuple):
    """The only training, built.

    Attributes:
      first: the training.
    """

    first: stages.Stage


def trainings(run: stages.Run) -> dict[str, stages.Planned]:
    """Checks the data and returns the only training; see `thanos_jax.tasks`.

    Raises:
      DataError: a fine class that the transfer needs is missing.
    """
    _check_classes(run.dataset)
    return {"": stages.planned(run)}


def prepare(run: stages.Run) -> Prepared:
    """Checks the data and builds the training; see `thanos_jax.tasks`.

    Raises:
      DataError: a fine class that the transfer needs is missing.
      WeightsError: config.model.weights cannot be used.
    """
    trainings(run)
    return Prepared(stages.representation(run, ""))


def perform(run: stages.Run, prepared: Prepared) -> dict[str, Any]:
    """Trains, evaluates and reports; see `thanos_jax.tasks`.

    Raises:
      NonFiniteError, CheckpointError, WorkdirError, Interrupted: as `thanos_jax.run.run`.
    """
    config = run.config

    def measure(outputs: stages.Outputs) -> dict[str, float]:
        train, held_out = outputs("train"), outputs("validation")
        head = transfer.linear_head(
            train["embedding"],
            train["fine"],
            held_out["embedding"],
            held_out["fine"],
            num_classes=len(run.dataset.fine_names),
            regularization=config.transfer.regularization,
            max_iterations=config.transfer.iterations,
        )
        shape = geometry.geometry(*(held_out[name] for name in ("embedding", "fine", "coarse")))
        return {
            "validation_fine_accuracy": head.validation_accuracy,
            "validation_collapse_index": shape["collapse_index"],
        }

    every = config.transfer.every_epochs
    trained = stages.train(run, prepared.first, measure=(every, measure) if every else None)

    # The test split is first read here, and decides nothing.
    print("transfer from coarse to fine labels", flush=True)
    found = {name: trained.outputs(name) for name in ("train", "validation", "test")}
    figures, fine = stages.transferred(run, found)
    results = {
        **stages.worst_group(run, stages.by_fine_label(run, found["test"])),
        **figures,
        "geometry": {
            name: geometry.geometry(split["embedding"], split["fine"], split["coarse"])
            for name, split in found.items()
            if name != "validation"
        },
        **_along_training(trained.records),
        "embedding_dim": int(found["test"]["embedding"].shape[1]),
    }
    test = maps.shown(run, found["test"])
    return ending.finish(
        run,
        prepared.first,
        trained,
        results,
        lambda: _figures(run, trained, test, fine),
        lambda: maps.of_transfer(run, test),
        test["embedding"],
    )


def _check_classes(dataset: Dataset) -> None:
    """Raises DataError if a fine class that the transfer needs is missing.

    Does nothing if labels are known only from reading images.
    """
    for name in ("train", "test"):
        fine = dataset.splits[name].fine
        if fine is not None:
            absent = np.setdiff1d(np.arange(len(dataset.fine_names)), fine)
            if absent.size:
                raise DataError(
                    f"{dataset.name}, split {name!r}: no example of fine class "
                    f"{dataset.fine_names[absent[0]]!r}; every one of the "
                    f"{len(dataset.fine_names)} fine classes is needed"
                )


def _along_training(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns validation measurements made during training, if transfer.every_epochs is set.

    As {"along_training": {"epoch": [...], name: [...], ...}}; {} if there are none.
    """
    measured = [record for record in records if "validation_fine_accuracy" in record]
    names = ("epoch", "validation_fine_accuracy", "validation_collapse_index")
    return (
        {"along_training": {name: [record[name] for record in measured] for name in names}}
        if measured
        else {}
    )


def _figures(
    run: stages.Run, trained: stages.Trained, test: dict[str, Any], fine: np.ndarray
) -> dict[str, tuple[Any, str]]:
    """Returns the figures of the report, each with a sentence on how to read it.

    Args:
      run: the run.
      trained: its training.
      test: outputs on the test split.
      fine: integer [n], fine labels predicted from the embeddings of test images.
    """
    config, dataset = run.config, run.dataset
    figures: stages.Figures = problems.classes(
        dataset.splits["test"], test["fine"], fine, dataset.fine_names, kind="fine label"
    )
    figures["Training"] = (plots.curves(trained.records), plots.HOW_TO_READ["curves"])
    if METHODS[config.method].reconstruct:
        images = dataset.splits["test"].read(np.arange(min(12, len(test["fine"]))))["image"]
        # Only this process computes them.
        state = sharding.on_this_process(trained.last.state)
        outputs = trained.training.forward({"params": state.params, **state.model_state}, images)
        units = (dataset.mean, dataset.std)
        channels = dataset.image_shape[-1]  # the random bits come after them
        pair = [
            np.asarray(augment.unnormalize(outputs[name][..., :channels], *units))
            for name in ("input", "reconstruction")
        ]
        figures["Reconstructions"] = (
            plots.reconstructions(*pair),
            plots.HOW_TO_READ["reconstructions"],
        )
        step = trained.records[-1]["step"]
        run.log.images("", step, lambda: {"reconstructions": pictures.rows(pair)})
    return figures
