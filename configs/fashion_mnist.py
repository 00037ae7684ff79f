r"""Fashion-MNIST: 60,000 images of clothes; the coarse label is one of four groups; every task.

    python -m thanos_jax.main --config=configs/fashion_mnist.py[:METHOD][,ENCODER][,TASK] \
        --config.data.data_dir=DATA --workdir=DIR

DATA holds fashion_mnist/3.0.1, prepared by TFDS in array_record form (docs/data.md). The groups
are tops, trousers and dresses, footwear, and bags; the fine label is one of the ten classes.

Settings are as in configs/mnist.py, except that images are also flipped. ENCODER is one of mlp
(default), convnet, vit and resnet18; the last two were not run. TASK is one of transfer (default)
and, with settings for mlp and convnet,
  groups   articles on stripes: 98 % of the training images of tops and footwear are on horizontal
           stripes, 98 % of the other two groups on vertical ones.
  noise    ten classes; 20 % of the training and validation labels are another class.
  coreset  rare articles of each group: a fiftieth of their training images is kept.
docs/results_fashion.md has the accuracies.
"""

from __future__ import annotations

import ml_collections

from thanos_jax import config as schema

mnist = schema.beside(__file__, "mnist")
of_method = mnist.of_method


def get_config(argument: str = "") -> ml_collections.ConfigDict:
    """Returns the config of METHOD[,ENCODER][,TASK], by default "thanos,mlp,transfer"."""
    config = mnist.get_config(argument)
    config.data.name = "fashion_mnist"
    config.augment.flip = 0.5
    if config.task == "groups":
        config.data.background = "texture"
        # Rare groups have about 100 images.
        config.groups.cells = 200
    elif config.task == "noise":
        # Shirts, T-shirts, pullovers and coats overlap: many right labels look suspicious, and many
        # suggestions are wrong. The rule "half" suspects more labels than are wrong. That suits
        # soft labels, because a classifier trusts the labels that it was trained on too much.
        config.train.epochs = 15.0
        config.noise.action = "soften"
        config.noise.neighbours = 100
    return config
