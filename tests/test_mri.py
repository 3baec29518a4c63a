"""Change rates of MRI scores: by hand, with gaps, and by the command."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from conftest import invoke

from histoquant.errors import ResultsError, StudyError
from histoquant.mri.analyse import follow_scores, read_scores, write_follow_up
from histoquant.mri.rates import MUSCLES, SCORE_COLUMNS, add_scores, compute_rates, spread_rates

HEADER = "patient,group,month,muscle,side,fat,edema\n"


def write_scores(path: Path, visits: list[tuple[str, str, float, int, int]]) -> Path:
    """Every muscle and side of a visit with the same fat and edema."""
    rows = [
        f"{patient},{group},{month},{muscle},{side},{fat},{edema}\n"
        for patient, group, month, fat, edema in visits
        for muscle in MUSCLES
        for side in ("left", "right")
    ]
    path.write_text(HEADER + "".join(rows), encoding="utf-8")
    return path


def make_totals(*rows: tuple[str, float, float | None, float | None]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["patient", "month", "fat", "edema"])
    return table.assign(group="A", muscles=24)


def test_rates_by_hand() -> None:
    totals = make_totals(("P1", 0, 20, 50), ("P1", 3, 29, 41), ("P1", 12, 32, 26))
    since_first = compute_rates(totals)
    assert since_first["fat_rate"].tolist() == [3.0, 1.0]
    assert since_first["edema_rate"].tolist() == [3.0, 2.0]
    assert since_first["interval"].tolist() == [3, 12]
    between = compute_rates(totals, between=True)
    assert between["fat_rate"].tolist() == [3.0, 3 / 9] and between["edema_rate"].tolist() == [3.0, 15 / 9]
    assert between["interval"].tolist() == [3, 12]


def test_a_visit_belongs_to_the_nearest_interval() -> None:
    totals = make_totals(*(("P1", month, 10.0, 10.0) for month in (2, 4, 5.5, 6.5, 11, 15.5, 17, 40)))
    rates = compute_rates(totals).set_index("month")
    # Months since the first visit: 2 (33 % from 3), 3.5 and 4.5 (6 - 25 %), 9, 13.5, 15, 38.
    assert rates["interval"].astype(object).where(rates["interval"].notna(), None).tolist() == [
        None, 3, 6, None, 12, 18, None
    ]  # fmt: skip
    assert rates.loc[11, "note"] == "another visit lies nearer to 12 months"
    assert rates.loc[40, "note"] == ""


def test_a_missing_score_leaves_the_rate_missing() -> None:
    rows = [
        ("P1", "A", month, "gracilis", side, 2 + month, 1.0) for month in (0, 3) for side in ("left", "right")
    ]
    scores = pd.DataFrame(rows, columns=list(SCORE_COLUMNS)).astype({"fat": float})
    scores.loc[3, "fat"] = float("nan")
    totals = add_scores(scores)
    assert totals["fat"].isna().tolist() == [False, True] and totals["muscles"].tolist() == [2, 1]
    rates = compute_rates(totals)
    assert rates["fat_rate"].isna().all() and rates["edema_rate"].tolist() == [0.0]
    assert rates["note"].tolist() == ["a score of fat is missing"]
    assert spread_rates(rates).columns.tolist() == ["group", "edema, 3 months"]
    # A row left out is a score missing.
    assert add_scores(scores[:3])["edema"].isna().tolist() == [False, True]
    with pytest.raises(StudyError, match="gracilis left of P1 has two rows at month 0"):
        add_scores(pd.concat([scores, scores[:1]]))
    with pytest.raises(StudyError, match="P1 has two groups"):
        add_scores(scores.assign(group=["A", "A", "B", "B"]))


def test_groups_as_in_the_study(tmp_path: Path) -> None:
    visits = []
    for at in range(9):
        group, gain = ("refractory", 2) if at < 4 else ("non-refractory", 1)
        visits += [
            (f"P{at}", group, 0, 0, 4),
            (f"P{at}", group, 3, gain, 3),
            (f"P{at}", group, 12, 3, at % 4),
        ]
    visits += [("P9", "refractory", 0, 1, 1)]
    found = follow_scores(write_scores(tmp_path / "scores.csv", visits))
    assert found.notes == ("1 patient(s) have one visit only and no rate.",)
    rates = found.summaries.set_index(["variable", "group"])["mean"]
    assert (
        rates["fat, 3 months", "refractory"] == 2 * 24 / 3 and rates["fat, 3 months", "non-refractory"] == 8
    )
    assert rates["edema, 3 months", "refractory"] == 24 / 3
    tests = found.tests.set_index("variable")
    assert tests.loc["fat, 3 months", "effect"] == 1 and tests.loc["fat, 3 months", "test"] == "Mann-Whitney"
    assert tests.loc["fat, 12 months", "note"] == "one value only: nothing to compare"
    page = write_follow_up(tmp_path / "out", found).read_text(encoding="utf-8")
    assert "refractory (n = 4)" in page and "non-refractory (n = 5)" in page and "<svg" in page
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"totals.csv", "rates.csv", "table.csv", "table.html", "table.tex", "mri.html"} <= names
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(ResultsError, match="is a run's folder"):
        write_follow_up(tmp_path / "run", found)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("P1,A,0,gracilis,left,6,1", "row 2, column fat: '6' is no score; give 0, 1, 2, 3, 4 or 5"),
        ("P1,A,0,gracilis,left,1,2.5", "row 2, column edema: '2.5' is no score"),
        ("P1,A,0,gracilis,up,1,2", "row 2, column side: 'up' is no side; write left or right"),
        ("P1,A,0,,left,1,2", "row 2: has no muscle"),
        ("P1,A,,gracilis,left,1,2", "row 2: has no month"),
        ("P1,A,0,gracilis,left,many,2", "column fat: 'many' is no number"),
        ("P1,A,0,gracilis,left,1,2", "has no patient with two visits"),
    ],
)
def test_wrong_scores_are_refused(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(f"{HEADER}{row}\n", encoding="utf-8")
    with pytest.raises(StudyError, match=message):
        follow_scores(path)


def test_tables_that_people_make(tmp_path: Path) -> None:
    path = tmp_path / "评分.csv"
    text = (
        "Patient;Date;Muscle;Side;Fat;Edema\n张三;2019-01-01;Gracilis ;左;1;\n张三;2019-04-02;股薄肌;R;２;3\n"
    )
    path.write_text(text, encoding="gb18030")
    found = read_scores(path)
    assert found["month"].tolist() == [0, 2.992] and found["muscle"].tolist() == ["gracilis", "股薄肌"]
    assert found["side"].tolist() == ["left", "right"] and found["fat"].tolist() == [1, 2]
    notes = follow_scores(path).notes
    assert notes[0] == "Muscles that the published study does not have: 股薄肌."
    assert notes[2] == "1 visit(s) lack a rate because a score is missing; see rates.csv."


def test_the_example_of_the_help_runs(tmp_path: Path) -> None:
    lines = [line.strip() for line in invoke("mri", "--help").stdout.splitlines()]
    at = lines.index(HEADER.strip())
    (tmp_path / "s.csv").write_text("\n".join(lines[at : at + 5]) + "\n")
    done = invoke("mri", tmp_path / "s.csv", "--out", tmp_path / "out", "--between")
    assert (
        done.returncode == 1 and "Muscles of the published study that the table does not have" in done.stderr
    )
    rates = pd.read_csv(tmp_path / "out/rates.csv")
    assert rates[["fat_rate", "edema_rate", "interval"]].iloc[0].tolist() == pytest.approx(
        [0.5, 5 / 6, 6], abs=1e-6
    )
