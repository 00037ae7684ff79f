r"""Thanos on ISIC: coarse label benign or malignant, fine label the group (patch or no patch).

    python -m thanos_jax.main --config=configs/isic.py --config.data.data_dir=DIR \
        --workdir=runs/isic

DIR holds images of the ISIC archive and metadata.csv, with the columns filename, benign_malignant,
patch and perhaps split, which the user puts together (docs/data.md); which images show a patch is
not in the archive's metadata. The largest centred square at 224 x 224 pixels: 22,000 images are
3.1 GiB in memory (with a lower data.memory_limit_gib they are read from disk as needed).

Presets, `configs/isic.py:METHOD,PRESET`: resnet50 (default), resnet18, vit, mlp; two encoders (mlp:
one), 20 epochs at batch 128. The papers start from a ResNet50 trained on ImageNet:
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
    config.data.name = "isic"
    config.data.image_size = 224
    config.model.encoder = preset
    config.model.resnet.stem = "imagenet"
    config.model.vit.patch = 16
    config.train.epochs = 20.0
    if preset == "mlp":
        config.model.arrangement = "shared"
    return config
