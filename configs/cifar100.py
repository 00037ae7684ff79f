"""PLACEHOLDER CIFAR100."""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

PRESETS = ("vit", "resnet18", "mlp")


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,PRESET]; "thanos,vit" if the argument is empty."""
    config = schema.default()
    config.method, preset = schema.parse_argument(argument, PRESETS)
    config.data.name = "cifar100"
    config.model.encoder = preset
    if preset == "mlp":
        config.model.arrangement = "shared"
        config.train.batch_size = 256
        config.train.epochs = 20.0
        config.train.learning_rate = 1e-3
    elif preset == "resnet18":
        config.train.epochs = 200.0
    return config
