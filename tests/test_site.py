"""The site's generated pages say what the code says, and the site builds without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))

import reference  # noqa: E402


@pytest.mark.parametrize("name", reference.TABLES)
def test_texts_and_columns_are_the_same(name: str) -> None:
    texts = reference.read_column_texts()
    own = set(texts[name]) - {"about"}
    assert own <= set(reference.TABLES[name]), "a text without a column"
    assert set(reference.TABLES[name]) - own <= set(texts["shared"]), "a column without a text"


def test_a_shared_text_is_used() -> None:
    used = {column for columns in reference.TABLES.values() for column in columns}
    assert set(reference.read_column_texts()["shared"]) <= used


@pytest.mark.parametrize(
    "row",
    [
        "| `width_um` | um | `550` | ≥ 50, ≤ 5000 | Width of a field: field number 22",
        "| `count_without_nucleus` |  | `false` | `true`, `false` | Count closed rings",
        '| `white` |  | `"auto"` | 3 numbers or `"auto"` | Intensity of empty glass',
        '| `method` |  | `"network"` | text | Name of the segmenter',
        '| `compartment` |  | `"membrane"` | `"nucleus"`, `"membrane"`, `"cytoplasm"`, `"cell"` | Part',
        "## `[cells.qupath]`",
        "## `[markers.NAME]`",
    ],
)
def test_the_protocol_page_has_units_defaults_and_bounds(row: str) -> None:
    assert row in reference.describe_protocol()


def test_every_command_and_option_is_on_its_page() -> None:
    page = reference.describe_commands()
    assert "## histoquant run" in page
    assert re.search(r"`--seed INT`: Seed of the draws.*default: 0", page)


def test_every_module_is_on_a_page() -> None:
    pages = reference.describe_modules()
    assert {"api/stages.md", "api/others.md", "api/synthetic.md", "api/index.md"} <= set(pages)
    text = "".join(pages.values())
    root = DOCS.parent / "histoquant"
    for path in root.rglob("[a-z]*.py"):
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        assert f"automodule:: {name}\n" in text or ".cli." in name


def test_every_file_of_a_run_is_named(small_run: Path) -> None:
    """Files, with sections, fields and reviewers by other names, are those of the page."""
    named = {*reference.read_column_texts()["files"], *reference.TABLES}
    found = {path.name for path in small_run.iterdir() if not path.name.startswith(".")} - {"sections"}
    assert found <= named
    section = {path.name for path in (small_run / "sections" / "P01-CD19").iterdir()}
    assert section <= {"objects.parquet", *(name.split("/")[2] for name in named if name.count("/") > 1)}


def test_links_of_copied_notebooks_lead_to_pages(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ipynb").write_text('"[Accuracy](../docs/accuracy.md)"')
    reference.copy_notebooks(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / "a.ipynb").read_text() == '"[Accuracy](../accuracy.md)"'


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Every link and every docstring of the site."""
    pytest.importorskip("pydata_sphinx_theme", reason="the site needs the extra docs")
    words = ["-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "trees", DOCS, tmp_path / "site"]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "generated" / "protocol.html").is_file()
