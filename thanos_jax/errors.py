"""What a user can mend: the commands show these errors without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Base of the errors whose message says what was got, what is expected, and what to do."""


class MissingDependencyError(UserError, ImportError):
    """An optional dependency that this run needs is not installed."""


class ConfigError(UserError, ValueError):
    """A config that cannot be run; the message names the key, what was got and what is expected."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns "; did you mean ...?" with the known word that is most like a word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def require_one_of(what: str, name: str, options: Sequence[str]) -> None:
    """Raises ConfigError, with the nearest of the options, unless the name is one of them."""
    if name not in options:
        raise ConfigError(
            f"{what}: expected one of {', '.join(options)}, got {name!r}{nearest(name, options)}"
        )


class NotARunError(UserError, FileNotFoundError):
    """A folder without what a run leaves: its config, its model, a checkpoint."""
