"""The site: all pages are found, none is long, it builds offline, its notebook does as it says."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

from thanos_jax import losses
from thanos_jax.config import FIELDS

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOK = DOCS / "notebooks" / "from_collapse_to_thanos.py"
PAGES = sorted([*DOCS.rglob("*.md"), *(DOCS / "notebooks").glob("*.py")])


def run(*words, folder):
    """Runs Python as a user would: one device, and compiled as ever."""
    ours = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


def test_every_page_is_in_the_contents_once():
    text = (DOCS / "_toc.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^(?:root:|\s+- file:) (\S+)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(
        page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES
    )


def test_no_page_is_long():
    lines = {page.name: len(page.read_text(encoding="utf-8").splitlines()) for page in PAGES}
    assert {name: count for name, count in lines.items() if count > 250} == {}


@pytest.mark.parametrize("name", ["groups", "noisy_labels", "coresets"])
def test_a_finding_has_its_question_command_picture_and_what_to_believe(name):
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    found = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    parts = dict(zip(found[1:9:2], found[2:9:2], strict=True))
    assert list(parts) == ["The question", "The command", "The picture", "What to believe"]
    assert "?" in parts["The question"]
    assert re.search(r"^    thanos-jax train --config=digits:", parts["The command"], re.MULTILINE)
    picture = re.search(r"\((pictures/\w+\.png)\)", parts["The picture"])[1]
    assert (DOCS / picture).is_file()
    assert "`python docs/findings.py`" in parts["The picture"]
    assert parts["What to believe"].count("\n- ") >= 3


@pytest.fixture(scope="module")
def docstrings():
    path = DOCS / "_extensions" / "docstrings.py"
    spec = importlib.util.spec_from_file_location("site_docstrings", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstrings_are_shown_as_they_stand(docstrings):
    written = """A loss of |z|; see docs/methods.md.

Per anchor:
  -s + |z|
    more
Then words.

- one
  goes on
- two

Args:
  x: float,
    of any shape
      a  table
  **more: which are
    - y: a number.

Returns:
  W in [0, 1]: the mean,
    a  table
  or none.

Example:
  >>> a | b"""
    found = re.sub(r"\n{3,}", "\n\n", "\n".join(docstrings.marked(written.splitlines())))
    for part in (
        "A loss of \\|z\\|; see :doc:`/methods`.\n",
        "Per anchor:\n\n::\n\n  -s + |z|\n    more\n\nThen words.\n",
        "\n\n- one\n  goes on\n- two\n\nArgs:\n  x: float,\n    of any shape\n",
        "shape\n\n    ::\n\n      a  table\n\n  **more: which are\n\n    - y: a number.\n\n",
        ":returns:\n  W in [0, 1]: the mean,\n\n  ::\n\n    a  table\n\n  or none.\n\nExample:\n",
    ):
        assert part in found
    assert found.endswith("  >>> a | b")
    assert docstrings.linked("docs/none.md, docs/data.md", "<{0}>") == "docs/none.md, <data>"


@pytest.mark.slow
def test_the_notebook_runs_as_a_script(tmp_path):
    said = run(str(NOTEBOOK), folder=tmp_path)
    assert re.search(r"SupCon: W = 0\.000$", said, re.MULTILINE)
    rows = re.findall(r"^ *(0\.\d+) +(\d\.\d{3}) +(\d\.\d{3})$", said, re.MULTILINE)
    assert len(rows) == 5
    for _, by_descent, by_calculation in rows:
        assert abs(float(by_descent) - float(by_calculation)) < 0.005
    supcon, thanos = re.search(r"^W +(\S+) +(\S+)$", said, re.MULTILINE).groups()
    assert float(supcon) < 0.25 < 0.6 < float(thanos)
    supcon, thanos = re.search(r"^fine accuracy of a .*? +(\S+) +(\S+)$", said, re.M).groups()
    assert float(supcon) + 0.02 < float(thanos)
    assert (tmp_path / "runs" / "notebook" / "beside.html").is_file()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="the extra docs is missing")
def test_the_site_is_built_offline_with_its_notebook(tmp_path):
    words = ("-m", "sphinx", "-W", "--keep-going", "--quiet", "-D", "nb_execution_mode=force")
    run(*words, "-b", "html", str(DOCS), "site", folder=tmp_path)
    site = tmp_path / "site"
    pages = {
        page.relative_to(site).as_posix(): page.read_text(encoding="utf-8")
        for page in site.rglob("*.html")
        if "_static" not in page.parts
    }
    for name, text in pages.items():
        fetched = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?:[^"]*)', text)
        assert not fetched, name
        for target in re.findall(r'href="(?!https?:)([^"#?]+)', text.partition("<iframe")[0]):
            assert (site / name).parent.joinpath(target).resolve().exists(), f"{name}: {target}"
    assert "supcon beside thanos" in pages["notebooks/from_collapse_to_thanos.html"]
    for name in (*losses.__all__, *(f"robust.{one}" for one in losses.robust.__all__)):
        assert re.search(rf'id="(module-)?thanos_jax\.losses\.{name}"', pages["api/losses.html"])
    for key in FIELDS:
        assert f">{key}</span>" in pages["api/config.html"], key
    assert "jax.make_mesh" in re.sub(r"<[^>]+>", "", pages["_repository/examples/mesh.py.html"])
