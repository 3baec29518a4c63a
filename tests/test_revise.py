"""Revision: what an edit changes is measured and counted as the machine does, the rest stays as it was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histoquant.counts import count_field
from histoquant.edits import Change, Edit, make_change
from histoquant.errors import EditError
from histoquant.geometry import Field, rasterize_field
from histoquant.measure import locate_cells
from histoquant.objects import list_objects
from histoquant.protocol import FiberSettings, MarkerSettings, Protocol
from histoquant.revise import (
    Ground,
    RevisedField,
    StoredField,
    _place_cells,
    complete_change,
    judge_field,
    needs_ground,
    revise_field,
)
from histoquant.stains import Stains

MPP, X_UM, Y_UM = 0.5, 1000.0, 2000.0
FIELD = Field(3, "square", X_UM + 20, Y_UM + 20, 20.0, 20.0)
PROTOCOL, MARKER = Protocol(), MarkerSettings()
SETTINGS = PROTOCOL.cells


def make_ground() -> Ground:
    """80 x 80 px; the field is rows and columns 20 to 59; one brown cell, nuclei blue."""
    blue, brown = np.zeros((80, 80), np.float32), np.zeros((80, 80), np.float32)
    blue[30:36, 30:36] = blue[44:50, 44:50] = 0.6
    brown[28:38, 28:38] = 0.8
    brown[31:35, 31:35] = 0.1
    stains = Stains(blue, brown, np.zeros((80, 80), np.float32), X_UM, Y_UM, MPP)
    return Ground(stains, rasterize_field(FIELD, (80, 80), X_UM, Y_UM, MPP))


def make_field() -> StoredField:
    """Fibers 1 (inside), 2 (10 of 16 columns inside), 3 (outside); cells 1 (brown), 2, 4 (exactly half)."""
    fibers, cells = np.zeros((80, 80), np.int32), np.zeros((80, 80), np.int32)
    fibers[22:27, 22:58] = 1
    fibers[40:56, 50:66] = 2
    fibers[64:76, 4:60] = 3
    cells[28:38, 28:38] = 1
    cells[42:52, 42:50] = 2
    cells[36:40, 56:64] = 4
    ground = make_ground()
    objects = list_objects(3, fibers, cells, ground.stains, ground.inside, MARKER, SETTINGS)
    row = {"field": 3, "tissue_mm2": 0.1, **count_field(objects)}
    return StoredField(row, objects, fibers, cells, X_UM, Y_UM, MPP)


def um(*pixels: tuple[float, float]) -> list[tuple[float, float]]:
    """(row, column) of pixel corners as (x, y) in um."""
    return [(X_UM + column * MPP, Y_UM + row * MPP) for row, column in pixels]


def box(top: float, left: float, bottom: float, right: float) -> list[tuple[float, float]]:
    return um((top, left), (top, right), (bottom, right), (bottom, left))


def revise(*changes: Change, ground: bool = True) -> RevisedField:
    return revise_field(make_field(), changes, MARKER, PROTOCOL, make_ground() if ground else None)


def find(field: RevisedField | StoredField, name: str) -> dict[str, Any]:
    (row,) = field.objects[field.objects["object"].eq(name)].to_dict("records")
    return {str(key): value for key, value in row.items()}


def test_the_field_is_what_the_tests_take_it_for() -> None:
    stored = make_field()
    counts = {name: stored.row[name] for name in ("fibers", "positive_cells", "straddling_fibers")}
    assert counts == {"fibers": 2, "positive_cells": 1, "straddling_fibers": 1}
    assert [find(stored, name)["counted"] for name in ("3c1", "3c2", "3c4")] == [True, True, False]
    assert find(stored, "3c4")["fraction_in_field"] == 0.5


def test_no_edit_changes_nothing() -> None:
    stored = make_field()
    elsewhere = make_change("call", "4c1", positive=False)
    for edits in ([], [elsewhere], [make_change("include", 3)]):
        found = revise_field(stored, edits, MARKER, PROTOCOL)
        assert found.row == stored.row
        assert found.objects is stored.objects
    accepted = revise(make_change("accept", "3c1"), ground=False)
    assert accepted.row == stored.row
    pd.testing.assert_frame_equal(accepted.objects, stored.objects, check_exact=True)


def test_a_call_changes_the_call_alone() -> None:
    found = revise(make_change("call", "3c2", positive=True), make_change("call", "3c1", positive=False))
    assert (found.row["positive_cells"], found.row["fibers"]) == (1, 2)
    cell = find(found, "3c2")
    assert cell["positive"]
    assert np.isnan(cell["confidence"])
    assert cell["dab_od"] == find(make_field(), "3c2")["dab_od"]
    assert cell["reason"] == "called by the reviewer"
    assert revise(make_change("call", "3c4", positive=True)).row["positive_cells"] == 1, "half does not count"


def test_what_is_rejected_is_gone_and_comes_back() -> None:
    reject = make_change("reject", "3c1")
    found = revise(reject, ground=False)
    assert found.row["positive_cells"] == 0
    assert "3c1" not in set(found.objects["object"])
    assert not (found.cells == 1).any()
    again = revise(reject, make_change("accept", "3c1"), ground=False)
    assert again.row == make_field().row
    np.testing.assert_array_equal(again.cells, make_field().cells)


def test_cells_of_a_rejected_fiber_are_placed_anew() -> None:
    stored = make_field()
    assert find(stored, "3c4")["fiber"] == 2
    found = revise(make_change("reject", "3f2"), ground=False)
    assert found.row["fibers"] == 1
    assert found.row["straddling_fibers"] == 0
    assert find(found, "3c4")["fiber"] in (1, 3)
    fresh = locate_cells(found.cells, found.fibers, MPP, SETTINGS)
    assert find(found, "3c4")["fiber"] == fresh.loc[4, "fiber"]


def test_drawn_objects_are_those_of_a_script_on_the_edited_maps() -> None:
    changes = (
        make_change("add", "3c9", x_um=X_UM + 25, y_um=Y_UM + 15, radius_um=3),
        make_change("redraw", "3f2", outline=box(40, 44, 58, 62)),
        make_change("split", "3f1", line=um((10, 40), (30, 40)), part="3f8"),
        make_change("merge", "3c2", parts=["3c4"]),
    )
    found, ground = revise(*changes), make_ground()
    script = list_objects(3, found.fibers, found.cells, ground.stains, ground.inside, MARKER, SETTINGS)
    for name in ("3f2", "3f1", "3f8", "3c2"):
        (row,) = script[script["object"].eq(name)].to_dict("records")
        mine = find(found, name)
        assert "edited by the reviewer" in mine.pop("reason")
        assert {key: mine[key] for key in mine} == pytest.approx(
            {k: row[k] for k in mine}, abs=0, nan_ok=True
        )
    untouched = find(make_field(), "3c1")
    assert find(found, "3c1") == pytest.approx(untouched, abs=0, nan_ok=True)
    assert found.row == {**make_field().row, **count_field(found.objects)}


@settings(max_examples=30)
@given(row=st.integers(-8, 88), column=st.integers(-8, 88), kind=st.sampled_from("fc"))
def test_the_half_area_rule_holds_for_added_and_redrawn_objects(row: int, column: int, kind: str) -> None:
    """A square of 6 px; what of it lies beyond the picture is not known to anybody."""
    shape = np.zeros((80, 80), bool)
    shape[max(0, row) : max(0, row + 6), max(0, column) : max(0, column + 6)] = True
    expected = 2 * (shape & make_ground().inside).sum() > shape.sum()
    outline = box(row, column, row + 6, column + 6)
    for change in (
        make_change("add", f"3{kind}50", outline=outline),
        make_change("redraw", "3f3" if kind == "f" else "3c4", outline=outline),
    ):
        if not shape.any():
            with pytest.raises(EditError, match="covers no pixel"):
                revise(change)
            continue
        found = revise(change)
        assert change.object is not None
        drawn = find(found, change.object)
        labels = found.fibers if kind == "f" else found.cells
        np.testing.assert_array_equal(labels == drawn["label"], shape)
        countable = kind == "f" or change.action == "add" or bool(drawn["nucleus"])
        assert drawn["counted"] == (expected and countable)


def test_an_added_cell_counts_without_a_visible_nucleus() -> None:
    found = revise(make_change("add", "3c9", x_um=X_UM + 15, y_um=Y_UM + 25, radius_um=3, positive=True))
    cell = find(found, "3c9")
    assert cell["nucleus"]
    assert cell["positive"]
    assert found.row["positive_cells"] == 2
    assert cell["reason"] == "edited by the reviewer; called by the reviewer"
    measured = revise(make_change("add", "3c9", x_um=X_UM + 15, y_um=Y_UM + 25, radius_um=3))
    assert measured.row["positive_cells"] == 1, "without a call it is called by its DAB"


def test_of_a_split_the_larger_part_keeps_the_name_and_both_the_call() -> None:
    call = make_change("call", "3c1", positive=False)
    found = revise(call, make_change("split", "3c1", line=um((31, 20), (31, 45)), part="3c9"))
    np.testing.assert_array_equal(np.unique(found.cells[28:31, 28:38]), [9])
    np.testing.assert_array_equal(np.unique(found.cells[31:38, 28:38]), [1])
    assert not find(found, "3c1")["positive"]
    assert not find(found, "3c9")["positive"]
    short = revise(call, make_change("split", "3c1", line=um((31, 32), (31, 33)), part="3c9"))
    np.testing.assert_array_equal(short.cells, found.cells)


def test_a_merged_object_keeps_the_name_and_a_call_that_all_had() -> None:
    merge = make_change("merge", "3c2", parts=["3c1"])
    calls = [make_change("call", name, positive=False) for name in ("3c1", "3c2")]
    found = revise(*calls, merge)
    assert not find(found, "3c2")["positive"]
    assert "3c1" not in set(found.objects["object"])
    assert find(found, "3c2")["area_um2"] == (100 + 80) * MPP**2
    assert "called" not in find(revise(calls[0], merge), "3c2")["reason"]


def test_what_is_drawn_covers_its_neighbours() -> None:
    found = revise(make_change("redraw", "3f1", outline=box(22, 22, 56, 58)))
    assert find(found, "3f2")["area_um2"] == 16 * 8 * MPP**2
    assert "edited by the reviewer" in find(found, "3f2")["reason"]
    swallowed = revise(make_change("redraw", "3f1", outline=box(22, 22, 56, 66)))
    assert "3f2" not in set(swallowed.objects["object"])
    with pytest.raises(EditError, match="3f2 is not there"):
        revise(make_change("redraw", "3f1", outline=box(22, 22, 56, 66)), make_change("accept", "3f2"))


def test_an_outline_that_crosses_itself_draws_both_its_parts() -> None:
    found = revise(make_change("redraw", "3c2", outline=um((60, 10), (70, 20), (70, 10), (60, 20))))
    drawn = found.cells == 2
    assert drawn[61, 14] != drawn[61, 10]
    assert 30 < drawn.sum() < 70


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (make_change("call", "3c77", positive=True), "3c77 is not there"),
        (make_change("merge", "3c1", parts=["3c77"]), "3c77 is not there"),
        (make_change("add", "3c2", outline=box(1, 1, 5, 5)), "3c2 is there already"),
        (make_change("add", "3c9", x_um=0, y_um=0, radius_um=3), "covers no pixel"),
        (make_change("redraw", "3c1", outline=um((1, 1), (1, 1), (1, 1))), "covers no pixel"),
        (make_change("split", "3c1", line=um((31, 31), (31, 31)), part="3c9"), "has no direction"),
        (make_change("split", "3c1", line=um((5, 5), (5, 9)), part="3c9"), "does not cross"),
        (
            make_change("split", "3c1", line=um((30, 20), (30, 50), (34, 50), (34, 20)), part="3c9"),
            "does not cross the object once",
        ),
        (make_change("split", "3c1", line=um((31, 20), (31, 45)), part="3c2"), "3c2 is there already"),
    ],
)
def test_what_does_not_fit_is_refused(change: Change, message: str) -> None:
    with pytest.raises(EditError, match=message):
        complete_change(change, make_field(), [])
    edit = Edit(**dict(change), number=7, time=datetime.now(UTC), reviewer="Li", measured="")
    with pytest.raises(EditError, match=f"edit 7 of Li: .*{message}"):
        revise(edit)


def test_drawn_objects_need_the_slide() -> None:
    add = make_change("add", "3c9", outline=box(30, 50, 36, 56))
    assert needs_ground([add])
    assert not needs_ground([make_change("reject", "3c1"), make_change("exclude", 3, "a fold")])
    with pytest.raises(EditError, match=r"field 3: objects were drawn, so the slide's pixels are needed"):
        revise(add, ground=False)


def test_a_change_says_what_was_before() -> None:
    stored = make_field()
    call = make_change("call", "3c1", positive=False)
    before = complete_change(call, stored, []).before
    assert before == {"x_um": X_UM + 16.5, "y_um": Y_UM + 16.5, "area_um2": 25.0, "positive": True}
    assert complete_change(call, stored, [call]).before["positive"] is False
    reject = make_change("reject", "3c1")
    assert complete_change(make_change("accept", "3c1"), stored, [reject]).before["verdict"] == "rejected"
    exclude = make_change("exclude", 3, "a fold")
    assert complete_change(exclude, stored, []).before == {"status": "ok"}
    assert complete_change(make_change("include", 3), stored, [exclude]).before == {"status": "excluded"}
    assert complete_change(make_change("undo", edit=1), stored, []).before == {}


def test_an_excluded_field_keeps_its_counts_and_says_why() -> None:
    exclude = make_change("exclude", 3, "a fold")
    found = revise(make_change("reject", "3c1"), exclude, ground=False)
    assert (found.row["status"], found.row["reason"]) == ("excluded", "by the reviewer: a fold")
    assert (found.row["fibers"], found.row["positive_cells"]) == (2, 0)
    assert judge_field(make_field().row, [exclude, make_change("include", 3)]) == make_field().row


def test_what_was_noted_of_the_field_stays() -> None:
    stored = make_field()
    doubted = StoredField({**stored.row, "reason": "the methods differ"}, *list(vars(stored).values())[1:])
    found = revise_field(doubted, [make_change("reject", "3c1")], MARKER, PROTOCOL)
    assert found.row["reason"] == "the methods differ"
    rejected = [make_change("reject", name) for name in ("3f1", "3f2")]
    found = revise_field(doubted, rejected, MARKER, PROTOCOL)
    assert found.row["status"] == "no_fibers"
    assert found.row["reason"] == "no fiber counts in this field; the methods differ"


def test_what_only_stains_tell_of_a_place_stays() -> None:
    """A cell far from every fiber, around a vessel; and a positive one in a fiber."""
    fibers, cells = np.zeros((400, 400), np.int32), np.zeros((400, 400), np.int32)
    fibers[:100], fibers[300:] = 1, 2
    cells[196:204, 196:204], cells[46:54, 196:204] = 1, 2
    stored = {"kind": "cell", "label": [1, 2], "place": ["perivascular", "invading"], "fiber": [1, 1]}
    objects = pd.DataFrame(stored)
    assert _place_cells(objects, fibers, cells, MPP, SETTINGS)["place"].tolist() == stored["place"]
    fibers[150:250, 150:250] = 3
    found = _place_cells(objects, np.where(fibers == 1, 0, fibers), cells, MPP, SETTINGS)
    assert found["place"].tolist() == ["internal", "perimysial"]


def test_a_redrawn_fiber_is_longitudinal_by_the_protocols_own_limits() -> None:
    change = make_change("redraw", "3f2", outline=box(40, 30, 50, 58))
    limits = {"longitudinal_ratio": 1.5, "longitudinal_length_um": 5.0}
    strict = Protocol(fibers=FiberSettings(**limits))
    for protocol, along in ((PROTOCOL, False), (strict, True)):
        fiber = find(revise_field(make_field(), [change], MARKER, protocol, make_ground()), "3f2")
        assert ("longitudinal" in fiber["reason"]) == along
        assert fiber["counted"] != along
