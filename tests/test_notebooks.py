"""Notebooks are what their .py says, executed, and small. `make test` runs them (nbmake)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))


def test_every_notebook_has_its_text_beside_it() -> None:
    assert [path.stem for path in SCRIPTS] == [path.stem for path in sorted(FOLDER.glob("*.ipynb"))]
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_is_what_its_text_says(script: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    own, executed = (jupytext.read(path).cells for path in (script, script.with_suffix(".ipynb")))
    said, shown = ([(cell.cell_type, cell.source) for cell in cells] for cells in (own, executed))
    assert shown == said, "run `make notebooks`"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_gave_and_is_small(script: Path) -> None:
    path = script.with_suffix(".ipynb")
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(cell["execution_count"] for cell in cells)
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/" in kind for output in outputs for kind in output.get("data", {}))
    assert path.stat().st_size < 300_000
