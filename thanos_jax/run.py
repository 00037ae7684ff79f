"""One run, from a config to results.json and report.html."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pathlib
import time
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import Mesh

import thanos_jax
from thanos_jax import config as schema
from thanos_jax import interruption, sharding
from thanos_jax import workdir as workdirs
from thanos_jax.data import augment, random_bits, sources
from thanos_jax.downstream import geometry, projection, transfer
from thanos_jax.errors import ConfigError
from thanos_jax.models import pretrained, thanos
from thanos_jax.report import html, plots
from thanos_jax.train import checkpoint, embed, loop, metrics, nonfinite
from thanos_jax.train import state as train_state
from thanos_jax.train.checkpoint import Checkpoints
from thanos_jax.train.objective import METHODS
from thanos_jax.train.step import INPUTS, Step, make_step

# Where data lies, how fast it is read and what is kept may change between two starts of one run.
_MAY_CHANGE = (
    "data.data_dir",
    "data.read_threads",
    "data.memory_limit_gib",
    "data.on_damaged",
    "train.resident",
    "train.checkpoints_kept",
    "train.checkpoints_kept_every",
    "train.on_nonfinite",
    "train.nonfinite_limit",
)


def run(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    load: Callable[[ml_collections.ConfigDict], sources.Dataset] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Trains, evaluates and reports; the same call on the same folder resumes.

    SIGTERM or SIGINT end training with a checkpoint, and anything else at once. Of several
    processes all make the same call, and the first writes; the folder is one that all see.

    Args:
      config: all keys of `thanos_jax.config.FIELDS`.
      workdir: gets config.json, metrics.jsonl, checkpoints/, results.json and report.html.
      load: config.data -> data set; `thanos_jax.data.sources.load` if None.
      overwrite: whether a folder that holds a run of another config is emptied of that run's own
        files, once this one can start. A run of the same config resumes all the same.

    Returns:
      What results.json holds. A finished run is not run again.

    Raises:
      ConfigError: a config outside its schema, or another than the folder's.
      DatasetNotFound: the data are not there; says how to prepare them.
      NonFiniteError: training diverged.
      CheckpointError: a checkpoint could not be saved, or none of those there can be used.
      WorkdirError: another run is in the folder, or it cannot be written.
      Interrupted: the run was asked to stop, and has saved what it had.
    """
    with interruption.watch(), contextlib.ExitStack() as opened:
        return _run(config, pathlib.Path(workdir), load or sources.load, opened, overwrite)


