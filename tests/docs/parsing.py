"""Parses the words of a command as its module does, without running it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from absl import flags

from thanos_jax import command, config, config_files


@contextlib.contextmanager
def flags_aside() -> Iterator[None]:
    """Leaves no flag of any command for a while, so that each can define its own."""
    aside = {name: flags.FLAGS[name] for name in _of_commands()}
    parsed = flags.FLAGS.is_parsed()
    try:
        yield
    finally:
        _forget()
        for name, flag in aside.items():
            flags.FLAGS[name] = flag
        flags.FLAGS.mark_as_parsed() if parsed else flags.FLAGS.unparse_flags()


def _of_commands() -> list[str]:
    """Names of flags, but for those of absl and those that all commands share."""
    shared = ("absl", "thanos_jax.command", "thanos_jax.processes")
    return [
        name
        for name in flags.FLAGS
        if name.startswith("config.")
        or (
            not str(flags.FLAGS.find_module_defining_flag(name)).startswith(shared)
            and flags.FLAGS[name].short_name is None
        )
    ]


def _forget() -> None:
    for name in _of_commands():
        delattr(flags.FLAGS, name)


@contextlib.contextmanager
def _fresh(module_name: str) -> Iterator[ModuleType]:
    """Imports a command anew, so that its flags are there; afterwards modules are as before."""
    spec = importlib.util.find_spec(module_name)
    if spec is None:
        raise ModuleNotFoundError(f"no module {module_name}")
    name = f"{module_name}.__main__" if spec.submodule_search_locations else module_name
    parent, _, attribute = name.rpartition(".")
    before = sys.modules.pop(name, None)
    _forget()
    try:
        yield importlib.import_module(name)
    finally:
        sys.modules.pop(name, None)
        if before is not None:
            sys.modules[name] = before
            setattr(sys.modules[parent], attribute, before)


def parse(module_name: str, arguments: list[str]) -> str | None:
    """Returns what a command says against its arguments, or None if it takes them.

    To be called within `flags_aside`, in the folder in which the command would run.
    """
    said = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(said),
    ):
        try:
            with _fresh(module_name) as module:
                if parser := getattr(module, "PARSER", None):
                    parser.parse_args(arguments)
                    return None
                words = [module_name, *config_files.expand(arguments)]
                patch.setattr(sys, "argv", words)  # where config_flags looks for keys
                command._check_config(words)
                if left := flags.FLAGS(words)[1:]:
                    return f"expected only flags, got {left}"
                if "config" in flags.FLAGS and flags.FLAGS["config"].value is not None:
                    config.check(flags.FLAGS["config"].value)
        except SystemExit:
            return said.getvalue()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return None
