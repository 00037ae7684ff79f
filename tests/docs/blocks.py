"""The code blocks of README.md and docs/*.md, and the commands within them."""

from __future__ import annotations

import pathlib
import re
import shlex
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = pathlib.Path(__file__).parents[2]
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
# What a shell block may call besides Python: other programs, of which only the files are looked at.
PROGRAMS = ("python", "python3", "pip", "thanos-jax", "launch/local.sh", "launch/tpu_vm.sh")
OTHERS = ("tfds", "tensorboard", "sbatch", "kubectl")
KINDS = {
    **{"python": "python", "sh": "shell", "bash": "shell", "console": "shell"},
    **{"csv": "csv", "text": "text", "": "text"},
}
_SHELL = re.compile(rf"(\S*/)?({'|'.join(map(re.escape, PROGRAMS + OTHERS))})\s")
_PYTHON = re.compile(r"(import|from) \w")
# What stands in a command for the reader's own words -> something that it can be.
PLACEHOLDERS = {
    "=NAME[:METHOD][,ENCODER][,TASK]": "=digits:supcon,mlp,transfer",
    "--config=...": "--config=digits",
    "thanos-jax train ...": "thanos-jax train --config=digits",
    "--config.KEY=VALUE": "--config.seed=1",
    "--methods=A,B": "--methods=supcon,thanos",
    "--values=V,W": "--values=0.1,0.5",
}


# A number that was to be filled in, such as HEAD200: capitals, with a digit or an underscore.
_UNFILLED = re.compile(r"(?=\w*[\d_])[A-Z][A-Z\d_]*|TODO|TBD")


class Block(NamedTuple):
    """A code block.

    Attributes:
      page: its file.
      line: number of its first line.
      kind: of `KINDS`.
      text: without fences and indentation.
    """

    page: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


class Command(NamedTuple):
    """A command of a shell block.

    Attributes:
      block: where it stands.
      words: as a shell splits them; placeholders are filled in.
    """

    block: Block
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.block}: {shlex.join(self.words)}"


def of(page: str, text: str | None = None) -> list[Block]:
    """Returns the blocks of a page, fenced and indented.

    Args:
      page: its path below the root.
      text: of the page; read from there if None.

    Raises:
      ValueError: a fence of a language that no test knows.
    """
    text = (ROOT / page).read_text(encoding="utf-8") if text is None else text
    found = []
    for token in MarkdownIt("commonmark").parse(text):
        if token.type not in ("fence", "code_block"):
            continue
        line = token.map[0] + 1 + (token.type == "fence")
        language = token.info.strip()
        if language not in KINDS:
            raise ValueError(
                f"{page}:{line}: expected a block of {', '.join(filter(None, KINDS))} or of no "
                f"language, got {language!r}; tests/docs has to know what to do with it"
            )
        kind = KINDS[language]
        if token.type == "code_block":
            first = token.content.lstrip()
            kind = "shell" if _SHELL.match(first) else "python" if _PYTHON.match(first) else "text"
        found.append(Block(page, line, kind, token.content))
    return found


def unfilled(text: str) -> list[str]:
    """Returns the cells of a page's tables that wait for their number."""
    rows = [line.strip().strip("|") for line in text.splitlines() if line.startswith("|")]
    cells = [cell.strip(" *`") for row in rows for cell in row.split("|")]
    return [cell for cell in cells if _UNFILLED.fullmatch(cell)]


def disguised(block: Block) -> str | None:
    """Returns the first line of a text block that is a command or Python, or None."""
    lines = (line.strip().removeprefix("$ ") for line in block.text.splitlines())
    return next((x for x in lines if _SHELL.match(x) or re.match(r"(import|from) \w+.*", x)), None)


def commands(block: Block) -> list[Command]:
    """Returns the commands of a shell block; loops are gone through."""
    text = re.sub(r"\\\n\s*", " ", block.text)
    for loop in re.finditer(r"for (\w+) in ([^;]+); do\n(.*?)\ndone", text, re.DOTALL):
        name, values, body = loop.groups()
        text = text.replace(
            loop[0], "\n".join(body.replace(f"${name}", value) for value in values.split())
        )
    for placeholder, value in PLACEHOLDERS.items():
        text = text.replace(placeholder, value)
    text = re.sub(r"\[((--|[A-Z])[^\]\n]*)\]", r"\1", text)  # [--what=may be left out]
    text = re.sub(r"(?<=\s)\.\.\.(?=\s|$)", "", text)
    found = []
    for line in text.splitlines():
        words: list[str] = []
        for word in [*shlex.split(line.removeprefix("$ "), comments=True), "&&"]:
            if word not in ("&&", ";", "|"):
                words.append(word)
                continue
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # of the environment
                words.pop(0)
            if words:
                found.append(Command(block, tuple(words)))
            words = []
    return found


def module_of(words: tuple[str, ...], modules: dict[str, str]) -> tuple[str, list[str]] | None:
    """Returns the module of this package that a command runs, with its arguments; None: another.

    Args:
      words: of the command.
      modules: name after thanos-jax -> module.

    Raises:
      KeyError: thanos-jax with a word that is no command of it.
    """
    program = pathlib.PurePath(words[0]).name
    if program == "thanos-jax" and not words[1].startswith("-"):
        return modules[words[1]], list(words[2:])
    if program in ("python", "python3") and words[1] == "-m":
        if words[2] == "thanos_jax":
            return module_of(("thanos-jax", *words[3:]), modules)
        if words[2].startswith("thanos_jax."):
            return words[2], list(words[3:])
    return None
