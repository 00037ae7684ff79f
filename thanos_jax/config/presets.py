"""The words after the colon of a config file: a method, and presets that the file defines."""

from __future__ import annotations

import importlib.util
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import ml_collections

from thanos_jax.errors import ConfigError, nearest
from thanos_jax.methods import METHODS


class PresetError(ConfigError):
    """A word after a config file's colon is neither a method nor a preset.

    The constructor takes the message only, because absl makes the errors of a flag again from
    their class and message.

    Attributes:
      presets: kind -> the presets that the file defines, the default first; set where it is raised.
    """

    presets: Mapping[str, Sequence[str]] = {}


def parse_argument(
    argument: str, *, method: str = "thanos", **presets: Sequence[str]
) -> tuple[str, ...]:
    """Splits the words after a config file's colon, METHOD[,PRESET ...].

    Args:
      argument: words in any order, at most one of each kind: "thanos", "vit,supcon" or "".
      method: the method if `argument` names none.
      **presets: kind -> the presets of this kind that a config defines; the first is the default.

    Returns:
      The method, then one preset of each kind in the order of `presets`.

    Raises:
      PresetError: an unknown word.
      ConfigError: two words of one kind.

    Example:
      >>> parse_argument("groups,supcon", encoder=("mlp", "vit"), task=("transfer", "groups"))
      ('supcon', 'mlp', 'groups')
    """
    kinds = {"method": tuple(METHODS), **presets}
    chosen: dict[str, str] = {}
    for word in argument.split(",") if argument else ():
        every = [name for names in kinds.values() for name in names]
        if word not in every:
            error = PresetError(
                f"preset: expected one of {', '.join(every)}, got {word!r}{nearest(word, every)}"
            )
            error.presets = presets
            raise error
        kind = next(kind for kind, names in kinds.items() if word in names)
        if kind in chosen:
            raise ConfigError(
                f"preset: expected one {kind} at most, got {chosen[kind]!r} and {word!r}"
            )
        chosen[kind] = word
    defaults = {kind: names[0] for kind, names in kinds.items()} | {"method": method}
    return tuple(chosen.get(kind, defaults[kind]) for kind in kinds)


def presets(file: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """Returns the presets that a config file defines: kind -> words, the default first.

    Args:
      file: the config file, which is run. The result is empty if it takes no words or fails.
    """
    try:
        _module(file).get_config("?")  # no preset has this name
    except PresetError as error:
        return {kind: tuple(words) for kind, words in error.presets.items()}
    except Exception:  # a user's file, which need not be a config
        return {}
    return {}


def of_method(
    file: str | os.PathLike[str], config: ml_collections.ConfigDict
) -> Callable[[str], Mapping[str, Any]]:
    """Returns a function that maps a method to its own settings, {config key: value}.

    Args:
      file: the config file, which is run. Its function `of_method(config, method)` gives the
        settings; without one they are empty, and all methods share the settings of the config.
      config: a config that this file returned, with any method.
    """
    asked = getattr(_module(file), "of_method", None)
    return lambda method: asked(config, method) if asked else {}


def beside(file: str, name: str) -> ModuleType:
    """Imports another config file of the same folder, for a config that builds on it.

    Args:
      file: `__file__` of the calling config.
      name: name of the other config, without ".py".

    Raises:
      ConfigError: the other file is missing, for instance because a config was copied alone.
    """
    other = pathlib.Path(file).with_name(f"{name}.py")
    if not other.is_file():
        raise ConfigError(f"{file}: expected {name}.py beside it, got none")
    return _module(other)


def _module(file: str | os.PathLike[str]) -> ModuleType:
    spec = importlib.util.spec_from_file_location("config_file", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
