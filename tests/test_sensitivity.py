"""Other thresholds on stored cells, worked out by hand; what negative controls suggest."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from histoquant.protocol import MarkerSettings, Protocol, StatisticsSettings
from histoquant.report.sensitivity import tabulate_sensitivity, tabulate_thresholds, tabulate_vectors
from histoquant.sensitivity import (
    CALLED,
    FACTORS,
    SENSITIVITY_COLUMNS,
    SENSITIVITY_VECTORS_COLUMNS,
    recall_cells,
    suggest_thresholds,
    try_thresholds,
    try_vectors,
)
from histoquant.stats import compute_statistics
from histoquant.tables import build_patients

PROTOCOL = Protocol(markers={"A": MarkerSettings(threshold_od=0.1), "B": MarkerSettings(threshold_od=0.2)})


def make_study(seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Eight patients, two markers, two fields of ten fibers each."""
    rng = np.random.default_rng(seed)
    sections, fields, objects = [], [], []
    for at in range(8):
        for marker in ("A", "B"):
            name = f"P{at}-{marker}"
            sections.append(
                {"patient": f"P{at}", "group": "x" if at < 4 else "y", "marker": marker, "section": name,
                 "batch": "", "control": "", "status": "ok"}
            )  # fmt: skip
            for number in (1, 2):
                fields.append({"section": name, "field": number, "status": "ok", "fibers": 10})
                dab = rng.uniform(0, 0.1 + 0.04 * at, 20)
                cells = {"section": name, "field": number, "kind": "cell", "dab_od": dab}
                objects.append(pd.DataFrame({**cells, "positive": dab > (0.1 if marker == "A" else 0.2)}))
    table = pd.concat(objects, ignore_index=True).assign(fraction_in_field=1.0, countable=True)
    return table, pd.DataFrame(fields), pd.DataFrame(sections)


def test_the_thresholds_used_give_the_published_statistics() -> None:
    objects, fields, sections = make_study()
    counts = objects[objects["positive"]].groupby("section").size()
    sections["cells_per_fiber"] = sections["section"].map(counts).fillna(0) / 20
    patients = build_patients(sections, PROTOCOL.markers)
    published = compute_statistics(
        patients, ["A", "B"], StatisticsSettings(draws=100), np.random.default_rng(0)
    )
    table = try_thresholds(objects, fields, sections, PROTOCOL)
    used = table[table["threshold_factor"].eq(1) & table["analysis"].ne("ratio")]
    np.testing.assert_allclose(used["p"].to_numpy(), published["p"].to_numpy(), rtol=1e-9)
    rho = published.loc[published["analysis"].eq("correlation"), "estimate"]
    np.testing.assert_allclose(used.loc[used["analysis"].eq("correlation"), "estimate"], rho)


def test_a_section_whose_objects_are_lost_has_no_value() -> None:
    """Not 0: its cells are unknown."""
    objects, fields, sections = make_study()
    left = objects[~objects["section"].isin(["P7-A"])]
    anew = pd.DataFrame(columns=["section", "field", "label", "vectors", "positive", "countable"])
    for groups in (sections["group"], ""):
        own = sections.assign(group=groups)
        without = own[~own["section"].isin(["P7-A"])]
        expected = try_thresholds(left, fields, without, PROTOCOL)
        pd.testing.assert_frame_equal(try_thresholds(left, fields, own, PROTOCOL), expected)
        ratios = expected.query("analysis == 'ratio' and marker == 'A' and threshold_factor == 1")
        assert ratios["n"].sum() == 7
        labelled = left.assign(label=range(len(left)))
        found = try_vectors(labelled, anew, fields, own, PROTOCOL)
        np.testing.assert_array_equal(
            found.loc[found["vectors"].eq("as used"), "estimate"],
            expected.loc[expected["threshold_factor"].eq(1), "estimate"],
        )


