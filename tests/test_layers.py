"""The layers of the package: an import goes downward only, and never in a circle."""

import ast
import graphlib
import pathlib
import sys

import pytest

PACKAGE = "thanos_jax"
ROOT = pathlib.Path(__file__).parents[1] / PACKAGE
# From the top; a name stands for all below it that has none of its own. What shares a layer is
# apart: only modules of one name import each other.
LAYERS = (
    ("", "__main__"),  # the package itself and its command, which nothing within it imports
    (
        *("main", "compare", "cache", "checkpoint", "geometry", "config.__main__"),
        "report.__main__",
        *("theory.__main__", "theory.balance.__main__", "embed", "neighbours", "export"),
    ),
    ("command", "processes"),
    ("tables", "dry_run"),
    ("run", "rehearsal"),
    ("tasks", "theory", "measure", "trained"),
    ("theory.balance",),
    ("resume", "report"),
    ("config",),
    ("methods",),
    ("train",),
    ("data", "downstream", "live", "models"),
    ("losses",),
    ("agree", "beside", "interruption", "sharding", "workdir"),
    ("checks", "config_files", "permutations"),
    ("errors", "version"),
)
# The losses are of use without the rest, and without what the rest needs.
OF_LOSSES = {"jax", "numpy", *sys.stdlib_module_names}

NAMES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip("."): (
        path.read_text(encoding="utf-8")
    )
    for path in ROOT.rglob("*.py")
}


def imported(source, names):
    """What a module imports anywhere in it: names within the package, and other packages."""
    within, others = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "an import is absolute"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            package, _, rest = name.partition(".")
            if package != PACKAGE:
                others.add(package)
                continue
            while rest not in names:  # of a module, what it defines
                rest = rest.rpartition(".")[0]
            within.add(rest)
    return within, others


def place(name):
    """Layer of a module, 0 the lowest, and the name under which it stands there."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        known = ".".join(parts[:length])
        for number, layer in enumerate(reversed(LAYERS)):
            if known in layer:
                return number, known
    raise AssertionError(f"{PACKAGE}.{name} has no layer")


def against(arrows):
    """Of pairs (importing, imported), those that go upward or to another name of a layer."""
    found = set()
    for source, target in arrows:
        (high, name), (low, other) = place(source), place(target)
        if low > high or (low == high and name != other):
            found.add((source, target))
    return found


@pytest.fixture(scope="module")
def imports():
    return {name: imported(source, NAMES) for name, source in NAMES.items()}


def test_imports_go_downward(imports):
    assert len(imports) > 90
    arrows = {(name, target) for name, (within, _) in imports.items() for target in within}
    assert len(arrows) > 200
    assert against(arrows) == set()


def test_no_circle_even_within_a_layer(imports):
    # A package stands for what it lists, not for its modules.
    graph = {name: within - {name} for name, (within, _) in imports.items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(imports)


def test_nothing_is_imported_by_a_name_that_no_import_shows():
    by_name = {
        name
        for name, source in NAMES.items()
        for node in ast.walk(ast.parse(source))
        if getattr(node, "attr", getattr(node, "id", "")) in ("import_module", "__import__")
    }
    assert by_name == {"data.prepared"}  # another package, which need not be there


def test_losses_need_arrays_only(imports):
    losses = [name for name in imports if place(name)[1] == "losses"]
    assert len(losses) > 10
    for name in losses:
        within, others = imports[name]
        assert {place(target)[1] for target in within} <= {"losses"}, name
        assert others <= OF_LOSSES, name


def test_every_kind_of_import_is_seen():
    source = f"import os.path\nimport {PACKAGE}.data.sources as s\ndef f():\n"
    source += f"    from {PACKAGE} import config as c, workdir\n"
    source += f"    from {PACKAGE}.train.update import Step, make_step\n"
    source += f"    from {PACKAGE}.data import batches\n    from {PACKAGE}.data import load\n"
    assert imported(source, NAMES) == (
        {"data.sources", "config", "workdir", "train.update", "data.batches", "data"},
        {"os"},
    )


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("tasks.groups", "run"),
        ("train.loop", "tasks.stages"),
        ("data.sources", "config"),
        ("downstream.transfer", "train.objective"),
        ("downstream.groups", "models"),  # beside it
        ("theory.experiments", "theory.__main__"),
        ("errors", ""),
    ],
)
def test_what_goes_upward_or_beside_is_refused(source, target):
    assert against({(source, target), ("train.loop", "train.ledger"), ("run", "tasks.groups")}) == {
        (source, target)
    }


def test_a_module_without_a_layer_is_named():
    with pytest.raises(AssertionError, match=r"thanos_jax\.new\.room has no layer"):
        place("new.room")
