from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoquant.objects import OBJECT_COLUMNS
from histoquant.protocol import QcSettings, StatisticsSettings
from histoquant.study import Section
from histoquant.tables import (
    FIELD_COLUMNS,
    SECTION_COLUMNS,
    build_fields,
    build_patients,
    build_sections,
)

QUICK = StatisticsSettings(draws=100)
Record = dict[str, Any]


KNOWN = ("BAFF", "BAFF-R", "CD19")


def make_section(
    name: str, patient: str, marker: str = "CD19", group: str = "A", control: str = "", **extra: str
) -> Section:
    return Section(name, patient, group, marker, "lot 1", control, "", (), extra)


def make_row(number: int, fibers: int, cells: int, **changes: Any) -> Record:
    row = {
        "field": number,
        "shape": "circle",
        "center_x_um": 100.0 * number,
        "center_y_um": 200.0,
        "width_um": 550.0,
        "height_um": 550.0,
        "tissue_fraction": 0.9,
        "tissue_mm2": 0.2,
        "fibers": fibers,
        "positive_cells": cells,
        "cells_per_fiber": cells / fibers if fibers else None,
        "positive_fibers": 1,
        "straddling_fibers": 2,
        "straddling_cells": 3,
        "status": "ok" if fibers else "no_fibers",
        "reason": "" if fibers else "no fiber counts in this field",
    }
    return {**row, **changes}


def make_record(*rows: Record, asked: int | None = None) -> Record:
    return {"status": "measured", "reason": "", "fields_asked": asked or len(rows), "fields": list(rows)}


def fail_record(reason: str) -> Record:
    return {"status": "failed", "reason": reason, "fields_asked": 10, "fields": []}


def build(sections: list[Section], records: dict[str, Record]) -> pd.DataFrame:
    return build_sections(sections, records, build_fields(sections, records), QUICK, 0)


def test_columns_are_those_of_the_contract() -> None:
    assert " ".join(FIELD_COLUMNS) == (
        "patient group marker section batch control field shape center_x_um center_y_um width_um height_um "
        "tissue_fraction tissue_mm2 fibers positive_cells cells_per_fiber positive_fibers straddling_fibers "
        "straddling_cells status reason"
    )
    assert " ".join(SECTION_COLUMNS) == (
        "patient group marker section batch control fields_asked fields fibers positive_cells "
        "cells_per_fiber cells_per_fiber_sd ci_low ci_high cells_per_fiber_pooled "
        "positive_cells_per_mm2 positive_fibers status reason"
    )
    assert " ".join(OBJECT_COLUMNS) == (
        "field object kind label x_um y_um area_um2 min_feret_um max_feret_um fraction_in_field "
        "counted straddling positive dab_od confidence nucleus place fiber reason"
    )


def test_fields_are_sorted_by_patient_marker_section_and_field() -> None:
    sections = [
        make_section("P2-CD19", "P2"),
        make_section("P1-CD19", "P1"),
        make_section("P1-BAFF", "P1", "BAFF"),
        make_section("P3-CD19", "P3"),
    ]
    records = {
        section.id: make_record(make_row(10, 3, 1), make_row(2, 4, 2))
        for section in sections
        if section.id != "P3-CD19"
    }
    table = build_fields(sections, records)
    assert tuple(table.columns) == FIELD_COLUMNS
    assert list(zip(table["section"], table["field"], strict=True)) == [
        ("P1-BAFF", 2),
        ("P1-BAFF", 10),
        ("P1-CD19", 2),
        ("P1-CD19", 10),
        ("P2-CD19", 2),
        ("P2-CD19", 10),
    ]
    assert table.iloc[0]["cells_per_fiber"] == 0.5
    assert table.index.tolist() == list(range(6))


def test_a_failed_field_keeps_its_row_without_values() -> None:
    section = make_section("P1-CD19", "P1")
    failed = {"field": 2, "status": "failed", "reason": "damaged"}
    for rows in ([make_row(1, 3, 1), failed], [failed]):
        csv = build_fields([section], {section.id: make_record(*rows)}).to_csv(index=False).splitlines()
        assert csv[-1] == "P1,A,CD19,P1-CD19,lot 1,,2" + "," * 13 + ",failed,damaged"
    assert csv[0] == ",".join(FIELD_COLUMNS)


