"""Statistics over patients: correlation of markers, and markers compared between groups."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import combinations
from math import comb, factorial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from histoquant.errors import StudyError
from histoquant.protocol import StatisticsSettings

Values = npt.NDArray[np.float64]
Row = dict[str, Any]

COLUMNS = [
    "analysis",
    "marker",
    "marker_2",
    "group",
    "group_2",
    "n",
    "n_2",
    "mean",
    "sd",
    "mean_2",
    "sd_2",
    "estimate_name",
    "estimate",
    "ci_low",
    "ci_high",
    "statistic",
    "p",
    "p_exact",
    "method",
    "note",
]
"""Columns of statistics.csv."""

_LEAST = 3  # below this no rank test says anything
_FEW = 10  # below this intervals rest on too little
_ENUMERATED = 50_000  # orders or splits: 8 patients, or 9 + 9, are enumerated
_EXACT_PAIRS = 2_500  # pairs of patients up to which the distribution of U is worked out
_TEXT = {"marker_2", "group", "group_2", "estimate_name", "method", "note"}
_BLANK = {name: "" if name in _TEXT else float("nan") for name in COLUMNS}


def compute_statistics(
    patients: pd.DataFrame, markers: Sequence[str], settings: StatisticsSettings, rng: np.random.Generator
) -> pd.DataFrame:
    """Correlate markers over patients and compare them between groups; n counts patients.

    Every test draws from a generator of its own, keyed by its markers and groups: neither the order of
    rows nor of markers, nor one test more or less, changes a result.

    Parameters
    ----------
    patients : DataFrame
        One row per patient: `patient`, `group` (may be missing), one column per marker (nan: not
        measured).
    markers : sequence of str
        Columns to use.
    settings : StatisticsSettings
        Draws and confidence.
    rng : numpy.random.Generator
        Seeds the tests' generators; one draw is taken.

    Returns
    -------
    DataFrame
        Rows `correlation` (see `correlate_markers`) for every pair of markers, then rows `group` (see
        `compare_groups`) for every marker and pair of groups. `mean`, `sd` are of `marker` (correlation)
        or of `group`; `mean_2`, `sd_2` of `marker_2` or `group_2`; nan is not available.

    Raises
    ------
    StudyError
        A patient appears twice, or a marker has no column.
    """
    table = _order_patients(patients, markers)
    root = int(rng.integers(2**63))
    names = sorted(set(markers))
    rows: list[Row] = [
        {"analysis": "correlation", "marker": first, "marker_2": second}
        | correlate_markers(
            table[first].to_numpy(), table[second].to_numpy(), settings, _spawn(root, "rho", first, second)
        )
        for first, second in combinations(names, 2)
    ]
    for name in names:
        rows += _compare_marker(name, table[name].to_numpy(), table["group"], settings, root)
    filled = pd.DataFrame([_BLANK | row for row in rows], columns=COLUMNS)
    return filled.astype({"n": "Int64", "n_2": "Int64"})


def correlate_markers(
    first: Values, second: Values, settings: StatisticsSettings, rng: np.random.Generator
) -> Row:
    """Correlate two markers over the patients that have both (Spearman's rho).

    Parameters
    ----------
    first, second : ndarray of float, shape (patients,)
        Values of the markers, one per patient; nan is missing.
    settings : StatisticsSettings
        Draws and confidence.
    rng : numpy.random.Generator
        For bootstrap and permutations.

    Returns
    -------
    dict
        `n`; `mean`, `sd` of the first and `mean_2`, `sd_2` of the second marker over these patients;
        `estimate` rho with its BCa bootstrap interval (percentile where BCa degenerates, none where more
        draws than 1 - confidence hold a marker constant); `statistic` t and `p` of the t approximation
        (n - 2 degrees of freedom); `p_exact` over all orders up to 8 patients, over random ones beyond;
        `method`, `note`.

    References
    ----------
    Efron B (1987), Better bootstrap confidence intervals, J Am Stat Assoc 82, 171-185.

    Examples
    --------
    >>> x, y = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 1, 3, 5, 4])
    >>> row = correlate_markers(x, y, StatisticsSettings(draws=100), np.random.default_rng(0))
    >>> round(row["estimate"], 3), round(row["p_exact"], 4)
    (0.8, 0.1333)
    """
    both = np.isfinite(first) & np.isfinite(second)
    pairs = np.stack([first[both], second[both]]).astype(np.float64)
    n = pairs.shape[1]
    notes = [f"{_count(lost)} one or both"] if (lost := int(first.size - n)) else []
    row = _describe(pairs[0]) | {f"{key}_2": value for key, value in _describe(pairs[1]).items()}
    row = row | {"n_2": float("nan"), "estimate_name": "spearman_rho"}
    if n < _LEAST:
        return row | {"note": _join([*notes, f"too few patients ({n})"])}
    if (np.ptp(pairs, axis=1) == 0).any():
        return row | {"note": _join([*notes, "a marker has one value only: rho is undefined"])}
    rho = float(_correlate_ranks(pairs))
    low, high, kind, trouble = _bootstrap_rho(pairs, rho, settings, rng)
    p_exact, source = _permute_pairs(pairs, settings.draws, rng)
    perfect = bool(1 - abs(rho) < 1e-12)
    notes += _warn(n, pairs[0], pairs[1])
    notes += [trouble]
    notes += ["perfect order: p of the approximation is 0, take p_exact"] if perfect else []
    return row | {
        "estimate": rho,
        "ci_low": low,
        "ci_high": high,
        "statistic": float("nan") if perfect else rho * float(np.sqrt((n - 2) / (1 - rho**2))),
        "p": 0.0 if perfect else float(stats.spearmanr(pairs[0], pairs[1]).pvalue),
        "p_exact": p_exact,
        "method": f"Spearman, t approximation; {kind} bootstrap of {settings.draws} draws; p_exact: {source}",
        "note": _join(notes),
    }


def compare_groups(
    first: Values, second: Values, settings: StatisticsSettings, rng: np.random.Generator
) -> Row:
    """Compare a marker between two groups of patients (Mann-Whitney).

    Parameters
    ----------
    first, second : ndarray of float
        Values of the patients of either group; nan is missing.
    settings : StatisticsSettings
        Draws and confidence.
    rng : numpy.random.Generator
        For permutations.

    Returns
    -------
    dict
        `n`, `mean`, `sd` of the first, `n_2`, `mean_2`, `sd_2` of the second group; `estimate`: the
        Hodges-Lehmann shift second - first (median of all differences between their patients) with
        the interval of Campbell and Gardner, nan where so few patients allow none; `statistic` U:
        pairs in which the second is the larger, ties counting half; `p` asymptotic, corrected for ties
        but not for continuity; `p_exact` over all splits of the patients, over random ones where they
        are too many; `method`, `note`.

    References
    ----------
    Mann HB, Whitney DR (1947), Ann Math Stat 18, 50-60.
    Hodges JL, Lehmann EL (1963), Ann Math Stat 34, 598-611.
    Campbell MJ, Gardner MJ (1988), Calculating confidence intervals for some non-parametric analyses,
    BMJ 296, 1454-1456.

    Examples
    --------
    >>> row = compare_groups(np.array([1.0, 2, 3]), np.array([4.0, 5, 7]), StatisticsSettings(),
    ...     np.random.default_rng(0))
    >>> row["estimate"], row["statistic"], row["p_exact"]
    (3.0, 9.0, 0.1)
    """
    groups = [values[np.isfinite(values)].astype(np.float64) for values in (first, second)]
    lost = int(first.size + second.size - groups[0].size - groups[1].size)
    notes = [f"{_count(lost)} the marker"] if lost else []
    row = _describe(groups[0]) | {f"{key}_2": value for key, value in _describe(groups[1]).items()}
    row = row | {"estimate_name": "hodges_lehmann_shift"}
    least = min(groups[0].size, groups[1].size)
    if least < _LEAST:
        return row | {"note": _join([*notes, f"too few patients ({groups[0].size} and {groups[1].size})"])}
    shifts = np.sort((groups[1][:, None] - groups[0][None, :]).ravel())
    if np.ptp(np.concatenate(groups)) == 0:
        return row | {"note": _join([*notes, "the marker has one value only: nothing to compare"])}
    test = stats.mannwhitneyu(groups[1], groups[0], use_continuity=False, method="asymptotic")
    low, high = _bound_shift(shifts, groups[0].size, groups[1].size, settings.confidence)
    p_exact, source = _permute_groups(groups[0], groups[1], settings.draws, rng)
    return row | {
        "estimate": float(np.median(shifts)),
        "ci_low": low,
        "ci_high": high,
        "statistic": float(test.statistic),
        "p": float(test.pvalue),
        "p_exact": p_exact,
        "method": "Mann-Whitney, asymptotic, ties corrected, no continuity correction; "
        f"Campbell-Gardner interval; p_exact: {source}",
        "note": _join([*notes, *_warn(least, np.concatenate(groups))]),
    }


def _order_patients(patients: pd.DataFrame, markers: Iterable[str]) -> pd.DataFrame:
    """One row per patient, sorted, with group names as text and markers as numbers."""
    for name in markers:
        if name not in patients:
            raise StudyError(f"marker {name} has no column", "patients", "take a marker of the study")
    names = patients["patient"].astype(str)
    if (twice := names[names.duplicated()]).size:
        raise StudyError(
            f"patient {twice.iloc[0]} appears more than once",
            "patients",
            "give one row per patient: fields and sections are not patients",
        )
    missing = patients["group"].isna() | patients["group"].astype(str).str.strip().eq("")
    columns = {name: patients[name].astype(np.float64).to_numpy() for name in set(markers)}
    group = patients["group"].astype(object).where(~missing, None).map(str, na_action="ignore")
    table = pd.DataFrame({"patient": names.to_numpy(), "group": group.to_numpy(), **columns})
    return table.sort_values("patient", ignore_index=True)


def _spawn(root: int, *names: str) -> np.random.Generator:
    """A generator for one test, whatever other tests there are."""
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return np.random.default_rng([root, int.from_bytes(digest[:8], "big")])


def _compare_marker(
    name: str, values: Values, group: pd.Series[Any], settings: StatisticsSettings, root: int
) -> list[Row]:
    """Rows of one marker: every pair of groups, or one row that says why there is none."""
    row: Row = {"analysis": "group", "marker": name}
    groups = sorted(group.dropna().unique())
    alone = int((group.isna() & np.isfinite(values)).sum())
    notes = [f"without a group and left out: {alone}"] if alone else []
    if not groups:
        return [row | {"note": _join(["no patient has a group", *notes])}]
    members = {one: values[group.eq(one).to_numpy()] for one in groups}
    if len(groups) == 1:
        only = members[groups[0]]
        described = _describe(only[np.isfinite(only)])
        return [row | {"group": groups[0]} | described | {"note": _join(["only one group", *notes])}]
    rows = []
    for one, two in combinations(groups, 2):
        test = compare_groups(members[one], members[two], settings, _spawn(root, "group", name, one, two))
        note = _join([*notes, test["note"]])
        rows.append(row | {"group": one, "group_2": two} | test | {"note": note})
    return rows


def _describe(values: Values) -> Row:
    return {
        "n": values.size,
        "mean": float(values.mean()) if values.size else float("nan"),
        "sd": float(values.std(ddof=1)) if values.size > 1 else float("nan"),
    }


def _count(patients: int) -> str:
    return "1 patient lacks" if patients == 1 else f"{patients} patients lack"


def _join(notes: Iterable[str]) -> str:
    return "; ".join(note for note in notes if note)


def _warn(n: int, *samples: Values) -> list[str]:
    """What weakens a rank test: few patients, ties, zeros."""
    notes = [f"fewer than {_FEW} patients: interval unreliable"] if n < _FEW else []
    tied = sum(int(values.size - np.unique(values).size) for values in samples)
    if tied:
        notes.append("tied values")
    zeros = max(int((values == 0).sum()) / values.size for values in samples)
    if zeros > 0.25:
        notes.append(f"many zeros ({zeros:.0%})")
    return notes


def _rank(values: Values) -> Values:
    """Twice the midranks less their mean: whole numbers, so that sums of products compare exactly."""
    return np.asarray(2 * stats.rankdata(values, axis=-1) - (values.shape[-1] + 1))


def _correlate_ranks(pairs: Values) -> Values:
    """Spearman's rho along the last axis of (2, ..., n); nan where a marker is constant."""
    first, second = _rank(pairs[0]), _rank(pairs[1])
    scale = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    product = (first * second).sum(axis=-1)
    rho: Values = np.divide(product, scale, out=np.full_like(scale, np.nan), where=scale > 0)
    return rho


