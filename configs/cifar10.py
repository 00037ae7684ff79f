r"""Thanos on CIFAR-10: 50,000 images; coarse label vehicle or animal, fine label the class.

    python -m thanos_jax.main --config=configs/cifar10.py --config.data.data_dir=DATA \
        --workdir=runs/cifar10

DATA holds cifar10, prepared by TFDS in array_record form (README.md).

Encoders, `configs/cifar10.py:METHOD,ENCODER`:
  vit       (default) the papers' ViT and settings: two encoders, 600 epochs, batch size 128.
            Perfectly Balanced reports a fine accuracy of 79.1 for Thanos, 51.8 for SupCon.
  resnet18  the papers' ResNet18, 200 epochs.
  mlp       a small MLP, 20 epochs, to try the program on a CPU; its numbers are not of interest.
None of these was run on the real images, which were not available.
"""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

ENCODERS = ("vit", "resnet18", "mlp")


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,ENCODER]; "thanos,vit" if the argument is empty."""
    config = schema.default()
    config.method, config.model.encoder = schema.parse_argument(argument, encoder=ENCODERS)
    config.data.name = "cifar10"
    if config.model.encoder == "mlp":
        config.model.arrangement = "shared"
        config.train.batch_size = 256
        config.train.epochs = 20.0
        config.train.learning_rate = 1e-3
    elif config.model.encoder == "resnet18":
        config.train.epochs = 200.0
    return config
