"""The demonstration tells truth beside measurement."""

from __future__ import annotations

from pathlib import Path

import pytest

from histoquant import demo
from histoquant.errors import StorageError
from histoquant.synthetic import read_truth
from histoquant.synthetic.compare import compare_fields, compare_sections


def test_truth_stands_beside_measurement(small_study: Path, small_run: Path) -> None:
    text = demo.describe_demo(small_study, small_run)
    for words in ("P01-CD19", "true fibers", "Error of all fibers", "Sampling error", "report.html"):
        assert words in text


def test_counts_are_near_the_truth_of_the_same_fields(small_study: Path, small_run: Path) -> None:
    """Eight fields of 200 um hold some 90 fibers: a tenth is what their edges alone may cost."""
    names = ["P01-BAFF-R", "P01-CD19", "P02-BAFF-R", "P02-CD19"]
    truths = {name: read_truth(small_study / "truth" / name) for name in names}
    table = compare_sections(compare_fields(small_run, truths))
    assert table["section"].tolist() == names
    totals = table[["fibers", "true_fibers", "positive_cells", "true_positive_cells"]].sum()
    assert totals["true_fibers"] > 60
    assert totals["fibers"] == pytest.approx(totals["true_fibers"], rel=0.1)
    assert totals["positive_cells"] == pytest.approx(totals["true_positive_cells"], rel=0.1, abs=2)


def test_a_study_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "STUDY.csv").write_text("made before")
    assert demo.make_demo(tmp_path, 1, lambda done, total: None).read_text() == "made before"
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another --out"):
        demo.make_demo(tmp_path / "file" / "study", 1, lambda done, total: None)