def _bootstrap_rho(
    pairs: Values, rho: float, settings: StatisticsSettings, rng: np.random.Generator
) -> tuple[float, float, str, str]:
    """BCa interval of rho over patients, percentile where that degenerates; its kind and a note."""
    n = pairs.shape[1]
    # Draws of one and the same value have no rho; for a single one scipy's bootstrap returns nan.
    draws = _correlate_ranks(pairs[:, rng.integers(n, size=(settings.draws, n))])
    draws = draws[np.isfinite(draws)]
    undefined = 1 - draws.size / settings.draws
    if undefined > 1 - settings.confidence:
        note = f"no interval: {undefined:.0%} of bootstrap draws have no rho"
        return float("nan"), float("nan"), "no", note
    tail = (1 - settings.confidence) / 2
    levels = np.array([tail, 1 - tail])
    kept = np.array([np.delete(np.arange(n), i) for i in range(n)])
    influence = _correlate_ranks(pairs[:, kept])
    below = ((draws < rho).mean() + (draws <= rho).mean()) / 2
    spread = influence.mean() - influence
    if np.isfinite(spread).all() and (spread**2).sum() > 0 and 0 < below < 1:
        acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
        shift = stats.norm.ppf(below)
        z = shift + stats.norm.ppf(levels)
        levels = stats.norm.cdf(shift + z / (1 - acceleration * z))
        kind, note = "BCa", ""
    else:
        kind, note = "percentile", "BCa degenerates, percentile interval instead"
    low, high = np.quantile(draws, levels)
    return float(low), float(high), kind, note


