r"""Thanos on Tiny ImageNet: 200 classes at 64 x 64 pixels, coarse label the superclass.

    python -m thanos_jax.main --config=configs/tiny_imagenet.py --config.data.data_dir=DATA \
        --workdir=runs/tiny_imagenet

DATA holds tiny-imagenet-200/ as it is distributed (docs/data.md): 90,000 images for training,
10,000 for validation and 10,000 for testing, 1.3 GiB in memory. The 61 superclasses are a grouping
of our own. Perfectly Balanced reports a fine accuracy of 49.6 for Thanos and 43.9 for SupCon with
67 other superclasses, which are not available; the numbers are not comparable.
--config.data.coarse_map=FILE reads another grouping, a CSV with the columns wnid and coarse.

Encoders, `configs/tiny_imagenet.py:METHOD,ENCODER`:
  vit       (default) the papers' ViT with patches of 8 pixels: two encoders, 600 epochs.
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
    config.data.name = "tiny_imagenet"
    config.model.vit.patch = 8
    if config.model.encoder == "mlp":
        config.model.arrangement = "shared"
        config.train.batch_size = 256
        config.train.epochs = 20.0
        config.train.learning_rate = 1e-3
    elif config.model.encoder == "resnet18":
        config.train.epochs = 200.0
    return config
