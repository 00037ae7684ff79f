"""The table of config keys: the meaning, default and accepted values of each."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from thanos_jax import methods
from thanos_jax.data import (
    damaged,
    fitting,
    image_files,
    listing,
    pixels,
    random_bits,
    sources,
    tfds_sets,
)
from thanos_jax.downstream.options import CLUSTER_PROJECTIONS, CLUSTERINGS, MAP_PROJECTIONS
from thanos_jax.losses import pairs

_HUGE = 1e12


@dataclasses.dataclass(frozen=True)
class Field:
    """One config key.

    Attributes:
      default: the value it has unless a config sets another; its type is the key's type.
      meaning: what the key sets, for the printed schema and the documentation.
      expected: the accepted values in words, for the schema and for error messages.
      accepts: whether a value of the right type is accepted.
      options: the accepted strings, if the key is one of a fixed list.
    """

    default: Any
    meaning: str
    expected: str = ""
    accepts: Callable[[Any], bool] = lambda value: True
    options: Sequence[str] = ()


def _one_of(default: str, meaning: str, options: Sequence[str]) -> Field:
    return Field(
        default, meaning, "one of " + ", ".join(options), lambda v: v in options, tuple(options)
    )


def _method(default: str, what: str, options: Mapping[str, Any], see: str) -> Field:
    """Returns the field of a task's methods; its meaning lists what each method does."""
    each = "; ".join(f"{name}: {method.meaning}" for name, method in options.items())
    return _one_of(default, f"{what}; {each}; see docs/{see}", tuple(options))


