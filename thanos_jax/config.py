"""The schema of a run: every key, its default, what it may be and what it means.

`python -m thanos_jax.config` prints it. A file in configs/ starts from `default()`, which is
locked: a key that does not exist is an error there, on the command line, and in `check`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from thanos_jax.data import damaged, random_bits, sources, tfds_sets
from thanos_jax.errors import ConfigError
from thanos_jax.losses import pairs
from thanos_jax.train.objective import METHODS


@dataclasses.dataclass(frozen=True)
class Field:
    """One key: its default, its meaning, and a test with the words for what passes it."""

    default: Any
    meaning: str
    expected: str = ""
    accepts: Callable[[Any], bool] = lambda value: True


def _one_of(default: str, meaning: str, options: Sequence[str]) -> Field:
    return Field(default, meaning, "one of " + ", ".join(options), lambda v: v in options)


def _number(
    default: float, meaning: str, low: float, high: float, *, open_low: bool = False
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


_HUGE = 1e12
DATASETS = sources.NAMES

# What a classifier is trained with in the task "groups"; docs/groups.md explains each.
ROBUST_METHODS = (
    "group_dro",
    "group_dro_true",
    "reweight",
    "undersample",
    "jtt",
    "erm",
    "none",
)

# How the labels of the task "noise" are borne, and the images of the task "coreset" chosen;
# docs/noisy_labels.md and docs/coresets.md explain each.
NOISE_METHODS = ("mend", "ce", "co_teaching", "elr")
CORESET_METHODS = ("common_strata", "random", "forgetting", "el2n", "herding")

FIELDS: dict[str, Field] = {
    "task": _one_of(
        "transfer",
        "transfer: train the method, then read fine labels off its embedding; groups: recover "
        "hidden groups from that embedding and train a classifier against the worst of them; "
        "noise: make labels wrong, find them by that embedding, train a classifier on mended ones; "
        "coreset: choose the images that a classifier is trained on",
        ("transfer", "groups", "noise", "coreset"),
    ),
    "method": _one_of("thanos", "what is trained; see docs/methods.md", tuple(METHODS)),
    "seed": _number(
        0, "seeds parameters, order of samples, augmentation and dropout", 0, 2**31 - 1
    ),
    # Data
    "data.name": _one_of("digits", "data set; tfds: the one that data.tfds names", DATASETS),
    "data.data_dir": Field(
        "",
        "folder of prepared TFDS data (empty: TFDS's own default), of Tiny ImageNet, Waterbirds or "
        "ISIC, or of images with labels.csv; see docs/data.md",
    ),
    "data.tfds": Field(
        "",
        "with data.name=tfds, any image classification set of TFDS; see docs/data.md",
        "NAME[/CONFIG][:VERSION], or empty",
        lambda v: not v or re.fullmatch(tfds_sets.PATTERN, v) is not None,
    ),
    "data.fine_key": Field("label", "with data.name=tfds, the feature that is the fine label"),
    "data.coarse_key": Field(
        "",
        "with data.name=tfds, the feature that is the coarse label; empty: data.coarse_map, or "
        "else the fine label",
    ),
    "data.coarse_map": Field(
        "",
        "CSV of the coarse class of each fine class: for tfds with the columns fine (names or ids) "
        "and coarse; for tiny_imagenet wnid and coarse, empty: the package's own",
    ),
    "data.test_split": Field(
        "test",
        "with data.name=tfds, the stored split that is the test; train: a fifth of each fine class "
        "of the training images, the same for every seed",
    ),
    "data.validation_fraction": _number(
        0.1, "share of the training set held out, where a set has no validation split", 0.001, 0.5
    ),
    "data.split_seed": _number(
        42, "seeds the validation split, subsampling and backgrounds", 0, 2**31 - 1
    ),
    "data.image_size": _number(
        0, "side in pixels to which images are cropped and resized; 0: as stored", 0, 4096
    ),
    "data.classes": _one_of(
        "coarse",
        "the labels that are trained on; fine: the fine labels, of which then none is hidden",
        sources.CLASSES,
    ),
    "data.background": _one_of(
        "none",
        "what images of one channel are laid over; photographs: random pieces of two photographs; "
        "colour (red or green) and texture (stripes), for two coarse classes: a spurious feature, "
        "the fine label is the group",
        sources.BACKGROUNDS,
    ),
    "data.correlation": _number(
        0.95, "share of a class's training images on its own colour or texture", 0.5, 1
    ),
    "data.rare_fraction": _number(
        1.0,
        "share kept of the training images of the last 40 % of the fine classes of each coarse "
        "class (of digits 3, 4, 8 and 9); 1: all",
        0,
        1,
        open_low=True,
    ),
    "data.random_bits": _number(
        0, "random bits of each image that both views share (RandBit), 0 to 32", 0, 32
    ),
    "data.random_bits_form": _one_of(
        "channels",
        "channels: each bit a constant channel; integer: one channel, the bits read as a number",
        random_bits.FORMS,
    ),
    "data.memory_limit_gib": _number(
        4.0, "a set of more pixels than this, in GiB, is read from disk as it is needed", 0, _HUGE
    ),
    "data.on_damaged": _one_of(
        "stop",
        "what follows a stored image that cannot be read; skip: it is left out and counted, after "
        "every image was read once at the start",
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
    "augment.flip": _number(0.5, "probability of a horizontal flip", 0, 1),
    "augment.jitter": Field(
        (0.4, 0.4, 0.4, 0.1),
        "strength of brightness, contrast, saturation, hue",
        "four numbers, none negative, the last at most 0.5",
        lambda v: len(v) == 4 and all(_is_number(x) and x >= 0 for x in v) and v[3] <= 0.5,
    ),
    "augment.jitter_probability": _number(0.8, "probability of colour jitter", 0, 1),
    "augment.grey_probability": _number(0.2, "probability of turning grey", 0, 1),
    # Model
    "model.encoder": _one_of("vit", "encoder", ("vit", "resnet18", "resnet50", "mlp")),
    "model.arrangement": _one_of(
        "separate",
        "contrastive loss and autoencoder: one shared encoder; two with one classifier, jointly; "
        "or two trained separately, whose embeddings are concatenated (Thanos as published)",
        ("shared", "joint", "separate"),
    ),
    "model.embedding_dim": _number(
        0, "width of an encoder's embedding, by a linear layer; 0: as it comes", 0, 65536
    ),
    "model.projection": Field(
        (),
        "widths of the layers between the embedding and the contrastive loss (a projection head, "
        "Khosla et al.: (2048, 128)); none: the loss acts on the embedding, as in the papers",
        "positive integers, or none",
        lambda v: all(type(x) is int and x > 0 for x in v),
    ),
    "model.decoder": _one_of(
        "auto", "decoder; auto: mlp for the mlp encoder", ("auto", "conv", "mlp")
    ),
    "model.dtype": _one_of(
        "float32", "in which the model computes; parameters are float32", ("float32", "bfloat16")
    ),
    "model.weights": Field(
        "",
        "file that every encoder starts from, a ResNet's: .safetensors or .npz with torchvision's "
        "names, or of models.pretrained.save_npz; empty: random; see docs/groups.md",
    ),
    "model.vit.patch": _number(4, "side of a patch in pixels", 1, 512),
    "model.vit.width": _number(256, "width of the transformer", 1, 65536),
    "model.vit.depth": _number(7, "number of layers", 1, 1000),
    "model.vit.heads": _number(8, "number of attention heads", 1, 1000),
    "model.vit.mlp_width": _number(512, "width of a layer's hidden units", 1, 65536),
    "model.vit.dropout": _number(0.05, "dropout probability", 0, 0.999),
    "model.vit.stochastic_depth": _number(
        0.05, "probability of skipping the last layer; rises to it linearly", 0, 0.999
    ),
    "model.resnet.width": _number(64, "channels of the first stage", 1, 65536),
    "model.resnet.stem": _one_of(
        "small", "small: 3x3 for small images; imagenet: 7x7 and pooling", ("small", "imagenet")
    ),
    "model.mlp.widths": Field(
        (512, 256, 128),
        "widths of the mlp encoder's layers; its decoder mirrors them",
        "one or more positive integers",
        lambda v: len(v) > 0 and all(type(x) is int and x > 0 for x in v),
    ),
    # Loss
    "loss.temperature": _number(
        0.5, "temperature of the contrastive loss", 0, _HUGE, open_low=True
    ),
    "loss.alpha": _number(0.5, "weight of the spreading term in the spread loss", 0, 1),
    "loss.beta": _number(0.5, "weight of SupCon in the joint loss", 0, 1),
    "loss.denominator": _one_of("all", "SupCon's denominator", ("all", "one_positive")),
    "loss.views": _one_of("all", "an anchor's candidates", ("all", "cross")),
    "loss.implementation": _one_of("auto", "how pairs are computed", pairs.OPTIONS),
    "loss.contrastive_weight": _number(1.0, "weight of the contrastive loss", 0, _HUGE),
    "loss.cross_entropy_weight": _number(1.0, "weight of the coarse cross-entropy", 0, _HUGE),
    "loss.reconstruction_weight": _number(
        1.0, "weight of the autoencoder's squared error", 0, _HUGE
    ),
    # Training
    "train.batch_size": _number(128, "images in a step, over all devices", 1, 2**31 - 1),
    "train.micro_batch_size": _number(
        0,
        "images encoded at a time, over all devices, for batches larger than memory; a divisor of "
        "train.batch_size and a multiple of the devices; 0: the whole batch at once",
        0,
        2**31 - 1,
    ),
    "train.resident": _one_of(
        "auto",
        "whether the training set lies on the devices and many steps run in one program; auto: "
        "where it is in memory, except on CPUs",
        ("auto", "yes", "no"),
    ),
    "train.epochs": _number(600.0, "passes over the training set", 0, _HUGE, open_low=True),
    "train.max_steps": _number(
        0, "stops the run, schedule included, at this step; 0: no limit", 0, _HUGE
    ),
    "train.learning_rate": _number(3e-4, "AdamW's peak learning rate", 0, _HUGE),
    "train.warmup_epochs": _number(1.0, "epochs of linear warm-up before the cosine", 0, _HUGE),
    "train.weight_decay": _number(0.01, "AdamW's weight decay, on kernels only", 0, _HUGE),
    "train.on_nonfinite": _one_of(
        "stop",
        "what follows a loss or gradient that is not finite, whose update is never applied; skip: "
        "the step is counted, and training goes on",
        ("stop", "skip"),
    ),
    "train.nonfinite_limit": _number(
        10, "with on_nonfinite='skip', how many such steps in a row stop the run", 1, _HUGE
    ),
    "train.log_every": _number(50, "steps between lines of metrics.jsonl", 1, _HUGE),
    "train.evaluate_every_epochs": _number(
        1.0, "epochs between evaluations on the validation split", 1e-3, _HUGE
    ),
    "train.checkpoint_every_epochs": _number(20.0, "epochs between checkpoints", 1e-3, _HUGE),
    "train.checkpoints_kept": _number(
        2,
        "how many of the newest checkpoints stay on disk, besides the best on validation",
        1,
        1000,
    ),
    "train.checkpoints_kept_every": _number(
        0, "steps of which the first checkpoint stays on disk too; 0: none", 0, _HUGE
    ),
    # Hidden groups: the task "groups" only; but epochs, batch_size, learning_rate, weight_decay and
    # augment are of the classifier of every task that trains one
    "groups.method": _one_of(
        "group_dro",
        "how the classifier is trained: group DRO, reweight or undersample on recovered groups, "
        "group_dro_true on fine labels, erm, jtt (Just Train Twice); none: the method's own",
        ROBUST_METHODS,
    ),
    "groups.choice": _one_of(
        "error", "how a class's clusters are chosen; see docs/groups.md", ("error", "silhouette")
    ),
    "groups.clusters": _number(0, "clusters of each class; 0: searched for", 0, 1000),
    "groups.clustering": _one_of("kmeans", "what clusters", ("kmeans", "gmm")),
    "groups.projection": _one_of("none", "before clustering", ("none", "umap")),
    "classifier.epochs": _number(
        0.0, "of the classifier, in every task but transfer; 0: train.epochs", 0, _HUGE
    ),
    "classifier.batch_size": _number(0, "likewise; 0: train.batch_size", 0, 2**31 - 1),
    "classifier.learning_rate": _number(0.0, "likewise; 0: train.learning_rate", 0, _HUGE),
    "classifier.weight_decay": _number(0.01, "likewise", 0, _HUGE),
    "classifier.augment": Field(True, "whether the classifier is trained on augmented images"),
    "groups.balanced_batches": Field(
        True, "group DRO draws images of every group equally often, as its authors do"
    ),
    "groups.group_dro_step_size": _number(0.01, "of the weights of groups", 0, _HUGE),
    "groups.group_dro_adjustment": _number(
        0.0, "C, for which a group of n images gets C / sqrt(n) added to its loss", 0, _HUGE
    ),
    "groups.jtt_epochs": _number(
        1.0, "of the first training of Just Train Twice", 0, _HUGE, open_low=True
    ),
    "groups.jtt_weight": _number(
        20, "how often an image that it gets wrong is in the second's training set", 1, 100_000
    ),
    # Wrong labels: the task "noise" only
    "noise.method": _one_of(
        "mend",
        "mend: labels that the embedding of config.method speaks against are mended or dropped; "
        "ce: cross-entropy on the labels as they are; co_teaching: two networks that choose each "
        "other's small losses; elr: early-learning regularization",
        NOISE_METHODS,
    ),
    "noise.rate": _number(0.2, "share of training and validation labels made wrong", 0, 1),
    "noise.kind": _one_of(
        "symmetric", "to which label they change", ("symmetric", "asymmetric", "within_class")
    ),
    "noise.detection": _one_of("strata", "what finds them", ("strata", "neighbours")),
    "noise.assumed_rate": Field(
        -1.0,
        "share of labels that mend distrusts, and that co_teaching forgets in the end; -1: mend "
        "estimates it, and co_teaching is told noise.rate, as its authors do",
        "a number from 0 to 1, or -1",
        lambda v: v == -1 or 0 <= v <= 1,
    ),
    "noise.action": _one_of("relabel", "what becomes of labels found wrong", ("relabel", "drop")),
    "noise.neighbours": _number(20, "k of those who speak for or against a label", 1, 1e6),
    "noise.clusters": _number(20, "strata sought in a class, by detection strata", 1, 1e6),
    "noise.forget_epochs": _number(
        10.0, "over which co_teaching's share of forgotten images rises", 0, _HUGE
    ),
    "noise.elr_weight": _number(3.0, "of early-learning regularization", 0, _HUGE),
    "noise.elr_momentum": _number(0.7, "of its targets", 0, 1),
    # Coresets: the task "coreset" only
    "coreset.method": _one_of(
        "common_strata", "which images are kept; see docs/coresets.md", CORESET_METHODS
    ),
    "coreset.fraction": _number(
        0.3, "share of the training images that is kept", 0, 1, open_low=True
    ),
    "coreset.runs": _number(
        4, "trainings on samples, or of el2n, over which scores are averaged; at most 100", 1, 100
    ),
    "coreset.epochs": _number(
        0.0,
        "of each of common_strata's trainings, and of forgetting's and herding's; 0: train.epochs",
        0,
        _HUGE,
    ),
    "coreset.el2n_epochs": _number(
        10.0, "of each of el2n's, which looks at errors early in training", 0, _HUGE, open_low=True
    ),
    "coreset.drop": _one_of("lowest", "which scores are dropped first", ("lowest", "highest")),
    "coreset.balanced": Field(True, "whether every class keeps the same share"),
    "coreset.same_steps": Field(
        False, "whether the classifier takes as many steps as on all images, or as many epochs"
    ),
    # Evaluation
    "transfer.regularization": Field(
        (0.0, 1e-5, 1e-4, 1e-3, 1e-2),
        "L2 weights of the linear head, chosen on validation",
        "one or more finite numbers, none negative",
        lambda v: len(v) > 0 and all(_is_number(x) and x >= 0 for x in v),
    ),
    "transfer.iterations": _number(200, "L-BFGS iterations of the linear head at most", 1, 1e6),
    "transfer.every_epochs": _number(
        0.0,
        "epochs between measurements of transfer and collapse on the validation split; 0: none",
        0,
        _HUGE,
    ),
    "transfer.neighbours": _number(20, "k of the nearest neighbour classifier", 1, 1e6),
    "report.map_points": _number(2000, "test images in the map of the embeddings", 10, 1e5),
}


def default() -> ml_collections.ConfigDict:
    """Returns a locked ConfigDict of all defaults, nested by the dots of the keys."""
    config = ml_collections.ConfigDict()
    for key, field in FIELDS.items():
        *sections, name = key.split(".")
        node = config
        for section in sections:
            if section not in node:
                node[section] = ml_collections.ConfigDict()
            node = node[section]
        node[name] = field.default
    return config.lock()


def read(path: str | os.PathLike[str]) -> ml_collections.ConfigDict:
    """Returns the config of a run, as its config.json holds it; younger keys at their defaults.

    Raises:
      ConfigError: no such file, not JSON, or a config outside the schema.
    """
    try:
        stored = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected the config.json of a run: {error}") from error
    config = default()
    for key, value in flatten(stored).items():
        if key not in FIELDS:
            raise ConfigError(f"{path}: config.{key}: no such key{_nearest(key, FIELDS)}")
        *sections, name = key.split(".")
        node = config
        for section in sections:
            node = node[section]
        node[name] = tuple(value) if isinstance(value, list) else value
    check(config)
    return config


def parse_argument(argument: str, presets: Sequence[str]) -> tuple[str, str]:
    """Splits what follows a config file's colon, METHOD[,PRESET], into both.

    Args:
      argument: for example "thanos", "supcon,vit" or "" for the defaults.
      presets: the presets a config offers; the first is its default.

    Raises:
      ConfigError: an unknown method or preset.
    """
    method, _, preset = argument.partition(",")
    method, preset = method or "thanos", preset or presets[0]
    for name, value, options in (("method", method, tuple(METHODS)), ("preset", preset, presets)):
        if value not in options:
            expected = f"expected one of {', '.join(options)}"
            raise ConfigError(f"{name}: {expected}, got {value!r}{_nearest(value, options)}")
    return method, preset


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {"section.key": value} of a nested mapping."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def check(config: ml_collections.ConfigDict) -> None:
    """Holds a config against the schema.

    Raises:
      ConfigError: a key that is unknown (with the nearest known one) or missing, or a value of
        another type than its default or outside what its field accepts.
    """
    values = flatten(config)
    for key in values:
        if key not in FIELDS:
            raise ConfigError(f"config.{key}: no such key{_nearest(key, FIELDS)}")
    for key, field in FIELDS.items():
        if key not in values:
            raise ConfigError(f"config.{key}: missing; its default is {field.default!r}")
        value, kind = values[key], type(field.default)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind is tuple:
            fits = isinstance(value, tuple | list)
        else:
            fits = (number and value == value) if kind is float else type(value) is kind
        if not fits:
            raise ConfigError(f"config.{key}: expected {kind.__name__}, got {value!r}")
        if not field.accepts(value):
            raise ConfigError(f"config.{key}: expected {field.expected}, got {value!r}")
    width, heads = values["model.vit.width"], values["model.vit.heads"]
    if width % heads:
        raise ConfigError(
            f"config.model.vit.heads: expected a divisor of model.vit.width = {width}, got {heads}"
        )
    weights, encoder = values["model.weights"], values["model.encoder"]
    if weights and encoder not in ("resnet18", "resnet50"):
        raise ConfigError(
            "config.model.weights: expected a model.encoder of resnet18 or resnet50, whose "
            f"parameters {weights!r} may hold, got {encoder!r}"
        )
    batch, micro = values["train.batch_size"], values["train.micro_batch_size"]
    if micro and batch % micro:
        raise ConfigError(
            "config.train.micro_batch_size: expected 0 or a divisor of train.batch_size = "
            f"{batch}, got {micro}"
        )


def _nearest(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def main() -> None:
    """Prints the schema."""
    for key, field in FIELDS.items():
        expected = f" ({field.expected})" if field.expected else ""
        print(f"{key} = {field.default!r}\n    {field.meaning}{expected}")


if __name__ == "__main__":
    main()