def test_counts_stay_whole_beside_absent_ones() -> None:
    section = make_section("P1-CD19", "P1")
    rows = [make_row(1, 3, 1), {"field": 2, "status": "failed", "reason": ""}]
    csv = build_fields([section], {section.id: make_record(*rows)}).to_csv(index=False).splitlines()
    assert csv[1].endswith(",0.9,0.2,3,1,0.333333,1,2,3,ok,")


def test_a_section_sums_up_its_fields() -> None:
    section = make_section("P1-CD19", "P1")
    records = {section.id: make_record(make_row(1, 10, 1), make_row(2, 20, 6), asked=3)}
    row = build([section], records).iloc[0]
    assert (row["fields_asked"], row["fields"], row["fibers"], row["positive_cells"]) == (3, 2, 30, 7)
    assert row["cells_per_fiber"] == pytest.approx(0.2)
    assert row["cells_per_fiber_pooled"] == pytest.approx(7 / 30, abs=1e-6)
    assert row["cells_per_fiber_sd"] == pytest.approx(0.141421, abs=1e-6)
    assert row["positive_cells_per_mm2"] == pytest.approx(17.5)
    assert (row["ci_low"], row["ci_high"]) == (0.1, 0.3)
    assert (row["status"], row["positive_fibers"]) == ("incomplete", 2)
    assert "1 not drawn" in row["reason"]


def test_a_failed_section_keeps_its_row_and_one_not_measured_has_none() -> None:
    sections = [make_section("P2-CD19", "P2"), make_section("P1-CD19", "P1"), make_section("P3-CD19", "P3")]
    records = {"P2-CD19": fail_record("gone"), "P1-CD19": make_record(make_row(1, 4, 1))}
    table = build(sections, records)
    assert tuple(table.columns) == SECTION_COLUMNS
    assert table[["section", "status", "reason"]].to_numpy().tolist() == [
        ["P1-CD19", "ok", ""],
        ["P2-CD19", "failed", "gone"],
    ]
    assert np.isnan(table.loc[1, "cells_per_fiber"])


def test_a_sections_interval_does_not_depend_on_its_neighbours() -> None:
    sections = [make_section(name, name) for name in ("P1", "P2", "P3")]
    rows = [make_row(number, 10 + number, number) for number in range(1, 9)]
    records = {section.id: make_record(*rows) for section in sections}
    together = build(sections, records).set_index("section")
    alone = build(sections[1:2], records).set_index("section")
    pd.testing.assert_frame_equal(together.loc[["P2"]], alone)
    assert len(set(together["ci_low"])) > 1


def test_the_studys_own_columns_come_last_and_displace_none() -> None:
    extra = {"age": "040", "fields": "many", "study_fields": "few", "status": "alive"}
    table = build([make_section("P1-CD19", "P1", **extra)], {"P1-CD19": make_record(make_row(1, 4, 1))})
    assert tuple(table.columns) == (
        *SECTION_COLUMNS,
        *("age", "study_study_fields", "study_fields", "study_status"),
    )
    assert table.iloc[0, -4:].tolist() == ["040", "many", "few", "alive"]
    assert (table.loc[0, "fields"], table.loc[0, "status"]) == (1, "ok")


def test_no_section_measured_makes_empty_tables() -> None:
    sections = [make_section("P1-CD19", "P1", age="40")]
    fields = build_fields(sections, {})
    table = build_sections(sections, {}, fields, QUICK, 0)
    assert (len(fields), len(table)) == (0, 0)
    assert tuple(table.columns) == (*SECTION_COLUMNS, "age")
    assert build_patients(table, KNOWN).columns.tolist() == ["patient", "group"]


# Patients


def make_table(*rows: tuple[str, str, str, str, str, float]) -> pd.DataFrame:
    names = ["patient", "group", "marker", "control", "status", "cells_per_fiber"]
    return pd.DataFrame(list(rows), columns=names)


nan = float("nan")


