r"""Thanos on Waterbirds: coarse label land- or waterbird, fine label the group (bird x background).

    python -m thanos_jax.main --config=configs/waterbirds.py --config.data.data_dir=DATA \
        --workdir=runs/waterbirds

DATA holds waterbird_complete95_forest2water2/ as group DRO's authors distribute it, with
metadata.csv (docs/data.md): 11,788 images, the largest centred square at 224 x 224 pixels, 1.7 GiB
in memory (with a lower data.memory_limit_gib, or larger images, they are read from disk as
needed). Its own validation and test splits.

Presets, `configs/waterbirds.py:METHOD,PRESET`: resnet50 (default), resnet18, vit, mlp; two encoders
(mlp: one), 300 epochs at batch 128. The papers start from a ResNet50 trained on ImageNet:
--config.model.weights=FILE.safetensors does (docs/groups.md); without it parameters are random, and
their numbers not to be expected. Not run here on the real images or with those weights: neither
could be had.
"""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

PRESETS = ("resnet50", "resnet18", "vit", "mlp")


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,PRESET]; "thanos,resnet50" if the argument is empty."""
    config = schema.default()
    config.method, preset = schema.parse_argument(argument, PRESETS)
    config.data.name = "waterbirds"
    config.data.image_size = 224
    config.model.encoder = preset
    config.model.resnet.stem = "imagenet"
    config.model.vit.patch = 16
    config.train.epochs = 300.0
    if preset == "mlp":
        config.model.arrangement = "shared"
    return config
