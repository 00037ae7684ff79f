"""PLACEHOLDER."""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD, "thanos" if the argument is empty."""
    config = schema.default()
    config.method, _ = schema.parse_argument(argument, presets=("mlp",))
    config.data.name = "digits"
    config.augment.crop_scale = (0.5, 1.0)
    config.augment.flip = 0.0
    config.augment.jitter = (0.0, 0.0, 0.0, 0.0)
    config.augment.grey_probability = 0.0
    config.model.encoder = "mlp"
    config.model.arrangement = "shared"
    config.model.mlp.widths = (256, 128, 64)
    config.train.batch_size = 256
    config.train.epochs = 100.0
    config.train.learning_rate = 1e-3
    return config