def _run(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    load: Callable[[ml_collections.ConfigDict], sources.Dataset],
    opened: contextlib.ExitStack,
    overwrite: bool,
) -> dict[str, Any]:
    """As `run`; what it opens for as long as it lasts goes on the stack."""
    schema.check(config)
    if config.train.batch_size % jax.device_count():
        raise ConfigError(
            f"config.train.batch_size: expected a multiple of the {jax.device_count()} devices, "
            f"got {config.train.batch_size}"
        )
    if config.train.micro_batch_size % jax.device_count():
        raise ConfigError(
            "config.train.micro_batch_size: expected 0 or a multiple of the "
            f"{jax.device_count()} devices, got {config.train.micro_batch_size}"
        )
    if (folder / "table.json").exists():
        raise ConfigError(
            f"workdir: {folder} holds a comparison, of thanos_jax.compare; choose another folder"
        )
    writes = jax.process_index() == 0
    other = bool(differences(folder, config))
    if not overwrite:
        same_run(folder, config)
    results_path = folder / "results.json"
    if results_path.exists() and not other:
        print(f"{folder} holds a finished run; nothing to do", flush=True)
        return json.loads(results_path.read_text(encoding="utf-8"))

    if writes:
        workdirs.require_free(folder)
    started = time.perf_counter()
    dataset = load(config.data)
    _require_same_data(dataset)
    if config.task == "transfer":
        _check_classes(dataset)
    sizes = ", ".join(f"{name} {len(split)}" for name, split in dataset.splits.items())
    print(f"{dataset.name}: {sizes} ({time.perf_counter() - started:.1f} s)", flush=True)

    mesh = sharding.make_mesh()
    if config.task != "transfer":
        task = importlib.import_module(f"thanos_jax.tasks.{config.task}")  # builds on this module
        return task.run(config, folder, dataset, mesh, overwrite=overwrite)
    resumes = not other and bool(checkpoint.steps(folder / "checkpoints"))
    parts = build(config, dataset, mesh, resumes=resumes)
    # A folder is claimed only by a run that can start.
    trace(parts, dataset.splits["train"], config.train.batch_size)
    if writes:
        with workdirs.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        opened.enter_context(workdirs.locked(folder))
        claim(folder, config, overwrite=overwrite)
    if overwrite and jax.process_count() > 1:
        multihost_utils.sync_global_devices("emptied")  # before any looks for checkpoints

    def embed_split(state: train_state.TrainState, name: str) -> dict[str, np.ndarray]:
        variables = {"params": state.params, **state.model_state}
        return embed.embed(
            parts.forward,
            variables,
            dataset.splits[name],
            mesh,
            batch_size=config.train.micro_batch_size or config.train.batch_size,
            read_threads=config.data.read_threads,
        )

    def evaluate(state: train_state.TrainState) -> dict[str, float]:
        found = embed_split(state, "validation")
        return {"validation_coarse_accuracy": _accuracy(found)}

    def measure(state: train_state.TrainState) -> dict[str, float]:
        train, held_out = embed_split(state, "train"), embed_split(state, "validation")
        head = transfer.linear_head(
            train["embedding"],
            train["fine"],
            held_out["embedding"],
            held_out["fine"],
            num_classes=len(dataset.fine_names),
            regularization=config.transfer.regularization,
            max_iterations=config.transfer.iterations,
        )
        shape = geometry.geometry(*(held_out[name] for name in ("embedding", "fine", "coarse")))
        return {
            "validation_fine_accuracy": head.validation_accuracy,
            "validation_collapse_index": shape["collapse_index"],
        }

    skipped = skipped_examples(config, dataset)
    evaluations = [(config.train.evaluate_every_epochs, evaluate)]
    if config.transfer.every_epochs:
        evaluations.append((config.transfer.every_epochs, measure))
    with Checkpoints(
        folder / "checkpoints",
        keep=config.train.checkpoints_kept,
        best="validation_coarse_accuracy",
        keep_every=config.train.checkpoints_kept_every,
    ) as checkpoints:
        state, train_seconds = loop.train(
            parts.state,
            parts.step,
            dataset.splits["train"],
            mesh,
            config,
            checkpoints=checkpoints,
            metrics_path=str(folder / "metrics.jsonl"),
            evaluations=evaluations,
            constants=skipped,
        )

    # The test split is first read here, and decides nothing.
    print("transfer from coarse to fine labels", flush=True)
    found = {name: embed_split(state, name) for name in ("train", "validation", "test")}
    records = metrics.read(folder / "metrics.jsonl")
    results = {
        "dataset": dataset.name,
        "method": config.method,
        "seed": config.seed,
        "steps": parts.steps,
        "train_seconds": train_seconds,
        nonfinite.SKIPPED: int(sum(record.get(nonfinite.SKIPPED, 0) for record in records)),
        **skipped,
        "coarse_accuracy": _accuracy(found["test"]),
        **_worst_group(found["test"], dataset.fine_names),
        **transfer.evaluate(
            {name: split["embedding"] for name, split in found.items()},
            {name: split["fine"] for name, split in found.items()},
            {name: split["coarse"] for name, split in found.items()},
            num_fine=len(dataset.fine_names),
            num_coarse=len(dataset.coarse_names),
            regularization=config.transfer.regularization,
            max_iterations=config.transfer.iterations,
            neighbours=config.transfer.neighbours,
        ),
        "geometry": {
            name: geometry.geometry(split["embedding"], split["fine"], split["coarse"])
            for name, split in found.items()
            if name != "validation"
        },
        **_along_training(records),
        "embedding_dim": int(found["test"]["embedding"].shape[1]),
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "images_per_second": median(records, "images_per_second"),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {"jax": jax.__version__, "thanos_jax": thanos_jax.__version__},
    }
    if not writes:
        return results
    print("report", flush=True)
    # The other processes have no part in it.
    state = sharding.on_this_process(state)
    html.write(
        folder / "report.html",
        config=config.to_dict(),
        # The curves are drawn.
        results={key: value for key, value in results.items() if key != "along_training"},
        records=records,
        figures=_figures(config, dataset, state, parts.forward, found["test"], records),
    )
    # Last: its presence says that everything else was written.
    with workdirs.writing(folder):
        workdirs.write_atomically(results_path, json.dumps(results, indent=2) + "\n")
    return results


