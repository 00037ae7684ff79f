r"""Coresets of scikit-learn's digits, some of them rare: which 30 % of the images to train on.

    python -m thanos_jax.main --config=configs/digits_coreset.py:spread --workdir=runs/coreset

Class: digit >= 5. Of 685 training images the digits 3, 4, 8 and 9, two in each class, have 19 to 25
each, the others about 100; the test split has all alike. Digits are looked at to measure only.
METHOD is what is trained on halves of the images, four times, to see which images are predicted
alike with and without them; those of the most common strata go first. Then a classifier is trained
on the 206 that stay.

    python -m thanos_jax.compare --config=configs/digits_coreset.py:spread --table=coreset \
        --workdir=DIR

Half a minute on two CPU cores. Accuracy over three seeds: 92.6 ± 1.1 with spread, 86.5 ± 3.3 on
random images, 95.5 ± 1.6 on all; docs/coresets.md has the table.
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
    config.data.name = "digits"
    config.data.rare_fraction = 0.2
    config.data.validation_fraction = 0.3
    # A digit mirrored, or without its lower half, may be no digit or another.
    config.augment.crop_scale = (0.7, 1.0)
    config.augment.flip = 0.0
    config.augment.jitter_probability = 0.0
    config.augment.grey_probability = 0.0
    config.model.encoder = "mlp"
    config.model.arrangement = "shared"
    config.model.mlp.widths = (256, 128, 64)
    config.train.batch_size = 64
    config.train.epochs = 30.0
    config.train.learning_rate = 1e-3
    config.train.evaluate_every_epochs = 1.0
    config.train.checkpoint_every_epochs = 30.0
    config.coreset.runs = 4
    return config
