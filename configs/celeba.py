r"""CelebA: coarse label blond hair, fine label the group (blond hair x male).

    python -m thanos_jax.main --config=configs/celeba.py[:METHOD][,ENCODER][,TASK] \
        --config.data.data_dir=DATA --workdir=DIR

DATA holds celeb_a, prepared by TFDS in array_record form (README.md): 162,770 training images and
CelebA's own validation and test splits. Images are the largest centred square at 64 x 64 pixels and
take 2.3 GiB in memory. With a lower data.memory_limit_gib, or larger images, they are read from
disk as needed.

ENCODER: resnet18 (default), resnet50, vit, mlp; two encoders (mlp: one).

TASK is one of
  transfer  (default) fine labels classified from the embedding: AdamW, 50 epochs at batch size 128.
            The papers report the accuracy of groups recovered from the embedding, not this
            accuracy.
  groups    the protocol of GEORGE, group DRO and JTT: images at 224 x 224 pixels, SGD with momentum
            0.9 at a constant rate of 1e-5, weight decay 0.1 on all parameters, 50 epochs at batch
            size 128, group adjustment C = 3, no augmentation of the classifier's images; JTT: T = 1
            epoch, lambda = 50. The papers' encoder is a ResNet50 trained on ImageNet:
            `:groups,resnet50` and --config.model.weights=FILE.safetensors (docs/groups.md).
            Perfectly Balanced does not say how the representation of METHOD is trained; here its
            settings equal the classifier's, with augmented views.
This config was not run on the real images, which were not available.
"""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

ENCODERS = ("resnet18", "resnet50", "vit", "mlp")
TASKS = ("transfer", "groups")


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,ENCODER][,TASK], by default "thanos,resnet18,transfer"."""
    config = schema.default()
    config.method, config.model.encoder, config.task = schema.parse_argument(
        argument, encoder=ENCODERS, task=TASKS
    )
    config.data.name = "celeb_a"
    config.data.image_size = 64
    config.model.vit.patch = 8
    config.train.epochs = 50.0
    if config.model.encoder == "mlp":
        config.model.arrangement = "shared"
    if config.task == "groups":
        config.data.image_size = 224
        config.model.resnet.stem = "imagenet"
        config.model.vit.patch = 16
        config.train.optimizer = "sgd"
        config.train.schedule = "constant"
        config.train.warmup_epochs = 0.0
        config.train.learning_rate = 1e-5
        config.train.weight_decay = 0.1
        config.train.decay = "all"
        config.classifier.augment = False
        config.groups.group_dro_adjustment = 3.0
        config.groups.jtt_epochs = 1.0
        config.groups.jtt_weight = 50
    return config
