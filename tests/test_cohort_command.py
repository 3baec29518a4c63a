"""Tables of a cohort that people make, its printed tables, and the command."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import invoke

from histoquant.cohort.analyse import analyse_cohort, write_cohort
from histoquant.cohort.markers import compare_markers, count_places, find_positive
from histoquant.cohort.outcome import OutcomeSettings
from histoquant.cohort.page import print_tables
from histoquant.cohort.prints import escape_latex, print_odds, write_html, write_latex
from histoquant.cohort.read import read_patients, read_visits
from histoquant.cohort.values import infer_column, parse_date, parse_flag, parse_number
from histoquant.errors import ResultsError, StudyError
from histoquant.protocol import Protocol, StatisticsSettings
from histoquant.report.table import Column, make_table
from histoquant.tables import FIELD_COLUMNS, SECTION_COLUMNS

HEADER = "patient,month,mrs,ck,ck_limit,weakness_worse,other_cause\n"
FIRST = "P01,0,4,5200,200,,\n"


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def write_trial(folder: Path, n: int) -> tuple[Path, Path]:
    """Tables of n patients, every third refractory; ILD goes with it."""
    rng = np.random.default_rng(1)
    visits, patients = HEADER, "patient,age,ILD,治疗,anti-Ro-52,remark\n"
    for at in range(n):
        bad = at % 3 == 0
        visits += f"P{at},0,4,5000,200,,\nP{at},12,{3 if bad else 1},150,200,no,no\n"
        ild = "yes" if rng.random() < (0.7 if bad else 0.3) else "no"
        age = "" if at == 5 else f"{rng.normal(50, 12):.1f}"
        patients += f"P{at},{age},{ild},{('GC', 'IVIg')[at % 2]},{'+-'[at % 5 == 0]},free text {at}\n"
    return write(folder / "visits.csv", visits), write(folder / "patients.csv", patients)


def make_run(folder: Path, groups: dict[str, str]) -> Path:
    """The least of a run's folder: two markers, P's values from their number."""
    folder.mkdir()
    protocol = Protocol(statistics=StatisticsSettings(draws=200)).model_dump(mode="json")
    run = {"protocol": protocol, "seed": 0, "finished": "2026-01-01T00:00:00Z"}
    (folder / "run.json").write_text(json.dumps(run))
    patients, sections, fields = [], [], []
    for at, (name, group) in enumerate(groups.items()):
        values = {"BAFF-R": 0.1 + 0.05 * at, "CD19": 0.2 + 0.04 * at + 0.03 * (at % 2)}
        patients.append({"patient": name, "group": group, **values})
        for marker in values:
            section = f"{name}-{marker}"
            about = {"patient": name, "group": group, "marker": marker, "section": section, "status": "ok"}
            sections.append({**about, "positive_cells": 0 if at == 0 else at})
            fields += [{**about, "field": 1}, {**about, "field": 2, "status": "excluded"}]
            place = folder / "sections" / section
            place.mkdir(parents=True)
            cells = [("invading", 1, True, True)] * at + [("endomysial", 1, True, True)]
            cells += [
                ("endomysial", 1, False, True),
                ("endomysial", 1, True, False),
                ("endomysial", 2, True, True),
            ]
            objects = pd.DataFrame(cells, columns=["place", "field", "counted", "positive"])
            objects.assign(kind="cell", nucleus=True).to_parquet(place / "objects.parquet")
    pd.DataFrame(patients).to_csv(folder / "patients.csv", index=False)
    pd.DataFrame(sections, columns=list(SECTION_COLUMNS)).to_csv(folder / "sections.csv", index=False)
    pd.DataFrame(fields, columns=list(FIELD_COLUMNS)).to_csv(folder / "fields.csv", index=False)
    return folder


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", 12), ("１２．５", 12.5), ("−3", -3), ("12,5", 12.5), ("1e3", 1000), (" ", None), ("未查", None)],
)
def test_numbers(text: str, value: float | None) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["1,234", ">3000", "12 U/L", "inf", "0x10", "abc", "1_000"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="is no number"):
        parse_number(text)


def test_flags_and_dates() -> None:
    assert [parse_flag(text) for text in ("YES", "是", "0", "无", "?")] == [True, True, False, False, None]
    with pytest.raises(ValueError, match="neither yes nor no"):
        parse_flag("maybe")
    assert parse_date("2019/3/5") == parse_date("2019年3月5日") == date(2019, 3, 5)
    for text in ("01/02/2020", "2020-13-01", "43831"):
        with pytest.raises(ValueError, match="year-month-day"):
            parse_date(text)


@pytest.mark.parametrize(
    ("cells", "dtype", "values"),
    [
        (["yes", "", "No"], "boolean", [True, None, False]),
        (["+", "-", "-"], "boolean", [True, False, False]),
        (["0", "1", "NA"], "boolean", [False, True, None]),
        (["1.5", "2", ""], "float64", [1.5, 2.0, None]),
        (["GC", "gc", "IVIg"], "object", ["GC", "GC", "IVIg"]),
        (["+", "-", "++"], "object", ["+", "-", "++"]),
        (["", "", ""], "float64", [None, None, None]),
    ],
)
def test_a_column_is_what_it_holds(cells: list[str], dtype: str, values: list[Any]) -> None:
    found = infer_column([(at + 2, {"x": cell}) for at, cell in enumerate(cells)], "x", "a.csv")
    assert found is not None and found.dtype == dtype
    assert [None if pd.isna(value) else value for value in found] == values


def test_text_among_numbers_is_named() -> None:
    rows = [(2, {"CK": "5200"}), (3, {"CK": ">9000"})]
    with pytest.raises(StudyError, match=r"a\.csv, row 3, column CK: '>9000' is no number; write it plainly"):
        infer_column(rows, "CK", "a.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient,month\nP01,0\n", "has no column mrs, ck, ck_limit, weakness_worse, other_cause"),
        ("患者,月\n张三,0\n", "has no column patient.*the header has 患者"),
        (HEADER, "has no rows"),
        (HEADER.replace("month,", "") + "P01,4,5200,200,,\n", "has no column month or date"),
        (HEADER.replace("month", "month,date") + "P01,0,2019-01-01,4,1,1,,\n", "both month and date"),
        (HEADER + FIRST + ",3,1,1,1,,\n", "row 3: has no patient"),
        (HEADER + FIRST + "P01,,1,1,1,,\n", "row 3: has no month"),
        (HEADER + FIRST + "P01,3,1,high,200,,\n", "row 3, column ck: 'high' is no number"),
        (
            HEADER + FIRST + "P01,3,7,100,200,,\n",
            "row 3, column mrs: '7' cannot be; give a whole number from 0",
        ),
        (HEADER + FIRST + "P01,3,2,-1,200,,\n", "row 3, column ck: '-1' cannot be"),
        (HEADER + FIRST + "P01,3,2,1,0,,\n", "row 3, column ck_limit: '0' cannot be"),
        (HEADER + FIRST + "P01,3,2,1,200,perhaps,\n", "row 3, column weakness_worse: 'perhaps' is neither"),
        (HEADER + FIRST + "P01,0,2,1,200,,\n", "row 3: P01 has a visit at the same time as in row 2"),
    ],
)
def test_wrong_visits_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        read_visits(write(tmp_path / "visits.csv", text), {})


def test_visits_of_a_chinese_spreadsheet(tmp_path: Path) -> None:
    text = "Patient;Date;mRS;CK;CK_limit;weakness_worse;other_cause\n张三;2019/1/10;4;5200,5;200;;\n"
    text += "张三;2020年1月10日;1;180;200;否;无\n"
    path = write(tmp_path / "随访 表.csv", text, "gb18030")
    found = read_visits(path, {})
    assert found["day"].tolist() == [0, 365] and found["ck"].tolist() == [5200.5, 180]
    assert found["other_cause"].tolist()[1] is False
    assert read_visits(path, {"张三": date(2019, 1, 20)})["day"].tolist() == [-10, 355]


def test_patients(tmp_path: Path) -> None:
    _, path = write_trial(tmp_path, 20)
    found = read_patients(path)
    assert found.covariates.columns.tolist() == ["age", "ILD", "治疗", "anti-Ro-52"]
    assert found.covariates.dtypes.astype(str).tolist() == ["float64", "boolean", "object", "boolean"]
    assert found.notes == ("Column remark of patients.csv holds many different texts and was left out.",)
    with pytest.raises(StudyError, match="row 4: P1 has row 2 too"):
        read_patients(write(tmp_path / "twice.csv", "patient,age\nP1,3\nP2,3\nP1,4\n"))


def test_a_cohort_from_tables_to_a_page(tmp_path: Path) -> None:
    visits, patients = write_trial(tmp_path, 60)
    found = analyse_cohort(visits, patients, None, OutcomeSettings())
    assert found.outcomes["outcome"].value_counts().to_dict() == {"non-refractory": 40, "refractory": 20}
    page = write_cohort(tmp_path / "out", found)
    names = {path.name for path in (tmp_path / "out").rglob("*.*")}
    assert {
        "outcomes.csv",
        "groups.tex",
        "groups.html",
        "univariate.csv",
        "tables.html",
        "tests.csv",
    } <= names
    text = page.read_text(encoding="utf-8")
    assert "20 of 60 patients with a determined outcome (33.3 %) were refractory; 0 are undetermined." in text
    assert "治疗" in text
    printed = pd.read_csv(tmp_path / "out/tables/groups.csv", dtype=str).set_index("Variable")
    tests = pd.read_csv(tmp_path / "out/tests.csv").set_index("variable")
    assert printed.loc["ILD", "P"] == f"{tests.loc['ILD', 'p']:.3f}"
    assert printed.loc["age", "non-refractory (n = 40)"].endswith("n = 39")
    word = (tmp_path / "out/tables/groups.html").read_text(encoding="utf-8")
    assert word.count("<tr ") == len(printed) + 1 and "class=" not in word
    again = analyse_cohort(visits, patients, None, OutcomeSettings())
    assert again.tests.equals(found.tests) and again.logistic.equals(found.logistic)
    assert "±" in print_tables(found, mean=True)["groups"].rows[0][1].text
    with pytest.raises(StudyError, match="is no probability"):
        analyse_cohort(visits, patients, None, OutcomeSettings(), enter=0.0)


@pytest.mark.parametrize("n", [1, 3])
def test_few_patients(tmp_path: Path, n: int) -> None:
    visits, patients = write_trial(tmp_path, n)
    found = analyse_cohort(visits, patients, None, OutcomeSettings())
    write_cohort(tmp_path / "out", found)
    assert len(found.outcomes) == n
    alone = analyse_cohort(visits, None, None, OutcomeSettings())
    assert write_cohort(tmp_path / "alone", alone).exists() and alone.tests.empty


def test_one_outcome_only(tmp_path: Path) -> None:
    visits = write(
        tmp_path / "v.csv", HEADER + "".join(f"P{i},0,4,1,1,,\nP{i},12,1,1,1,no,no\n" for i in range(9))
    )
    patients = write(
        tmp_path / "p.csv", "patient,age,sex,site\n" + "".join(f"P{i},{40 + i},m,1\n" for i in range(9))
    )
    found = analyse_cohort(visits, patients, None, OutcomeSettings())
    assert found.tests["p"].isna().all()
    assert found.logistic["note"].str.contains("all patients have one outcome|no variable to fit").all()
    assert write_cohort(tmp_path / "out", found).exists()


def test_a_run_by_outcome(tmp_path: Path) -> None:
    visits, patients = write_trial(tmp_path, 12)
    groups = {f"P{at}": "refractory" if at % 3 == 0 and at else "non-refractory" for at in range(12)}
    run = make_run(tmp_path / "run", {**groups, "stranger": "refractory"})
    found = compare_markers(
        run, {f"P{at}": "refractory" if at % 3 == 0 else "non-refractory" for at in range(11)}
    )
    # P0 is non-refractory in the study; P11 and the stranger have no visits.
    assert found.differing[["patient", "group", "outcome"]].to_numpy().tolist() == [
        ["P0", "non-refractory", "refractory"]
    ]
    assert found.notes == (
        "2 patient(s) measured, but without a visit: in correlations only (P11, stranger).",
    )
    tests = found.statistics.set_index(["analysis", "marker"])
    assert tests.loc[("group", "CD19"), ["n", "n_2"]].tolist() == [7, 4]
    assert tests.loc[("correlation", "BAFF-R"), "n"] == 13
    yes = found.positives[found.positives["level"].eq("yes") & found.positives["variable"].eq("CD19")]
    assert yes["count"].tolist() == [7, 3] and yes["n"].tolist() == [7, 4]
    places = found.places.set_index(["marker", "group", "place"])["cells"]
    assert places["CD19", "refractory", "endomysial"] == 4
    assert places["CD19", "refractory", "invading"] == 3 + 6 + 9
    whole = analyse_cohort(visits, patients, run, OutcomeSettings())
    page = write_cohort(tmp_path / "out", whole).read_text(encoding="utf-8")
    assert "P0: non-refractory in the study, refractory by the rules." in page
    assert "Where the counted positive cells sit" in page
    assert {"markers.csv", "correlations.tex", "places.html"} <= {
        path.name for path in (tmp_path / "out/tables").iterdir()
    }
    with pytest.raises(ResultsError, match="is a run's folder"):
        write_cohort(run, whole)
    with pytest.raises(ResultsError, match="none of its patients is in the table of visits"):
        compare_markers(run, {"X": "refractory"})
    (run / "sections" / "P1-CD19" / "objects.parquet").write_bytes(b"")
    with pytest.raises(ResultsError, match="cannot be read"):
        compare_markers(run, {"P1": "refractory"})


def test_a_patient_is_positive_from_so_many_cells_on() -> None:
    rows = pd.DataFrame({"patient": ["P1", "P1", "P2"], "marker": "CD19", "positive_cells": [2, 1, 2]})
    assert find_positive(pd.Series(["P1", "P2"]), rows, ["CD19"], 3)["CD19"].tolist() == [True, False]
    nothing = pd.DataFrame(columns=["section", "marker", "group"])
    with pytest.raises(ResultsError):
        count_places(Path("nowhere"), nothing, Protocol())


def test_printed_ratios() -> None:
    assert print_odds({"odds_ratio": 39.7, "ci_low": 3.04, "ci_high": 518.38}) == "39.70 (3.04 to 518.38)"
    assert (
        print_odds({"odds_ratio": 1.0002, "ci_low": 0.9999, "ci_high": 1.0004}) == "1.0002 (0.9999 to 1.0004)"
    )
    assert (
        print_odds({"odds_ratio": 2.0, "ci_low": 0.001, "ci_high": 3e7}) == "2.00 (1.0 × 10^−3 to 3.0 × 10^7)"
    )
    assert print_odds({"odds_ratio": float("nan")}) == "–"
    assert escape_latex("a_b & 5 % < {x}") == r"a\_b \& 5 \% $<$ \{x\}"


def test_latex_of_chinese_names_asks_for_xelatex() -> None:
    first = [
        write_latex(make_table("A", [Column("Name", False)], [[name]]), "a").splitlines()[0]
        for name in ("age", "年龄")
    ]
    assert first == [
        "% \\usepackage{booktabs,graphicx}",
        "% \\usepackage{booktabs,graphicx}, \\usepackage{xeCJK}; made by xelatex",
    ]


def _write_rows(rows: int) -> str:
    """A table whose last variable has three levels, from row 39 on."""
    names = [f"v{at}" for at in range(38)] + ["site", "– arm", "– leg", "– trunk"]
    names += [f"w{at}" for at in range(rows - len(names))]
    return write_latex(make_table("A", [Column("Name", False)], [[name] for name in names], "Told."), "a")


def test_latex_of_a_long_table_is_cut_between_variables() -> None:
    floats = _write_rows(100).split("\\end{table}")[:-1]
    assert [len(re.findall(r" ?\\\\$", one, re.M)) for one in floats] == [38, 40, 22]
    assert "site" not in floats[0] and floats[1].index("site") < floats[1].index("-- trunk")
    assert ["\\label{tab:a}" in one for one in floats] == [True, False, False]
    assert ["\\addtocounter{table}{-1}" in one for one in floats] == [False, True, True]
    assert ["Told." in one for one in floats] == [False, False, True]


def test_latex_of_levels_without_end_is_cut_all_the_same() -> None:
    table = make_table("A", [Column("Name", False)], [["site"], *([f"– {at}"] for at in range(90))])
    assert write_latex(table, "a").count("\\begin{table}") == 3
    assert write_latex(make_table("A", [Column("Name", False)], []), "a").count("\\begin{table}") == 1


def test_html_repeats_its_head_and_keeps_rows_whole() -> None:
    text = write_html([make_table("A", [Column("Name", False)], [["x"], ["y"]])])
    assert re.search(r"<thead><tr[^>]*><th[^>]*>Name</th></tr></thead>", text)
    assert text.count('<tr style="page-break-inside:avoid">') == 3


def test_the_example_of_the_help_runs(tmp_path: Path) -> None:
    shown = invoke("cohort", "--help").stdout
    lines = [line.strip() for line in shown.splitlines()]
    for name, first in (("v.csv", HEADER.strip()), ("p.csv", "patient,age,male,ILD,therapy")):
        at = lines.index(first)
        end = next(place for place in range(at, len(lines)) if "," not in lines[place])
        write(tmp_path / name, "\n".join(lines[at:end]) + "\n")
    done = invoke("cohort", tmp_path / "v.csv", "--patients", tmp_path / "p.csv", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 patients with a determined outcome (50.0 %) was refractory" in done.stdout
    assert (tmp_path / "out/cohort.html").exists()
    wrong = invoke("cohort", tmp_path / "v.csv", "--out", tmp_path / "out", "--window-days", "-1")
    assert (wrong.returncode, "--window-days: -1 is no width" in wrong.stderr) == (2, True)
    absent = invoke("cohort", tmp_path / "none.csv", "--out", tmp_path / "out")
    assert absent.returncode == 2 and "does not exist" in absent.stderr and "Traceback" not in absent.stderr


def test_open_relapses_and_other_groups_are_said(tmp_path: Path) -> None:
    text = (
        HEADER
        + FIRST
        + "P01,12,1,150,200,no,no\nP01,18,2,6000,200,yes,\nP02,0,3,900,200,,\nP02,12,1,90,200,no,no\n"
    )
    patients = write(tmp_path / "p.csv", "patient,group,age\nP02,refractory,3\nP03,,4\n")
    found = analyse_cohort(write(tmp_path / "v.csv", text), patients, None, OutcomeSettings())
    assert found.notes == (
        "1 patient(s) are not in the table of patients: P01.",
        "1 patient(s) have another group in the table of patients: P02.",
        "A missing value leaves a relapse open in 1 patient(s): P01.",
    )
    assert found.outcomes.set_index("patient")["rule"]["P03"] == "no visit"
