"""What a run publishes, from what is stored."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from histoquant.errors import ResultsError
from histoquant.publish import compare_rules, read_run


def test_rules_are_compared_on_stored_objects(tmp_path: Path) -> None:
    """A square field of 10 um at the corner: one fiber inside, one cut at 0.4, two cells, one cut at 0.6."""
    objects = pd.DataFrame(
        {
            "field": 1,
            "kind": ["fiber", "fiber", "cell", "cell", "cell"],
            "x_um": [5.0, 10.5, 5.0, 9.5, 5.0],
            "y_um": 5.0,
            "fraction_in_field": [1.0, 0.4, 1.0, 0.6, 1.0],
            "positive": [False, False, True, True, True],
            "nucleus": [None, None, True, True, False],
        }
    )
    folder = tmp_path / "sections" / "A-CD19"
    folder.mkdir(parents=True)
    objects.to_parquet(folder / "objects.parquet")
    field = {"field": 1, "shape": "square", "center_x_um": 5.0, "center_y_um": 5.0}
    fields = pd.DataFrame([{"section": "A-CD19", **field, "width_um": 10.0, "height_um": 10.0}])
    table = compare_rules(tmp_path, fields)
    assert table is not None
    counts = table.set_index("rule")[["fibers", "positive_cells"]].T.to_dict("list")
    assert counts == {"half_area": [1, 2], "centroid": [1, 2], "clipped": [2, 2], "whole": [1, 1]}
    assert compare_rules(tmp_path / "elsewhere", fields) is None


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"no readable run\.json"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ResultsError, match=r"no readable run\.json"):
        read_run(tmp_path)
