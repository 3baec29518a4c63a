import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from histoquant.errors import StudyError
from histoquant.protocol import StatisticsSettings
from histoquant.stats import COLUMNS, compare_groups, compute_statistics, correlate_markers

SETTINGS = StatisticsSettings(draws=1000)
NAN = float("nan")


def correlate(first: list[float], second: list[float], **options: int) -> dict[str, object]:
    chosen = StatisticsSettings(**{"draws": 1000, **options})
    return correlate_markers(np.array(first), np.array(second), chosen, np.random.default_rng(0))


def compare(first: list[float], second: list[float], **options: int) -> dict[str, object]:
    chosen = StatisticsSettings(**{"draws": 1000, **options})
    return compare_groups(np.array(first), np.array(second), chosen, np.random.default_rng(0))


def make_patients(n: int = 29, seed: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    level = rng.gamma(2, 0.1, n)
    return pd.DataFrame(
        {
            "patient": [f"患者 {i}" for i in range(n)],
            "group": ["non-refractory" if i < 2 * n // 3 else "refractory" for i in range(n)],
            "CD19": level,
            "BAFF-R": level + rng.gamma(2, 0.04, n),
            "BAFF": rng.poisson(1, n) / 20,
        }
    )


def compute(patients: pd.DataFrame, markers: list[str], seed: int = 0) -> pd.DataFrame:
    return compute_statistics(patients, markers, SETTINGS, np.random.default_rng(seed))


def test_spearman_of_a_published_example() -> None:
    # Intelligence against hours of television of ten people: rho = -29/165, p = 0.627188
    # (https://en.wikipedia.org/wiki/Spearman's_rank_correlation_coefficient).
    iq = [106.0, 100, 86, 101, 99, 103, 97, 113, 112, 110]
    hours = [7.0, 27, 2, 50, 28, 29, 20, 12, 6, 17]
    row = correlate(iq, hours)
    assert row["estimate"] == pytest.approx(-29 / 165)
    assert row["p"] == pytest.approx(0.627188, abs=5e-7)
    assert row["p_exact"] == pytest.approx(0.63, abs=0.06)
    assert row["estimate_name"] == "spearman_rho"
    assert (row["n"], row["mean"], row["mean_2"]) == (10, 102.7, 19.8)


def test_spearman_over_all_orders() -> None:
    # Critical values of rho for n = 5 (Zar 1972): 0.9 has p = 0.0833, 1 has p = 2/120.
    assert correlate([1, 2, 3, 4, 5], [1, 2, 3, 5, 4])["p_exact"] == pytest.approx(10 / 120)
    perfect = correlate([1, 2, 3, 4, 5], [1, 4, 9, 16, 25])
    assert perfect["p_exact"] == pytest.approx(2 / 120)
    assert (perfect["estimate"], perfect["p"], perfect["ci_low"]) == pytest.approx((1, 0, 1))
    assert np.isnan(perfect["statistic"])
    assert "take p_exact" in perfect["note"]
    assert "all orders" in perfect["method"]


def test_spearman_with_ties_and_missing_agrees_with_scipy() -> None:
    rng = np.random.default_rng(8)
    x, y = rng.poisson(1, 25).astype(float), rng.poisson(2, 25).astype(float)
    x[3] = NAN
    row = correlate(list(x), list(y))
    keep = np.isfinite(x)
    expected = scipy_stats.spearmanr(x[keep], y[keep])
    assert row["estimate"] == pytest.approx(expected.statistic)
    assert row["p"] == pytest.approx(expected.pvalue)
    t = float(row["statistic"])  # type: ignore[arg-type]
    assert 2 * scipy_stats.t.sf(abs(t), 22) == pytest.approx(expected.pvalue)
    assert row["n"] == 24
    for part in ("1 patient lacks one or both", "tied values", "many zeros"):
        assert part in str(row["note"])


def test_interval_is_scipys_bca() -> None:
    # The last patient contradicts the others: the acceleration is far from zero.
    x = np.arange(12.0)
    y = np.array([-0.8, 1.1, 1.7, 2.7, 4.1, 4.5, 6.6, 6.9, 9.1, 7.7, 9.3, -2.7])
    row = correlate(list(x), list(y), draws=20_000)
    rank = scipy_stats.rankdata
    expected = scipy_stats.bootstrap(
        (x, y),
        lambda a, b, axis: _correlate(rank(a, axis=axis), rank(b, axis=axis), axis),
        paired=True,
        n_resamples=20_000,
        random_state=np.random.default_rng(1),
    ).confidence_interval
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert "BCa" in str(row["method"])


def _correlate(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    a, b = a - a.mean(axis=axis, keepdims=True), b - b.mean(axis=axis, keepdims=True)
    return (a * b).sum(axis=axis) / np.sqrt((a**2).sum(axis=axis) * (b**2).sum(axis=axis))


def test_degenerate_bca_falls_back_to_the_percentile() -> None:
    row = correlate([1, 2, 3, 4, 5], [5, 4, 3, 2, 1])  # every jackknife value is the same
    assert "BCa degenerates" in str(row["note"])
    assert "percentile bootstrap" in str(row["method"])
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((-1, -1))


def test_draws_without_rho_leave_no_interval() -> None:
    # A draw misses the only patient above zero with a probability of (6/7)^7 = 34 %.
    row = correlate([0, 0, 0, 0, 0, 0, 1], [1, 2, 3, 4, 5, 6, 7], draws=10_000)
    assert "no interval: 34% of bootstrap draws have no rho" in str(row["note"])
    assert np.isnan(row["ci_low"]) and np.isnan(row["ci_high"])
    assert row["p_exact"] == pytest.approx(2 / 7)


@pytest.mark.parametrize(
    ("first", "second", "note"),
    [
        ([1, 2], [3, 4], "too few patients (2)"),
        ([], [], "too few patients (0)"),
        ([1, 2, NAN, 4], [NAN, 2, 3, 4], "too few patients (2)"),
        ([0, 0, 0, 0], [1, 2, 3, 4], "rho is undefined"),
    ],
)
def test_correlations_that_do_not_exist(first: list[float], second: list[float], note: str) -> None:
    row = correlate(first, second)
    assert note in str(row["note"])
    assert "estimate" not in row and "p" not in row


def test_mann_whitney_of_a_published_example() -> None:
    # Permeability of the chorioamnion, Hollander & Wolfe 1973, p. 69; R's wilcox.test(x, y,
    # conf.int = TRUE) gives W = 35, p = 0.2544, shift 0.305, interval -0.15 to 0.76.
    term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
    weeks = [1.15, 0.88, 0.90, 0.74, 1.21]
    row = compare(weeks, term)
    assert row["statistic"] == 35
    assert row["p_exact"] == pytest.approx(0.2544, abs=5e-5)
    assert row["estimate"] == pytest.approx(0.305)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((-0.15, 0.76))
    assert (row["n"], row["n_2"]) == (5, 10)
    assert row["estimate_name"] == "hodges_lehmann_shift"


def test_mann_whitney_with_ties_by_hand() -> None:
    # U = 2 + 3 + 3 pairs; variance 9/12 (7 - 24/30); of 20 splits 3 have a rank sum of 14 or more.
    row = compare([1, 2, 2], [2, 3, 4])
    z = (8 - 4.5) / np.sqrt(9 / 12 * (7 - 24 / 30))
    assert row["statistic"] == 8
    assert row["p"] == pytest.approx(2 * scipy_stats.norm.sf(z))
    assert row["p_exact"] == pytest.approx(2 * 3 / 20)
    assert np.isnan(row["ci_low"])  # three against three allow no interval of 95 %
    assert (row["mean"], row["mean_2"]) == pytest.approx((5 / 3, 3))
    assert row["sd_2"] == pytest.approx(1)
    assert "tied values" in str(row["note"]) and "interval unreliable" in str(row["note"])


def test_random_splits_agree_with_all_of_them() -> None:
    patients = make_patients()
    names = ("non-refractory", "refractory")
    values = [patients.loc[patients["group"].eq(name), "CD19"].to_numpy() for name in names]
    exact = compare(list(values[0]), list(values[1]))
    tied = [np.append(values[0], 9.0), np.append(values[1], 9.0)]
    drawn = compare(list(tied[0]), list(tied[1]), draws=20_000)
    assert "all splits" in str(exact["method"]) and "20000 random splits" in str(drawn["method"])
    assert drawn["p_exact"] == pytest.approx(drawn["p"], abs=0.03)
    many = np.random.default_rng(0).normal(size=(2, 60))
    assert "random splits" in str(compare(list(many[0]), list(many[1]))["method"])


def test_interval_of_many_patients_is_the_normal_approximation() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 60))
    row = compare(list(x), list(y + 1))
    shifts = np.sort(np.subtract.outer(y + 1, x).ravel())
    k = int(np.ceil(1800 - 1.959964 * np.sqrt(3600 * 121 / 12)))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((shifts[k - 1], shifts[-k]))


@pytest.mark.parametrize(
    ("first", "second", "note"),
    [
        ([1, 2], [3, 4, 5], "too few patients (2 and 3)"),
        ([1, NAN, 3], [3, 4, 5], "1 patient lacks the marker; too few patients (2 and 3)"),
        ([0, 0, 0], [0, 0, 0], "the marker has one value only: nothing to compare"),
    ],
)
def test_comparisons_that_do_not_exist(first: list[float], second: list[float], note: str) -> None:
    row = compare(first, second)
    assert row["note"] == note
    assert "estimate" not in row and "p" not in row
    assert np.isfinite(row["mean"])


finite = st.lists(st.integers(0, 12).map(lambda v: v / 4), min_size=3, max_size=9)


@given(finite, finite)
@settings(max_examples=25, deadline=None)
def test_any_values_give_sound_rows_without_a_warning(first: list[float], second: list[float]) -> None:
    n = min(len(first), len(second))
    for row in (correlate(first[:n], second[:n], draws=200), compare(first, second, draws=200)):
        if "p" in row:
            assert 0 <= row["p"] <= 1 and 0 < row["p_exact"] <= 1  # type: ignore[operator]
            assert not row["ci_low"] > row["ci_high"]  # type: ignore[operator]
    mirrored = compare(second, first, draws=200)
    assert mirrored.get("p") == pytest.approx(compare(first, second, draws=200).get("p"))


def test_table_of_a_study() -> None:
    patients = make_patients()
    table = compute(patients, ["BAFF", "BAFF-R", "CD19"])
    assert table.columns.tolist() == COLUMNS
    assert table["analysis"].tolist() == ["correlation"] * 3 + ["group"] * 3
    pairs = list(zip(table["marker"], table["marker_2"], strict=True))
    assert pairs[:3] == [("BAFF", "BAFF-R"), ("BAFF", "CD19"), ("BAFF-R", "CD19")]
    groups = table[table["analysis"].eq("group")].set_index("marker")
    assert set(groups["group"]) == {"non-refractory"} and set(groups["group_2"]) == {"refractory"}
    refractory = patients[patients["group"].eq("refractory")]["CD19"]
    assert groups.loc["CD19", "mean_2"] == pytest.approx(refractory.mean())
    assert groups.loc["CD19", "sd_2"] == pytest.approx(refractory.std())
    assert (groups.loc["CD19", "n"], groups.loc["CD19", "n_2"]) == (19, 10)
    assert table["n"].tolist() == [29, 29, 29, 19, 19, 19]
    assert table["n_2"].isna().tolist() == [True] * 3 + [False] * 3
    assert ",29,," in table.to_csv(index=False)


@given(st.permutations(range(12)), st.permutations(["BAFF", "BAFF-R", "CD19"]))
@settings(max_examples=10, deadline=None)
def test_no_order_changes_a_result(order: list[int], markers: list[str]) -> None:
    patients = make_patients(12)
    expected = compute(patients, ["BAFF", "BAFF-R", "CD19"])
    pd.testing.assert_frame_equal(compute(patients.iloc[order], markers), expected, check_exact=True)


def test_one_marker_less_changes_no_other_result() -> None:
    table = compute(make_patients(), ["BAFF", "BAFF-R", "CD19"])
    part = compute(make_patients(), ["CD19", "BAFF-R"])
    kept = table[~table["marker"].eq("BAFF")].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, part, check_exact=True)
    assert not compute(make_patients(), ["BAFF-R", "CD19"], seed=1).equals(part)


