"""Converts this project's docstrings to reStructuredText for Sphinx.

The docstrings are written to be read in an editor, without reStructuredText markup:

- formulas and tables are indented further than their paragraph, and shown verbatim;
- a colon in "Returns" does not separate a type;
- |x| is a length;
- docs/NAME.md is a page.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = pathlib.Path(__file__).parents[1]
_PAGE = re.compile(r"(?<![\w/])docs/(\w+)\.md")
_SECTION = re.compile(r"(Args|Attributes|Example|Raises|References|Returns|Yields):$")
# Sections with entries "name: meaning"; further lines of an entry are indented.
_OF_ENTRIES = ("Args", "Attributes", "Raises")
# Sections that napoleon would split at the first colon.
_FIELDS = {"Returns": ":returns:", "Yields": ":yields:"}


def linked(text: str, form: str) -> str:
    """Replaces each existing docs/NAME.md in a text by `form` with NAME."""

    def replaced(match: re.Match[str]) -> str:
        name = match[1]
        return form.format(name) if (DOCS / f"{name}.md").exists() else match[0]

    return _PAGE.sub(replaced, text)


def marked(lines: Sequence[str]) -> Iterator[str]:
    """Converts the lines of a docstring to reStructuredText with sections in Google's style."""
    section, margin, literal, in_list = "", 0, False, False
    for number, line in enumerate(lines):
        indent, text = len(line) - len(line.lstrip()), line.strip()
        if not text:
            yield line
            continue
        if indent == 0:
            found = _SECTION.match(text)
            section, margin = found[1] if found else "", 0
            if found and section != "Example":
                first = next((one for one in lines[number + 1 :] if one.strip()), "")
                margin = len(first) - len(first.lstrip()) + 2 * (section in _OF_ENTRIES)
        if section == "Example" or (indent == 0 and section):
            literal, in_list = False, False
            yield _FIELDS.get(section, line) if indent == 0 else line
            continue
        item = text.startswith("- ") and indent <= margin
        if indent > margin + 2 * in_list:
            if not literal:
                yield from ("", " " * margin + "::", "")
            literal = True
            yield line
            continue
        if literal or (item and not in_list):
            yield ""
        literal, in_list = False, item or (in_list and indent > margin)
        yield linked(line, ":doc:`/{0}`").replace("|", "\\|")


def process(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Changes the lines of one docstring in place."""
    lines[:] = marked(lines)


def skip(app: Sphinx, what: str, name: str, found: Any, skipped: bool, options: Any) -> bool | None:
    """Leaves out fields of named tuples, which the docstring of the class describes."""
    return True if type(found).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the conversion, which runs before sphinx.ext.napoleon."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
