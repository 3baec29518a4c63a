"""Agreement of two counts, held to published examples, to simulation, and to data that break formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoquant.agreement import (
    AGREEMENT_COLUMNS,
    compare_calls,
    compare_values,
    measure_ccc,
    measure_f1,
    measure_icc,
    measure_kappa,
    measure_limits,
    measure_proportion,
    measure_relative_limits,
)

# Bland and Altman 1986, Table 1: peak expiratory flow, l/min, first reading of either meter.
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
# Shrout and Fleiss 1979, Table 2: six targets, four judges.
JUDGES = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def test_limits_of_bland_and_altman() -> None:
    found = measure_limits(WRIGHT, MINI)
    assert round(found.bias.value, 1) == -2.1 and round(found.sd.value, 1) == 38.8
    # The paper prints -22.0 to 17.8, from the rounded mean and SD.
    assert found.bias.ci_low == pytest.approx(-22.0, abs=0.1)
    assert found.bias.ci_high == pytest.approx(17.8, abs=0.1)
    assert found.low.value == pytest.approx(-2.118 - 1.96 * 38.765, abs=0.01)
    assert found.high.value == pytest.approx(-2.118 + 1.96 * 38.765, abs=0.01)
    # Lower limit: 16.3 is the paper's standard error; the exact interval is skewed, and as wide to 10 %.
    assert found.low.ci_high - found.low.ci_low == pytest.approx(2 * 2.12 * 16.3, rel=0.1)
    assert found.low.value - found.low.ci_low > found.low.ci_high - found.low.value


def test_intervals_of_the_limits_hold_what_they_promise() -> None:
    rng = np.random.default_rng(1)
    draws, truth = 2000, 1.959964
    covered = {"bias": 0, "sd": 0, "low": 0, "high": 0}
    for sample in rng.normal(size=(draws, 8)):
        found = measure_limits(sample, np.zeros(8))
        covered["bias"] += found.bias.ci_low < 0 < found.bias.ci_high
        covered["sd"] += found.sd.ci_low < 1 < found.sd.ci_high
        covered["low"] += found.low.ci_low < -truth < found.low.ci_high
        covered["high"] += found.high.ci_low < truth < found.high.ci_high
    # Four standard errors of a share of 2,000.
    for name, count in covered.items():
        assert count / draws == pytest.approx(0.95, abs=0.02), name


def test_relative_limits_are_those_of_the_ratio() -> None:
    rng = np.random.default_rng(2)
    truth = rng.uniform(5, 500, 400)
    found = measure_relative_limits(truth * np.exp(rng.normal(0.10, 0.05, 400)), truth)
    assert found.bias.value == pytest.approx(100 * math.expm1(0.10), abs=0.6)
    assert found.high.value == pytest.approx(100 * math.expm1(0.10 + 1.96 * 0.05), abs=1.5)
    assert found.sd.value == pytest.approx(5, abs=0.5)
    zeros = measure_relative_limits([0, 11, 22, 33], [1, 10, 20, 30])
    assert zeros.bias.n == 3 and zeros.bias.value == pytest.approx(10)
    assert zeros.bias.note == "1 pairs with a zero have no ratio"


def test_icc_of_shrout_and_fleiss() -> None:
    found = measure_icc(JUDGES)
    # Table 4 prints .29; their formula of the interval gives .019 to .761.
    assert (round(found.value, 2), found.n) == (0.29, 6)
    assert (round(found.ci_low, 3), round(found.ci_high, 3)) == (0.019, 0.761)


def test_icc_sees_a_shift_that_correlation_does_not() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert measure_icc(np.stack([values, values], axis=1)).value == 1
    # By hand: rows 10/3, columns 2, rest 0, so 10/3 / (10/3 + 2 * 2 / 4).
    assert measure_icc(np.stack([values, values + 1], axis=1)).value == pytest.approx(10 / 13)
    assert measure_ccc(values, values + 1).value == pytest.approx(2.5 / 3.5)


def test_icc_of_readers_who_disagree_has_an_interval_around_it() -> None:
    found = measure_icc([[4, 46], [4, 51], [16, 28]])
    # By hand: mean squares 91 / 6 of rows, 1075 / 6 of the rest, 10201 / 6 of columns.
    assert found.value == pytest.approx((91 - 1075) / (91 + 1075 + 2 * (10201 - 1075) / 3))
    assert found.ci_low < found.value < found.ci_high
    shifted = measure_icc([[1, 0], [1, 0], [1, 0]])
    assert shifted.value == 0 and math.isnan(shifted.ci_low)
    assert shifted.note == "what is counted does not vary: no interval"


def test_interval_of_icc_holds_what_it_promises() -> None:
    rng = np.random.default_rng(4)
    draws, n, inside = 1500, 20, 0
    for _ in range(draws):
        # Variances: things 4, readers 0.25, rest 0.75; readers are drawn anew each time.
        table = (
            2 * rng.normal(size=(n, 1)) + 0.5 * rng.normal(size=2) + math.sqrt(0.75) * rng.normal(size=(n, 2))
        )
        found = measure_icc(table)
        inside += found.ci_low < 0.8 < found.ci_high
    assert inside / draws == pytest.approx(0.95, abs=0.03)


def test_interval_of_ccc_holds_what_it_promises() -> None:
    rng = np.random.default_rng(3)
    draws, n, inside = 1500, 40, 0
    truth = 2 * 0.9 * 1 * 1.2 / (1 + 1.44 + 0.25)  # correlation 0.9, SD 1 and 1.2, shift 0.5
    for _ in range(draws):
        first = rng.normal(size=n)
        second = 0.5 + 1.2 * (0.9 * first + math.sqrt(1 - 0.81) * rng.normal(size=n))
        found = measure_ccc(first, second)
        inside += found.ci_low < truth < found.ci_high
    assert inside / draws == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("table", "kappa", "low", "high"),
    [
        # The example of three classes in the SAS documentation of PROC FREQ's simple kappa.
        ([[0, 4, 1], [0, 8, 0], [0, 1, 5]], 0.4842, 0.2137, 0.7547),
        # Bonett (2021), Statistical methods for psychologists, vol. 3, ci.kappa.
        ([[31, 12], [4, 58]], 0.6757, 0.5317, 0.8196),
    ],
)
def test_kappa_of_published_tables(table: list[list[int]], kappa: float, low: float, high: float) -> None:
    found = measure_kappa(table)
    assert (round(found.value, 4), round(found.ci_low, 4), round(found.ci_high, 4)) == (kappa, low, high)


def test_proportion_has_wilsons_interval() -> None:
    # Newcombe 1998 (Stat Med 17, 857-872), Table I: 81 of 263, 0.2553 to 0.3662; 0 of 20, 0 to 0.1611.
    found = measure_proportion(81, 263)
    assert (round(found.ci_low, 4), round(found.ci_high, 4)) == (0.2553, 0.3662)
    assert round(measure_proportion(0, 20).ci_high, 4) == 0.1611
    assert math.isnan(measure_proportion(0, 0).value)


def test_f1_is_that_of_precision_and_recall() -> None:
    found = measure_f1(90, 10, 30)
    precision, recall = 0.9, 0.75
    assert found.value == pytest.approx(2 * precision * recall / (precision + recall))
    assert found.ci_low < found.value < found.ci_high and found.n == 130
    assert math.isnan(measure_f1(0, 0, 0).value)


def test_calls_of_one_table() -> None:
    table = compare_calls([True] * 40 + [False] * 60, [True] * 30 + [False] * 60 + [True] * 10)
    values = table.set_index("measure")["estimate"]
    assert values["sensitivity"] == pytest.approx(30 / 40)
    assert values["specificity"] == pytest.approx(50 / 60)
    assert values["agreement"] == pytest.approx(0.8)
    # By hand: chance is 0.4 * 0.4 + 0.6 * 0.6.
    assert values["kappa"] == pytest.approx((0.8 - 0.52) / 0.48)


@pytest.mark.parametrize(
    ("values", "reference", "note"),
    [
        ([], [], "fewer than 3 pairs"),
        ([1.0, 2.0], [1.0, 2.0], "fewer than 3 pairs"),
        ([1.0, np.nan, 2.0, 4.0], [1.0, 2.0, np.nan, 3.0], "fewer than 3 pairs"),
        ([2.0, 2.0, 2.0], [2.0, 2.0, 2.0], "all values are equal"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], "perfect agreement: no interval"),
    ],
)
def test_what_cannot_be_computed_says_why(values: list[float], reference: list[float], note: str) -> None:
    table = compare_values(values, reference).set_index("measure")
    assert table.loc["icc", "note"] == note
    assert math.isnan(table.loc["icc", "ci_low"])
    assert math.isnan(table.loc["ccc", "ci_low"]) and table.loc["ccc", "note"]


def test_one_class_has_no_kappa() -> None:
    table = compare_calls([True] * 4, [True] * 4).set_index("measure")
    assert math.isnan(table.loc["kappa", "estimate"])
    assert table.loc["kappa", "note"] == "only one class was called"
    assert table.loc["specificity", "note"] == "there is none to judge"
    same = compare_calls([True, True, False], [True, True, False]).set_index("measure")
    assert same.loc["kappa", "estimate"] == 1 and math.isnan(same.loc["kappa", "ci_low"])
    assert compare_calls([], []).set_index("measure").loc["kappa", "note"] == "fewer than 3 pairs"


counts = st.one_of(st.integers(0, 60).map(float), st.just(math.nan))


@given(st.lists(st.tuples(counts, counts), max_size=12))
def test_any_counts_give_a_table_and_no_warning(pairs: list[tuple[float, float]]) -> None:
    table = compare_values([one for one, _ in pairs], [two for _, two in pairs])
    assert tuple(table.columns) == AGREEMENT_COLUMNS and len(table) == 9
    found = table.set_index("measure")
    for name in ("bias", "sd", "icc", "ccc"):
        value, low, high = found.loc[name, ["estimate", "ci_low", "ci_high"]].astype(float)
        assert math.isnan(low) or low - 1e-9 <= value <= high + 1e-9
        assert not math.isnan(value) or found.loc[name, "note"]
    swapped = compare_values([two for _, two in pairs], [one for one, _ in pairs]).set_index("measure")
    np.testing.assert_allclose(swapped.loc["icc", "estimate"], found.loc["icc", "estimate"], atol=1e-9)
    np.testing.assert_allclose(swapped.loc["bias", "estimate"], -found.loc["bias", "estimate"])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_any_calls_give_a_table(pairs: list[tuple[bool, bool]]) -> None:
    found = compare_calls([one for one, _ in pairs], [two for _, two in pairs]).set_index("measure")
    kappa = float(found.loc["kappa", "estimate"])
    assert math.isnan(kappa) or -1 <= kappa <= 1
    for name in ("sensitivity", "specificity", "agreement"):
        assert found.loc[name, "n"] == 0 or 0 <= found.loc[name, "ci_low"] <= found.loc[name, "ci_high"] <= 1
