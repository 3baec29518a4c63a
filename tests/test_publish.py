"""What a run publishes, from what is stored."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from histoquant.errors import ResultsError
from histoquant.protocol import Protocol
from histoquant.publish import _note_sections, compare_rules, list_sizes, read_objects, read_run


def test_rules_are_compared_on_stored_objects(tmp_path: Path) -> None:
    """A square field of 10 um at the corner: one fiber inside, one cut at 0.4, two cells, one cut at 0.6."""
    objects = pd.DataFrame(
        {
            "field": 1,
            "kind": ["fiber", "fiber", "cell", "cell", "cell"],
            "label": [1, 2, 1, 2, 3],
            "x_um": [5.0, 10.5, 5.0, 9.5, 5.0],
            "y_um": 5.0,
            "area_um2": [80.0, 60.0, 30.0, 30.0, 30.0],
            "min_feret_um": [8.0, 6.0, None, None, None],
            "reason": "",
            "fraction_in_field": [1.0, 0.4, 1.0, 0.6, 1.0],
            "positive": [False, False, True, True, True],
            "nucleus": [None, None, True, True, False],
            "dab_od": [0.0, 0.0, 0.3, 0.3, 0.3],
        }
    )
    folder = tmp_path / "sections" / "A-CD19"
    folder.mkdir(parents=True)
    objects.to_parquet(folder / "objects.parquet")
    field = {"field": 1, "shape": "square", "center_x_um": 5.0, "center_y_um": 5.0, "status": "ok"}
    fields = pd.DataFrame([{"section": "A-CD19", **field, "width_um": 10.0, "height_um": 10.0}])
    sections = pd.DataFrame({"section": ["A-CD19"], "marker": "CD19", "control": "", "status": "ok"})

    def count(protocol: Protocol, sections: pd.DataFrame) -> dict[str, list[int]] | None:
        objects, unread = read_objects(tmp_path, fields, sections, protocol)
        assert unread == []
        table = compare_rules(objects, fields)
        return (
            None if table is None else table.set_index("rule")[["fibers", "positive_cells"]].T.to_dict("list")
        )

    found = count(Protocol(), sections)
    assert found == {"half_area": [1, 2], "centroid": [1, 2], "clipped": [2, 2], "whole": [1, 1]}
    rings = Protocol.model_validate({"markers": {"CD19": {"count_without_nucleus": True}}})
    found = count(rings, sections)
    assert found is not None and found["half_area"] == [1, 3]
    assert count(Protocol(), sections.assign(control="negative")) is None

    objects, (sentence,) = read_objects(tmp_path, fields, sections.assign(section="elsewhere"), Protocol())
    assert compare_rules(objects, fields) is None
    assert sentence.startswith("sections/elsewhere/objects.parquet cannot be read")
    assert "lacks elsewhere" in sentence


def test_sizes_are_of_counted_whole_fibers() -> None:
    objects = pd.DataFrame(
        {
            "section": ["A", "A", "A", "B", "B"],
            "kind": ["fiber", "fiber", "cell", "fiber", "fiber"],
            "fraction_in_field": [1.0, 0.5, 1.0, 0.6, 1.0],
            "countable": [True, True, True, True, False],
            "reason": ["", "", "", "", ""],
            "area_um2": [1.0, 2.0, 3.0, 4.0, 5.0],
            "min_feret_um": 1.0,
        }
    )
    sections = pd.DataFrame({"section": ["A", "B"], "group": ["x", "y"]})
    found = list_sizes(objects, sections)
    assert found[["group", "area_um2"]].to_numpy().tolist() == [["x", 1.0], ["y", 4.0]]
    cut = objects.assign(reason=["cut by the border of the image; else", "", "", "", ""])
    assert list_sizes(cut, sections)["area_um2"].tolist() == [4.0]
    assert list_sizes(objects[:0], sections).empty


def test_one_image_in_two_rows_is_told() -> None:
    """A copied row, or a slide entered under a second patient, looks like a measurement of its own."""
    inputs = {"a": {"/a.svs": "1"}, "b": {"/copy of a.svs": "1"}, "c": {"/c.svs": "2"},
              "d": {"/a.svs": "1", "/regions of d.geojson": "3"}, "e": {}, "f": None, "g": {},
              "h": {"/h.svs": "unreadable"}, "i": {"/i.svs": "unreadable"}}  # fmt: skip
    run = {"sections": {name: {"status": "ok", "inputs": files} for name, files in inputs.items()}}
    assert _note_sections(run) == ["The same image stands for a, b: is the study table right?"]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"no readable run\.json"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ResultsError, match=r"no readable run\.json"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"protocol": {}, "finished": null}')
    with pytest.raises(ResultsError, match="has not finished"):
        read_run(tmp_path)
