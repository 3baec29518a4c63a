"""Which comparisons a report shows: those of the counts that its tables hold."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from histoquant.compared import read_comparisons
from histoquant.errors import ResultsError
from histoquant.results import write_table

FIELDS = pd.DataFrame(
    {"section": ["A", "A", "B"], "field": [1, 2, 1], "fibers": [10, 12, 9], "positive_cells": [3, 0, 1]}
)
AGREEMENT = pd.DataFrame(
    [["", "section", "fibers", "bias", 2, 0.0, 0.0, 0.0]],
    columns=["marker", "level", "quantity", "measure", "n", "estimate", "ci_low", "ci_high"],
)


def compare(folder: Path, fields: pd.DataFrame = FIELDS) -> None:
    folder.mkdir(parents=True)
    write_table(folder / "fields.csv", fields)
    write_table(folder / "agreement.csv", AGREEMENT)
    (folder / "validation.html").write_text("")


def test_a_comparison_of_earlier_counts_is_left_out_and_named(tmp_path: Path) -> None:
    """Other fields under the same numbers, as another seed draws them: nobody has counted in these."""
    compare(tmp_path / "validation" / "Li")
    compare(tmp_path / "validation" / "part", FIELDS[:1].assign(fibers=10.0))
    found = read_comparisons(tmp_path, FIELDS)
    assert list(found.validations) == ["validation/Li/validation.html", "validation/part/validation.html"]
    assert found.notes == []
    compare(tmp_path / "validation" / "50%25")
    again = FIELDS.assign(fibers=[10, 12, 8])
    found = read_comparisons(tmp_path, again)
    assert list(found.validations) == ["validation/part/validation.html"]
    assert [note.split(" is not shown")[0] for note in found.notes] == [
        "The comparison 50%", "The comparison Li"
    ]  # fmt: skip
    failed = FIELDS.assign(fibers=[None, 12, 9], positive_cells=[None, 0, 1])
    assert read_comparisons(tmp_path, failed).validations == {}
    assert read_comparisons(tmp_path, FIELDS[:0]).validations == {}


def test_a_reviewer_has_comparisons_of_the_own_tables(tmp_path: Path) -> None:
    compare(tmp_path / "readers" / "Li against Wang")
    compare(tmp_path / "readers" / "Lin against Wang")
    compare(tmp_path / "readers" / "blinded Li against Wang")
    own = read_comparisons(tmp_path, FIELDS, "Li")
    assert list(own.validations) == ["../../readers/Li%20against%20Wang/validation.html"]
    assert own.readings == {}
    edited = read_comparisons(tmp_path, FIELDS.assign(positive_cells=[2, 0, 1]), "Li")
    assert edited.validations == {} and len(edited.notes) == 1
    # Two blinded readers have no count of the run's.
    run = read_comparisons(tmp_path, FIELDS.assign(fibers=1))
    assert list(run.readings) == ["readers/blinded%20Li%20against%20Wang/validation.html"]
    (tmp_path / "readers" / "Li against Wang" / "fields.csv").write_text("section\nA\n")
    with pytest.raises(ResultsError, match="no column"):
        read_comparisons(tmp_path, FIELDS, "Li")
