"""Sphinx's configuration of the site, which is built offline by: python -m sphinx -W docs OUT."""

import pathlib
import sys

from pygments.lexers import TextLexer
from sphinx.application import Sphinx

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

from thanos_jax.version import __version__  # noqa: E402

project = "thanos_jax"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_external_toc",  # _toc.yml
    "docstrings",
    "mathml",
    "repository_files",
    "schema_tables",
]
exclude_patterns = ["*.py", "_extensions", "_build", "_static", "**/.ipynb_checkpoints", "**/runs"]

# As in GitHub's Markdown, headings are targets of links.
myst_enable_extensions = ["dollarmath"]
html_math_renderer = "mathml"
myst_heading_anchors = 3

# The notebook is a script in percent format. `-D nb_execution_mode=force` executes it.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "off"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 1800  # seconds for a cell
nb_merge_streams = True

smartquotes = False  # flags begin with two hyphens
default_role = "py:obj"
highlight_language = "none"  # blocks without a language are formulas and tables
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give shapes and dtypes instead
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_preprocess_types = False
python_maximum_signature_line_length = 80
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "sphinx_book_theme"
html_title = "thanos_jax"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search field is in the sidebar
    "footer_content_items": [],
}
html_context = {"default_mode": "auto"}
html_show_copyright = False


def setup(app: Sphinx) -> None:
    """Shows CSV as plain text: GitHub highlights it, but Pygments does not know it."""
    app.add_lexer("csv", TextLexer)
