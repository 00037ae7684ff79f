r"""Scikit-learn's handwritten digits, which need no download: every task on two CPU cores.

    python -m thanos_jax.main --config=configs/digits.py[:METHOD][,TASK] --workdir=DIR

There are 1,797 images of 8 x 8 pixels, 359 of them for testing. The coarse label is digit >= 5, the
fine label the digit. The model is a small MLP with one encoder. A run takes about half a minute.

TASK is one of
  transfer  (default) ten digits classified from an embedding trained on the coarse label only.
            1,294 training images. Fine accuracy 96.8 ± 0.6 with thanos, 90.2 ± 1.3 with supcon,
            three seeds; docs/results.md has all methods.
  groups    digits on red and green, 90 % of the training images of a class on its own colour.
            Groups are recovered from the embedding of METHOD, and a classifier is trained on them
            by group DRO. The true groups, class x colour, are used for measurement only. Accuracy
            of the worst group over three seeds: 82.8 ± 8.5 with thanos, 88.5 ± 2.8 with spread,
            79.0 ± 3.9 without groups (erm), 89.1 ± 3.4 with the true groups; docs/groups.md.
  noise     ten classes; 20 % of the training and validation labels are another digit. Wrong labels
            are detected by the embedding of METHOD. A classifier is trained on the repaired labels
            and tested on correct ones; docs/noisy_labels.md.
  coreset   the digits 3, 4, 8 and 9 are rare: 19 to 25 images each of 685. METHOD is trained on
            halves of the images, four times, to see which images are predicted equally well with
            and without them in training. Images of the most common strata are left out first. A
            classifier is trained on the 206 remaining images. Accuracy over three seeds:
            92.6 ± 1.1 with spread, 86.5 ± 3.3 on random images, 95.5 ± 1.6 on all;
            docs/coresets.md.

The table of a task, with the methods that need no representation:

    python -m thanos_jax.compare --config=configs/digits.py:groups --table=groups --workdir=DIR
"""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

TASKS = ("transfer", "groups", "noise", "coreset")


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,TASK]; "thanos,transfer" if the argument is empty."""
    config = schema.default()
    config.method, _, config.task = schema.parse_argument(argument, encoder=("mlp",), task=TASKS)
    config.data.name = "digits"
    # A mirrored digit may be another digit, or none.
    config.augment.flip = 0.0
    config.augment.jitter_probability = 0.0
    config.model.encoder = "mlp"
    config.model.arrangement = "shared"
    config.model.mlp.widths = (256, 128, 64)
    config.train.learning_rate = 1e-3
    if config.task == "transfer":
        config.augment.crop_scale = (0.5, 1.0)
        config.train.batch_size = 256
        config.train.epochs = 300.0
        config.train.evaluate_every_epochs = 30.0
        config.train.checkpoint_every_epochs = 100.0
        return config
    config.augment.crop_scale = (0.7, 1.0)
    config.augment.grey_probability = 0.0  # colours define the groups
    config.train.epochs = 30.0
    config.train.batch_size = 128
    config.train.checkpoint_every_epochs = 10.0
    if config.task == "groups":
        config.data.background = "colour"
        config.data.correlation = 0.9
        config.data.validation_fraction = 0.2
        config.train.evaluate_every_epochs = 2.0
        config.classifier.epochs = 20.0
        config.groups.jtt_epochs = 5.0
    elif config.task == "noise":
        config.data.classes = "fine"
        config.train.evaluate_every_epochs = 5.0
        # Without augmentation, the classifier memorizes wrong labels, so that methods differ.
        config.classifier.augment = False
        config.classifier.epochs = 100.0
        config.noise.forget_epochs = 20.0
    else:
        config.data.rare_fraction = 0.2
        config.data.validation_fraction = 0.3
        config.train.batch_size = 64
        config.train.evaluate_every_epochs = 1.0
        config.train.checkpoint_every_epochs = 30.0
        config.coreset.runs = 4
    return config