class Parts(NamedTuple):
    """What a config amounts to on a data set and a mesh; the benchmarks time its pieces.

    Attributes:
      model: the encoders, decoder and classifier.
      state: before the first step, on every device of the mesh.
      step: (state, batch) -> (state, metrics), jitted.
      forward: (variables, images) -> outputs, jitted.
      steps: updates of the whole run.
      input_shape: (h, w, c) of what the model sees, c with the random bits.
    """

    model: nn.Module
    state: train_state.TrainState
    step: Step
    forward: embed.Forward
    steps: int
    input_shape: tuple[int, int, int]


def build(
    config: ml_collections.ConfigDict,
    dataset: sources.Dataset,
    mesh: Mesh,
    *,
    resumes: bool = False,
) -> Parts:
    """Makes the model, its state and the functions of a run.

    Args:
      config: a checked config.
      dataset: from `thanos_jax.data.sources.load`.
      mesh: from `thanos_jax.sharding.make_mesh`.
      resumes: a checkpoint will replace the state, so that config.model.weights is not read.

    Raises:
      WeightsError: config.model.weights cannot be used for the encoder; before anything compiles.
    """
    method = METHODS[config.method]
    model_config = config.model.copy_and_resolve_references()
    if method.contrastive is None or not method.reconstruct:
        # One encoder is all that a method with one kind of loss needs.
        model_config.arrangement = "shared"
    if method.contrastive is None:
        model_config.projection = ()
    bits: dict[str, Any] = {"bits": config.data.random_bits, "form": config.data.random_bits_form}
    height, width, channels = dataset.image_shape
    input_shape = (height, width, channels + random_bits.channels(**bits))
    model = thanos.build(
        model_config,
        image_shape=input_shape,
        num_classes=len(dataset.coarse_names),
        reconstruct=method.reconstruct,
    )
    steps, steps_per_epoch = loop.count_steps(config.train, len(dataset.splits["train"]))
    schedule = train_state.learning_rate(config.train, steps=steps, steps_per_epoch=steps_per_epoch)
    optimizer = train_state.make_optimizer(config.train, schedule)
    start = None
    if config.model.weights and not resumes:
        start = pretrained.load(config.model.weights, model.encoders[0], input_shape)
    # rbg: its programs compile several times as fast as the default's, and nothing here is sharded.
    key = jax.random.key(config.seed, impl="rbg")
    state: Any = train_state.create(model, optimizer, key, input_shape)
    if start is not None:
        averages = state.model_state["batch_stats"]
        state = state.replace(
            params=pretrained.replace_encoders(state.params, start["params"]),
            model_state={
                **state.model_state,
                "batch_stats": pretrained.replace_encoders(averages, start["batch_stats"]),
            },
        )
    units: dict[str, Any] = {"mean": dataset.mean, "std": dataset.std}
    step = make_step(model, optimizer, schedule, config, mesh, **units)
    return Parts(
        model=model,
        state=sharding.replicate(mesh, state),
        step=nonfinite.skipping(step) if config.train.on_nonfinite == "skip" else step,
        forward=embed.make_forward(model, **units, **bits),
        steps=steps,
        input_shape=input_shape,
    )


