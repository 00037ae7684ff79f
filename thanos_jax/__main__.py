"""One command for all of them: thanos-jax COMMAND ..., or python -m thanos_jax COMMAND ..."""

from __future__ import annotations

import runpy
import sys
import textwrap
from collections.abc import Iterable
from typing import NamedTuple

from thanos_jax import command
from thanos_jax.errors import nearest
from thanos_jax.version import __version__


class Command(NamedTuple):
    """One of the commands.

    Attributes:
      module: what runs it, as python -m does.
      meaning: what it does.
    """

    module: str
    meaning: str


COMMANDS = {
    "train": Command("thanos_jax.main", "trains, evaluates and reports: a whole run"),
    "compare": Command("thanos_jax.compare", "runs a table of the papers, with several seeds"),
    "embed": Command("thanos_jax.embed", "embeddings and predictions of images by a run's model"),
    "neighbours": Command("thanos_jax.neighbours", "images that are most alike"),
    "export": Command("thanos_jax.export", "a run's model, for programs without thanos_jax"),
    "report": Command("thanos_jax.report", "makes a report again, or sets runs side by side"),
    "cache": Command("thanos_jax.cache", "decoded images of a data set, to be read many times"),
    "checkpoint": Command("thanos_jax.checkpoint", "lists or verifies a run's checkpoints"),
    "geometry": Command("thanos_jax.geometry", "the geometry of a run's embeddings, in full"),
    "theory": Command("thanos_jax.theory", "experiments on collapse and feature suppression"),
    "balance": Command("thanos_jax.theory.balance", "how far a class spreads, by calculation"),
    "config": Command("thanos_jax.config", "every key of a config and what it means"),
}


def main() -> None:
    """Runs the command that the first word names, with the words after it."""
    with command.while_read():
        _run(sys.argv[1:])


def _run(words: list[str]) -> None:
    if not words or words[0] in ("--help", "-h", "help"):
        print(overview())
        return
    if words[0] == "--version":
        print(__version__)
        return
    name = words[0]
    if name not in COMMANDS:
        known, like = ", ".join(COMMANDS), nearest(name, [*COMMANDS, "--help", "--version"])
        sys.exit(f"error: expected one of {known}, got {name!r}{like}")
    sys.argv = [sys.argv[0], *words[1:]]
    runpy.run_module(COMMANDS[name].module, run_name="__main__", alter_sys=True)


def overview() -> str:
    """Returns what there is: commands, configs with their presets, methods, tasks, tables."""
    # Not before a command: they take their time.
    from thanos_jax import config_files
    from thanos_jax.config import FIELDS
    from thanos_jax.config.presets import presets
    from thanos_jax.methods import METHODS
    from thanos_jax.tables.definitions import TABLES

    lines = ["thanos-jax COMMAND [FLAGS], or python -m thanos_jax COMMAND [FLAGS]", ""]
    lines += [f"  {name:12}{one.meaning}" for name, one in COMMANDS.items()]
    lines += ["", "thanos-jax COMMAND --help tells its flags.", ""]
    lines += ["Configs, for --config=NAME[:METHOD][,PRESET ...], and their presets:"]
    for name, file in config_files.known().items():
        words = [word for kind in presets(file).values() for word in kind]
        lines += _wrapped(f"  {name}", words, indent=18)
    tasks = FIELDS["task"].options
    lines += ["", *_wrapped("Methods:", METHODS), *_wrapped("Tasks:", tasks)]
    lines += [*_wrapped("Tables, for compare --table=NAME:", TABLES, indent=2), ""]
    return "\n".join([*lines, "A first run: thanos-jax train --config=digits --workdir=runs/first"])


def _wrapped(title: str, words: Iterable[str], indent: int = 10) -> list[str]:
    text = textwrap.fill(
        ", ".join(words), 100, initial_indent=" " * indent, subsequent_indent=" " * indent
    )
    if len(title) < indent:
        return (title.ljust(indent) + text[indent:]).splitlines()
    return [title, *text.splitlines()]


if __name__ == "__main__":
    main()
