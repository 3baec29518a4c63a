"""Blinded reading: its order, what is kept of it, the tables that `validate` and `agree` take."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import invoke

from histoquant.errors import EditError, HistoquantError, ResultsError, StorageError
from histoquant.geometry import Field, contains_points
from histoquant.publish import publish_report
from histoquant.readers import compare_readers
from histoquant.reading import (
    FieldReading,
    Mark,
    Plan,
    open_reading,
    plan_reading,
    read_reading,
    tabulate_reading,
)
from histoquant.results import read_objects, read_table
from histoquant.slide import open_slide
from histoquant.tables import FIELD_COLUMNS

CIRCLE = Field(3, "circle", 500.0, 300.0, 200.0, 200.0)


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_run, tmp_path / "run µ")
    return tmp_path / "run µ"


def read_plan(run: Path, reader: str) -> list[dict[str, object]]:
    about = json.loads((run / "readings" / reader / "plan.json").read_text(encoding="utf-8"))
    return list(about["places"])


def list_marks(run: Path, section: str, number: int) -> Iterator[Mark]:
    """What the program found in a field, as a reader who agrees with it would mark it."""
    fields = read_table(run / "fields.csv", FIELD_COLUMNS)
    (row,) = fields[fields["section"].eq(section) & fields["field"].eq(number)].to_dict("records")
    x, y = float(row["center_x_um"]), float(row["center_y_um"])
    objects = read_objects(run / "sections" / section / "objects.parquet")
    for one in objects[objects["field"].eq(number) & objects["counted"]].to_dict("records"):
        kind = "fiber" if one["kind"] == "fiber" else "positive" if one["positive"] else "negative"
        yield Mark(kind, one["x_um"] - x, one["y_um"] - y)


def read_as_the_program(run: Path, reader: str, doubt: bool = False) -> None:
    with open_reading(run, reader) as reading:
        for number, place in enumerate(read_plan(run, reader)):
            marks = list(list_marks(run, str(place["section"]), int(str(place["number"]))))
            if doubt:
                marks = [
                    Mark("uncertain" if mark.kind == "negative" else mark.kind, mark.x_um, mark.y_um)
                    for mark in marks
                ]
            reading.save(number, marks, done=True)


def test_the_order_is_shuffled_by_seed_and_reader() -> None:
    places = {"shape": "circle", "center_x_um": 1.0, "center_y_um": 1.0, "width_um": 9.0, "height_um": 9.0}
    rows = [
        {"section": f"P{patient}-CD19", "field": number, "status": "ok", **places}
        for patient in range(3)
        for number in range(1, 6)
    ]
    fields = pd.DataFrame([*rows, {**rows[0], "field": 6, "status": "failed"}])

    def order(reader: str, seed: int, first: int = 0) -> list[tuple[str, int]]:
        return [(s, f.number) for s, f in plan_reading(fields, reader, seed, first, True).places]

    known = order("Li", 0)
    assert known == order("Li", 0)
    assert sorted(known) == [(row["section"], row["field"]) for row in rows]
    assert len({tuple(one) for one in (known, order("Li", 1), order("Wang", 0), sorted(known))}) == 4
    assert sorted(order("Li", 0, 2)) == [(f"P{p}-CD19", n) for p in range(3) for n in (1, 2)]
    with pytest.raises(ResultsError, match="no field to read"):
        plan_reading(fields.assign(status="failed"), "Li", 0, 0, True)


def test_counts_and_points_are_those_of_the_fields_that_are_done() -> None:
    other = Field(1, "square", 50.0, 50.0, 20.0, 20.0)
    plan = Plan("Li", 0, True, (("B", CIRCLE), ("A", other), ("A", Field(2, "square", 0.0, 0.0, 1.0, 1.0))))
    marks = (
        *(Mark("fiber", 120.0, 0.0), Mark("fiber", 0.0, 0.0)),
        *(Mark("positive", 99.0, 0.0), Mark("positive", 100.0, 0.0)),
        *(Mark("negative", 0.0, -5.0), Mark("uncertain", 3.0, 3.0), Mark("uncertain", 3.0, 3.0)),
    )
    read = {0: FieldReading(marks, True), 1: FieldReading((), True), 2: FieldReading(marks, False)}
    counts, points = tabulate_reading(plan, read)
    assert counts.values.tolist() == [["A", 1, 0.0, 0], ["B", 3, 2.0, 1]]
    assert points.values.tolist() == [
        *(["B", 3, 599.0, 300.0, 1], ["B", 3, 600.0, 300.0, 1]),
        *(["B", 3, 500.0, 295.0, 0], ["B", 3, 503.0, 303.0, -1]),
    ]
    blind = Plan("Li", 0, False, plan.places)
    assert tabulate_reading(blind, read)[0]["fibers"].isna().all()


def test_a_reading_is_kept_and_goes_on(run: Path) -> None:
    marks = (Mark("positive", 1.25, -2.5), Mark("fiber", 0.0, 0.0))
    with open_reading(run, "Li", seed=3) as reading:
        assert (len(reading), reading.done, reading.next_open()) == (8, 0, 0)
        reading.save(0, marks, done=True)
        reading.save(1, marks[:1], done=False)
        assert reading.next_open(0) == 1 and reading.next_open(7) == 1
        with (
            pytest.raises(ResultsError, match="the reading by Li is open in another window"),
            open_reading(run, "Li"),
        ):
            pass
    order = read_plan(run, "Li")
    with open_reading(run, "Li", seed=4, first=1, fibers=False) as reading:
        assert reading.get(0) == FieldReading(marks, True)
        assert reading.get(1) == FieldReading(marks[:1], False)
        assert (len(reading), reading.fibers, reading.done) == (8, True, 1)
        reading.save(0, (), done=False)  # taken back
        assert reading.next_open() == 0
    assert read_plan(run, "Li") == order
    assert json.loads((run / "readings" / "Li" / "plan.json").read_text(encoding="utf-8"))["seed"] == 3


def test_nothing_that_a_reader_gets_tells_whose_field_it_is(run: Path, small_study: Path) -> None:
    with open_reading(run, "Li") as reading:
        patch, field = reading.show(0), reading.outline(0)
        place = read_plan(run, "Li")[0]
        assert (field.number, field.center_x_um, field.center_y_um) == (0, 0.0, 0.0)
        section = str(place["section"])
        with open_slide(small_study / "slides" / f"{section}.svs") as slide:
            x, y = (float(str(place[f"center_{axis}_um"])) for axis in "xy")
            wanted = slide.read(x - 160.0, y - 160.0, 320.0, 320.0)
        assert np.array_equal(patch.pixels, wanted.pixels)
        assert (patch.x_um + x, patch.y_um + y) == pytest.approx((wanted.x_um, wanted.y_um))
        kept = json.dumps([vars(reading.get(0))])
        reading.save(0, (Mark("positive", 1.0, 1.0),), done=True)
        kept += (run / "readings" / "Li" / "fields" / "1.json").read_text(encoding="utf-8")
    assert section not in kept and "P0" not in kept


def test_a_reading_is_a_truth_that_validate_takes(run: Path) -> None:
    read_as_the_program(run, "Li")
    fields = read_table(run / "fields.csv", FIELD_COLUMNS)
    counts, _ = read_reading(run, "Li")
    both = fields.merge(counts, on=["section", "field"], suffixes=("", "_read"))
    assert len(both) == len(fields)
    assert both["fibers"].astype(float).tolist() == both["fibers_read"].tolist()
    done = invoke("validate", run, run / "readings" / "Li" / "Li.csv")
    assert done.returncode == 0, done.stderr
    done = invoke("validate", run, run / "readings" / "Li" / "Li cells.csv")
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr
    agreement = pd.read_csv(run / "validation" / "Li" / "agreement.csv")
    bias = agreement[agreement["measure"].eq("bias") & agreement["marker"].isna()]
    assert bias["estimate"].tolist() == [0.0] * 6
    cells = pd.read_csv(run / "validation" / "Li cells" / "agreement.csv")
    calls = cells[cells["measure"].eq("kappa") & cells["marker"].isna()]
    assert calls["estimate"].tolist() == [1.0]


def test_two_blinded_readers_are_compared_and_the_report_tells(run: Path) -> None:
    read_as_the_program(run, "Li")
    with open_reading(run, "Wang") as reading:
        for number, place in enumerate(read_plan(run, "Wang")):
            marks = list(list_marks(run, str(place["section"]), int(str(place["number"]))))
            # One fiber less in each field; the first positive cell is called negative.
            fiber = next(mark for mark in marks if mark.kind == "fiber")
            marks.remove(fiber)
            first = next((mark for mark in marks if mark.kind == "positive"), None)
            if first is not None:
                marks[marks.index(first)] = Mark("negative", first.x_um, first.y_um)
            reading.save(number, marks, done=True)
    done = invoke("agree", run, "Li", "Wang", "--blinded")
    assert done.returncode == 0, done.stderr
    folder = run / "readers" / "blinded Li against Wang"
    pairs = pd.read_csv(folder / "fields.csv")
    assert (pairs["fibers"] - pairs["true_fibers"]).tolist() == [1] * 8
    table, _ = read_reading(run, "Li")
    fewer = int(table["positive_cells"].gt(0).sum())
    assert (pairs["positive_cells"] - pairs["true_positive_cells"]).sum() == fewer
    agreement = pd.read_csv(folder / "agreement.csv")
    overall = agreement[agreement["marker"].isna()].set_index(["level", "quantity", "measure"])["estimate"]
    assert overall["section", "fibers", "bias"] == 2.0
    assert 0 < overall["cell", "call", "kappa"] < 1
    page = (folder / "validation.html").read_text(encoding="utf-8")
    assert "Li, blinded" in page and "begin from the same counts" not in page
    report = publish_report(run).read_text(encoding="utf-8")
    assert "readers/blinded%20Li%20against%20Wang/validation.html" in report
    assert "Two blinded readers" in report


def test_the_program_is_compared_with_a_blinded_reader_and_doubt_counts_neither_way(run: Path) -> None:
    read_as_the_program(run, "Li")
    read_as_the_program(run, "Wang", doubt=True)
    folder, agreement = compare_readers(run, "Li", blinded=True)
    assert folder == run / "validation" / "blinded Li"
    for measure in ("precision", "recall", "kappa"):
        rows = agreement[agreement["measure"].eq(measure) & agreement["marker"].eq("")]
        assert rows["estimate"].tolist() == [1.0], measure
    _, one = compare_readers(run, "Wang", "Li", blinded=True)
    _, other = compare_readers(run, "Li", "Wang", blinded=True)
    for table in (one, other):
        rows = table[table["quantity"].eq("call") & table["marker"].eq("")].set_index("measure")
        # Negative cells of Li are doubted by Wang: only positive ones are left to call.
        assert rows.loc["agreement", "estimate"] == 1.0
        positive = int(read_reading(run, "Li")[0]["positive_cells"].sum())
        assert rows.loc["agreement", "n"] == positive


def test_marks_outside_a_field_do_not_count(run: Path) -> None:
    with open_reading(run, "Li") as reading:
        outline = reading.outline(0)
        assert not contains_points(outline, np.array([150.0]), np.array([0.0]))[0]
        reading.save(0, (Mark("positive", 150.0, 0.0), Mark("positive", 0.0, 0.0)), done=True)
    counts, points = read_reading(run, "Li")
    assert counts["positive_cells"].tolist() == [1] and len(points) == 2


def test_a_full_disk_loses_nothing_that_was_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_reading(run, "Li") as reading:
        reading.save(0, (Mark("positive", 1.0, 1.0),), done=False)

        def refuse(handle: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError, match="No space left"):
            reading.save(0, (), done=True)
        monkeypatch.undo()
        assert reading.get(0).marks == (Mark("positive", 1.0, 1.0),)
    with open_reading(run, "Li") as reading:
        assert reading.get(0) == FieldReading((Mark("positive", 1.0, 1.0),), False)


def test_what_cannot_be_read_is_told(run: Path, small_study: Path) -> None:
    with pytest.raises(ResultsError, match="has no reading by Li; read first"):
        read_reading(run, "Li")
    for name in ("", " Li", "L\ni"):
        with pytest.raises(EditError, match="is no reviewer's name"), open_reading(run, name):
            pass
    with open_reading(run, "Li") as reading:
        reading.save(0, (), done=True)
    with pytest.raises(ResultsError, match="has no reading by Wang; it has readings by Li"):
        read_reading(run, "Wang")
    done = invoke("agree", run, "Li", "Wang", "--blinded")
    assert done.returncode == 2 and "no reading by Wang" in done.stderr and "Traceback" not in done.stderr
    folder = run / "readings" / "Li"
    for file, text, told in (
        ("fields/1.json", '{"marks": [{"kind": "leaf", "x_um": 1, "y_um": 1}], "done": true}', "is damaged"),
        ("fields/1.json", "{", "is damaged"),
        ("plan.json", '{"places": []}', "is damaged"),
    ):
        kept = (folder / file).read_bytes()
        (folder / file).write_text(text, encoding="utf-8")
        with pytest.raises(ResultsError, match=told):
            read_reading(run, "Li")
        (folder / file).write_bytes(kept)
    fields = pd.read_csv(run / "fields.csv")
    fields.assign(center_x_um=fields["center_x_um"] + 5).to_csv(run / "fields.csv", index=False)
    with pytest.raises(ResultsError, match="is a reading of other fields"):
        read_reading(run, "Li")
    fields.to_csv(run / "fields.csv", index=False)
    (run / "readings" / "Chen").write_text("")
    with pytest.raises(ResultsError, match="is not writable"), open_reading(run, "Chen"):
        pass


def test_a_section_measured_anew_or_a_slide_that_is_gone_is_told_when_it_is_shown(
    run: Path, small_study: Path
) -> None:
    with open_reading(run, "Li") as reading:
        place = read_plan(run, "Li")[0]
        record = run / "sections" / str(place["section"]) / "measured.json"
        kept = record.read_text(encoding="utf-8")
        about = json.loads(kept)
        for row in about["fields"]:
            row["center_x_um"] += 30
        record.write_text(json.dumps(about), encoding="utf-8")
        with pytest.raises(ResultsError, match="is a reading of other fields"):
            reading.show(0)
        record.write_text(kept, encoding="utf-8")
        about = json.loads((run / "run.json").read_text(encoding="utf-8"))
        about["study"]["path"] = str(run / "absent.csv")
        (run / "run.json").write_text(json.dumps(about), encoding="utf-8")
        with pytest.raises(HistoquantError, match=r"absent.csv"):
            reading.show(0)
