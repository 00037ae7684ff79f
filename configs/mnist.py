"""PLACEHOLDER MNIST."""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

PRESETS = ("mlp", "vit", "resnet18")


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,PRESET]; "thanos,mlp" if the argument is empty."""
    config = schema.default()
    config.method, preset = schema.parse_argument(argument, PRESETS)
    config.data.name = "mnist"
    config.augment.grey_probability = 0.0
    config.model.encoder = preset
    if preset == "mlp":
        config.augment.crop_scale = (0.5, 1.0)
        config.augment.flip = 0.0
        config.augment.jitter_probability = 0.0
        config.model.arrangement = "shared"
        config.train.batch_size = 256
        config.train.epochs = 20.0
        config.train.learning_rate = 1e-3
    elif preset == "resnet18":
        config.train.epochs = 200.0
    return config
