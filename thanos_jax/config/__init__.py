"""The schema of a config: every key with its default, accepted values and meaning.

`python -m thanos_jax.config` prints it. A file in configs/ starts from `default()`, which is
locked: an unknown key is an error there, on the command line, and in `check`.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from thanos_jax.config.fields import DATASETS, FIELDS, Field
from thanos_jax.config.presets import beside, parse_argument
from thanos_jax.errors import ConfigError, nearest

__all__ = [
    "DATASETS",
    "FIELDS",
    "Field",
    "beside",
    "check",
    "default",
    "flatten",
    "parse_argument",
    "read",
]


def default() -> ml_collections.ConfigDict:
    """Returns a locked ConfigDict of all defaults; a dot in a key is a level of nesting."""
    config: dict[str, Any] = {}
    for key, field in FIELDS.items():
        *sections, name = key.split(".")
        node = config
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = field.default
    return ml_collections.ConfigDict(config).lock()


def read(path: str | os.PathLike[str]) -> ml_collections.ConfigDict:
    """Returns the config of a run, read from its config.json.

    Keys that the file lacks, because the run is older than they are, get their defaults.

    Raises:
      ConfigError: the file is missing or not JSON, or its config does not fit the schema.
    """
    try:
        stored = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected the config.json of a run: {error}") from error
    return parse(stored, path)


def parse(stored: Mapping[str, Any], path: str | os.PathLike[str]) -> ml_collections.ConfigDict:
    """Returns a config from its JSON form; missing keys get their defaults.

    Args:
      stored: a nested mapping; lists stand for tuples.
      path: the file, for messages.

    Raises:
      ConfigError: the config does not fit the schema.
    """
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in flatten(stored).items()}
    config = default()
    try:
        check({**flatten(config), **given})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    config.update_from_flattened_dict(given)
    return config


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested mapping as a flat dictionary, {"section.key": value}.

    Example:
      >>> from thanos_jax.config import flatten
      >>> flatten({"seed": 1, "train": {"epochs": 2.0}})
      {'seed': 1, 'train.epochs': 2.0}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def check(config: Mapping[str, Any] | ml_collections.ConfigDict) -> None:
    """Checks a config, nested or flat, against the schema.

    Raises:
      ConfigError: a key is unknown (the message suggests the nearest one) or missing, a value has
        another type than its default, or its field does not accept it.
    """
    values = flatten(config)
    for key in values:
        if key not in FIELDS:
            raise ConfigError(f"config.{key}: no such key{nearest(key, FIELDS)}")
    for key, field in FIELDS.items():
        if key not in values:
            raise ConfigError(f"config.{key}: missing; its default is {field.default!r}")
        value, kind = values[key], type(field.default)
        accepted: Any = {float: (int, float), tuple: (tuple, list)}.get(kind, kind)
        fits = isinstance(value, accepted) and isinstance(value, bool) == (kind is bool)
        if not fits or value != value:  # NaN is refused
            raise ConfigError(f"config.{key}: expected {kind.__name__}, got {value!r}")
        if not field.accepts(value):
            meant = nearest(value, field.options) if field.options else ""
            raise ConfigError(f"config.{key}: expected {field.expected}, got {value!r}{meant}")
    width, heads = values["model.vit.width"], values["model.vit.heads"]
    if width % heads:
        raise ConfigError(
            f"config.model.vit.heads: expected a divisor of model.vit.width = {width}, got {heads}"
        )
    channels = values["model.convnet.channels"]
    for name in ("kernels", "strides"):
        sides = values[f"model.convnet.{name}"]
        if len(sides) != len(channels):
            raise ConfigError(
                f"config.model.convnet.{name}: expected {len(channels)} numbers, one for each of "
                f"model.convnet.channels = {tuple(channels)}, got {tuple(sides)}"
            )
    for section in ("train", "classifier"):
        schedule, drops = (
            values[f"{section}.{key}"] or values[f"train.{key}"]
            for key in ("schedule", "drop_epochs")
        )
        if schedule == "step" and not drops:
            raise ConfigError(
                f"config.{section}.drop_epochs: expected the epochs after which schedule 'step' "
                "lowers the learning rate, got none"
            )
    restarts, epochs = values["train.restart_epochs"], values["train.epochs"]
    if restarts and values["task"] != "transfer":
        raise ConfigError(
            "config.train.restart_epochs: expected none with config.task "
            f"{values['task']!r}, which has several trainings, got {tuple(restarts)}"
        )
    if restarts and restarts[-1] >= epochs:
        raise ConfigError(
            f"config.train.restart_epochs: expected epochs below train.epochs = {epochs:g}, got "
            f"{tuple(restarts)}"
        )
    batch, micro = values["train.batch_size"], values["train.micro_batch_size"]
    each = values["train.images_per_class"]
    if each and (batch % each or batch == each):
        raise ConfigError(
            "config.train.images_per_class: expected 0 or a divisor of train.batch_size = "
            f"{batch} below it, got {each}"
        )
    if micro and batch % micro:
        raise ConfigError(
            "config.train.micro_batch_size: expected 0 or a divisor of train.batch_size = "
            f"{batch}, got {micro}"
        )
