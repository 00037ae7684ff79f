r"""Waterbirds: coarse label land- or waterbird, fine label the group (bird x background).

    python -m thanos_jax.main --config=configs/waterbirds.py[:METHOD][,ENCODER][,TASK] \
        --config.data.data_dir=DATA --workdir=DIR

DATA holds waterbird_complete95_forest2water2/ as group DRO's authors distribute it, with
metadata.csv (docs/data.md): 11,788 images with their own validation and test splits. Images are the
largest centred square at 224 x 224 pixels and take 1.7 GiB in memory. With a lower
data.memory_limit_gib, or larger images, they are read from disk as needed.

ENCODER: resnet50 (default), resnet18, vit, mlp; two encoders (mlp: one). The papers start from a
ResNet50 trained on ImageNet, as --config.model.weights=FILE.safetensors does (docs/groups.md).
Without it parameters start at random, and the papers' numbers cannot be expected.

TASK is one of
  transfer  (default) fine labels classified from the embedding: AdamW, 300 epochs at batch size
            128.
  groups    the protocol of GEORGE, group DRO and JTT: SGD with momentum 0.9 at a constant rate of
            1e-5, weight decay 1 on all parameters, 300 epochs at batch size 128, group adjustment
            C = 2, no augmentation of the classifier's images; JTT: T = 60 epochs, lambda = 100.
            Perfectly Balanced does not say how the representation of METHOD is trained; here its
            settings equal the classifier's, with augmented views.
This config was not run on the real images or with those weights, which were not available.
"""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

ENCODERS = ("resnet50", "resnet18", "vit", "mlp")
TASKS = ("transfer", "groups")


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,ENCODER][,TASK], by default "thanos,resnet50,transfer"."""
    config = schema.default()
    config.method, config.model.encoder, config.task = schema.parse_argument(
        argument, encoder=ENCODERS, task=TASKS
    )
    config.data.name = "waterbirds"
    config.data.image_size = 224
    config.data.decode = "scaled"
    config.model.resnet.stem = "imagenet"
    config.model.vit.patch = 16
    config.train.epochs = 300.0
    if config.model.encoder == "mlp":
        config.model.arrangement = "shared"
    if config.task == "groups":
        config.train.optimizer = "sgd"
        config.train.schedule = "constant"
        config.train.warmup_epochs = 0.0
        config.train.learning_rate = 1e-5
        config.train.weight_decay = 1.0
        config.train.decay = "all"
        config.classifier.augment = False
        config.groups.group_dro_adjustment = 2.0
        config.groups.jtt_epochs = 60.0
        config.groups.jtt_weight = 100
    return config
