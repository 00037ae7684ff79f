r"""ISIC: coarse label benign or malignant, fine label the group (patch or no patch).

    python -m thanos_jax.main --config=configs/isic.py[:METHOD][,ENCODER][,TASK] \
        --config.data.data_dir=DIR --workdir=DIR

DIR holds images of the ISIC archive and metadata.csv with the columns filename, benign_malignant,
patch and perhaps split (docs/data.md). The user writes this table; the archive's metadata does not
say which images show a patch. Images are the largest centred square at 224 x 224 pixels; 22,000
images take 3.1 GiB in memory. With a lower data.memory_limit_gib they are read from disk as needed.

ENCODER: resnet50 (default), resnet18, vit, mlp; two encoders (mlp: one). The papers start from a
ResNet50 trained on ImageNet, as --config.model.weights=FILE.safetensors does (docs/groups.md).
Without it parameters start at random, and the papers' numbers cannot be expected.

TASK is one of
  transfer  (default) fine labels classified from the embedding: AdamW, 20 epochs at batch size 128.
  groups    the protocol of GEORGE: SGD with momentum 0.9 at a constant rate of 1e-3, weight decay
            1e-3 on all parameters, 20 epochs at batch size 16; the classifier at a rate of 5e-4,
            group adjustment C = 0, no augmentation of its images. JTT's T and lambda for ISIC are
            not published, so that the defaults are used. Perfectly Balanced does not say how the
            representation of METHOD is trained; here it has GEORGE's settings and augmented views.
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
    config.data.name = "isic"
    config.data.image_size = 224
    config.data.decode = "scaled"
    config.model.resnet.stem = "imagenet"
    config.model.vit.patch = 16
    config.train.epochs = 20.0
    if config.model.encoder == "mlp":
        config.model.arrangement = "shared"
    if config.task == "groups":
        config.train.optimizer = "sgd"
        config.train.schedule = "constant"
        config.train.warmup_epochs = 0.0
        config.train.learning_rate = 1e-3
        config.train.weight_decay = 1e-3
        config.train.decay = "all"
        config.train.batch_size = 16
        config.classifier.learning_rate = 5e-4
        config.classifier.augment = False
        config.groups.group_dro_adjustment = 0.0
    return config
