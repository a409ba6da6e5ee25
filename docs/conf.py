"""The site: Sphinx reads Markdown (MyST), runs the notebooks and takes the reference from docstrings.

`make docs` builds it into build/site; a warning is an error. New pages need no change here: index.md finds them.
"""

import importlib.util
import os
import sys
from pathlib import Path

from sphinx.ext.autodoc.mock import mock

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
# The notebooks run in kernels of their own, on what this environment says.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pages  # noqa: E402

project, author, copyright = "dsjax", "The dsjax authors", "The dsjax authors"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_nb"]
exclude_patterns = ["theory.md.j2", "README.md"]

napoleon_use_ivar = True
napoleon_attr_annotations = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give shapes, which say more than `Array`
# Documented without it, where it is not installed.
autodoc_mock_imports = [] if importlib.util.find_spec("torch") else ["torch"]
# A name of the front door is also that of the module that defines it.
suppress_warnings = ["ref.python"]

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

html_theme = "sphinx_book_theme"
html_title = "dsjax"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_extra_path = [str(HERE / "generated" / pages.EXTRA)]
os.makedirs(html_extra_path[0], exist_ok=True)  # asked for before anything is written
# Source code is reached from the reference: the whole tree beside each module would take a quarter of the time.
html_sidebars = {"_modules/**": ["navbar-logo.html", "search-button-field.html"]}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "use_fullscreen_button": False}


def docstring(_app, _what, _name, thing, _options, lines):
    """Docstrings are plain text with code in backticks."""
    lines[:] = pages.escape(pages.documented(thing) if lines else "").split("\n")


def without_empty_folders(_app, name, source):
    """A folder of pages may have none yet, which Sphinx would warn of."""
    if name == "index":
        lines = source[0].split("\n")
        source[0] = "\n".join(line for line in lines if "*" not in line or any(HERE.glob(f"{line}.*")))


def write_pages(_app):
    """The pages that nobody writes."""
    with mock(autodoc_mock_imports):
        pages.write(HERE / "generated")


def setup(app):
    """Before anything is read: the pages that nobody writes. Before napoleon: docstrings."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", without_empty_folders)
    app.connect("autodoc-process-docstring", docstring, priority=1)
    # The fields of a named tuple are said with the class.
    app.connect("autodoc-skip-member", lambda *a: True if (a[3].__doc__ or "").startswith("Alias for field") else None)
