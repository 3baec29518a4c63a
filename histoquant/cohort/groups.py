"""Variables of patients compared between groups, as the tables of clinical papers have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize, stats

from histoquant.errors import StudyError

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]

SUMMARY_COLUMNS = (
    *("variable", "level", "kind", "group", "n", "missing", "count", "percent"),
    *("mean", "sd", "median", "q1", "q3", "least", "most"),
)
TEST_COLUMNS = (
    *("variable", "kind", "n", "missing", "test", "statistic", "df", "p", "p_exact", "exact_test"),
    *("effect_name", "effect", "ci_low", "ci_high", "p_holm", "p_fdr", "note"),
)
_SMALL = 5  # expected counts below this: Fisher beside chi-square (Cochran)
_LEAST = 3  # values of a group below which ranks are not compared
_EXACT_PAIRS = 2_500  # pairs of patients up to which the distribution of U is worked out
_TABLES = 20_000  # random tables where Fisher's test has more than two rows or columns


def describe_variables(table: pd.DataFrame, group: pd.Series[Any]) -> pd.DataFrame:
    """Describe every variable in every group.

    Parameters
    ----------
    table : DataFrame
        A row per patient, a column per variable: numbers; True or False (dtype boolean); or text. Missing
        values are left out and counted.
    group : Series
        Group of every patient, same index; patients without one are left out. The groups of a categorical
        dtype are kept in order, empty ones too; others are sorted.

    Returns
    -------
    DataFrame
        Columns `SUMMARY_COLUMNS`, a row per variable, level and group. `percent` is of the patients with a
        value; `sd` has n - 1; quartiles interpolate linearly (R's type 7).
    """
    groups, names = _split(table, group)
    rows: list[Row] = []
    for name, values in table.items():
        kind = name_kind(values)
        parts = {one: values[groups == one] for one in names}
        about = {"variable": name, "kind": kind}
        for level in [""] if kind == "number" else list_levels(values):
            rows += [about | {"group": one} | _describe(part, kind, level) for one, part in parts.items()]
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS)).astype({"count": "Int64"})


def compare_variables(
    table: pd.DataFrame, group: pd.Series[Any], rng: np.random.Generator, confidence: float = 0.95
) -> pd.DataFrame:
    """Test every variable for a difference between groups.

    Parameters
    ----------
    table, group
        As for `describe_variables`.
    rng : numpy.random.Generator
        For random tables, where Fisher's test has more than two rows or columns.
    confidence : float, optional
        Of the intervals of effects.

    Returns
    -------
    DataFrame
        Columns `TEST_COLUMNS`, a row per variable; see `compare_counts` and `compare_samples`. `p_holm` and
        `p_fdr` are `p` adjusted for all variables of the table.
    """
    groups, names = _split(table, group)
    rows = []
    for name, values in table.items():
        kind = name_kind(values)
        inside = values[groups.isin(names)]
        known = inside.dropna()
        parts = [known[groups[known.index] == one] for one in names]
        if kind == "number":
            row = compare_samples([part.to_numpy(np.float64) for part in parts], confidence)
        else:
            levels = list_levels(values)
            counts = np.array([[int((part == level).sum()) for part in parts] for level in levels])
            row = compare_counts(counts.reshape(len(levels), len(names)), rng, confidence)
        rows.append(
            {"variable": name, "kind": kind, "n": len(known), "missing": len(inside) - len(known)} | row
        )
    result = pd.DataFrame(rows, columns=list(TEST_COLUMNS))
    holm, fdr = adjust_p(result["p"].to_numpy(np.float64))
    return result.assign(p_holm=holm, p_fdr=fdr)


def compare_counts(counts: npt.ArrayLike, rng: np.random.Generator, confidence: float = 0.95) -> Row:
    """Compare how often each level occurs in each group.

    Parameters
    ----------
    counts : array_like of int, shape (levels, groups)
        Patients; for a yes-or-no variable the levels are no and yes.
    rng : numpy.random.Generator
        For random tables.
    confidence : float, optional
        Of the effect's interval.

    Returns
    -------
    dict
        Pearson's chi-square without Yates' correction; where an expected count is below 5, Fisher's exact p
        beside it (over random tables where there are more than two levels or groups). Effect of two levels
        in two groups: share of the last level in the second group less that in the first, with Newcombe's
        hybrid score interval; otherwise Cramer's V, its interval by inversion of the noncentral chi-square.

    References
    ----------
    Newcombe RG (1998), Stat Med 17, 873-890, method 10. Smithson M (2003), Confidence intervals, Sage.

    Examples
    --------
    >>> row = compare_counts([[22, 7], [5, 6]], np.random.default_rng(0))
    >>> round(row["p"], 3), round(row["p_exact"], 3), round(row["effect"], 3)
    (0.067, 0.128, 0.276)
    """
    table = np.asarray(counts, dtype=np.int64)
    used = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if not used.size:
        return {"note": "no value"}
    empty = int((table.sum(axis=0) == 0).sum())
    notes = [f"{empty} group(s) without a value left out"] if empty else []
    if min(used.shape) < 2:
        reason = "one group only" if used.shape[1] < 2 else "one value only"
        return {"note": _join(notes, f"{reason}: nothing to compare")}
    test = stats.chi2_contingency(used, correction=False)
    row: Row = {"test": "chi-square", "statistic": float(test.statistic), "df": int(test.dof)}
    row["p"] = float(test.pvalue)
    if test.expected_freq.min() < _SMALL:
        row |= _test_exactly(used, rng)
        notes.append(f"expected counts below {_SMALL}: take the exact P")
    if table.shape[0] == 2 and used.shape == (2, 2):
        row |= _subtract_shares(used, confidence)
    else:
        scale = int(used.sum()) * (min(used.shape) - 1)
        row |= _scale_chi2("cramers_v", float(test.statistic), int(test.dof), scale, confidence)
    return row | {"note": _join(notes)}


def compare_samples(samples: Sequence[Floats], confidence: float = 0.95) -> Row:
    """Compare a number between groups by its ranks.

    Parameters
    ----------
    samples : sequence of ndarray of float
        Values of every group, without missing ones.
    confidence : float, optional
        Of the effect's interval.

    Returns
    -------
    dict
        Two groups: Mann-Whitney, asymptotic, corrected for ties but not for continuity, and p over all splits
        where there are few patients and no ties; effect: the probability that a patient of the second group
        has the larger value than one of the first, ties counting half, with Newcombe's interval 5. More:
        Kruskal-Wallis; effect: epsilon squared, its interval by inversion of the noncentral chi-square.

    References
    ----------
    Newcombe RG (2006), Stat Med 25, 559-573. Tomczak M, Tomczak E (2014), Trends Sport Sci 1, 19-25.

    Examples
    --------
    >>> row = compare_samples([np.array([1.0, 2, 3]), np.array([4.0, 5, 7])])
    >>> row["statistic"], round(row["p"], 4), row["p_exact"], row["effect"], round(row["ci_low"], 2)
    (9.0, 0.0495, 0.1, 1.0, 0.5)
    """
    used = [sample for sample in samples if sample.size >= _LEAST]
    small = len(samples) - len(used)
    notes = [f"{small} group(s) with fewer than {_LEAST} values left out"] if small else []
    if len(used) < 2:
        return {"note": _join(notes, "nothing to compare")}
    joint = np.concatenate(used)
    if np.ptp(joint) == 0:
        return {"note": _join(notes, "one value only: nothing to compare")}
    if len(used) > 2:
        test = stats.kruskal(*used)
        df = len(used) - 1
        row = {
            "test": "Kruskal-Wallis",
            "statistic": float(test.statistic),
            "df": df,
            "p": float(test.pvalue),
        }
        row |= _scale_chi2(
            "epsilon_squared", float(test.statistic), df, joint.size - 1, confidence, root=False
        )
        return row | {"note": _join(notes)}
    first, second = used
    test = stats.mannwhitneyu(second, first, use_continuity=False, method="asymptotic")
    row = {"test": "Mann-Whitney", "statistic": float(test.statistic), "p": float(test.pvalue)}
    if np.unique(joint).size == joint.size and first.size * second.size <= _EXACT_PAIRS:
        row["p_exact"] = float(stats.mannwhitneyu(second, first, method="exact").pvalue)
        row["exact_test"] = "all splits"
    share = float(test.statistic) / (first.size * second.size)
    low, high = bound_superiority(share, first.size, second.size, confidence)
    row |= {"effect_name": "probability_of_superiority", "effect": share, "ci_low": low, "ci_high": high}
    return row | {"note": _join(notes)}


def bound_superiority(share: float, n: int, n_2: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bound the probability of superiority U / (n * n_2) by Newcombe's method 5.

    Parameters
    ----------
    share : float
        Estimate, 0 to 1.
    n, n_2 : int
        Patients of either group.
    confidence : float, optional
        Of the interval.

    Returns
    -------
    low, high : float

    References
    ----------
    Newcombe RG (2006), Stat Med 25, 559-573.
    """
    z = stats.norm.ppf((1 + confidence) / 2)
    half = (n + n_2) / 2 - 1

    def reach(theta: float) -> float:
        shape = 1 + half * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return float(z * np.sqrt(max(theta * (1 - theta) * shape, 0.0) / (n * n_2)))

    # At an estimate of 0 or 1 the estimate itself solves the equation; the bound is the other solution.
    inner, outer = min(share, 1 - 1e-12), max(share, 1e-12)
    low = optimize.brentq(lambda theta: share - theta - reach(theta), 0.0, inner) if share > 0 else 0.0
    high = optimize.brentq(lambda theta: theta - share - reach(theta), outer, 1.0) if share < 1 else 1.0
    return float(low), float(high)


def adjust_p(p: Floats) -> tuple[Floats, Floats]:
    """Adjust P values for their number; nan stays nan and does not count.

    Parameters
    ----------
    p : ndarray of float, shape (n,)
        P values.

    Returns
    -------
    holm, fdr : ndarray of float, shape (n,)
        Holm's, and Benjamini and Hochberg's.

    Examples
    --------
    >>> holm, fdr = adjust_p(np.array([0.01, 0.04, np.nan]))
    >>> holm.tolist(), fdr.tolist()
    ([0.02, 0.04, nan], [0.02, 0.04, nan])
    """
    known = np.isfinite(p)
    holm, fdr = np.full(p.shape, np.nan), np.full(p.shape, np.nan)
    if known.any():
        ascending = np.argsort(p[known], kind="stable")
        factors = np.arange(known.sum(), 0, -1)
        steps = np.minimum(1.0, np.maximum.accumulate(p[known][ascending] * factors))
        holm[known] = steps[np.argsort(ascending)]
        fdr[known] = stats.false_discovery_control(p[known])
    return holm, fdr


def name_kind(values: pd.Series[Any]) -> str:
    """Name the kind of a variable by its dtype: flag (True or False), number or category."""
    if pd.api.types.is_bool_dtype(values.dtype):
        return "flag"
    return "number" if pd.api.types.is_numeric_dtype(values.dtype) else "category"


def list_levels(values: pd.Series[Any]) -> list[Any]:
    """List the levels: no and yes of a flag; of a category those of its dtype, or those there are, sorted."""
    if name_kind(values) == "flag":
        return [False, True]
    if isinstance(values.dtype, pd.CategoricalDtype):
        return list(values.dtype.categories)
    return sorted(values.dropna().unique().tolist())


def _split(table: pd.DataFrame, group: pd.Series[Any]) -> tuple[pd.Series[Any], list[Any]]:
    """Group of every patient and the groups in order."""
    if not table.index.equals(group.index):
        raise StudyError("the groups are not of these patients", "group", "give both tables the same index")
    return group.astype(object).where(group.notna(), None), list_levels(group.astype(_as_dtype(group)))


def _as_dtype(group: pd.Series[Any]) -> Any:
    return group.dtype if isinstance(group.dtype, pd.CategoricalDtype) else object


def _name(level: Any) -> str:
    return ("yes" if level else "no") if isinstance(level, bool | np.bool_) else str(level)


def _describe(part: pd.Series[Any], kind: str, level: Any) -> Row:
    """Summary of the values of one group."""
    known = part.dropna()
    n = len(known)
    row: Row = {"n": n, "missing": len(part) - n, "level": _name(level)}
    if kind != "number":
        count = int((known == level).sum())
        return row | {"count": count, "percent": 100 * count / n if n else float("nan")}
    if not n:
        return row
    values = known.to_numpy(np.float64)
    q1, median, q3 = (float(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    sd = float(values.std(ddof=1)) if n > 1 else float("nan")
    ends = {"least": float(values.min()), "most": float(values.max())}
    return row | {"mean": float(values.mean()), "sd": sd, "median": median, "q1": q1, "q3": q3} | ends


def _subtract_shares(counts: npt.NDArray[np.int64], confidence: float) -> Row:
    """Difference of the second level's shares, second group less first, with Newcombe's interval."""
    totals = counts.sum(axis=0)
    bounds = [
        stats.binomtest(int(hits), int(n)).proportion_ci(confidence, method="wilson")
        for hits, n in zip(counts[1], totals, strict=True)
    ]
    one, two = counts[1] / totals
    low = two - one - np.hypot(two - bounds[1].low, bounds[0].high - one)
    high = two - one + np.hypot(bounds[1].high - two, one - bounds[0].low)
    names = {"effect_name": "difference_of_shares", "effect": float(two - one)}
    return names | {"ci_low": float(low), "ci_high": float(high)}


def _test_exactly(counts: npt.NDArray[np.int64], rng: np.random.Generator) -> Row:
    if counts.shape == (2, 2):
        return {"p_exact": float(stats.fisher_exact(counts).pvalue), "exact_test": "Fisher"}
    tables = stats.random_table(counts.sum(axis=1), counts.sum(axis=0))
    drawn = tables.rvs(_TABLES, random_state=rng)
    # As probable as the observed one, up to rounding, is as extreme.
    extreme = int((tables.logpmf(drawn) <= tables.logpmf(counts) + 1e-7).sum())
    return {"p_exact": (1 + extreme) / (1 + _TABLES), "exact_test": f"Fisher, {_TABLES} random tables"}


def _scale_chi2(name: str, chi2: float, df: int, scale: float, confidence: float, root: bool = True) -> Row:
    """Chi-square per patient (or its root) with the interval of its noncentrality."""
    tail = (1 - confidence) / 2
    found = [chi2, *(bound_noncentrality(chi2, df, level) for level in (1 - tail, tail))]
    value, low, high = (min(1.0, one / scale) ** (0.5 if root else 1.0) for one in found)
    return {"effect_name": name, "effect": value, "ci_low": low, "ci_high": high}


def bound_noncentrality(chi2: float, df: int, level: float) -> float:
    """Find the noncentrality at which chi-square stays below the observed one with a given probability."""
    if stats.chi2.cdf(chi2, df) <= level:
        return 0.0
    top = 2 * chi2 + 10 * np.sqrt(chi2 + 1) + 50
    return float(optimize.brentq(lambda nc: stats.ncx2.cdf(chi2, df, nc) - level, 1e-9, top))


def _join(notes: Sequence[str], last: str = "") -> str:
    return "; ".join(note for note in (*notes, last) if note)
