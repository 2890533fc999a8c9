"""Sphinx: what the documentation is made of, and what is generated before it is read."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as installed
from pathlib import Path

from docutils.nodes import SkipNode

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
# Kernels that execute the pages find the commands of this environment, and docs/ocean.py.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
)
os.environ["COLUMNS"] = "88"  # of help texts

import generate  # noqa: E402  it lies beside this file
from latex2mathml.converter import convert  # noqa: E402

project = "romzarr"
author = "the romzarr developers"
copyright = author
version = release = installed("romzarr")

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
]
exclude_patterns = ["jupyter_execute"]
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 300
nb_merge_streams = True
# Warnings in a page are errors of its build. Commands log to standard output there.
nb_output_stderr = "error"
nb_kernel_rgx_aliases = {".*": "python3"}

autosummary_generate = True
numpydoc_show_class_members = False
autodoc_typehints = "none"

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = f"romzarr {release}"
html_show_sourcelink = False
html_static_path = ["formulas.css"]
html_css_files = ["formulas.css"]
html_theme_options = {
    "show_nav_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}


def formula(display):
    """Renderer of formulas as MathML, which browsers show by themselves, offline too."""

    def visit(translator, node):
        shown = convert(node.astext(), display=display)
        translator.body.append(shown if display == "inline" else f"<div class='math'>{shown}</div>")
        raise SkipNode

    return visit, None


def setup(app):
    app.add_html_math_renderer("mathml", formula("inline"), formula("block"))
    # Archives that several pages use are computed once a build.
    archives = Path(app.doctreedir) / "archives"
    os.environ["ROMZARR_DOCS_ARCHIVES"] = str(archives)
    app.connect("builder-inited", lambda app: generate.pages(HERE / "generated"))
