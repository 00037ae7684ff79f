r"""MNIST: 60,000 training images, coarse label digit >= 5, fine label the digit; every task.

    python -m thanos_jax.main --config=configs/mnist.py[:METHOD][,ENCODER][,TASK] \
        --config.data.data_dir=DATA --workdir=DIR

DATA holds mnist/3.0.1, prepared by TFDS in array_record form (README.md).

ENCODER is one of
  mlp       (default) an MLP of 784-512-256-128 units with one encoder, 20 epochs, for a CPU: 100 s
            on two cores. Fine accuracy 98.2 ± 0.1 (SupCon 94.6), three seeds; docs/results.md has
            all methods.
  convnet   convolutions of 5x5 to 32 and 3x3 to 64 channels, each with stride 2, linear layers of
            256 and 128 units, one encoder, 20 epochs; computed as matrix products on a CPU. Fine
            accuracy 99.0 ± 0.1 with thanos, three seeds; 97.7 with supcon, one seed.
  vit       the papers' ViT and settings: two encoders, 600 epochs, batch size 128. Perfectly
            Balanced reports a fine accuracy of 99.0 for Thanos, 95.4 for SupCon. Not run at this
            length.
  resnet18  the papers' ResNet18, 200 epochs. Not run.

TASK is one of transfer (default) and, with settings for mlp and convnet,
  groups    digits on red and green, 98 % of the training images of a class on its own colour.
            Accuracy of the worst group over three seeds: 93.4 ± 0.5 with thanos, 88.4 ± 1.4 with
            supcon, 77.4 ± 0.1 without groups (erm), 92.7 ± 2.0 with the true groups.
  noise     ten classes; 20 % of the training and validation labels are another digit;
            docs/noisy_labels.md has the table.
  coreset   the digits 3, 4, 8 and 9 are rare: about 100 training images each of 33,033. A
            classifier is trained on the 9,910 remaining images, for five epochs. Test accuracy over
            three seeds: 90.4 ± 0.4 with spread, 87.9 ± 0.5 on random images, 91.5 ± 0.1 on all.
configs/digits.py describes the tasks. The table of a task:

    python -m thanos_jax.compare --config=configs/mnist.py:groups --config.data.data_dir=DATA \
        --table=groups --workdir=DIR
"""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

ENCODERS = ("mlp", "vit", "resnet18", "convnet")
TASKS = ("transfer", "groups", "noise", "coreset")
# Settings with the convnet, and those that a method changes, chosen by fine accuracy on validation
# after 5 epochs. Methods that are not listed use Thanos's settings, untuned.
CONVNET = {
    "loss.temperature": 0.5,
    "loss.reconstruction_weight": 1.0,
    "train.learning_rate": 4e-3,
}
CONVNET_METHODS = {
    "supcon": {"loss.temperature": 0.2},
    "cauto": {"loss.reconstruction_weight": 0.3},
}


def of_method(config: ml_collections.ConfigDict, method: str) -> dict[str, float]:
    """Returns the settings of a method, config key -> value, which rows of a table use."""
    if config.model.encoder != "convnet" or config.task != "transfer":
        return {}
    return {**CONVNET, **CONVNET_METHODS.get(method, {})}


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,ENCODER][,TASK], by default "thanos,mlp,transfer"."""
    config = schema.default()
    config.method, config.model.encoder, config.task = schema.parse_argument(
        argument, encoder=ENCODERS, task=TASKS
    )
    config.data.name = "mnist"
    config.augment.grey_probability = 0.0
    if config.model.encoder in ("mlp", "convnet"):
        config.augment.crop_scale = (0.7, 1.0)
        config.augment.flip = 0.0
        config.augment.jitter_probability = 0.0
        config.model.arrangement = "shared"
        config.train.batch_size = 256
        config.train.epochs = 20.0
        config.train.learning_rate = 4e-3
        config.train.checkpoint_every_epochs = 5.0
    elif config.model.encoder == "resnet18":
        config.train.epochs = 200.0
    if config.model.encoder == "convnet":
        # Steps in one program reuse their memory.
        config.train.resident = "yes"
        if config.task == "transfer":
            config.train.batch_size = 128
        config.update_from_flattened_dict(of_method(config, config.method))
    if config.task != "transfer":
        config.train.learning_rate = 1e-3
        config.train.epochs = 5.0
    if config.task == "groups":
        config.data.background = "colour"
        config.data.correlation = 0.98
        # Few epochs: a model that has memorized the rare images no longer errs on them.
        config.train.epochs = 2.0
        config.train.checkpoint_every_epochs = 1.0
        config.classifier.epochs = 10.0
        config.groups.jtt_epochs = 1.0
    elif config.task == "noise":
        config.data.classes = "fine"
        # Without augmentation, the classifier memorizes wrong labels, so that methods differ.
        config.classifier.augment = False
        config.classifier.epochs = 15.0
    elif config.task == "coreset":
        config.data.rare_fraction = 0.02
        config.train.evaluate_every_epochs = 0.25
        config.coreset.runs = 2
        config.coreset.el2n_epochs = 1.0
    return config
