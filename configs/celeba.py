"""PLACEHOLDER CELEBA."""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

PRESETS = ("resnet18", "resnet50", "vit", "mlp")


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,PRESET]; "thanos,resnet18" if the argument is empty."""
    config = schema.default()
    config.method, preset = schema.parse_argument(argument, PRESETS)
    config.data.name = "celeb_a"
    config.data.image_size = 64
    config.model.encoder = preset
    config.model.vit.patch = 8
    config.train.epochs = 50.0
    if preset == "mlp":
        config.model.arrangement = "shared"
    return config
