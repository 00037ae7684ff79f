"""Checks that a config and its data fit each other, before anything is compiled."""

from __future__ import annotations

import sys

import ml_collections

from thanos_jax import agree
from thanos_jax.data.dataset import Dataset
from thanos_jax.errors import ConfigError
from thanos_jax.train.objective import METHODS


def require(config: ml_collections.ConfigDict, dataset: Dataset) -> None:
    """Checks a config against its data, so that training and evaluation do not fail late.

    Args:
      config: checked against its schema.
      dataset: the data set that config.data describes.

    Raises:
      ConfigError: names the key to change, or what the data lack.
    """
    height, width, _ = dataset.image_shape
    patch = config.model.vit.patch
    if config.model.encoder == "vit" and (height % patch or width % patch):
        raise ConfigError(
            f"config.model.vit.patch: expected a divisor of the image's height and width, {height}"
            f" x {width}, got {patch}; data.image_size changes the image"
        )
    if config.task == "transfer":
        _require_hidden(config, dataset)
    if dataset.unlabelled is not None and not METHODS[config.method].learns_without_labels:
        usable = ", ".join(name for name, one in METHODS.items() if one.learns_without_labels)
        _warn(
            f"config.method: {config.method!r} has neither InfoNCE nor an autoencoder, so that"
            f" {len(dataset.unlabelled)} images without labels are left out; {usable} learn from"
            " them"
        )


def _require_hidden(config: ml_collections.ConfigDict, dataset: Dataset) -> None:
    """Raises ConfigError if there are no fine labels to predict from an embedding."""
    if dataset.one_level and config.data.classes != "fine":
        raise ConfigError(
            "config.task: 'transfer' predicts fine labels from an embedding trained on coarse"
            f" ones, but each image of {dataset.name} has one label, so that nothing is hidden."
            " Expected the columns coarse and fine, or folders COARSE/FINE; or task noise, coreset"
            " or groups. With --config.data.classes=fine transfer trains on the labels and measures"
            " them"
        )
    if len(dataset.fine_names) < 2:
        raise ConfigError(
            "config.task: expected at least two fine classes for 'transfer' to predict, got"
            f" {len(dataset.fine_names)} in {dataset.name}: {', '.join(dataset.fine_names)}"
        )


def warn_of_large_batch(name: str, config: ml_collections.ConfigDict, images: int) -> None:
    """Warns on stderr if a batch is larger than the training set, so that it repeats images.

    Args:
      name: of the training; "" for the only one of a run.
      config: of the training.
      images: number of images in an epoch.
    """
    size = config.train.batch_size
    if size > images:
        steps = max(1, round(config.train.epochs * images / size))
        section = "classifier" if name == "classifier" else "train"
        _warn(
            f"{name}{': ' if name else ''}a batch of {size} images is larger than the training set"
            f" of {images}: a batch repeats images, and {config.train.epochs:g} epochs are {steps}"
            f" steps. config.{section}.batch_size makes it smaller"
        )


def unlabelled_images(config: ml_collections.ConfigDict, dataset: Dataset) -> dict[str, int]:
    """Returns how many images have no label, and how many of them are trained on, for results."""
    used = 0 if dataset.unlabelled is None else len(dataset.unlabelled)
    found = used + dataset.unlabelled_dropped
    trained_on = used if METHODS[config.method].learns_without_labels else 0
    return {"unlabelled_images": found, "unlabelled_trained_on": trained_on} if found else {}


def _warn(text: str) -> None:
    if agree.is_first():
        print(f"WARNING: {text}", file=sys.stderr, flush=True)
