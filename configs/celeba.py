r"""Thanos on CelebA: coarse label blond hair, fine label the group (blond hair x male).

    python -m thanos_jax.main --config=configs/celeba.py --config.data.data_dir=DATA \
        --workdir=runs/celeba

DATA holds celeb_a as TFDS prepares it in array_record form (README.md). 162,770 training images,
CelebA's own validation and test splits; the largest centred square at 64 x 64 pixels, 2.3 GiB in
memory (with a lower data.memory_limit_gib, or larger images, they are read from disk as needed).

Presets, `configs/celeba.py:METHOD,PRESET`: resnet18 (default), resnet50, vit, mlp; two encoders
(mlp: one), 50 epochs at batch 128. Not run here on the real images: they could not be had. The
papers give the accuracy of groups recovered from the embedding, not this transfer.
"""

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
