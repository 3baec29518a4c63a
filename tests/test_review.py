"""The queue of a review: what would change the section's ratio most comes first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoquant.edits import make_change
from histoquant.review import list_judged, rank_fields, rank_objects


def make_row(field: int, fibers: int, cells: int, status: str = "ok", reason: str = "") -> dict[str, Any]:
    counts = {"field": field, "fibers": fibers, "positive_cells": cells}
    return {**counts, "status": status, "reason": reason}


def make_object(name: str, fraction: float, confidence: float = 1.0, **more: Any) -> dict[str, Any]:
    kind = "fiber" if "f" in name else "cell"
    row = {
        "field": int(name.split(kind[0])[0]),
        "object": name,
        "kind": kind,
        "x_um": 1.0,
        "y_um": 2.0,
        "fraction_in_field": fraction,
        "counted": fraction > 0.5,
        "positive": kind == "cell",
        "confidence": np.nan if kind == "fiber" else confidence,
        "nucleus": None if kind == "fiber" else True,
    }
    return row | more


def rank(objects: list[dict[str, Any]], *rows: dict[str, Any], judged: tuple[str, ...] = ()) -> pd.DataFrame:
    return rank_objects(rows or (make_row(1, 10, 5),), pd.DataFrame(objects), judged)


def test_the_least_certain_call_comes_first() -> None:
    table = rank(
        [
            make_object("1c1", 1.0, 0.99),
            make_object("1c2", 1.0, 0.55),
            make_object("1c3", 1.0, 0.6, positive=False),
            make_object("1c4", 1.0, 1.0),
            make_object("1f1", 1.0),
        ]
    )
    assert table["object"].tolist() == ["1c2", "1c3", "1c1"]
    assert table["doubt"].tolist() == pytest.approx([0.45, 0.4, 0.01])
    assert table["effect"].tolist() == pytest.approx([0.1, 0.1, 0.1])
    assert table["why"].tolist() == ["call near the threshold"] * 2 + [""]


def test_objects_cut_near_half_come_before_those_cut_at_their_rim() -> None:
    table = rank(
        [
            make_object("1f1", 0.52),
            make_object("1f2", 0.9),
            make_object("1f3", 0.49),
            make_object("1f4", 0.0),
            make_object("1c1", 0.5, positive=False),
        ],
        make_row(1, 10, 5),
    )
    assert table["object"].tolist() == ["1f1", "1f3", "1f2"]
    assert table["doubt"].tolist() == pytest.approx([0.48, 0.49, 0.1])
    assert table["effect"].tolist() == pytest.approx([5 / 9 - 0.5, 0.5 - 5 / 11, 5 / 9 - 0.5])
    assert set(table["why"]) == {"cut by the field's edge"}


def test_a_field_with_few_fibers_comes_first() -> None:
    objects = [make_object("1c1", 1.0, 0.6), make_object("2c1", 1.0, 0.7), make_object("3c1", 1.0, 0.5)]
    rows = make_row(1, 100, 5), make_row(2, 10, 5), make_row(3, 2, 5, "excluded")
    table = rank(objects, *rows)
    assert table["object"].tolist() == ["2c1", "1c1"]
    assert table["effect"].tolist() == pytest.approx([1 / 10 / 2, 1 / 100 / 2])


def test_a_positive_ring_without_nucleus_is_shown() -> None:
    table = rank([make_object("1c1", 1.0, 1.0, nucleus=False, counted=False)])
    assert table[["object", "doubt", "why"]].values.tolist() == [["1c1", 0.5, "no nucleus in the plane"]]
    assert rank([make_object("1c1", 1.0, 1.0, nucleus=False, counted=False, positive=False)]).empty


def test_what_was_dealt_with_leaves_the_queue() -> None:
    objects = [make_object(f"1c{label}", 1.0, 0.6) for label in range(1, 7)]
    edits = [
        make_change("accept", "1c1"),
        make_change("split", "1c2", line=[(0, 0), (1, 1)], part="1c3"),
        make_change("merge", "1c4", parts=["1c5"]),
        make_change("exclude", 2, "a fold"),
    ]
    assert rank(objects, judged=tuple(list_judged(edits)))["object"].tolist() == ["1c6"]
    assert rank([make_object("1c1", 1.0, np.nan)]).empty, "a person's call has no confidence"


def test_a_section_without_anything_has_an_empty_queue() -> None:
    assert rank_objects([], pd.DataFrame()).empty
    assert rank_fields([]).empty


def test_fields_without_a_fiber_come_first_and_failed_ones_not_at_all() -> None:
    rows = [
        make_row(1, 10, 1),
        make_row(2, 10, 5, reason="the methods differ"),
        make_row(3, 0, 2, "no_fibers", "no fiber counts in this field"),
        {"field": 4, "status": "failed"},
        make_row(5, 10, 3, "excluded"),
    ]
    table = rank_fields(rows)
    assert table["field"].tolist() == [3, 1, 2]
    assert table["why"].tolist() == [
        "has no fiber and is not used",
        "influence on the section's ratio",
        "influence on the section's ratio; the methods differ",
    ]
    assert table["influence"].tolist() == pytest.approx([np.nan, -0.2, 0.2], nan_ok=True)
    assert rank_fields(rows[:1])["influence"].isna().all()


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 200)), min_size=2, max_size=12))
def test_influence_is_what_leaving_the_field_out_changes(counts: list[tuple[int, int]]) -> None:
    rows = [make_row(number, *pair) for number, pair in enumerate(counts, start=1)]
    table = rank_fields(rows).set_index("field")
    ratios = {row["field"]: row["positive_cells"] / row["fibers"] for row in rows}
    for field, influence in table["influence"].items():
        without = [ratio for other, ratio in ratios.items() if other != field]
        change = np.mean(list(ratios.values())) - np.mean(without)
        assert influence == pytest.approx(change, abs=1e-9)
    assert table["influence"].abs().is_monotonic_decreasing
