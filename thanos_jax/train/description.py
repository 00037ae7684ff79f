"""model.json: what is needed, besides a checkpoint, to use a trained model without its data set.

    part            name of the training in the run: "representation", "classifier", ...
    dataset         name of the data set
    sizes           number of images of each split
    classes         class names, in the order of the model's outputs
    fine_classes    fine class names
    images          height, width, channels; mean and std of each channel (of pixels in [0, 1]); and
                    in words how an image is converted to this shape
    batch_size      batch size of evaluations
    config          the whole config of the training
    versions        versions of thanos_jax and jax

Each training of a run has a model.json in its folder.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import ml_collections

from thanos_jax.data import preprocess
from thanos_jax.data.dataset import Dataset
from thanos_jax.errors import NotARunError
from thanos_jax.train.build import Training
from thanos_jax.version import __version__
from thanos_jax.workdir import MODEL, write_atomically

REPRESENTATION = "representation"


def describe(training: Training, name: str) -> dict[str, Any]:
    """Returns the contents of model.json for a training.

    Args:
      training: from `thanos_jax.train.build.build`.
      name: name of its stage; "" for the only training of a run, which is its representation.
    """
    dataset = training.dataset
    height, width, channels = dataset.image_shape
    return {
        "part": name or REPRESENTATION,
        "dataset": dataset.name,
        "sizes": {split: len(examples) for split, examples in dataset.splits.items()},
        "classes": list(dataset.coarse_names),
        "fine_classes": list(dataset.fine_names),
        "images": {
            "height": height,
            "width": width,
            "channels": channels,
            "mean": list(dataset.mean),
            "std": list(dataset.std),
            "preprocessing": preprocess.in_words(training.config.data),
        },
        "batch_size": evaluation_batch_size(training.config),
        "config": training.config.to_dict(),
        "versions": {"thanos_jax": __version__, "jax": jax.__version__},
    }


def evaluation_batch_size(config: ml_collections.ConfigDict) -> int:
    """Returns the number of images that are embedded at a time, over all devices."""
    return config.train.micro_batch_size or config.train.batch_size


def write(folder: pathlib.Path, training: Training, name: str) -> None:
    """Writes model.json to the folder of a training; arguments as `describe`."""
    text = json.dumps(describe(training, name), indent=2) + "\n"
    write_atomically(folder / MODEL, text)


def read(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the contents of model.json in a training's folder.

    Raises:
      NotARunError: the file is missing or does not describe a model.
    """
    path = folder / MODEL
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        missing = {"part", "dataset", "classes", "fine_classes", "images", "batch_size", "config"}
        missing -= found.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise NotARunError(f"{path}: expected the description of a model, got: {error}") from error
    if missing:
        raise NotARunError(f"{path}: expected the description of a model, without {min(missing)!r}")
    return found


def dataset_of(described: dict[str, Any]) -> Dataset:
    """Returns the data set of a model without splits: names, image shape, mean and std."""
    images = described["images"]
    return Dataset(
        described["dataset"],
        {},
        tuple(described["classes"]),
        tuple(described["fine_classes"]),
        (images["height"], images["width"], images["channels"]),
        tuple(images["mean"]),
        tuple(images["std"]),
    )
