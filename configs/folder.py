r"""Thanos on your own images, with a coarse and a fine label each, or with one label.

    python -m thanos_jax.main --config=configs/folder.py --config.data.data_dir=DIR \
        --workdir=runs/own

DIR holds images in folders COARSE/FINE or CLASS, or labels.csv with the columns filename, coarse,
fine (or only label) and perhaps split (docs/own_images.md). Images are cropped to their largest
centred square and resized to 64 x 64 pixels. For another size, set --config.data.image_size=SIDE,
a multiple of --config.model.vit.patch=8 for the ViT. Time and accuracy depend on the images.

TASK is one of the tasks of configs/digits.py, or audit: every label is judged by a model trained
without it, and findings.csv lists the most suspicious labels first.

Encoders, `configs/folder.py:METHOD,ENCODER,TASK`:
  vit       (default) the papers' ViT with patches of 8 pixels: two encoders, 200 epochs.
  resnet18  the papers' ResNet18, 200 epochs.
  mlp       a small MLP with one encoder, 100 epochs, for a CPU and a few thousand small images.
"""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

ENCODERS = ("vit", "resnet18", "mlp")
TASKS = ("transfer", "groups", "noise", "coreset", "audit")


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,ENCODER][,TASK], by default "thanos,vit,transfer"."""
    config = schema.default()
    config.method, config.model.encoder, task = schema.parse_argument(
        argument, encoder=ENCODERS, task=TASKS
    )
    config.task = "noise" if task == "audit" else task
    if task == "audit":
        config.noise.rate = 0.0
    config.data.name = "folder"
    config.data.image_size = 64
    config.model.vit.patch = 8
    config.train.epochs = 200.0
    if config.model.encoder == "mlp":
        config.model.arrangement = "shared"
        config.train.epochs = 100.0
        config.train.learning_rate = 1e-3
    return config
