"""Whether a config and its data fit each other: what can be known before anything is compiled."""

from __future__ import annotations

import sys

import ml_collections

from thanos_jax import agree
from thanos_jax.data.dataset import Dataset
from thanos_jax.errors import ConfigError


def require(config: ml_collections.ConfigDict, dataset: Dataset) -> None:
    """Checks what training or evaluation would find out late.

    Args:
      config: checked against its schema.
      dataset: what config.data came to.

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


def _require_hidden(config: ml_collections.ConfigDict, dataset: Dataset) -> None:
    """Raises ConfigError if there are no fine labels that could be read off an embedding."""
    if dataset.one_level and config.data.classes != "fine":
        raise ConfigError(
            "config.task: 'transfer' reads fine labels off an embedding that was trained on coarse"
            f" ones, but each image of {dataset.name} has one label, so that nothing is hidden."
            " Expected the columns coarse and fine, or folders COARSE/FINE; or task noise, coreset"
            " or groups. With --config.data.classes=fine transfer trains on the labels and measures"
            " them"
        )
    if len(dataset.fine_names) < 2:
        raise ConfigError(
            "config.task: expected two fine classes at least, to be told apart by 'transfer', got"
            f" {len(dataset.fine_names)} in {dataset.name}: {', '.join(dataset.fine_names)}"
        )


def warn_of_large_batch(name: str, config: ml_collections.ConfigDict, images: int) -> None:
    """Says on stderr if a batch is larger than the training set, so that it repeats images.

    Args:
      name: of the training; "" for the only one of a run.
      config: of the training.
      images: of an epoch.
    """
    size = config.train.batch_size
    if size > images and agree.is_first():
        steps = max(1, round(config.train.epochs * images / size))
        print(
            f"WARNING: {name}{': ' if name else ''}a batch of {size} images is larger than the"
            f" training set of {images}: images are there several times in a batch, and"
            f" {config.train.epochs:g} epochs are {steps} steps. config."
            f"{'classifier' if name == 'classifier' else 'train'}.batch_size makes it smaller",
            file=sys.stderr,
            flush=True,
        )