def _permute_pairs(pairs: Values, draws: int, rng: np.random.Generator) -> tuple[float, str]:
    """Two-sided p of rho over all orders of the patients, or over random ones."""
    first, second = _rank(pairs)
    exact = factorial(first.size) <= _ENUMERATED
    result = stats.permutation_test(
        (second,),
        lambda order, axis: (first * order).sum(axis=axis),
        permutation_type="pairings",
        n_resamples=np.inf if exact else draws,
        vectorized=True,
        batch=5_000,
        random_state=rng,
    )
    return float(result.pvalue), "all orders" if exact else f"{draws} random orders"


def _permute_groups(first: Values, second: Values, draws: int, rng: np.random.Generator) -> tuple[float, str]:
    """Two-sided p of the rank sum over all splits of the patients, or over random ones."""
    joint = np.concatenate([second, first])
    if np.unique(joint).size == joint.size and first.size * second.size <= _EXACT_PAIRS:
        return float(stats.mannwhitneyu(second, first, method="exact").pvalue), "all splits"
    ranks = _rank(joint)
    exact = comb(joint.size, first.size) <= _ENUMERATED
    result = stats.permutation_test(
        (ranks[: second.size], ranks[second.size :]),
        lambda one, two, axis: one.sum(axis=axis),
        permutation_type="independent",
        n_resamples=np.inf if exact else draws,
        vectorized=True,
        batch=5_000,
        random_state=rng,
    )
    return float(result.pvalue), "all splits" if exact else f"{draws} random splits"


def _bound_shift(shifts: Values, n: int, n_2: int, confidence: float) -> tuple[float, float]:
    """Interval of the Hodges-Lehmann shift from its sorted differences; nan if the patients are too few."""
    tail = (1 - confidence) / 2
    if n * n_2 <= _EXACT_PAIRS:
        k = int((_accumulate_u(n, n_2) <= tail).sum())
    else:
        k = int(np.ceil(n * n_2 / 2 + stats.norm.ppf(tail) * np.sqrt(n * n_2 * (n + n_2 + 1) / 12)))
    if k < 1:
        return float("nan"), float("nan")
    return float(shifts[k - 1]), float(shifts[-k])


def _accumulate_u(n: int, n_2: int) -> Values:
    """Distribution function of Mann-Whitney's U without ties, at 0, 1, ... n * n_2."""
    least = n * (n + 1) // 2
    # ways[i, s]: choices of i ranks that sum to s; ranks join one by one.
    ways = np.zeros((n + 1, least + n * n_2 + 1))
    ways[0, 0] = 1
    for rank in range(1, n + n_2 + 1):
        ways[1:, rank:] += ways[:-1, :-rank].copy()
    counts: Values = ways[n, least:]
    share: Values = np.cumsum(counts) / counts.sum()
    return share
