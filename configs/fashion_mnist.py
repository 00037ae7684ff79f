r"""Thanos on Fashion-MNIST: 60,000 images of clothes, coarse label one of four groups.

    python -m thanos_jax.main --config=configs/fashion_mnist.py --config.data.data_dir=DATA \
        --workdir=runs/fashion_mnist

DATA holds fashion_mnist/3.0.1 as TFDS prepares it in array_record form (docs/data.md). The groups
are tops, trousers and dresses, footwear, and bags; the fine label is one of the ten classes.

Encoders, `configs/fashion_mnist.py:METHOD,ENCODER`, are those of `configs/mnist.py`:
  mlp       (default) an MLP of 784-512-256-128 units with one encoder for everything, 20 epochs,
            for a CPU: minutes on two cores. Fine accuracy 85.6, SupCon 80.7, one seed.
  convnet   convolutions of 5x5 to 32 and 3x3 to 64 channels, linear layers of 256 and 128 units, 20
            epochs; computed as matrix products on a CPU. Not tuned, not run here.
  vit       the papers' ViT and settings: two encoders, 600 epochs at batch 128. Not run here.
  resnet18  the papers' ResNet18, 200 epochs. Not run here.
"""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

ENCODERS = ("mlp", "vit", "resnet18", "convnet")


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,ENCODER]; "thanos,mlp" if the argument is empty."""
    config = schema.default()
    config.method, config.model.encoder = schema.parse_argument(argument, encoder=ENCODERS)
    config.data.name = "fashion_mnist"
    config.augment.grey_probability = 0.0
    if config.model.encoder in ("mlp", "convnet"):
        config.augment.crop_scale = (0.7, 1.0)
        config.augment.jitter_probability = 0.0
        config.model.arrangement = "shared"
        config.train.batch_size = 256
        config.train.epochs = 20.0
        config.train.learning_rate = 4e-3
        config.train.checkpoint_every_epochs = 5.0
    elif config.model.encoder == "resnet18":
        config.train.epochs = 200.0
    if config.model.encoder == "convnet":
        config.train.resident = "yes"
        config.train.learning_rate = 1e-3
    return config