def test_a_reviewers_call_stays_where_the_threshold_agrees() -> None:
    cells = pd.DataFrame(
        {"kind": "cell", "fraction_in_field": 1.0, "countable": True, "positive": [True, False, True, False],
         "dab_od": [0.11, 0.09, 0.11, 0.09], "reason": [CALLED, f"small; {CALLED}", "", "small"]}
    )  # fmt: skip
    for factor, machine in ((0.8, [True, True]), (1.0, [True, False]), (1.2, [False, False])):
        assert recall_cells(cells, np.full(4, 0.1), factor).tolist() == [True, False, *machine]


def test_a_higher_threshold_counts_fewer_cells() -> None:
    table = try_thresholds(*make_study(), PROTOCOL)
    for _, own in table[table["analysis"].eq("ratio")].groupby(["marker", "group"]):
        assert own["threshold_factor"].tolist() == list(FACTORS)
        assert (own["estimate"].diff().dropna() <= 0).all()


def test_ratios_by_hand_and_a_reviewers_call_stays() -> None:
    """Threshold 0.1: at x 1.2 only 0.13 is above; the reviewer's cell of 0.01 stays; 0.5 is half out."""
    objects = pd.DataFrame(
        {"section": "S", "field": 1, "kind": "cell", "dab_od": [0.085, 0.105, 0.13, 0.01, 0.5],
         "positive": [False, True, True, True, True], "fraction_in_field": [1, 1, 1, 1, 0.5],
         "countable": True}
    )  # fmt: skip
    fields = pd.DataFrame(
        {"section": "S", "field": [1, 2, 3], "status": ["ok", "ok", "no_fibers"], "fibers": [10, 5, 0]}
    )
    sections = pd.DataFrame(
        {"patient": ["P"], "group": "", "marker": "A", "section": "S", "control": "", "status": "ok"}
    )
    table = try_thresholds(objects, fields, sections, PROTOCOL)
    # The second field has fibers and no cell: its ratio is 0 and halves the mean.
    assert table["estimate"].tolist() == pytest.approx([0.2, 0.15, 0.15, 0.1, 0.1])
    assert table["analysis"].unique().tolist() == ["ratio"]


def test_nothing_measured_gives_an_empty_table() -> None:
    objects, fields, sections = make_study()
    table = try_thresholds(objects[:0], fields, sections, PROTOCOL)
    assert table.empty and list(table) == list(SENSITIVITY_COLUMNS)
    assert tabulate_sensitivity(table) is None


def test_cells_called_anew_count_by_the_new_call() -> None:
    """Ten fibers; slide vectors leave one cell, whose nucleus only they see; the batch's change nothing."""
    stored = pd.DataFrame(
        {"section": "S", "field": 1, "kind": "cell", "label": [1, 2, 3, 4, 5], "dab_od": 0.2,
         "positive": [True, True, True, False, True], "fraction_in_field": [1, 1, 1, 1, 0.5],
         "countable": [True, True, False, True, True]}
    )  # fmt: skip
    anew = pd.DataFrame(
        {"section": "S", "field": 1, "label": [1, 2, 3, 4, 5, 1, 4],
         "vectors": [*["slide"] * 5, "default", "default"],
         "positive": [False, False, True, False, True, True, True], "countable": True}
    )  # fmt: skip
    fields = pd.DataFrame({"section": ["S"], "field": [1], "status": ["ok"], "fibers": [10]})
    sections = pd.DataFrame(
        {"patient": ["P"], "group": "", "marker": "A", "section": "S", "control": "", "status": "ok"}
    )
    table = try_vectors(stored, anew, fields, sections, PROTOCOL)
    assert table["vectors"].tolist() == ["as used", "default", "slide", "batch"]
    assert table["estimate"].tolist() == pytest.approx([0.2, 0.3, 0.1, 0.2])
    assert list(table) == list(SENSITIVITY_VECTORS_COLUMNS)
    assert try_vectors(stored[:0], anew, fields, sections, PROTOCOL).empty


