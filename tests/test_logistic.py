"""Logistic regression, held to R's logistf, to a textbook and to a second implementation."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from firthmodels import FirthLogisticRegression
from scipy import stats
from statsmodels.datasets import spector

from histoquant.cohort.logistic import (
    FIRTH,
    LOGISTIC_COLUMNS,
    ML,
    find_separation,
    fit_model,
    inflate_variance,
    make_design,
    penalise_null,
    regress_outcome,
)
from histoquant.errors import StudyError
from histoquant.report.forest import plot_forest

# Data sex2 of R's logistf (Foxman et al. 1997, Epidemiology 8, 637-641): case, age, oc, vic, vicl, vis, dia,
# and how many women have this pattern.
SEX2 = (
    "0000010x1 0001000x2 0001010x1 0001100x8 0001110x18 0010000x42 0010010x1 0011000x1 0011100x5 "
    "0011110x6 0101100x2 0101110x4 0110000x14 0110010x1 0111000x1 0111110x2 1000010x1 1001000x14 "
    "1001010x3 1001100x10 1001110x12 1001111x1 1010000x44 1010001x3 1011000x15 1011001x1 1011010x2 "
    "1011100x7 1011110x3 1101000x2 1101010x1 1101011x1 1101100x1 1101111x1 1110000x5 1111000x3 "
)
# What logistf(case ~ age + oc + vic + vicl + vis + dia) prints, as the R package parameters keeps it in its
# tests: coefficient, standard error, profile interval, chi-square of the penalised likelihood ratio.
LOGISTF = {
    "age": (-1.11, 0.41, -1.97, -0.31, 7.51),
    "oc": (-0.07, 0.43, -0.94, 0.79, 0.02),
    "vic": (2.27, 0.54, 1.27, 3.44, 22.93),
    "vicl": (-2.11, 0.53, -3.26, -1.12, 19.10),
    "vis": (-0.79, 0.41, -1.61, 0.02, 3.70),
    "dia": (3.10, 1.51, 0.77, 8.03, 7.90),
}


def read_sex2() -> tuple[pd.DataFrame, pd.Series]:
    rows = [pattern for pattern, times in re.findall(r"(\d+)x(\d+)", SEX2) for _ in range(int(times))]
    table = pd.DataFrame([[letter == "1" for letter in row] for row in rows], columns=["case", *LOGISTF])
    return table[list(LOGISTF)], table["case"]


def make_cohort(n: int, seed: int = 0) -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "ILD": pd.array(rng.random(n) < 0.4, dtype="boolean"),
            "age": rng.normal(50, 12, n),
            "therapy": rng.choice(["GC", "GC + MTX", "IVIg"], n),
        }
    )
    odds = 1.5 * table["ILD"].astype(float) + 0.05 * (table["age"] - 50) - 0.8
    return table, pd.Series(rng.random(n) < 1 / (1 + np.exp(-odds)))


def test_firth_against_logistf() -> None:
    rows = fit_model(*read_sex2())
    firth = {row["term"]: row for row in rows if row["method"] == FIRTH}
    for name, (beta, se, low, high, chi2) in LOGISTF.items():
        row = firth[name]
        assert row["coefficient"] == pytest.approx(beta, abs=0.0051), name
        assert row["standard_error"] == pytest.approx(se, abs=0.0051), name
        assert np.log([row["ci_low"], row["ci_high"]]) == pytest.approx([low, high], abs=0.0051), name
        assert stats.chi2.isf(row["p"], 1) == pytest.approx(chi2, abs=0.011), name
    # dia separates: every woman with a diaphragm is a case. Maximum likelihood has nothing to show.
    assert all(row["separated"] for row in rows)
    ordinary = [row for row in rows if row["method"] == ML]
    assert len(ordinary) == 6 and all("odds_ratio" not in row for row in ordinary)
    assert "separated by dia: take Firth's" in rows[0]["note"]


def test_maximum_likelihood_against_a_textbook() -> None:
    """Greene, Econometric Analysis, 5th edition, Table 21.1: Spector and Mazzeo's grades."""
    data = spector.load_pandas()
    rows = fit_model(data.exog, data.endog.astype(bool))
    found = {row["term"]: row for row in rows if row["method"] == ML}
    greene = {"GPA": (2.826, 1.263), "TUCE": (0.095, 0.142), "PSI": (2.379, 1.065)}
    for name, (beta, se) in greene.items():
        assert found[name]["coefficient"] == pytest.approx(beta, abs=0.0006)
        assert found[name]["standard_error"] == pytest.approx(se, abs=0.0006)
    # Log likelihoods there: -12.890 and -20.592 without variables.
    assert found["GPA"]["p_variable"] == pytest.approx(stats.chi2.sf(2 * (20.592 - 12.890), 3), rel=1e-2)


def test_maximum_likelihood_against_another_implementation() -> None:
    table, outcome = make_cohort(200)
    design = make_design(table, outcome)
    other = FirthLogisticRegression(penalty_weight=0, max_iter=100).fit(
        design.values, design.outcome.astype(int)
    )
    rows = [row for row in fit_model(table, outcome) if row["method"] == ML]
    assert [row["term"] for row in rows] == [
        *("ILD", "age", "therapy: GC + MTX against GC", "therapy: IVIg against GC"),
    ]
    ours = np.array([row["coefficient"] for row in rows])
    assert ours == pytest.approx(other.coef_ / design.scales, rel=1e-4)
    bounds = np.exp(other.conf_int()[:4] / design.scales[:, None])
    for row, expected in zip(rows, bounds, strict=True):
        assert [row["ci_low"], row["ci_high"]] == pytest.approx(expected, rel=1e-3)


