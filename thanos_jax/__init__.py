"""Supervised contrastive learning without class collapse, in JAX."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from thanos_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from thanos_jax.trained.model import Model


def load(
    workdir: str | os.PathLike[str], *, step: int | None = None, part: str | None = None
) -> Model:
    """Loads a trained model from the folder of a run; the data set is not needed.

    Args:
      workdir: folder of a run, finished or not, with a checkpoint.
      step: of the checkpoint; None: the step whose accuracy the run reports, or else the newest.
      part: the training of the run to load: "representation", "classifier" or the name of another
        training's folder, such as "sample_0". None: the training that the results are about,
        which is the classifier if there is one.

    Returns:
      The model, on all devices of this process: `encode`, `predict`, `reconstruct`, `preprocess`,
      `classes`, `fine_classes` and `config`.

    Raises:
      NotARunError: there is no such run, training or checkpoint.
      ConfigError: its config cannot be used.
      CheckpointError: the checkpoint is damaged.

    Example:
      >>> import thanos_jax
      >>> model = thanos_jax.load("runs/digits")  # doctest: +SKIP
      >>> model.encode(["a.png", "b.png"]).shape  # doctest: +SKIP
      (2, 64)
    """
    from thanos_jax.trained.loading import load  # imports jax, which the package itself does not

    return load(workdir, step=step, part=part)