def test_the_page_names_vectors_their_angles_and_slides_without() -> None:
    rows = [
        {"analysis": "correlation", "marker": "A", "marker_2": "B", "group": "", "group_2": "",
         "vectors": name, "estimate": estimate, "p": p}
        for name, estimate, p in [("as used", 0.9, 0.01), ("default", 0.9, 0.01), ("slide", 0.5, 0.2),
                                  ("batch", 0.8, 0.02)]
    ]  # fmt: skip
    tried = pd.DataFrame(
        {"slide_source": ["estimated", "default, since …"], "slide_haematoxylin_deg": [1.0, 4.0],
         "slide_dab_deg": [2.0, 3.0], "batch_haematoxylin_deg": 2.5, "batch_dab_deg": 1.5}
    )  # fmt: skip
    table = tabulate_vectors(pd.DataFrame(rows), tried)
    assert table is not None
    assert [column.title for column in table.columns] == [
        "What",
        "as used",
        "default",
        "slide",
        "batch",
        "Note",
    ]
    assert [cell.text for cell in table.rows[0]][3:] == [
        "0.500 (P = 0.200)", "0.800 (P = 0.020)", "P on either side of 0.05",
    ]  # fmt: skip
    assert "haematoxylin 1.0 to 4.0, DAB 2.0 to 3.0 degrees" in table.remark
    assert "On 1 of 2 slides they could not be estimated" in table.remark
    assert tabulate_vectors(pd.DataFrame(rows)[:0], tried) is None


def make_control(cells: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    dab = np.linspace(0, 0.2, cells)
    objects = pd.DataFrame({"section": "N", "kind": "cell", "dab_od": dab, "positive": dab > 0.1})
    sections = pd.DataFrame({"section": ["N", "P"], "marker": "A", "batch": ["b1", "b1"]})
    sections["control"] = ["negative", ""]
    return objects.assign(fraction_in_field=1.0, countable=True), sections


def test_a_negative_control_suggests_what_99_percent_stay_under() -> None:
    objects, sections = make_control(1001)
    (row,) = suggest_thresholds(objects, sections, PROTOCOL.markers).to_dict("records")
    assert (row["batch"], row["marker"], row["cells"]) == ("b1", "A", 1001)
    assert row["dab_od_99"] == pytest.approx(0.198) and row["threshold_od"] == 0.1
    assert row["share_above"] == pytest.approx(0.5, abs=0.001) and row["note"] == ""


def test_few_cells_suggest_nothing() -> None:
    objects, sections = make_control(150)
    table = suggest_thresholds(objects, sections, PROTOCOL.markers)
    assert table["dab_od_99"].isna().all()
    assert table["note"].tolist() == ["fewer than 200 cells: measure more fields"]
    assert suggest_thresholds(objects, sections.assign(control=""), PROTOCOL.markers).empty


def test_the_page_says_when_p_changes_sides_and_that_nothing_was_changed() -> None:
    rows = [
        {"analysis": "group", "marker": "A", "marker_2": "", "group": "x", "group_2": "y",
         "threshold_factor": factor, "estimate": 0.1, "p": p}
        for factor, p in [(0.8, 0.04), (1.0, 0.06)]
    ]  # fmt: skip
    table = tabulate_sensitivity(pd.DataFrame(rows))
    assert table is not None
    assert [cell.text for cell in table.rows[0]] == [
        "A: y − x", "0.100 (P = 0.040)", "0.100 (P = 0.060)", "P on either side of 0.05",
    ]  # fmt: skip
    assert "histoquant vectors" in table.remark
    objects, sections = make_control(1001)
    suggestion = tabulate_thresholds(suggest_thresholds(objects, sections, PROTOCOL.markers))
    assert suggestion is not None and "nothing was changed" in suggestion.remark
    assert [cell.text for cell in suggestion.rows[0]][:6] == ["A", "b1", "1001", "0.198", "0.100", "50 %"]
    assert tabulate_thresholds(pd.DataFrame()) is None
