r"""Hidden groups of scikit-learn's digits on red and green: which the classifier fails on.

    python -m thanos_jax.main --config=configs/digits_groups.py --workdir=runs/digits_groups

Class: digit >= 5; 90 % of the training images of a class are on its own colour. The true groups,
class x colour, are looked at to measure only. METHOD is what the representation is trained with,
from which groups are recovered; then a classifier is trained by group DRO on them.

    python -m thanos_jax.compare --config=configs/digits_groups.py --table=groups --workdir=DIR

A run takes half a minute on two CPU cores. Accuracy of the worst group over three seeds: 82.8 ± 8.5
with thanos, 88.5 ± 2.8 with spread, 79.0 ± 3.9 without groups (erm), 89.1 ± 3.4 with the true
groups; docs/groups.md has the table.
"""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

PRESETS = ("mlp",)


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,PRESET]; "thanos,mlp" if the argument is empty."""
    config = schema.default()
    config.task = "groups"
    config.method, _ = schema.parse_argument(argument, PRESETS)
    config.data.name = "digits"
    config.data.background = "colour"
    config.data.correlation = 0.9
    config.data.validation_fraction = 0.2
    # The colour is what the groups are made of.
    config.augment.crop_scale = (0.7, 1.0)
    config.augment.flip = 0.0
    config.augment.jitter_probability = 0.0
    config.augment.grey_probability = 0.0
    config.model.encoder = "mlp"
    config.model.arrangement = "shared"
    config.model.mlp.widths = (256, 128, 64)
    config.train.batch_size = 128
    config.train.epochs = 30.0
    config.train.learning_rate = 1e-3
    config.train.evaluate_every_epochs = 2.0
    config.train.checkpoint_every_epochs = 10.0
    config.classifier.epochs = 20.0
    config.groups.jtt_epochs = 5.0
    return config
