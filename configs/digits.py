"""Thanos on scikit-learn's handwritten digits: the default job, on data that come installed.

    python -m thanos_jax.main --config=configs/digits.py --workdir=runs/digits

1,294 training images of 8 x 8 pixels, 144 for validation, 359 for test. Coarse label: digit >= 5;
fine label: the digit. A small MLP; one encoder for everything. About half a minute on two
CPU cores, of which training is 12 s. Fine accuracy 96.8 ± 0.6 (SupCon: 90.2 ± 1.3), three seeds;
docs/results.md has all methods.
"""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

PRESETS = ("mlp",)


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,PRESET]; "thanos,mlp" if the argument is empty."""
    config = schema.default()
    config.method, _ = schema.parse_argument(argument, PRESETS)
    config.data.name = "digits"
    # A digit mirrored, or without its lower half, may be no digit or another.
    config.augment.crop_scale = (0.5, 1.0)
    config.augment.flip = 0.0
    config.augment.jitter_probability = 0.0
    config.model.encoder = "mlp"
    config.model.arrangement = "shared"
    config.model.mlp.widths = (256, 128, 64)
    config.train.batch_size = 256
    config.train.epochs = 300.0
    config.train.learning_rate = 1e-3
    config.train.evaluate_every_epochs = 30.0
    config.train.checkpoint_every_epochs = 100.0
    return config