def test_the_penalised_null_is_that_of_the_ratio_test() -> None:
    table, outcome = make_cohort(40)
    row = next(row for row in fit_model(table[["age"]], outcome) if row["method"] == FIRTH)
    design = make_design(table[["age"]], outcome)
    model = FirthLogisticRegression(max_iter=100).fit(design.values, design.outcome.astype(int))
    ratio = 2 * (model.loglik_ - penalise_null(design))
    assert stats.chi2.sf(ratio, 1) == pytest.approx(row["p"], rel=1e-3)


def test_units_change_the_ratio_only() -> None:
    table, outcome = make_cohort(60)
    years = fit_model(table[["age"]], outcome)
    months = fit_model(table[["age"]] * 12, outcome)
    for one, two in zip(years, months, strict=True):
        assert one["odds_ratio"] == pytest.approx(two["odds_ratio"] ** 12, rel=1e-6)
        assert one["p"] == pytest.approx(two["p"], rel=1e-6)


def test_separation_is_found_where_it_is() -> None:
    table, outcome = make_cohort(60)
    assert find_separation(make_design(table, outcome)) == ()
    perfect = table.assign(age=np.where(outcome, 70.0, 30.0))
    assert "age" in find_separation(make_design(perfect, outcome))
    # Quasi-complete: all with the sign have the outcome, some without it too.
    quasi = pd.DataFrame({"ILD": outcome & (table["age"] > 50)})
    assert find_separation(make_design(quasi, outcome)) == ("ILD",)


def test_screen_and_model() -> None:
    table, outcome = make_cohort(300)
    found = regress_outcome(table, outcome)
    assert list(found.columns) == list(LOGISTIC_COLUMNS)
    alone = found[found["model"].eq("univariate") & found["method"].eq(ML)]
    passed = alone.loc[alone["p_variable"] < 0.10, "variable"].unique().tolist()
    assert {"ILD", "age"} <= set(passed)
    together = found[found["model"].eq("multivariate")]
    assert together["variable"].unique().tolist() == passed
    assert together["p_variable"].isna().all()
    # A category enters as a whole.
    everything = regress_outcome(table, outcome, threshold=1.01)
    terms = everything.loc[everything["model"].eq("multivariate") & everything["method"].eq(ML), "term"]
    assert len(terms) == 4
    assert set(regress_outcome(table, outcome, threshold=0.0)["model"]) == {"univariate"}


def test_guards() -> None:
    table, outcome = make_cohort(40)
    few = fit_model(table, outcome)
    per_term = min(outcome.sum(), 40 - outcome.sum()) / 4
    assert f"{per_term:.1f} events per coefficient, fewer than 10" in few[0]["note"]
    twice = table[["age"]].assign(months=table["age"] * 12 + 1, near=table["age"] + table["age"].rank() / 40)
    rows = fit_model(twice, outcome)
    assert [row["term"] for row in rows if row["method"] == ML] == ["age", "near"]
    assert "months follows from the variables before it and was left out" in rows[0]["note"]
    assert "collinear: variance inflated" in rows[0]["note"]


def test_variance_inflation_is_that_of_the_regression() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 3)) @ np.array([[1.0, 0.8, 0], [0, 1, 0.3], [0, 0, 1]])
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    fit, *_ = np.linalg.lstsq(values[:, 1:], values[:, 0], rcond=None)
    unexplained = ((values[:, 0] - values[:, 1:] @ fit) ** 2).mean()
    assert inflate_variance(values)[0] == pytest.approx(1 / unexplained)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"age": 1.0}, "no variable to fit"),
        ({"age": np.nan}, "no variable to fit"),
        ({"outcome": True}, "all patients have one outcome"),
        ({"n": 2}, "2 patients are too few for 2 coefficients"),
    ],
)
def test_what_cannot_be_fitted_says_why(change: dict, note: str) -> None:
    table, outcome = make_cohort(40)
    table = table[["age"]].assign(**{key: value for key, value in change.items() if key == "age"})
    if "outcome" in change:
        outcome[:] = True
    if "n" in change:
        table, outcome = table[:2], pd.Series([True, False])
    rows = fit_model(table, outcome)
    assert len(rows) == 1 and note in rows[0]["note"]
    found = regress_outcome(table, outcome)
    assert set(found["model"]) == {"univariate"}


def test_missing_values_and_outcomes_are_left_out() -> None:
    table, outcome = make_cohort(40)
    table.loc[[0, 1], "age"] = np.nan
    unknown = outcome.astype("boolean")
    unknown[2] = pd.NA
    found = regress_outcome(table, unknown).set_index("variable")
    assert found.loc["age", "n"].tolist()[0] == 37 and found.loc["ILD", "n"].tolist()[0] == 39
    assert "2 patient(s) with a missing value left out" in found.loc["age", "note"].iloc[0]
    with pytest.raises(StudyError, match="not of these patients"):
        regress_outcome(table, outcome[:5])


def test_forest_plot() -> None:
    rows = pd.DataFrame(
        [
            ("ILD", 39.7, 3.04, 518.38, "39.70 (3.04–518.38)"),
            ("separated <b>", 1e6, 12.0, 1e20, "far"),
            ("男", float("nan"), float("nan"), float("nan"), "no estimate"),
        ],
        columns=["label", "estimate", "ci_low", "ci_high", "text"],
    )
    svg = plot_forest(rows, "odds ratio")
    assert svg.startswith("<svg") and svg == plot_forest(rows, "odds ratio")
    assert "<title>ILD: 39.70 (3.04–518.38)</title>" in svg and "no estimate" in svg and "<b>" not in svg
    assert plot_forest(rows[:0], "odds ratio").startswith("<svg")
