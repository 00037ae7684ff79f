r"""RandBit of Xue et al. (ICML 2023): random bits that both views share, as a competing feature.

    python -m thanos_jax.main --config=configs/randbit.py[:METHOD][,DATA] \
        --config.data.data_dir=DIR --workdir=DIR

DIR holds the set, prepared by TFDS in array_record form (README.md).

DATA, with its number of bits and weight beta of the joint loss:
  mnist     (default) 10 bits (the paper has 5, 10 and 15), beta 0.5. The paper reports for 10 bits
            a fine accuracy of 61.21 for info_nce, 79.37 for joint.
  cifar10   2 bits, beta 0.5. The paper reports at width 4 an accuracy of classes and subclasses of
            86.73 and 34.38.
  cifar100  1 bit, beta 0.8. The paper reports an accuracy of classes and subclasses of 61.10 and
            28.13 for supcon, 52.32 and 34.11 for info_nce, 63.94 and 35.72 for joint.

The settings are the paper's: one ResNet18 with 64 channels in its first stage (the paper also has 4
and 128: --config.model.resnet.width), SGD with a rate of 0.01 and momentum 0.9, batch size 512,
1000 epochs. Settings that the paper does not give were chosen here: a constant rate, no weight
decay, a temperature of 0.5. This config was not run at this length; docs/results.md has MNIST with
an MLP, 20 epochs.

    python -m thanos_jax.compare --config=configs/randbit.py --config.data.data_dir=DIR \
        --table=randbit --workdir=DIR
"""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

BITS = {"mnist": 10, "cifar10": 2, "cifar100": 1}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,DATA], by default "joint,mnist"."""
    config = schema.default()
    config.method, config.data.name = schema.parse_argument(
        argument, method="joint", data=tuple(BITS)
    )
    config.data.random_bits = BITS[config.data.name]
    config.data.random_bits_form = "integer"
    if config.data.name == "mnist":
        config.augment.grey_probability = 0.0
    config.model.encoder = "resnet18"
    config.model.arrangement = "shared"
    config.loss.beta = 0.8 if config.data.name == "cifar100" else 0.5
    config.train.optimizer = "sgd"
    config.train.momentum = 0.9
    config.train.schedule = "constant"
    config.train.warmup_epochs = 0.0
    config.train.learning_rate = 0.01
    config.train.weight_decay = 0.0
    config.train.batch_size = 512
    config.train.epochs = 1000.0
    return config