def _number(
    default: float, meaning: str, low: float = 0, high: float = _HUGE, *, open_low: bool = False
) -> Field:
    bounds = f"{'above' if open_low else 'at least'} {low:g}, at most {high:g}"
    return Field(
        default, meaning, bounds, lambda v: (low < v if open_low else low <= v) and v <= high
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _interval(default: tuple[float, float], meaning: str, low: float, high: float) -> Field:
    return Field(
        default,
        meaning,
        f"two numbers, {low:g} <= first <= second <= {high:g}",
        lambda v: len(v) == 2 and all(map(_is_number, v)) and low <= v[0] <= v[1] <= high,
    )


def _sizes(default: tuple[int, ...], meaning: str) -> Field:
    return Field(
        default,
        meaning,
        "one or more positive integers",
        lambda v: len(v) > 0 and all(type(x) is int and x > 0 for x in v),
    )


def _own_or_trains(meaning: str, high: float = _HUGE) -> Field:
    """Returns the field of a classifier's number; -1 stands for the value under train."""
    return Field(
        -1.0,
        meaning,
        f"a number from 0 to {high:g}, or -1",
        lambda v: v == -1 or 0 <= v <= high,
    )


def _epochs(default: tuple[float, ...], meaning: str) -> Field:
    return Field(
        default,
        meaning,
        "rising numbers above 0, or none",
        lambda v: all(map(_is_number, v)) and list(v) == sorted({x for x in v if x > 0}),
    )


# The names in thanos_jax.train.optimizers, repeated here because that module imports jax.
OPTIMIZERS = ("adamw", "sgd", "nesterov", "lars", "lamb")
SCHEDULES = ("cosine", "step", "constant")
DECAYS = ("kernels", "all")
DATASETS = sources.NAMES

FIELDS: dict[str, Field] = {
    "task": _one_of(
        "transfer",
        "what the run does; transfer: train a representation and classify fine labels by its "
        "embedding; groups: recover hidden groups from the embedding and train a classifier for "
        "the worst group; noise: corrupt labels, then train a classifier robustly or on repaired "
        "labels; coreset: choose a subset of the images and train a classifier on it",
        ("transfer", "groups", "noise", "coreset"),
    ),
    "method": _method(
        "thanos", "losses that train the representation", methods.METHODS, "methods.md"
    ),
    "seed": _number(
        0, "seed of parameters, order of samples, augmentation and dropout", 0, 2**31 - 1
    ),
    # Data
    "data.name": _one_of("digits", "data set; tfds: the set named by data.tfds", DATASETS),
    "data.data_dir": Field(
        "",
        "folder of the data: prepared TFDS sets (empty: TFDS's default folder), Tiny ImageNet, "
        "Waterbirds, ISIC, or own images with labels.csv or in class folders; see docs/data.md",
    ),
    "data.cache": Field(
        "",
        "folder written by thanos_jax.cache; its decoded, resized images are read instead of the "
        "data set's files; see docs/input.md",
    ),
    "data.tfds": Field(
        "",
        "with data.name=tfds, the TFDS image classification set to read; see docs/data.md",
        "NAME[/CONFIG][:VERSION], or empty",
        lambda v: not v or re.fullmatch(tfds_sets.PATTERN, v) is not None,
    ),
    "data.fine_key": Field("label", "with data.name=tfds, the feature with the fine label"),
    "data.coarse_key": Field(
        "",
        "with data.name=tfds, the feature with the coarse label; empty: data.coarse_map is used, "
        "or the fine label if that is empty too",
    ),
    "data.coarse_map": Field(
        "",
        "CSV file that maps each fine class to its coarse class; columns for tfds: fine (names or "
        "ids) and coarse; for tiny_imagenet: wnid and coarse (empty: the package's own grouping)",
    ),
    "data.test_split": Field(
        "test",
        "with data.name=tfds, the stored split used for testing; train: a fifth of each fine class "
        "of the training images is held out for testing, the same for every seed",
    ),
    "data.validation_fraction": _number(
        0.1,
        "share of the training set held out for validation, if the set has no validation split",
        0.001,
        0.5,
    ),
    "data.split_seed": _number(
        42, "seed of the validation split, of subsampling and of backgrounds", 0, 2**31 - 1
    ),
    "data.image_size": _number(
        0,
        "side in pixels of the square that images are cropped and resized to; 0: as stored",
        0,
        4096,
    ),
    "data.decode": _one_of(
        "full",
        "how JPEG files are decoded before resizing; full: at full size; scaled: at a half, a "
        "quarter or an eighth of it, never below twice data.image_size; see docs/input.md",
        fitting.DECODES,
    ),
    "data.unlabelled": Field(
        "",
        "with data.name=folder, the label or class folder that marks unlabelled images; images "
        "with an empty label are always unlabelled",
    ),
    "data.unlabelled_use": _one_of(
        "train",
        "what to do with unlabelled images; train: add them to the training images of InfoNCE and "
        "the autoencoder; drop: leave them out",
        listing.UNLABELLED_USES,
    ),
    "data.matte": _one_of(
        "white",
        "for sets of image files, the background colour under transparent pixels",
        tuple(pixels.MATTES),
    ),
    "data.deep_images": _one_of(
        "refuse",
        "for sets of image files, what to do with an image of more than 8 bits per channel; "
        "refuse: end the run; scale: keep the upper 8 of 16 bits",
        pixels.DEEP_OPTIONS,
    ),
    "data.max_megapixels": _number(
        image_files.MAX_MEGAPIXELS,
        "for sets of image files, the largest accepted size of an image in millions of pixels",
        open_low=True,
    ),
    "data.classes": _one_of(
        "coarse",
        "labels that are trained on; coarse: the coarse labels; fine: the fine labels",
        sources.CLASSES,
    ),
    "data.background": _one_of(
        "none",
        "background added to images of one channel; photographs: random crops of two photographs; "
        "colour (red or green) and texture (horizontal or vertical stripes): a spurious feature, "
        "which alternates between the coarse classes, so that the fine label is the group",
        sources.BACKGROUNDS,
    ),
    "data.correlation": _number(
        0.95,
        "share of a coarse class's training images that have the colour or texture of their class",
        0.5,
        1,
    ),
    "data.rare_fraction": _number(
        1.0,
        "share of the training images that is kept for the last 40 % of the fine classes of each "
        "coarse class (digits: 3, 4, 8 and 9); 1: all",
        0,
        1,
        open_low=True,
    ),
    "data.random_bits": _number(
        0, "number of random bits per image, which its two views share (RandBit)", 0, 32
    ),
    "data.random_bits_form": _one_of(
        "channels",
        "how random bits are appended to an image; channels: a constant channel per bit; integer: "
        "one constant channel, the bits read as a binary number and scaled to [0, 1]",
        random_bits.FORMS,
    ),
    "data.memory_limit_gib": _number(
        4.0,
        "largest set of images held in memory, in GiB; a larger one is read from disk as needed",
    ),
    "data.on_damaged": _one_of(
        "stop",
        "what to do when a stored image cannot be read; stop: end the run; skip: read every image "
        "once at the start, then leave out and count the unreadable ones",
        damaged.OPTIONS,
    ),
    "data.read_threads": _number(8, "threads that read and decode images from disk", 1, 1024),
    # Augmentation
    "augment.crop_scale": _interval(
        (0.2, 1.0), "share of the image's area in a random crop", 1e-6, 1
    ),
    "augment.crop_ratio": _interval(
        (3 / 4, 4 / 3), "width over height of a random crop", 0.01, 100
    ),
    "augment.flip": _number(0.5, "probability of a horizontal flip", high=1),
    "augment.jitter": Field(
        (0.4, 0.4, 0.4, 0.1),
        "strength of colour jitter: brightness, contrast, saturation, hue",
        "four numbers, none negative, the last at most 0.5",
        lambda v: len(v) == 4 and all(_is_number(x) and x >= 0 for x in v) and v[3] <= 0.5,
    ),
    "augment.jitter_probability": _number(0.8, "probability of colour jitter", high=1),
    "augment.grey_probability": _number(0.2, "probability of converting an image to grey", high=1),
    # Model
    "model.encoder": _one_of(
        "vit", "architecture of the encoder", ("vit", "resnet18", "resnet50", "mlp", "convnet")
    ),
    "model.arrangement": _one_of(
        "separate",
        "encoders of a method that has both a contrastive loss and an autoencoder; shared: one "
        "encoder; joint: two encoders with one classifier; separate: two encoders trained "
        "separately, whose embeddings are concatenated (Thanos as published)",
        ("shared", "joint", "separate"),
    ),
    "model.embedding_dim": _number(
        0, "width of the embedding, set by a linear layer; 0: the encoder's own width", 0, 65536
    ),
    "model.projection": Field(
        (),
        "layer widths of the projection head between the embedding and the contrastive loss "
        "(Khosla et al.: (2048, 128)); none: the loss acts on the embedding, as in the papers",
        "positive integers, or none",
        lambda v: all(type(x) is int and x > 0 for x in v),
    ),
    "model.decoder": _one_of(
        "auto",
        "decoder of the autoencoder; auto: mirrors the mlp or convnet encoder, conv for others",
        ("auto", "conv", "mlp", "convnet"),
    ),
    "model.dtype": _one_of(
        "float32", "dtype of the computation; parameters are float32", ("float32", "bfloat16")
    ),
    "model.weights": Field(
        "",
        "file of weights that every encoder starts from: encoder.safetensors of the same "
        "architecture, written by thanos_jax.export; for a ResNet also .safetensors or .npz with "
        "torchvision's names; empty: random weights; see docs/after_training.md",
    ),
    "model.vit.patch": _number(4, "side in pixels of the patches of the vit encoder", 1, 512),
    "model.vit.width": _number(256, "width of the vit encoder", 1, 65536),
    "model.vit.depth": _number(7, "number of layers of the vit encoder", 1, 1000),
    "model.vit.heads": _number(8, "number of attention heads of the vit encoder", 1, 1000),
    "model.vit.mlp_width": _number(
        512, "number of hidden units in the MLP of each layer of the vit encoder", 1, 65536
    ),
    "model.vit.dropout": _number(0.05, "dropout probability in the vit encoder", 0, 0.999),
    "model.vit.stochastic_depth": _number(
        0.05,
        "stochastic depth of the vit encoder: probability of dropping a branch of its last layer, "
        "to which it rises linearly over the layers",
        0,
        0.999,
    ),
    "model.resnet.width": _number(64, "channels of a ResNet's first stage", 1, 65536),
    "model.resnet.stem": _one_of(
        "small",
        "first layers of a ResNet; small: 3x3, for small images; imagenet: 7x7 and pooling",
        ("small", "imagenet"),
    ),
    "model.mlp.widths": _sizes(
        (512, 256, 128), "widths of the mlp encoder's layers; the mlp decoder mirrors them"
    ),
    "model.convnet.channels": _sizes(
        (32, 64), "channels of the convnet encoder's convolutions; the convnet decoder mirrors them"
    ),
    "model.convnet.kernels": _sizes(
        (5, 3), "sides in pixels of the kernels of the convnet encoder's convolutions"
    ),
    "model.convnet.strides": _sizes(
        (2, 2), "strides in pixels of the convnet encoder's convolutions"
    ),
    "model.convnet.widths": _sizes(
        (256, 128), "widths of the linear layers after the convnet encoder's convolutions"
    ),
    # Loss
    "loss.temperature": _number(0.5, "temperature of the contrastive loss", open_low=True),
    "loss.alpha": _number(0.5, "weight of the spreading term in the spread loss", high=1),
    "loss.beta": _number(0.5, "weight of SupCon in the joint loss", high=1),
    "loss.denominator": _one_of(
        "all",
        "denominator of SupCon's softmax; all: every candidate; one_positive: the negatives and "
        "the positive of the numerator",
        ("all", "one_positive"),
    ),
    "loss.views": _one_of(
        "all",
        "candidates of an anchor; all: every view of every image; cross: only other views",
        ("all", "cross"),
    ),
    "loss.implementation": _one_of(
        "auto",
        "how the contrastive loss is computed; the result is the same; dense: all pairs at once; "
        "streaming: in tiles, with less memory, the embeddings of other devices gathered or passed "
        "around a ring; pallas: in tiles, by Pallas kernels; auto: dense for small batches, "
        "streaming for larger ones",
        pairs.OPTIONS,
    ),
    "loss.contrastive_weight": _number(1.0, "weight of the contrastive loss"),
    "loss.cross_entropy_weight": _number(1.0, "weight of the cross-entropy loss"),
    "loss.reconstruction_weight": _number(1.0, "weight of the autoencoder's mean squared error"),
    # Training
    "train.batch_size": _number(128, "images in a training step, over all devices", 1, 2**31 - 1),
    "train.micro_batch_size": _number(
        0,
        "images encoded at a time, over all devices, for batches larger than memory; a divisor of "
        "train.batch_size and a multiple of the number of devices; 0: the whole batch",
        0,
        2**31 - 1,
    ),
    "train.images_per_class": _number(
        0,
        "images per class in a batch, when the representation is trained; a batch then has "
        "train.batch_size / images_per_class classes; 0: images are drawn regardless of class; see "
        "docs/methods.md",
        0,
        2**31 - 1,
    ),
    "train.resident": _one_of(
        "auto",
        "whether the training set is kept on the devices and many steps run in one program; auto: "
        "if the set is in memory, except on CPUs",
        ("auto", "yes", "no"),
    ),
    "train.epochs": _number(600.0, "passes over the training set", open_low=True),
    "train.max_steps": _number(
        0, "most steps of a training; the schedule then ends there too; 0: no limit"
    ),
    "train.optimizer": _one_of(
        "adamw",
        "optimizer; nesterov: sgd with Nesterov momentum; lars and lamb: for large batches",
        OPTIMIZERS,
    ),
    "train.momentum": _number(0.9, "momentum of sgd, nesterov and lars; 0: none", 0, 0.9999),
    "train.learning_rate": _number(3e-4, "peak learning rate"),
    "train.schedule": _one_of(
        "cosine",
        "learning rate after the warm-up; cosine: down to 0 at the end; step: multiplied by "
        "train.drop_factor at each of train.drop_epochs; constant: stays at its peak",
        SCHEDULES,
    ),
    "train.warmup_epochs": _number(
        1.0, "epochs in which the learning rate rises linearly from 0 to its peak"
    ),
    "train.drop_epochs": _epochs((), "epochs after which schedule step lowers the learning rate"),
    "train.drop_factor": _number(
        0.1, "factor by which schedule step multiplies the learning rate at each drop", high=1
    ),
    "train.restart_epochs": _epochs(
        (),
        "epochs after which the learning rate starts again with its warm-up and schedule; the "
        "number of epochs of a finished run continues that run; see docs/after_training.md",
    ),
    "train.weight_decay": _number(0.01, "weight decay"),
    "train.decay": _one_of(
        "kernels",
        "parameters under weight decay; kernels: all except biases, norms, tokens and position "
        "embeddings; all: all",
        DECAYS,
    ),
    "train.on_nonfinite": _one_of(
        "stop",
        "what to do when a loss or gradient is not finite; the update is never applied; stop: end "
        "the run; skip: count the step and continue",
        ("stop", "skip"),
    ),
    "train.nonfinite_limit": _number(
        10, "with train.on_nonfinite=skip, skipped steps in a row at which the run stops", low=1
    ),
    "train.log_every": _number(50, "steps between lines of metrics.jsonl", low=1),
    "train.profile_steps": _number(
        0,
        "number of steps, from the second on, that jax's profiler traces into the folder profile "
        "of each training; 0: none; see docs/watching.md",
        0,
        1e6,
    ),
    "train.evaluate_every_epochs": _number(
        1.0, "epochs between evaluations on the validation split", low=1e-3
    ),
    "train.checkpoint_every_epochs": _number(20.0, "epochs between checkpoints", low=1e-3),
    "train.checkpoints_kept": _number(
        2, "how many of the newest checkpoints are kept, besides the best on validation", 1, 1000
    ),
    "train.checkpoints_kept_every": _number(
        0, "steps of which the first checkpoint is kept besides the newest ones; 0: none"
    ),
    # The classifier of every task but transfer
    "classifier.epochs": _number(0.0, "epochs of the classifier; 0: train.epochs"),
    "classifier.batch_size": _number(
        0, "images in a training step of the classifier; 0: train.batch_size", 0, 2**31 - 1
    ),
    "classifier.learning_rate": _number(
        0.0, "peak learning rate of the classifier; 0: train.learning_rate"
    ),
    "classifier.optimizer": _one_of(
        "", "optimizer of the classifier; empty: train.optimizer", ("", *OPTIMIZERS)
    ),
    "classifier.momentum": _own_or_trains(
        "momentum of the classifier's optimizer; -1: train.momentum", 0.9999
    ),
    "classifier.schedule": _one_of(
        "", "learning rate schedule of the classifier; empty: train.schedule", ("", *SCHEDULES)
    ),
    "classifier.warmup_epochs": _own_or_trains(
        "epochs of the classifier's warm-up; -1: train.warmup_epochs"
    ),
    "classifier.drop_epochs": _epochs(
        (), "epochs after which the classifier's schedule step drops; none: train.drop_epochs"
    ),
    "classifier.drop_factor": _number(
        0.0, "factor of the classifier's schedule step; 0: train.drop_factor", high=1
    ),
    "classifier.weight_decay": _own_or_trains(
        "weight decay of the classifier; -1: train.weight_decay"
    ),
    "classifier.decay": _one_of(
        "", "which parameters of the classifier decay; empty: train.decay", ("", *DECAYS)
    ),
    "classifier.augment": Field(True, "whether the classifier is trained on augmented images"),
    # Hidden groups: the task "groups" only
    "groups.method": _method(
        "group_dro", "how the classifier is trained", methods.GROUPS, "groups.md"
    ),
    "groups.choice": _one_of(
        "error",
        "how the clusters of a class are chosen; error: those on which a classifier's error "
        "differs; silhouette: those with the largest mean silhouette; see docs/groups.md",
        ("error", "silhouette"),
    ),
    "groups.clusters": _number(
        0, "number of clusters per class; 0: chosen as groups.choice says", 0, 1000
    ),
    "groups.cells": Field(
        0,
        "with groups.choice=error, number of cells of a class that are merged into groups; a rare "
        "group is found only if cells are about as small as the group; 0: one for 200 images of "
        "the class, 40 to 200 in all",
        "0, or an integer from 2 to 1000",
        lambda v: v == 0 or 2 <= v <= 1000,
    ),
    "groups.clustering": _one_of(
        "kmeans", "algorithm that clusters embeddings; gmm: Gaussian mixture", CLUSTERINGS
    ),
    "groups.projection": _one_of(
        "none",
        "projection of embeddings before they are clustered",
        CLUSTER_PROJECTIONS,
    ),
    "groups.balanced_batches": Field(
        True, "whether group DRO samples every group equally often, as its authors do"
    ),
    "groups.group_dro_step_size": _number(
        0.01, "step size of group DRO's update of the group weights"
    ),
    "groups.group_dro_adjustment": _number(
        0.0,
        "C of group DRO's adjustment: C / sqrt(n) is added to the loss of a group of n images",
    ),
    "groups.jtt_epochs": _number(
        1.0, "epochs of the first training of Just Train Twice", open_low=True
    ),
    "groups.jtt_weight": _number(
        20,
        "how often Just Train Twice repeats an image that its first training got wrong",
        1,
        100_000,
    ),
    # Wrong labels: the task "noise" only
    "noise.method": _method(
        "mend", "how training deals with wrong labels", methods.NOISE, "noisy_labels.md"
    ),
    "noise.rate": _number(
        0.2,
        "share of training and validation labels that is corrupted; 0: none, and with "
        "noise.method=mend every label of every split is judged by a model trained without its "
        "image",
        high=1,
    ),
    "noise.folds": _number(
        5,
        "with noise.rate=0 and noise.method=mend, number of folds of the images; the labels of a "
        "fold are judged by a model trained on the other folds",
        2,
        100,
    ),
    "noise.kind": _one_of(
        "symmetric",
        "what a corrupted label changes to; symmetric: any other class; asymmetric: the next "
        "class; within_class: another fine label of the same coarse class",
        ("symmetric", "asymmetric", "within_class"),
    ),
    "noise.detection": _one_of(
        "strata",
        "how mend detects wrong labels; strata: by the distance to strata; neighbours: by a vote "
        "of nearest neighbours",
        ("strata", "neighbours"),
    ),
    "noise.assumed_rate": Field(
        -1.0,
        "assumed share of wrong labels: the share that mend judges wrong, and that co_teaching "
        "forgets in the end; -1: mend estimates it, and co_teaching uses noise.rate, as its "
        "authors do",
        "a number from 0 to 1, or -1",
        lambda v: v == -1 or 0 <= v <= 1,
    ),
    "noise.rule": _one_of(
        "half",
        "with noise.assumed_rate=-1, how mend estimates the number of wrong labels; half: labels "
        "with a suspicion above 1/2; mixture: fewer, where classes overlap, by two Gaussians "
        "fitted to the suspicion of all labels",
        ("half", "mixture"),
    ),
    "noise.action": _one_of(
        "relabel",
        "what mend does with labels; relabel: replace a label that it judges wrong by a vote of "
        "nearest neighbours; drop: leave its image out; soften: replace every label by "
        "probabilities of the classes, given the label, the classifier of the representation and "
        "the neighbours, where the share judged wrong is the rate of symmetric noise",
        ("relabel", "drop", "soften"),
    ),
    "noise.neighbours": _number(
        20, "number of nearest neighbours that judge and replace a label in mend", 1, 1e6
    ),
    "noise.clusters": _number(
        20,
        "with noise.detection=strata, number of clusters per class in which mend finds strata",
        1,
        1e6,
    ),
    "noise.forget_epochs": _number(
        10.0, "epochs over which co_teaching's share of forgotten images rises from 0"
    ),
    "noise.elr_weight": _number(3.0, "weight of early-learning regularization in the loss of elr"),
    "noise.elr_momentum": _number(
        0.7, "momentum of elr's targets, the running means of each image's predictions", high=1
    ),
    # Coresets: the task "coreset" only
    "coreset.method": _method(
        "common_strata",
        "what images are scored by; the scores decide which images are kept",
        methods.CORESETS,
        "coresets.md",
    ),
    "coreset.fraction": _number(
        0.3, "share of the training images that is kept", 0, 1, open_low=True
    ),
    "coreset.runs": _number(
        4, "number of trainings over which common_strata and el2n average their scores", 1, 100
    ),
    "coreset.epochs": _number(
        0.0,
        "epochs of each training that scores images for common_strata, forgetting or herding; 0: "
        "train.epochs",
    ),
    "coreset.el2n_epochs": _number(
        10.0,
        "epochs of each training that scores images for el2n, whose errors are taken early in "
        "training",
        open_low=True,
    ),
    "coreset.drop": _one_of(
        "lowest", "which images are left out first, by score", ("lowest", "highest")
    ),
    "coreset.balanced": Field(True, "whether every class keeps the same share of its images"),
    "coreset.same_steps": Field(
        False,
        "whether the classifier trains for as many steps as on all images; False: as many epochs",
    ),
    # Evaluation
    "transfer.regularization": Field(
        (0.0, 1e-5, 1e-4, 1e-3, 1e-2),
        "L2 penalties of the linear classifier of fine labels; the best on validation is used",
        "one or more finite numbers, none negative",
        lambda v: len(v) > 0 and all(_is_number(x) and x >= 0 for x in v),
    ),
    "transfer.iterations": _number(
        200, "most Newton steps in fitting the linear classifier of fine labels", 1, 1e6
    ),
    "transfer.every_epochs": _number(
        0.0, "epochs between measurements of transfer and collapse on the validation split; 0: none"
    ),
    "transfer.neighbours": _number(
        20, "number of nearest training images that vote on a test image's fine label", 1, 1e6
    ),
    # Watching a run; see docs/watching.md
    "log.tensorboard": Field(
        False,
        "whether the run is logged for TensorBoard, in the folder tensorboard; needs the extra "
        "tensorboard",
    ),
    "log.wandb": Field(
        False,
        "whether the run is logged to Weights & Biases; the environment variables WANDB_MODE and "
        "WANDB_PROJECT apply; needs the extra wandb",
    ),
    "report.map_points": _number(
        2000, "most images in a map of embeddings; t-SNE is left out above 20,000", 10, 1e5
    ),
    "report.projection": _one_of(
        "tsne",
        "t-SNE of the map; tsne: scikit-learn's; opentsne: openTSNE's, which is faster for many "
        "images and needs the extra opentsne",
        MAP_PROJECTIONS,
    ),
    "report.thumbnail_pixels": _number(
        32,
        "largest longer side of an image in the map, in pixels; smaller if the page would be large",
        8,
        256,
    ),
    "report.keep_embeddings": Field(
        False,
        "whether the embeddings and predictions of every split are kept in embeddings_SPLIT.npz; "
        "see docs/after_training.md",
    ),
}