def claim(
    folder: pathlib.Path, config: ml_collections.ConfigDict, *, overwrite: bool = False
) -> None:
    """Makes a locked folder that of this run: writes config.json.

    Args:
      folder: made and locked.
      config: of the run.
      overwrite: whether a run of another config is removed first.

    Raises:
      ConfigError: as `same_run`; another run may have been there until now.
      WorkdirError: the folder cannot be written.
    """
    if overwrite and differences(folder, config):
        print(f"{folder}: a run of another config is removed", flush=True)
        workdirs.empty(folder)
    same_run(folder, config)
    if _other_keys(folder, config):
        workdirs.empty(folder)  # of what has nothing to lose, so that nothing of it is counted
    with workdirs.writing(folder):
        workdirs.write_atomically(
            folder / "config.json", json.dumps(_plain(config), indent=2) + "\n"
        )


def trace(parts: Parts, split: sources.Split, batch_size: int) -> None:
    """Traces a run's step: finds what the schema cannot, before anything is written.

    Args:
      parts: from `build`.
      split: the training split.
      batch_size: images in a step.
    """
    batch = split.read(np.arange(1))
    shapes = {
        name: jax.ShapeDtypeStruct((batch_size, *batch[name].shape[1:]), batch[name].dtype)
        for name in INPUTS
    }
    jax.eval_shape(parts.step, parts.state, shapes)


