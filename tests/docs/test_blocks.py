"""Every code block of README.md and docs/*.md is run, or parsed by what would run it."""

import ast
import contextlib
import csv
import importlib.util
import io
import pathlib
import re

import blocks
import givens
import parsing
import pytest

from thanos_jax.__main__ import COMMANDS

ROOT = blocks.ROOT
BLOCKS = {page: blocks.of(page) for page in blocks.PAGES}
SHELL = [
    command
    for page in BLOCKS.values()
    for block in page
    if block.kind == "shell"
    for command in blocks.commands(block)
]
MODULES = {name: command.module for name, command in COMMANDS.items()}
# Modules that a program of another package provides: a block that imports one is only parsed where
# it is missing.
OPTIONAL = ("equinox", "safetensors", "torch")
QUICK = ("docs/balance.md", "docs/which_loss.md")  # their Python blocks take little


def of_kind(kind):
    return {
        page: found
        for page, page_blocks in BLOCKS.items()
        if (found := [block for block in page_blocks if block.kind == kind])
    }


def test_blocks_are_found():
    assert sum(map(len, BLOCKS.values())) > 60
    assert {"python", "shell", "csv", "text"} == {b.kind for page in BLOCKS.values() for b in page}
    text = "a\n\n```python\nx = 1\n```\n\n- b\n\n  ```sh\n  pip install x\n  ```\n\nc\n\n    d\n"
    assert [(b.line, b.kind, b.text) for b in blocks.of("README.md", text)] == [
        (4, "python", "x = 1\n"), (10, "shell", "pip install x\n"), (15, "text", "d\n"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"README.md:2: expected a block of .* got 'yaml'"):
        blocks.of("README.md", "```yaml\na: 1\n```")


def test_text_is_neither_command_nor_python():
    for page in of_kind("text").values():
        for block in page:
            assert blocks.disguised(block) is None, block
    hidden = blocks.of("README.md", "```text\n$ python -m thanos_jax.main\n```")[0]
    assert blocks.disguised(hidden)


def test_tables_are_tables():
    for page in of_kind("csv").values():
        for block in page:
            rows = list(csv.reader(block.text.splitlines()))
            assert len(rows) > 1, block
            assert len({len(row) for row in rows}) == 1, block


def test_tables_of_pages_have_their_numbers():
    for page in blocks.PAGES:
        assert blocks.unfilled((ROOT / page).read_text(encoding="utf-8")) == [], page
    text = "HEAD200\n| AUROC | N | 97.1 |\n|---|---|---|\n| HEAD200 | `LOSS_ALL` | **TODO** |\n"
    assert blocks.unfilled(text) == ["HEAD200", "LOSS_ALL", "TODO"]


def imports_of(block):
    """Every (module, name) that a block imports; the name is None for a module itself."""
    for node in ast.walk(ast.parse(block.text, str(block))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def missing(block):
    """What a block imports and is not installed."""
    tops = {module.partition(".")[0] for module, _ in imports_of(block)}
    return sorted(top for top in tops if importlib.util.find_spec(top) is None)


def test_python_is_python_and_imports_what_is_there():
    found = [block for page in of_kind("python").values() for block in page]
    assert len(found) > 20
    for block in found:
        assert set(missing(block)) <= set(OPTIONAL), block
        for module, name in imports_of(block):
            if not module.startswith("thanos_jax"):
                continue
            file = ROOT.joinpath(*module.split("."))
            source = file.with_suffix(".py") if not file.is_dir() else file / "__init__.py"
            assert source.is_file(), f"{block}: {module}"
            words = re.findall(r"\w+", source.read_text(encoding="utf-8"))
            there = name is None or name in words or (file / f"{name}.py").is_file()
            assert there or (file / name).is_dir(), f"{block}: {module}.{name}"


@pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")  # ml_collections' own
def test_commands_take_their_words(monkeypatch):
    monkeypatch.chdir(ROOT)
    asked = [(one, found) for one in SHELL if (found := blocks.module_of(one.words, MODULES))]
    assert len(asked) > 40
    assert len({module for _, (module, _) in asked}) > 8
    with parsing.flags_aside():
        said = {str(one): parsing.parse(*found) for one, found in asked}
        wrong = [
            ("thanos_jax.main", ["--config=digits", "--config.train.epoch=1.0"], "did you mean"),
            ("thanos_jax.main", ["--config=digits", "--config.train.epochs=-1.0"], "above 0"),
            ("thanos_jax.main", ["--config=digits:supcn"], "supcon"),
            ("thanos_jax.compare", ["--config=digits", "--table=x", "--seed=1"], "'seed'"),
            ("thanos_jax.report", ["runs/a"], "--out"),
            ("thanos_jax.geometries", [], "no module"),
        ]
        for module, words, message in wrong:
            assert message in (parsing.parse(module, words) or "taken"), (module, words)
    assert {one: message for one, message in said.items() if message} == {}


def extras():
    """Names of the extras in setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (found,) = (
        node.value for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "EXTRAS"
    )  # fmt: skip
    return {key.value for key in found.keys}


def test_other_commands_name_files_extras_and_flags_that_are_there():
    known = extras()
    others = [one for one in SHELL if blocks.module_of(one.words, MODULES) is None]
    assert len(others) > 10
    for one in others:
        program, *words = one.words
        name = pathlib.PurePath(program).name
        if name in ("python", "python3") and words[0] == "-m":
            assert words[1] in ("venv", "pytest"), one
        elif name in ("python", "python3"):
            source = (ROOT / words[0]).read_text(encoding="utf-8")
            for flag in words[1:]:
                key = re.match(r"--(\w+)", flag)[1]
                defined = rf"(DEFINE_\w+|add_argument)\(\s*\"(--)?{key}\""
                assert re.search(defined, source), f"{one}: {flag}"
        elif name == "pip":
            assert words[0] == "install", one
            for extra in re.findall(r"\[(\w+)\]", " ".join(words)):
                assert extra in known, one
        elif name in ("tfds", "tensorboard"):
            assert words, one
        elif name == "source":
            assert words == [".venv/bin/activate"], one
        else:
            files = [word for word in (program, *words) if word.startswith("launch/")]
            assert files, f"{one}: no test knows this program"
            assert all((ROOT / file).is_file() for file in files), one


def run_page(page, folder):
    """Executes the Python blocks of a page in one namespace; checks what they promise.

    A text block that follows one is what it prints. A number in a comment behind an expression is
    its value, rounded.
    """
    namespace = givens.GIVENS.get(page, lambda folder: {})(folder)
    ran = 0
    for block, after in zip(BLOCKS[page], [*BLOCKS[page][1:], None], strict=True):
        if block.kind != "python" or missing(block):
            continue
        printed, lines = io.StringIO(), block.text.splitlines()
        with contextlib.redirect_stdout(printed):
            for node in ast.parse(block.text).body:
                where = f"{page}:{block.line + node.lineno - 1}"
                number = re.search(r"#\s*(-?\d+\.?(\d*))\b", lines[node.end_lineno - 1])
                if isinstance(node, ast.Expr) and number:
                    source = compile(ast.Expression(node.value), where, "eval")
                    value = round(float(eval(source, namespace)), len(number[2]))
                    assert value == float(number[1]), where
                else:
                    source = compile(ast.Module([node], []), where, "exec")
                    exec(source, namespace)
        if after is not None and after.kind == "text" and printed.getvalue():
            assert printed.getvalue().strip() == after.text.strip(), block
        ran += 1
    return ran


@pytest.mark.parametrize(
    "page",
    [page if page in QUICK else pytest.param(page, marks=pytest.mark.slow)
     for page in of_kind("python")],
)  # fmt: skip
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = sum(not missing(block) for block in of_kind("python")[page])
    assert run_page(page, tmp_path) == wanted
