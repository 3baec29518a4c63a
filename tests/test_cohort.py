"""Outcome rules and group tables, held to the published study and to R's examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from histoquant.cohort.groups import (
    adjust_p,
    bound_noncentrality,
    bound_superiority,
    compare_counts,
    compare_samples,
    compare_variables,
    describe_variables,
)
from histoquant.cohort.outcome import VISIT_COLUMNS, OutcomeSettings, judge_patients, judge_visits
from histoquant.errors import StudyError

# Zhao et al. 2020, Table 1: positive of 27 non-refractory and of 13 refractory patients, P as printed, and
# what Pearson's chi-square without correction gives.
TABLE_1 = {
    "male": (5, 6, 0.067, 0.067),
    "cervical flexion weakness": (22, 11, 0.807, 0.807),
    "severe myasthenia": (9, 8, 0.091, 0.091),
    "dysphagia": (9, 5, 0.750, 0.750),
    "dysmasesia": (7, 1, 0.177, 0.177),
    "myalgia": (10, 4, 0.697, 0.697),
    "amyotrophy": (11, 6, 0.746, 0.746),
    "weight lost": (11, 10, 0.032, 0.032),
    "ILD": (6, 9, 0.004, 0.004),
    "elevated ESR": (5, 5, 0.872, 0.172),
    "elevated ANA": (12, 8, 0.311, 0.311),
    "anti-Ro-52": (7, 5, 0.418, 0.418),
    "GC": (3, 4, 0.132, 0.125),
    "GC + IVIg + MTX": (10, 3, 0.390, 0.377),
    "GC + MTX": (6, 1, 0.269, 0.257),
    "GC + IVIg": (5, 3, 0.744, 0.736),
    "GC + OI": (4, 5, 0.098, 0.093),
    "OI + MTX": (16, 3, 0.032, 0.032),
    "OI + IVIg": (15, 6, 0.588, 0.577),
}


def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def judge(*rows: tuple[Any, ...], **settings: Any) -> dict[str, Any]:
    """Outcome of one patient from (day, mrs, ck, limit, worse, other cause)."""
    visits = pd.DataFrame([("P1", *row) for row in rows], columns=VISIT_COLUMNS)
    return dict(judge_patients(visits, OutcomeSettings(**settings)).iloc[0])


FIRST, WELL = (0, 4, 5000, 200, None, None), (365, 1, 150, 200, False, False)


@pytest.mark.parametrize(
    ("rows", "outcome", "rule"),
    [
        ([FIRST, WELL], "non-refractory", "mRS 0-2 at 12 months, no relapse"),
        ([FIRST, (365, 3, 150, 200, False, False)], "refractory", "mRS 3-5 at 12 months"),
        ([FIRST, (365, 6, 150, 200, False, False)], "undetermined", "mRS 6 at 12 months"),
        ([FIRST, (365, None, 150, 200, False, False)], "undetermined", "no mRS at 12 months"),
        ([FIRST, (180, 1, 150, 200, False, False)], "undetermined", "no visit at 12 months"),
        # A relapse later than 12 months, after an mRS of 1, and one of a patient lost before 12 months.
        ([FIRST, WELL, (540, 2, 6000, 200, True, False)], "refractory", "relapse"),
        ([FIRST, (90, 2, 150, 200, False, False), (180, 3, 5001, 200, True, False)], "refractory", "relapse"),
        # Never at or below the baseline in between: creatine kinase is not back above it.
        ([FIRST, (90, 2, 5500, 200, True, False), (365, 2, 6000, 200, True, False)], "non-refractory", ""),
        # Equal to the baseline is not above it; three times the limit is not above that either.
        ([FIRST, WELL, (540, 2, 5000, 200, True, False)], "non-refractory", ""),
        ([(0, 4, 500, 200, None, None), WELL, (540, 2, 600, 200, True, False)], "non-refractory", ""),
        # Each of the other criteria alone refuses a relapse.
        ([FIRST, WELL, (540, 2, 6000, 200, False, False)], "non-refractory", ""),
        ([FIRST, WELL, (540, 2, 6000, 200, True, True)], "non-refractory", ""),
        # A missing value decides nothing, unless another criterion fails.
        (
            [FIRST, WELL, (540, 2, 6000, 200, True, None)],
            "undetermined",
            "mRS 0-2 at 12 months, relapse open",
        ),
        ([FIRST, WELL, (540, 2, None, 200, True, False)], "undetermined", ""),
        ([FIRST, WELL, (540, 2, None, 200, False, None)], "non-refractory", ""),
        ([(0, 4, None, 200, None, None), WELL, (540, 2, 6000, 200, True, False)], "undetermined", ""),
        ([FIRST, (365, 4, None, None, None, None)], "refractory", "mRS 3-5 at 12 months"),
    ],
)
def test_rules_of_the_outcome(rows: list[tuple[Any, ...]], outcome: str, rule: str) -> None:
    found = judge(*rows)
    assert (found["outcome"], found["rule"].startswith(rule)) == (outcome, True)


def test_the_visit_of_12_months_is_the_nearest_within_the_window() -> None:
    early, late = (275, 4, 150, 200, False, False), (455, 1, 150, 200, False, False)
    assert judge(FIRST, early)["outcome"] == "refractory"
    assert judge(FIRST, (274, *early[1:]))["outcome"] == "undetermined"
    # Equally near: the later.
    assert judge(FIRST, early, late)["day_12_months"] == 455
    assert judge(FIRST, early, late, window_days=30)["rule"] == "no visit at 12 months"


def test_what_stays_open_is_said() -> None:
    open_relapse = judge(FIRST, WELL, (540, 2, 6000, 200, True, None))
    assert open_relapse["open"] == "relapse on day 540: not known: other_cause"
    assert open_relapse["relapse"] == "open"
    assert judge(FIRST, WELL, (540, 2, 6000, 200, True, None), empty_is_no=True)["outcome"] == "refractory"
    gone = judge(FIRST, (200, 2, 100, 200, False, False))
    assert (gone["follow_up"], gone["open"]) == (
        "lost",
        "no visit within 90 days of day 365, the nearest is on day 200",
    )
    blank = judge(FIRST, (350, 2, 100, 200, False, False), (370, None, 100, 200, False, False))
    assert blank["open"] == "no mRS at the visit of 12 months (day 370), but mRS 2 on day 350"
    died = judge(FIRST, (100, 6, None, None, None, None))
    assert (died["outcome"], died["open"].split(";")[0]) == ("undetermined", "died before 12 months")


def test_patients_without_a_visit_keep_a_row() -> None:
    visits = pd.DataFrame([("张三", *FIRST), ("张三", *WELL)], columns=VISIT_COLUMNS)
    found = judge_patients(visits, OutcomeSettings(), ["P9", "张三"])
    assert found[["patient", "outcome", "rule"]].to_numpy().tolist() == [
        ["P9", "undetermined", "no visit"],
        ["张三", "non-refractory", "mRS 0-2 at 12 months, no relapse"],
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 1, 1, 1, None, None), (0, 1, 1, 1, None, None)], "P1 has two visits on day 0"),
        ([(None, 1, 1, 1, None, None)], "a visit of P1 has no day"),
        ([(0, 7, 1, 1, None, None)], "P1 has the mRS 7 on day 0"),
        ([(0, 1.5, 1, 1, None, None)], "P1 has the mRS 1.5"),
    ],
)
def test_visits_that_cannot_be_are_refused(rows: list[tuple[Any, ...]], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        judge(*rows)


known = st.sampled_from([None, True, False])
visit = st.tuples(
    st.sampled_from([None, 0, 2, 3, 5, 6]), st.sampled_from([None, 100.0, 5000.0, 6000.0]), known, known
)


@given(st.lists(visit, min_size=1, max_size=5), st.data())
def test_filling_in_what_is_missing_never_turns_a_decided_outcome(rows: list[Any], data: Any) -> None:
    def judge_rows(visits: list[Any]) -> str:
        named = [
            dict(zip(VISIT_COLUMNS[1:], (180 * at, mrs, ck, 200, *flags), strict=True))
            for at, (mrs, ck, *flags) in enumerate(visits)
        ]
        return str(judge_visits(named, OutcomeSettings())["outcome"])

    full = [
        (
            mrs,
            data.draw(st.sampled_from([100.0, 6000.0])) if ck is None else ck,
            *(data.draw(st.booleans()) if flag is None else flag for flag in flags),
        )
        for mrs, ck, *flags in rows
    ]
    assert judge_rows(rows) in ("undetermined", judge_rows(full))


def test_table_1_of_the_study() -> None:
    printed = {}
    for name, (one, two, p, pearson) in TABLE_1.items():
        found = compare_counts([[27 - one, 13 - two], [one, two]], draw())
        assert round(found["p"], 3) == pearson, name
        printed[name] = p == pearson
    # Twelve are as printed; none of the other seven is called so. ESR's is a wrong digit (.872 for .172).
    assert sum(printed.values()) == 12
    assert [name for name, same in printed.items() if not same] == [
        *("elevated ESR", "GC", "GC + IVIg + MTX", "GC + MTX", "GC + IVIg", "GC + OI", "OI + IVIg"),
    ]


def test_the_printed_bound_that_cannot_be() -> None:
    """Table 2, severe weakness: OR 7.51 (41.03 to 54.88), P 0.047; an interval holds its estimate."""
    odds, high, p = 7.51, 54.88, 0.047
    low = odds**2 / high
    assert round(low, 2) == 1.03
    z = np.log(odds) / (np.log(high / low) / (2 * stats.norm.ppf(0.975)))
    assert round(2 * stats.norm.sf(z), 3) == p


def test_counts_against_the_examples_of_r() -> None:
    # ?chisq.test, Agresti (2007), p. 39: X-squared = 30.07, df = 2, p-value = 2.954e-07.
    party = compare_counts([[762, 484], [327, 239], [468, 477]], draw())
    assert (round(party["statistic"], 2), party["df"]) == (30.07, 2)
    assert party["p"] == pytest.approx(2.954e-07, rel=1e-3)
    assert "p_exact" not in party
    # ?fisher.test: Fisher's convictions of twins, Agresti's tea tasting, job satisfaction (p = 0.7827).
    assert compare_counts([[2, 15], [10, 3]], draw())["p"] < 0.01
    tea = compare_counts([[3, 1], [1, 3]], draw())
    assert tea["p_exact"] == pytest.approx(0.4857, abs=1e-4)
    job = compare_counts([[1, 2, 1, 0], [3, 3, 6, 1], [10, 10, 14, 9], [6, 7, 12, 11]], draw())
    # Four standard errors of 20,000 random tables.
    assert job["p_exact"] == pytest.approx(0.7827, abs=0.012)
    assert job["exact_test"] == "Fisher, 20000 random tables"


def test_difference_of_shares_of_newcombe() -> None:
    """Newcombe 1998, Table II, example a, method 10: 56/70 - 48/80, 0.0524 to 0.3339."""
    found = compare_counts([[32, 14], [48, 56]], draw())
    assert found["effect"] == pytest.approx(0.2)
    assert (round(found["ci_low"], 4), round(found["ci_high"], 4)) == (0.0524, 0.3339)
    # The same table, example h: 0/10 - 0/10 has no test; 10/10 - 0/10 has 0.6075 to 1.
    sure = compare_counts([[10, 0], [0, 10]], draw())
    assert (round(sure["ci_low"], 4), sure["ci_high"]) == (0.6075, 1)


def test_ranks_against_the_examples_of_r() -> None:
    # ?wilcox.test, Hollander and Wolfe (1973), p. 69: W = 35, p-value = 0.1272 one-sided.
    term = np.array([0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46])
    early = np.array([1.15, 0.88, 0.90, 0.74, 1.21])
    found = compare_samples([early, term])
    assert found["statistic"] == 35 and found["effect"] == 0.7
    assert found["p_exact"] == pytest.approx(2 * 0.1272, abs=1e-4)
    # ?kruskal.test, Hollander and Wolfe (1973), p. 116: 0.77143, df = 2, p-value = 0.68.
    clearance = [[2.9, 3.0, 2.5, 2.6, 3.2], [3.8, 2.7, 4.0, 2.4], [2.8, 3.4, 3.7, 2.2, 2.0]]
    three = compare_samples([np.array(part) for part in clearance])
    assert (round(three["statistic"], 5), three["df"], round(three["p"], 2)) == (0.77143, 2, 0.68)
    assert (three["ci_low"], round(three["effect"], 3)) == (0, 0.059)


def test_bounds_solve_their_equations() -> None:
    # With the variance of Hanley and McNeil (1982) at the bound, the bound is z standard errors away.
    for share, n, m in ((0.7, 10, 5), (1.0, 4, 6), (0.0, 30, 3), (0.5, 400, 600)):
        low, high = bound_superiority(share, n, m)
        assert 0 <= low <= share <= high <= 1 and low < high
        for bound in {low, high} - {0.0, 1.0}:
            half = (n + m) / 2 - 1
            shape = 1 + half * ((1 - bound) / (2 - bound) + bound / (1 + bound))
            se = np.sqrt(bound * (1 - bound) * shape / (n * m))
            assert abs(share - bound) == pytest.approx(1.959964 * se, rel=1e-4)
    assert stats.ncx2.cdf(20, 3, bound_noncentrality(20, 3, 0.975)) == pytest.approx(0.975)
    assert bound_noncentrality(0.1, 3, 0.975) == 0


def test_adjusted_p_values() -> None:
    # Benjamini and Hochberg 1995, section 3.2: four of fifteen at a false discovery rate of 0.05, by the
    # familywise rate of Bonferroni three.
    p = np.array(
        [
            *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459),
            *(0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0),
        ]
    )
    holm, fdr = adjust_p(p)
    assert ((fdr <= 0.05).sum(), (holm <= 0.05).sum()) == (4, 3)
    # p.adjust(c(.04, .01, .03, .02, .05), "holm") of R.
    assert adjust_p(np.array([0.04, 0.01, 0.03, 0.02, 0.05]))[0] == pytest.approx(
        [0.09, 0.05, 0.09, 0.08, 0.09]
    )


def make_patients(n: int, group: list[Any]) -> tuple[pd.DataFrame, pd.Series[Any]]:
    rng = draw()
    table = pd.DataFrame(
        {
            "年龄": rng.normal(50, 10, n),
            "male": pd.array(rng.random(n) < 0.4, dtype="boolean"),
            "therapy": rng.choice(["GC", "GC + MTX", "IVIg"], n),
            "constant": 1.0,
        }
    )
    return table, pd.Series(group)


def test_a_table_of_groups() -> None:
    table, group = make_patients(40, ["non-refractory"] * 27 + ["refractory"] * 13)
    table.loc[[0, 1], "年龄"] = np.nan
    table.loc[39, "male"] = pd.NA
    found = describe_variables(table, group)
    age = found[found["variable"].eq("年龄")]
    assert age["n"].tolist() == [25, 13] and age["missing"].tolist() == [2, 0]
    first = table["年龄"][2:27]
    assert age["mean"].iloc[0] == first.mean() and age["sd"].iloc[0] == first.std()
    assert age["q1"].iloc[0] == first.quantile(0.25)
    male = found[found["variable"].eq("male") & found["level"].eq("yes")]
    assert male["n"].tolist() == [27, 12]
    assert male["percent"].iloc[1] == 100 * table["male"][27:39].sum() / 12
    assert found.groupby(["variable", "group"])["count"].sum().loc["therapy"].tolist() == [27, 13]
    tests = compare_variables(table, group, draw()).set_index("variable")
    assert tests["test"].fillna("").tolist() == ["Mann-Whitney", "chi-square", "chi-square", ""]
    assert (tests.loc["年龄", "n"], tests.loc["年龄", "missing"]) == (38, 2)
    assert tests.loc["constant", "note"] == "one value only: nothing to compare"
    # The constant has no test and does not count.
    assert tests["p_holm"].min() == min(1, 3 * tests["p"].min())


def test_tables_that_break_formulas() -> None:
    table, _ = make_patients(3, [])
    few = compare_variables(table, pd.Series(["a", "a", "b"]), draw()).set_index("variable")
    assert "fewer than 3 values" in few.loc["年龄", "note"]
    assert few["p"].isna()[["年龄", "constant"]].all()
    empty = pd.Series(pd.Categorical(["a", "a", "a"], categories=["a", "b"]))
    nothing = compare_variables(table, empty, draw())
    assert nothing["p"].isna().all() and nothing["note"].str.contains("nothing to compare").all()
    described = describe_variables(table, empty)
    assert described.loc[described["group"].eq("b"), "n"].eq(0).all()
    alone = compare_variables(table, pd.Series([None, None, None]), draw())
    assert alone["n"].eq(0).all() and alone["p"].isna().all()
    with pytest.raises(StudyError, match="not of these patients"):
        compare_variables(table, pd.Series(["a"]), draw())
    blank = pd.DataFrame({"text": pd.Series([None, None, None], dtype=object)})
    assert compare_variables(blank, pd.Series(["a", "a", "b"]), draw())["note"].tolist() == ["no value"]


def test_ten_thousand_patients() -> None:
    table, group = make_patients(10_000, ["a", "b", "c", None] * 2500)
    found = compare_variables(table, group, draw()).set_index("variable")
    assert found["n"].tolist() == [7500] * 4
    assert found["test"].tolist()[0] == "Kruskal-Wallis"
    assert ((found["p"] > 1e-4) | found["p"].isna()).all()
