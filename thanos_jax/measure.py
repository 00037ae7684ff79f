"""Restores a run and computes all measures of its embeddings; docs/geometry.md explains them."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
import numpy as np

from thanos_jax import config as schema
from thanos_jax import sharding
from thanos_jax.data import sources
from thanos_jax.downstream import class_fixing, lipschitz, neural_collapse, placing, strata
from thanos_jax.errors import NotARunError
from thanos_jax.train import checkpoint
from thanos_jax.train.build import build
from thanos_jax.train.embed import embed


def geometry(
    workdir: str | os.PathLike[str], *, images: int = 256, samples: int = 2048, seed: int = 0
) -> dict[str, Any]:
    """Restores a run and measures its embeddings of the test split.

    Args:
      workdir: folder of a run, with config.json and a checkpoint.
      images: largest number of test images for Lipschitz constants.
      samples: largest number of test images for the permutation test.
      seed: draws samples, permutations and starting vectors.

    Returns:
      "step", of the checkpoint; "neural_collapse" of coarse classes, with the classifier's weights
      if there is one encoder; "strata", nc1 and nc2 among the strata of each coarse class;
      "strata_distances": names "coarse" and "fine" of the strata and the matrix "distances";
      "permutation_test"; Lipschitz constants of the "encoder" and of the "decoder", if there is
      one.

    Raises:
      NotARunError: the folder has no run, or the run has no checkpoint.
      ConfigError: its config cannot be used.
      CheckpointError: its newest checkpoint is damaged.
    """
    folder = pathlib.Path(workdir).expanduser()
    if not (folder / "config.json").exists() or not (folder / "checkpoints").is_dir():
        raise NotARunError(
            f"workdir: expected a run with config.json and checkpoints, got {folder}"
        )
    config = schema.read(folder / "config.json")
    dataset = sources.load(config.data)
    training = build(config, dataset, sharding.make_mesh(), resumes=True)
    # Read only: the run may still be writing.
    saved = checkpoint.steps(folder / "checkpoints")
    if not saved:
        raise NotARunError(f"workdir: {folder} has no checkpoint yet")
    step = saved[-1]
    state = checkpoint.restore(folder / "checkpoints", training.state, step)
    variables = {"params": state.params, **state.model_state}
    test = embed(training, state, dataset.splits["test"])
    embeddings, fine, coarse = (test[name] for name in ("embedding", "fine", "coarse"))
    weights = None
    if "classifier_1" not in state.params:  # two classifiers are not one matrix
        weights = np.asarray(state.params["classifier_0"]["kernel"]).T
    of_strata = neural_collapse.strata_neural_collapse(embeddings, fine, coarse)
    distances = strata.strata_distances(embeddings, fine, coarse, seed=seed)
    apart = distances.distances.tolist()
    found: dict[str, Any] = {
        "step": step,
        "neural_collapse": neural_collapse.neural_collapse(
            embeddings, coarse, weights=weights, predictions=test["prediction"]
        ),
        "strata": {dataset.coarse_names[label]: numbers for label, numbers in of_strata.items()},
        "strata_distances": {
            "coarse": [dataset.coarse_names[label] for label in distances.coarse],
            "fine": [dataset.fine_names[label] for label in distances.fine],
            # A stratum of one image has no distance to itself.
            "distances": [[None if np.isnan(v) else v for v in row] for row in apart],
        },
        "permutation_test": class_fixing.class_fixing_permutation_test(
            embeddings, fine, coarse, samples=samples, seed=seed
        ),
    }
    asked = np.arange(min(images, len(fine)))
    stored = jax.numpy.asarray(dataset.splits["test"].read(asked)["image"])
    inputs = training.inputs(stored, stored)
    encode, decode = lipschitz.encoder_and_decoder(training.model, variables)
    key = jax.random.key(seed)
    found["encoder"] = {
        **lipschitz.lipschitz(encode, inputs, key),
        **lipschitz.pair_lipschitz(inputs, encode(inputs)),
    }
    if decode is not None:
        # The decoder reads the last encoder's embedding, which is as wide as the others'.
        width = embeddings.shape[1] // len(training.model.encoders)
        asked_of_decoder = placing.take(embeddings, asked)[:, -width:]
        found["decoder"] = lipschitz.lipschitz(decode, asked_of_decoder, key)
    return found
