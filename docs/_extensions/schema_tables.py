"""Directives that make tables from the package when the site is built, so they stay up to date.

    ```{config-keys}
    ```

makes tables of all config keys, with their defaults, meanings and allowed values;

    ```{commands}
    ```

lists all commands with the beginning of their `--help`.
"""

from __future__ import annotations

import abc
import ast
import itertools
import pathlib
from collections.abc import Iterable

from docstrings import linked
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import thanos_jax
from thanos_jax.__main__ import COMMANDS
from thanos_jax.config import FIELDS

PAGE = "[{0}](/{0}.md)"


class _Written(SphinxDirective, abc.ABC):
    """A directive that is replaced by lines of Markdown."""

    @abc.abstractmethod
    def lines(self) -> Iterable[str]:
        """Yields the lines."""

    def run(self) -> list[nodes.Node]:
        """Parses the lines in place of the directive."""
        found = StringList(list(self.lines()), source=self.env.docname)
        return self.parse_text_to_nodes("\n".join(found), allow_section_headings=True)


class ConfigKeys(_Written):
    """Every config key, a table for each section."""

    def lines(self) -> Iterable[str]:
        """Yields headings and tables."""
        sections = itertools.groupby(FIELDS.items(), lambda item: item[0].rpartition(".")[0])
        for section, fields in sections:
            title = section or "The run"
            yield from (f"## {title}", "", "| key | default | meaning |", "|---|---|---|")
            for key, field in fields:
                expected = f" ({field.expected})" if field.expected else ""
                meaning = linked(f"{field.meaning}{expected}", PAGE)
                yield f"| `{key}` | `{field.default!r}` | {_escaped(meaning)} |"
            yield ""


class Commands(_Written):
    """Every command, with the docstring of its module."""

    def lines(self) -> Iterable[str]:
        """Yields a heading and the docstring of each."""
        for name, command in COMMANDS.items():
            yield from (f"## {name}", "", f"`python -m {command.module}`", "")
            yield from (*linked(_docstring(command.module), PAGE).splitlines(), "")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "\\<")


def _docstring(module: str) -> str:
    """Returns the docstring of a command without importing it: commands define the same flags."""
    path = pathlib.Path(thanos_jax.__file__).parents[1].joinpath(*module.split("."))
    origin = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.get_docstring(ast.parse(origin.read_text(encoding="utf-8"))) or ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Adds both directives."""
    app.add_directive("config-keys", ConfigKeys)
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