def test_a_patient_is_the_mean_of_usable_sections() -> None:
    table = make_table(
        ("P2", "B", "CD19", "", "ok", 0.1),
        ("P2", "B", "CD19", "", "incomplete", 0.4),
        ("P2", "B", "CD19", "", "failed", nan),
        ("P2", "B", "CD19", "", "excluded", 9.0),
        ("P2", "B", "BAFF", "", "ok", 1 / 3),
        ("P1", "", "CD19", "", "ok", 0.5),
    )
    expected = pd.DataFrame(
        {"patient": ["P1", "P2"], "group": ["", "B"], "BAFF": [nan, 0.333333], "CD19": [0.5, 0.25]}
    )
    pd.testing.assert_frame_equal(build_patients(table, KNOWN), expected, check_names=False)


def test_controls_are_no_patients() -> None:
    table = make_table(
        ("P1", "A", "CD19", "positive", "ok", 5.0),
        ("P1", "A", "CD19", "", "ok", 0.5),
        ("tonsil", "", "BAFF", "positive", "ok", 7.0),
        ("P2", "A", "CD19", "negative", "ok", 0.0),
    )
    assert build_patients(table, KNOWN).to_csv(index=False) == "patient,group,CD19\nP1,A,0.5\n"


@pytest.mark.parametrize("status", ["failed", "excluded"])
def test_a_patient_without_a_usable_section_keeps_an_empty_row(status: str) -> None:
    lost = ("P1", "A", "CD19", "", status, nan)
    assert build_patients(make_table(lost), KNOWN).to_csv(index=False) == "patient,group,CD19\nP1,A,\n"
    both = make_table(lost, ("P2", "B", "BAFF", "", "ok", 0.2))
    assert build_patients(both, KNOWN).to_csv(index=False) == "patient,group,BAFF,CD19\nP1,A,,\nP2,B,0.2,\n"


def test_only_controls_leave_an_empty_table() -> None:
    table = make_table(("P1", "A", "CD19", "positive", "ok", 5.0))
    assert build_patients(table, KNOWN).to_csv(index=False) == "patient,group\n"


@given(st.permutations(range(8)))
def test_the_order_of_sections_does_not_matter(order: list[int]) -> None:
    rows = [(f"P{n % 3}", "AB"[n % 3 % 2], ("CD19", "BAFF")[n % 2], "", "ok", n / 7) for n in range(8)]
    forth, back = make_table(*rows), make_table(*(rows[index] for index in order))
    pd.testing.assert_frame_equal(build_patients(forth, KNOWN), build_patients(back, KNOWN))


def test_building_changes_no_argument() -> None:
    sections = [make_section("P1-CD19", "P1", age="40")]
    records = {"P1-CD19": make_record(make_row(1, 4, 1))}
    fields = build_fields(sections, records)
    before = fields.copy(), repr(records)
    table = build_sections(sections, records, fields, QUICK, 0)
    kept = table.copy()
    build_patients(table, KNOWN)
    pd.testing.assert_frame_equal(fields, before[0])
    pd.testing.assert_frame_equal(table, kept)
    assert repr(records) == before[1]


def test_a_slide_to_be_repeated_is_left_out_only_if_the_protocol_says_so() -> None:
    blurred, sharp = {"blur_um": 2.0, "jpeg_quality": None}, {"blur_um": 0.7, "jpeg_quality": None}
    sections = [make_section("P1-CD19", "P1"), make_section("P2-CD19", "P2")]
    records = {
        "P1-CD19": make_record(make_row(1, 10, 5, quality=blurred), make_row(2, 10, 3, quality=sharp)),
        "P2-CD19": make_record(make_row(1, 10, 5, quality=sharp), make_row(2, 10, 3)),
    }
    fields = build_fields(sections, records)
    table = build_sections(sections, records, fields, QUICK, 0, QcSettings(exclude_repeat=True))
    assert table["status"].tolist() == ["excluded", "ok"]
    assert table["reason"][0] == (
        "left out of the statistics, since the slide is to be repeated (qc.exclude_repeat): "
        "1 of 2 fields: blurred by 2.00 um (limit 1.25): focus and scan again"
    )
    patients = build_patients(table, KNOWN)
    assert patients["CD19"].isna().tolist() == [True, False]
    assert build(sections, records)["status"].tolist() == ["ok", "ok"]
    strict = QcSettings(exclude_repeat=True, repeat_share=0.8)
    assert build_sections(sections, records, fields, QUICK, 0, strict)["status"].tolist() == ["ok", "ok"]
