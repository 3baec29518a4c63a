"""The code in docs runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from histoquant.protocol import FiberSettings
from histoquant.stains import Stains

DOCS = Path(__file__).parents[1] / "docs"


def test_the_example_of_a_segmenter_keeps_its_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cellpose itself wants its weights from the internet; what it returns is labels."""

    class CellposeModel:
        def __init__(self, gpu: bool) -> None:
            assert not gpu

        def eval(self, image: np.ndarray) -> tuple[np.ndarray, ...]:
            labels = np.zeros(image.shape, np.uint16)
            labels[2:12, 2:12], labels[20, 20] = 1, 2
            return labels, image, image

    package, models = ModuleType("cellpose"), ModuleType("cellpose.models")
    models.CellposeModel = CellposeModel  # type: ignore[attr-defined]
    package.models = models  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cellpose", package)
    block = re.search(r"```python\n(.*?)```", (DOCS / "segmenters.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    names: dict[str, object] = {}
    exec(block[1], names)
    image = np.full((120, 120), 0.1, np.float32)
    make = names["make_segmenter"]
    assert callable(make)
    labels = make(FiberSettings())(Stains(image, image, image, 0.0, 0.0, 0.5))
    assert labels.dtype == np.int32
    assert labels.shape == image.shape
    assert np.unique(labels).tolist() == [0, 1]


def test_every_page_has_its_place_on_the_site() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8").splitlines()
    assert [page.stem for page in DOCS.glob("*.md") if page.stem not in ("index", *index)] == []


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*DOCS.glob("*.md"), DOCS.parent / "README.md"]
    broken = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        # What the site makes itself is checked when it is built (test_site.py).
        if not target.startswith("generated/")
        and not (page.parent / target).exists()
        # Notebooks are copied beside the pages.
        and not (target.startswith("notebooks/") and (DOCS.parent / target).exists())
    ]
    assert broken == []


def test_no_page_holds_the_marks_of_a_conflict() -> None:
    pages = [*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")]
    assert [page.name for page in pages if re.search("^(<{7}|>{7}) ", page.read_text("utf-8"), re.M)] == []
