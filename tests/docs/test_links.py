"""Every link of a page leads somewhere, also where GitHub shows it: to a file, and to a heading."""

import re

import blocks
from markdown_it import MarkdownIt

ROOT = blocks.ROOT
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def tokens_of(text):
    """All tokens of a page, those within lines too."""
    waiting = MarkdownIt("commonmark").parse(text)
    while waiting:
        token = waiting.pop()
        yield token
        waiting += token.children or []


def links(page):
    """What a page links to, files of this repository alone."""
    for token in tokens_of(page.read_text(encoding="utf-8")):
        target = token.attrs.get("href") or token.attrs.get("src") or ""
        if target and not re.match(r"https?:|mailto:", target):
            yield target


def anchors(page):
    """The headings of a page as GitHub and the site name them."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".py":  # a notebook
        text = re.sub(r"^(# ?)?", "", text, flags=re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def faults(page, found):
    """Those of the links of a page that lead nowhere."""
    for link in found:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def test_links_lead_somewhere(tmp_path):
    found = {page: list(links(page)) for page in PAGES}
    assert sum(map(len, found.values())) > 100
    assert {page.name: wrong for page in PAGES if (wrong := list(faults(page, found[page])))} == {}
    made = tmp_path / "a.md"
    made.write_text("# One two\n[a](#one-two) [b](#one) [c](b.md)\n\n![d](e.png)\n")
    assert set(faults(made, links(made))) == {"#one", "b.md", "e.png"}


def absent(text):
    """The tests that a text names, `tests/a.py::test_b`, and that no file has."""
    for file, test in re.findall(r"\b(tests/[\w/]+\.py)(?:::(\w+))?", text):
        path = ROOT / file
        if not path.exists() or (test and f"def {test}(" not in path.read_text(encoding="utf-8")):
            yield f"{file}::{test}" if test else file


def test_tests_that_pages_and_code_name_are_there():
    code = [file for folder in ("thanos_jax", "tests") for file in (ROOT / folder).rglob("*.py")]
    pages = {page: page.read_text(encoding="utf-8") for page in [*PAGES, *code]}
    assert sum("tests/" in text for text in pages.values()) > 10
    del pages[ROOT / "tests" / "docs" / "test_links.py"]  # its examples are absent
    wrong = {page.name: found for page, text in pages.items() if (found := list(absent(text)))}
    assert wrong == {}
    text = "tests/docs/test_links.py::absent tests/docs/test_links.py::test_it, tests/gone.py"
    assert list(absent(text)) == ["tests/docs/test_links.py::test_it", "tests/gone.py"]


def test_pages_that_code_names_are_there():
    folders = ("thanos_jax", "configs", "benchmarks", "examples", "launch")
    texts = {
        file: file.read_text(encoding="utf-8")
        for folder in folders
        for file in (ROOT / folder).rglob("*.py")
    }
    named = {
        name: file
        for file, text in texts.items()
        for name in re.findall(r"\bdocs/\S+?\.md\b", text)
    }
    assert len(named) > 10
    assert {name: file for name, file in named.items() if not (ROOT / name).exists()} == {}
