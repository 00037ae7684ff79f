r"""Coresets of MNIST with rare digits: which 30 % of the images to train on.

    python -m thanos_jax.main --config=configs/mnist_coreset.py --config.data.data_dir=DATA \
        --workdir=runs/mnist_coreset

DATA as for configs/mnist.py. Class: digit >= 5. Of 33,033 training images the digits 3, 4, 8 and 9,
two in each class, have about 100 each, the others about 5,400; the test split has all alike. Digits
are looked at to measure only. METHOD is what is trained on two halves of the images, to see which
images are predicted alike with and without them; those of the most common strata go first. Then a
classifier is trained on the 9,910 that stay, for five epochs. For CPUs: an MLP. All methods:

    python -m thanos_jax.compare --config=configs/mnist_coreset.py:spread \
        --config.data.data_dir=DATA --table=coreset --values=0.3 --workdir=DIR

Test accuracy over three seeds: 90.4 ± 0.4 with spread, 87.9 ± 0.5 of as many images chosen at
random, 91.5 ± 0.1 of all.
"""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

PRESETS = ("mlp",)


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,PRESET]; "thanos,mlp" if the argument is empty."""
    config = schema.default()
    config.task = "coreset"
    config.method, _ = schema.parse_argument(argument, PRESETS)
    config.data.name = "mnist"
    config.data.rare_fraction = 0.02
    config.augment.crop_scale = (0.7, 1.0)
    config.augment.flip = 0.0
    config.augment.jitter_probability = 0.0
    config.augment.grey_probability = 0.0
    config.model.encoder = "mlp"
    config.model.arrangement = "shared"
    config.train.batch_size = 256
    config.train.epochs = 5.0
    config.train.learning_rate = 1e-3
    config.train.evaluate_every_epochs = 0.25
    config.train.checkpoint_every_epochs = 5.0
    config.coreset.runs = 2
    config.coreset.el2n_epochs = 1.0
    return config
