"""Errors that a user can fix; the commands print them without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Base of the errors whose message says what was expected, what was got and what to do."""


class MissingDependencyError(UserError, ImportError):
    """An optional dependency that this run needs is not installed."""


class ConfigError(UserError, ValueError):
    """A config cannot be run; the message names the key, the expected and the given value."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns "; did you mean ...?" with the known word most similar to `word`, or ""."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def require_one_of(what: str, name: str, options: Sequence[str]) -> None:
    """Raises ConfigError, with the nearest option, if the name is not one of the options."""
    if name not in options:
        raise ConfigError(
            f"{what}: expected one of {', '.join(options)}, got {name!r}{nearest(name, options)}"
        )


class NotARunError(UserError, FileNotFoundError):
    """A folder lacks the files of a run: its config, its model or a checkpoint."""
