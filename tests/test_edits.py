"""Edits: what is one, which stand after undo and redo, and that a line gives the edit back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoquant.edits import (
    Change,
    Edit,
    History,
    choose_id,
    format_line,
    join_id,
    make_change,
    parse_line,
    redo_last,
    replay,
    split_id,
    undo_last,
)
from histoquant.errors import EditError

um = st.floats(-1e7, 1e7)
points = st.tuples(um, um)
labels = st.integers(1, 2**31)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    field = draw(st.integers(1, 1000))
    kind = draw(st.sampled_from(["fiber", "cell"]))
    first, *others = draw(st.lists(labels, min_size=2, max_size=5, unique=True))
    name, parts = join_id(field, kind, first), [join_id(field, kind, label) for label in others]
    ring = st.lists(points, min_size=3, max_size=6)
    call = draw(st.sampled_from([None, True, False])) if kind == "cell" else None
    action, target, after = draw(
        st.sampled_from(
            [
                ("accept", name, {}),
                ("reject", name, {}),
                ("call", join_id(field, "cell", first), {"positive": draw(st.booleans())}),
                ("add", name, {"outline": draw(ring), "positive": call}),
                ("add", name, {"x_um": draw(um), "y_um": draw(um), "radius_um": 4.5, "positive": call}),
                ("split", name, {"line": draw(st.lists(points, min_size=2)), "part": parts[0]}),
                ("merge", name, {"parts": parts}),
                ("redraw", name, {"outline": draw(ring)}),
                ("exclude", field, {}),
                ("include", field, {}),
                ("sign", None, {"fibers": 3, "positive_cells": 1, "cells_per_fiber": 1 / 3}),
                ("undo", None, {"edit": first}),
            ]
        )
    )
    reason = draw(text) if action != "exclude" else "a fold"
    return make_change(action, target, reason, **after)


def make_edit(change: Change, number: int = 1, **more: Any) -> Edit:
    about = {"number": number, "time": datetime.now(UTC), "reviewer": "Li", "measured": "abc", **more}
    return Edit(**{**dict(change), **about})


def make_lines(*changes: Change) -> list[Edit]:
    return [make_edit(change, number) for number, change in enumerate(changes, start=1)]


@given(
    changes(),
    text.filter(bool),
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=8))])),
)
def test_a_line_gives_the_edit_back(change: Change, reviewer: str, time: datetime) -> None:
    edit = make_edit(change, reviewer=reviewer, time=time)
    line = format_line(edit)
    assert "\n" not in line
    assert "\r" not in line
    again = parse_line(line, "line 1")
    assert again == edit
    assert format_line(again) == line


def test_a_line_reads_as_it_is_documented() -> None:
    change = make_change("call", "3c17", "ring is faint", positive=False)
    change = change.model_copy(update={"before": {"positive": True}})
    edit = make_edit(change, 12, reviewer="李", time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert format_line(edit) == (
        '{"number": 12, "time": "2026-01-02T03:04:05Z", "reviewer": "李", "measured": "abc", '
        '"action": "call", "field": 3, "object": "3c17", "before": {"positive": true}, '
        '"after": {"positive": false}, "reason": "ring is faint"}'
    )


@pytest.mark.parametrize(
    ("action", "target", "after", "message"),
    [
        ("call", "3f17", {"positive": True}, "a fiber is not called"),
        ("add", "3f17", {"x_um": 1, "y_um": 1, "radius_um": 3, "positive": True}, "a fiber is not called"),
        ("call", "3c17", {}, "positive: Field required"),
        ("call", "3c17", {"positive": True, "size": 3}, "size: Extra inputs"),
        ("call", 3, {"positive": True}, "field and object do not fit"),
        ("call", "c17", {"positive": True}, "is no object"),
        ("call", "3c0", {"positive": True}, "is no object"),
        ("accept", None, {}, "field and object do not fit"),
        ("include", "3c17", {}, "field and object do not fit"),
        ("exclude", 3, {}, "for a reason"),
        ("exclude", 3, {"status": "included"}, "after says included"),
        ("undo", 3, {"edit": 1}, "field and object do not fit"),
        ("merge", "3c17", {"parts": ["3c17"]}, "named twice"),
        ("merge", "3c17", {"parts": ["3f18"]}, "of one kind"),
        ("merge", "3c17", {"parts": ["4c18"]}, "in one field"),
        ("merge", "3c17", {"parts": []}, "at least 1"),
        ("split", "3c17", {"line": [(0, 0), (1, 1)], "part": "3f18"}, "of one kind"),
        ("split", "3c17", {"line": [(0, 0)], "part": "3c18"}, "at least 2"),
        ("redraw", "3c17", {"outline": [(0, 0), (1, 1)]}, "at least 3"),
        ("redraw", "3c17", {"outline": [(0, 0), (1, 1), (float("nan"), 1)]}, "outline.2.0"),
        ("redraw", "3c17", {"x_um": 0, "y_um": 0, "radius_um": 3}, "after does not fit|outline"),
        ("add", "3c17", {"x_um": 1, "y_um": 1, "radius_um": 0}, "greater than 0"),
        ("paint", "3c17", {}, "action"),
    ],
)
def test_what_is_no_edit_is_refused(action: Any, target: Any, after: dict[str, Any], message: str) -> None:
    with pytest.raises(EditError, match=message):
        make_change(action, target, "", **after)


def test_an_object_of_another_field_is_refused() -> None:
    line = format_line(make_edit(make_change("accept", "3c17"))).replace('"field": 3', '"field": 4')
    with pytest.raises(EditError, match="is not of field 4"):
        parse_line(line, "line 1")


def test_a_time_without_offset_is_refused() -> None:
    line = format_line(make_edit(make_change("accept", "3c17"), time=datetime(2026, 1, 2, tzinfo=UTC)))
    with pytest.raises(EditError, match=r"line 7: time lacks"):
        parse_line(line.replace("00Z", "00"), "line 7")


def test_what_is_no_json_object_is_torn() -> None:
    for line in ('{"number": 1', "", "17"):
        with pytest.raises(ValueError):
            parse_line(line, "line 1")


def test_undo_and_redo_walk_back_and_forth() -> None:
    accept, reject, call = (
        make_change("accept", "1c1"),
        make_change("reject", "1c2"),
        make_change("call", "1c3", positive=True),
    )
    lines = make_lines(accept, reject, make_change("undo", edit=2))
    history = History(tuple(lines))
    assert [edit.number for edit in history.done] == [1]
    assert [edit.number for edit in history.undone] == [2]
    assert redo_last(history).after == make_change("redo", edit=2).after
    assert [edit.number for edit in replay(make_lines(*lines, redo_last(history)))[0]] == [1, 2]
    history = History(tuple(make_lines(accept, reject, make_change("undo", edit=2), call)))
    assert [edit.number for edit in history.done] == [1, 4]
    with pytest.raises(EditError, match="nothing to redo"):
        redo_last(history)
    with pytest.raises(EditError, match="nothing to undo"):
        undo_last(History())


@given(st.lists(st.sampled_from(["edit", "undo", "redo"]), max_size=30))
def test_undo_and_redo_are_those_of_two_stacks(steps: list[str]) -> None:
    lines: list[Edit] = []
    done: list[int] = []
    undone: list[int] = []
    for step in steps:
        history = History(tuple(lines))
        if step == "edit":
            change = make_change("accept", "1c1")
            done.append(len(lines) + 1)
            undone = []
        elif (step == "undo" and not done) or (step == "redo" and not undone):
            continue
        elif step == "undo":
            change = undo_last(history)
            undone.append(done.pop())
        else:
            change = redo_last(history)
            done.append(undone.pop())
        lines.append(make_edit(change, len(lines) + 1))
    history = History(tuple(lines))
    assert [edit.number for edit in history.done] == done
    assert [edit.number for edit in history.undone] == undone


@pytest.mark.parametrize(("action", "number"), [("undo", 1), ("redo", 2), ("undo", 9)])
def test_undo_of_what_is_not_last_is_refused(action: Any, number: int) -> None:
    lines = make_lines(
        make_change("accept", "1c1"), make_change("accept", "1c2"), make_change(action, edit=number)
    )
    with pytest.raises(EditError, match="edit 3 of Li: cannot"):
        replay(lines)


def test_no_id_is_given_twice() -> None:
    lines = [
        make_change("add", "3c21", x_um=0, y_um=0, radius_um=3),
        make_change("split", "3c4", line=[(0, 0), (1, 1)], part="3c22"),
        make_change("undo", edit=2),
        make_change("add", "3f90", x_um=0, y_um=0, radius_um=3),
        make_change("add", "4c90", x_um=0, y_um=0, radius_um=3),
    ]
    assert choose_id(3, "cell", 20, lines) == "3c23"
    assert choose_id(3, "cell", 40, lines) == "3c41"
    assert choose_id(3, "fiber", 20, []) == "3f21"
    assert split_id("3f21") == (3, "fiber", 21)