def test_three_groups_are_compared_in_every_pair() -> None:
    patients = make_patients(12).assign(group=list("cba") * 4)
    table = compute(patients, ["CD19"])
    assert list(zip(table["group"], table["group_2"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]


def test_patients_without_a_group_enter_correlations_only() -> None:
    patients = make_patients(12)
    patients.loc[[0, 11], "group"] = [None, " "]
    table = compute(patients, ["BAFF-R", "CD19"])
    assert table["n"].tolist() == [12, 7, 7]
    assert table["n_2"].tolist()[1:] == [3, 3]
    assert "without a group and left out: 2" in table["note"][1]


def test_without_two_groups_the_row_says_why() -> None:
    alone = compute(make_patients(12).assign(group="all"), ["CD19"])
    assert alone.loc[0, ["group", "group_2", "note"]].tolist() == ["all", "", "only one group"]
    assert alone.loc[0, "n"] == 12 and np.isnan(alone.loc[0, "p"])
    none = compute(make_patients(12).assign(group=None), ["CD19"])
    assert "no patient has a group" in none.loc[0, "note"]
    assert none.loc[0, "group"] == ""


def test_no_patients_still_give_a_table() -> None:
    table = compute(make_patients().iloc[:0], ["BAFF", "CD19"])
    assert table["analysis"].tolist() == ["correlation", "group", "group"]
    assert table["estimate"].isna().all()
    assert compute(make_patients(), []).columns.tolist() == COLUMNS


def test_fields_taken_for_patients_are_refused() -> None:
    patients = make_patients(12)
    with pytest.raises(StudyError, match="more than once; give one row per patient"):
        compute(pd.concat([patients, patients.iloc[[4]]]), ["CD19"])


def test_a_marker_without_a_column_is_refused() -> None:
    with pytest.raises(StudyError, match="Ki67 has no column"):
        compute(make_patients(), ["CD19", "Ki67"])


def test_input_is_not_changed() -> None:
    patients = make_patients()
    before = patients.copy(deep=True)
    compute(patients, ["BAFF", "CD19"])
    pd.testing.assert_frame_equal(patients, before)
