"""The site: `make docs`. Reference pages are written from the code, so that they cannot go stale."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import reference  # noqa: E402

from histoquant import __version__  # noqa: E402

project = "histoquant"
author = "The histoquant developers"
copyright = author
release = version = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "numpydoc", "myst_nb"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks are run by the tests
suppress_warnings = ["mystnb.unknown_mime_type"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False
exclude_patterns = ["reference.py", "static"]
# Indented blocks are commands, tables or settings; those in Python are fenced and say so.
highlight_language = "none"

html_theme = "pydata_sphinx_theme"
html_title = "histoquant"
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "collapse_navigation": True,
    "secondary_sidebar_items": ["page-toc"],
}


def name_repository_files(app, docname, source):
    """Where a page links to a file of the repository that is not part of the site, name the file instead."""
    if "/" not in docname:
        source[0] = re.sub(r"\[([^\]]*)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", source[0])


def setup(app):
    """Hook into Sphinx."""
    app.connect("source-read", name_repository_files)


reference.write_pages(HERE / "generated")
reference.copy_notebooks(HERE.parent / "notebooks", HERE / "notebooks")
