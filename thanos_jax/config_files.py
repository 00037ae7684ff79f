"""Config files by name: those of the current folder, and those that come with the package."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Sequence

from thanos_jax.errors import ConfigError, require_one_of


def folders() -> list[pathlib.Path]:
    """Returns the folders in which a config is looked for by name, the first one first.

    They are configs/ of the current folder, and the installed thanos_jax.configs or, in a checkout
    that is not installed, the checkout's configs/.
    """
    beside = pathlib.Path(__file__).resolve().parents[1] / "configs"
    installed = importlib.util.find_spec("thanos_jax.configs")
    places = list(installed.submodule_search_locations or ()) if installed else []
    every = [pathlib.Path("configs"), *map(pathlib.Path, places), beside]
    return [folder for folder in every if folder.is_dir()]


def known() -> dict[str, pathlib.Path]:
    """Returns name -> file of every config that can be named."""
    found: dict[str, pathlib.Path] = {}
    for folder in folders():
        for file in sorted(folder.glob("*.py")):
            if not file.stem.startswith("_"):
                found.setdefault(file.stem, file)
    return dict(sorted(found.items()))


def find(what: str, value: str) -> str:
    """Returns a config as `ml_collections.config_flags` takes it, FILE.py[:WORDS].

    Args:
      what: the flag, for messages.
      value: FILE.py[:WORDS], which stays as it is, or NAME[:WORDS].

    Raises:
      ConfigError: no config of that name.
    """
    name, colon, words = value.partition(":")
    if "/" in name or name.endswith(".py"):
        return value
    files = known()
    require_one_of(what, name, list(files))
    return f"{files[name]}{colon}{words}"


def expand(arguments: Sequence[str]) -> list[str]:
    """Returns command line arguments with the file of each --config=NAME and --dataset=NAME.

    Raises:
      ConfigError: no config of that name, or both flags are given.
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
        raise ConfigError("--dataset is another name of --config; give one of the two")
    return expanded
