"""Makes links to files of the repository outside docs/ work on the site as on GitHub.

`[mesh.py](../examples/mesh.py)` leads to a page of the site that shows the file, and
`[examples](../examples)` to a page that lists the folder. These pages are made when the site is
written, like the pages of `sphinx.ext.viewcode`. The README is the site's first page.
"""

from __future__ import annotations

import html
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = pathlib.Path(__file__).parents[2]


class RepositoryFiles(SphinxTransform):
    """Turns links to files and folders outside docs/ into links to the pages of `pages`."""

    default_priority = 10  # while a page is read: before Sphinx looks for files to download

    def apply(self, **_: Any) -> None:
        """Changes the links of one page."""
        name = self.env.docname
        folder = pathlib.Path(self.env.doc2path(name)).parent
        wanted = self.env.metadata[name].setdefault("repository_files", [])
        for link in list(self.document.findall(_may_leave)):
            target = self._leads_to(folder / link["reftarget"].partition("#")[0])
            if target is None:
                continue
            inside = target.relative_to(ROOT).as_posix()
            page = "index" if inside == "README.md" else page_of(inside)
            if inside != "README.md":
                wanted.append(inside)
            uri = os.path.relpath(f"{page}.html", os.path.dirname(name))
            new = nodes.reference("", "", *link.children, refuri=uri, internal=True)
            link.replace_self(new)

    def _leads_to(self, path: pathlib.Path) -> pathlib.Path | None:
        """Returns the target of a link if it is in the repository and outside docs/, else None."""
        # Links to possible pages, such as README.md or a script, have lost their suffix here.
        for suffix in ("", *self.config.source_suffix):
            target = pathlib.Path(f"{path.resolve()}{suffix}")
            if target.exists() and target.is_relative_to(ROOT):
                return None if target.is_relative_to(self.env.srcdir) else target
        return None


def _may_leave(node: nodes.Node) -> bool:
    return isinstance(node, download_reference | pending_xref) and node["reftype"] == "myst"


def page_of(name: str) -> str:
    """Returns the page that shows a file or folder of the repository."""
    return f"_repository/{name}"


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yields a page for every file and folder that pages link to, and for files in the folders."""
    metadata = app.env.metadata.values()
    left = sorted({name for page in metadata for name in page.get("repository_files", ())})
    done: set[str] = set()
    while left:
        name = left.pop()
        if name in done:
            continue
        done.add(name)
        path = ROOT / name
        if path.is_dir():
            inside = sorted(
                one.relative_to(ROOT).as_posix()
                for one in path.iterdir()
                if one.is_file() and not one.name.startswith(".")
            )
            left += inside
            body = _listing(app, page_of(name), inside)
        else:
            body = _shown(path)
        context = {"title": html.escape(name), "body": f"<h1>{html.escape(name)}</h1>\n{body}"}
        yield page_of(name), context, "page.html"


def _listing(app: Sphinx, page: str, names: list[str]) -> str:
    items = "".join(
        f'<li><a href="{app.builder.get_relative_uri(page, page_of(name))}">'
        f"<code>{html.escape(os.path.basename(name))}</code></a></li>"
        for name in names
    )
    return f"<ul>{items}</ul>"


def _shown(path: pathlib.Path) -> str:
    text = path.read_text(encoding="utf-8")
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    return highlight(text, lexer, HtmlFormatter(cssclass="highlight"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Adds the transform and the pages."""
    app.add_transform(RepositoryFiles)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
