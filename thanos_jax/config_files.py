"""Config files by name, from the current folder and from the package."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Sequence

from thanos_jax.errors import ConfigError, require_one_of


def folders() -> list[pathlib.Path]:
    """Returns the folders that are searched for a config, in order.

    First configs/ of the current folder, then the installed thanos_jax.configs, then configs/ of
    the checkout.
    """
    beside = pathlib.Path(__file__).resolve().parents[1] / "configs"
    installed = importlib.util.find_spec("thanos_jax.configs")
    places = list(installed.submodule_search_locations or ()) if installed else []
    every = [pathlib.Path("configs"), *map(pathlib.Path, places), beside]
    return [folder for folder in every if folder.is_dir()]


def known() -> dict[str, pathlib.Path]:
    """Returns the configs that can be given by name: name -> file."""
    found: dict[str, pathlib.Path] = {}
    for folder in folders():
        for file in sorted(folder.glob("*.py")):
            if not file.stem.startswith("_"):
                found.setdefault(file.stem, file)
    return dict(sorted(found.items()))


def find(what: str, value: str) -> str:
    """Returns the value of a config flag with the name replaced by its file, FILE.py[:WORDS].

    Args:
      what: the flag, for messages.
      value: NAME[:WORDS], or FILE.py[:WORDS], which is returned unchanged.

    Raises:
      ConfigError: there is no config of that name.
    """
    name, colon, words = value.partition(":")
    if "/" in name or name.endswith(".py"):
        return value
    files = known()
    require_one_of(what, name, list(files))
    return f"{files[name]}{colon}{words}"


def expand(arguments: Sequence[str]) -> list[str]:
    """Returns command line arguments with --config=NAME and --dataset=NAME as --config=FILE.

    Raises:
      ConfigError: there is no config of that name, or both flags are given.
    """
    words = iter(arguments)
    expanded, given = [], []
    for word in words:
        flag, equals, value = word.partition("=")
        name = flag.lstrip("-") if flag.startswith("-") else ""
        given.append(name)
        if name in ("config", "dataset"):
            word = f"--config={find(f'--{name}', value if equals else next(words, ''))}"
        expanded.append(word)
    if {"dataset", "config"} <= set(given):
        raise ConfigError("--dataset: expected without --config, which means the same, got both")
    return expanded
