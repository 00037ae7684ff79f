r"""Noisy labels of MNIST's ten digits: made wrong, found by an embedding, and mended.

    python -m thanos_jax.main --config=configs/mnist_noise.py --config.data.data_dir=DATA \
        --workdir=runs/mnist_noise

DATA as for configs/mnist.py. 20 % of the training and validation labels become another digit, each
with equal probability. METHOD is what the representation is trained with, from which wrong labels
are found; then a classifier is trained on the mended ones, and tested on right ones. For CPUs: an
MLP. Beside what needs no representation, at 10 to 60 %:

    python -m thanos_jax.compare --config=configs/mnist_noise.py --config.data.data_dir=DATA \
        --table=noise --workdir=DIR
"""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

PRESETS = ("mlp",)


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,PRESET]; "thanos,mlp" if the argument is empty."""
    config = schema.default()
    config.task = "noise"
    config.method, _ = schema.parse_argument(argument, PRESETS)
    config.data.name = "mnist"
    config.data.classes = "fine"
    # A crop and no more: enough for two views of a digit.
    config.augment.crop_scale = (0.7, 1.0)
    config.augment.flip = 0.0
    config.augment.jitter_probability = 0.0
    config.augment.grey_probability = 0.0
    config.model.encoder = "mlp"
    config.model.arrangement = "shared"
    config.train.batch_size = 256
    config.train.epochs = 5.0
    config.train.learning_rate = 1e-3
    config.train.checkpoint_every_epochs = 5.0
    # Without, wrong labels are learnt by heart, and there is something to lose.
    config.classifier.augment = False
    config.classifier.epochs = 15.0
    return config
