"""Makes a share of the labels of a data set wrong, and remembers the right ones."""

from __future__ import annotations

from typing import NamedTuple

import ml_collections
import numpy as np

from thanos_jax.data.corruption import corrupt
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.relabelled import relabel
from thanos_jax.errors import ConfigError
from thanos_jax.tasks import stages

_VALIDATION = 2**32  # added to the run's seed for the noise of the validation split


class Noise(NamedTuple):
    """Labels of one split.

    Attributes:
      right: int32 [n], the clean labels.
      given: int32 [n], the noisy labels.
      changed: bool [n], True where they differ.
    """

    right: np.ndarray
    given: np.ndarray
    changed: np.ndarray


def corrupted(
    config: ml_collections.ConfigDict, dataset: Dataset
) -> tuple[dict[str, Noise], Dataset]:
    """Corrupts a share of the labels of the training and the validation split.

    Args:
      config: the whole config; its seed determines the draw.
      dataset: the data set with clean labels.

    Returns:
      The labels of both splits, and the data set with noisy labels as coarse labels; the test split
      keeps its clean labels.

    Raises:
      ConfigError: labels cannot be corrupted in this way.
    """
    kind = config.noise.kind
    within = kind == "within_class"
    if within and config.data.classes == "fine":
        raise ConfigError(
            "config.data.classes: expected 'coarse' with noise.kind 'within_class', whose labels "
            "stay within a coarse class, got 'fine'"
        )
    names = dataset.fine_names if within else dataset.coarse_names
    noise, splits = {}, {"test": dataset.splits["test"]}
    if within:
        splits["test"] = relabel(splits["test"], None)
    for split, seed in (("train", config.seed), ("validation", _VALIDATION + config.seed)):
        labels = stages.labels(dataset.splits[split])
        right = labels["fine" if within else "coarse"]
        try:
            given, changed = corrupt(
                labels["coarse"],
                config.noise.rate,
                kind,
                num_classes=len(dataset.coarse_names),
                seed=seed,
                fine=labels["fine"] if within else None,
            )
        except ValueError as error:
            raise ConfigError(
                f"config.noise: {kind} noise at rate {config.noise.rate:g} cannot be made in the "
                f"{split} split of {dataset.name}: {error}"
            ) from error
        noise[split] = Noise(right, given.astype(np.int32), changed)
        splits[split] = relabel(dataset.splits[split], noise[split].given)
    order = ("train", "validation", "test")
    noisy = dataset._replace(splits={name: splits[name] for name in order}, coarse_names=names)
    return noise, noisy