def same_run(folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Checks that what a folder holds, if anything, is this run.

    Raises:
      ConfigError: the folder holds a run of another config; names every key that differs.
    """
    found = differences(folder, config)
    if found:
        raise ConfigError(
            f"workdir: {folder} holds a run of another config; choose another folder, give the "
            "same config to resume, or start thanos_jax.main with --overwrite to begin anew:\n"
            + "\n".join(found)
        )


def differences(folder: pathlib.Path, config: ml_collections.ConfigDict) -> list[str]:
    """Returns a line for each key that the run in a folder has otherwise.

    A folder without a checkpoint or results has nothing to lose and is free.
    """
    # Of a run of several trainings these are in folders of their own.
    trained = [*folder.glob("checkpoints/[0-9]*"), *folder.glob("*/checkpoints/[0-9]*")]
    made = any((folder / name).exists() for name in ("results.json", *workdirs.FINDINGS))
    started = made or bool(trained)
    return _other_keys(folder, config) if started else []


def _other_keys(folder: pathlib.Path, config: ml_collections.ConfigDict) -> list[str]:
    """As `differences`, whether or not there is something to lose."""
    path = folder / "config.json"
    if not path.exists():
        return []
    now = schema.flatten(_plain(config))
    # A key younger than the run had no effect then, as its default has none now.
    defaults = schema.flatten(_plain(schema.default()))
    before = defaults | schema.flatten(json.loads(path.read_text(encoding="utf-8")))
    return [
        f"  {key}: {before.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in _MAY_CHANGE
    ]


def _plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    # Through JSON, so that tuples compare with the lists they are read back as.
    return json.loads(json.dumps(config.to_dict()))


def skipped_examples(config: ml_collections.ConfigDict, dataset: sources.Dataset) -> dict[str, int]:
    """How many stored examples were left out, for records and results, if they may be."""
    return {"skipped_examples": len(dataset.skipped)} if config.data.on_damaged == "skip" else {}


def _require_same_data(dataset: sources.Dataset) -> None:
    """Raises DataError, in every process, if not all could read the same examples."""
    if jax.process_count() == 1:
        return
    sizes = [len(split) for split in dataset.splits.values()]
    seen = np.array([*sizes, zlib.crc32(" ".join(dataset.skipped).encode())], np.uint32)
    every = multihost_utils.process_allgather(seen)
    if (every != every[0]).any():
        raise sources.DataError(
            f"{dataset.name}: expected all processes to read the same examples; by process, they "
            f"have {', '.join('/'.join(map(str, one[:-1])) for one in every)} in "
            f"{'/'.join(dataset.splits)}"
        )


def _check_classes(dataset: sources.Dataset) -> None:
    """Raises DataError if a fine class is missing where the transfer will need it.

    Not where labels are only known once images are read.
    """
    for name in ("train", "test"):
        fine = dataset.splits[name].fine
        if fine is not None:
            absent = np.setdiff1d(np.arange(len(dataset.fine_names)), fine)
            if absent.size:
                raise sources.DataError(
                    f"{dataset.name}, split {name!r}: no example of fine class "
                    f"{dataset.fine_names[absent[0]]!r}; every one of the "
                    f"{len(dataset.fine_names)} fine classes is needed"
                )


def _worst_group(found: dict[str, np.ndarray], names: tuple[str, ...]) -> dict[str, Any]:
    """The fine class on which the coarse classifier does worst, and its accuracy there."""
    correct = found["prediction"] == found["coarse"]
    accuracy = {int(k): float(correct[found["fine"] == k].mean()) for k in np.unique(found["fine"])}
    worst = min(accuracy, key=lambda group: accuracy[group])
    return {"worst_group_accuracy": accuracy[worst], "worst_group": names[worst]}


def _along_training(records: list[dict[str, Any]]) -> dict[str, Any]:
    """What was measured on the validation split on the way, if transfer.every_epochs asked for it.

    {"along_training": {"epoch": [...], name: [...], ...}}, or {}.
    """
    measured = [record for record in records if "validation_fine_accuracy" in record]
    names = ("epoch", "validation_fine_accuracy", "validation_collapse_index")
    return (
        {"along_training": {name: [record[name] for record in measured] for name in names}}
        if measured
        else {}
    )


def median(records: list[dict[str, Any]], name: str) -> float | None:
    """Returns the median of a number over the records that have it; None if none has."""
    values = [record[name] for record in records if name in record]
    return float(np.median(values)) if values else None


def _accuracy(found: dict[str, np.ndarray]) -> float:
    return float(np.mean(found["prediction"] == found["coarse"]))


def _figures(
    config: Any, dataset: Any, state: Any, forward: Any, test: dict[str, np.ndarray], records: Any
) -> dict[str, tuple[Any, str]]:
    """Draws what the report shows; each figure with a sentence on how to read it."""
    points, chosen = projection.project(test["embedding"], limit=config.report.map_points)
    figures = {
        "Training": (plots.curves(records), plots.HOW_TO_READ["curves"]),
        "Test embeddings by coarse label": (
            plots.embedding_map(
                points, test["coarse"][chosen], dataset.coarse_names, "coarse label"
            ),
            plots.HOW_TO_READ["coarse"],
        ),
        "Test embeddings by fine label": (
            plots.embedding_map(points, test["fine"][chosen], dataset.fine_names, "fine label"),
            plots.HOW_TO_READ["fine"],
        ),
    }
    if METHODS[config.method].reconstruct:
        images = dataset.splits["test"].read(np.arange(min(12, len(test["fine"]))))["image"]
        outputs = forward({"params": state.params, **state.model_state}, images)
        units = (dataset.mean, dataset.std)
        channels = dataset.image_shape[-1]  # the random bits come after them
        figures["Reconstructions"] = (
            plots.reconstructions(
                *(
                    np.asarray(augment.unnormalize(outputs[name][..., :channels], *units))
                    for name in ("input", "reconstruction")
                )
            ),
            plots.HOW_TO_READ["reconstructions"],
        )
    return figures
