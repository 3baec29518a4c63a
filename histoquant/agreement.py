"""Agreement of two counts of the same things: of a run and a person, of two readers, of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

Floats = npt.NDArray[np.float64]
LEAST = 3
"""Pairs below which nothing is computed."""
AGREEMENT_COLUMNS = ("measure", "n", "estimate", "ci_low", "ci_high", "note")


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; nan is not available, and the note says why.

    Attributes
    ----------
    value, ci_low, ci_high : float
        Estimate and bounds of its interval.
    n : int
        Pairs, cells or objects behind it.
    note : str
        What weakens it; empty if nothing does.
    """

    value: float = float("nan")
    ci_low: float = float("nan")
    ci_high: float = float("nan")
    n: int = 0
    note: str = ""


@dataclass(frozen=True)
class Limits:
    """Bland and Altman's description of differences, value - reference.

    Attributes
    ----------
    bias, sd : Estimate
        Mean and standard deviation (n - 1) of the differences.
    low, high : Estimate
        Limits of agreement, bias -+ 1.96 SD at 95 %: where 95 of 100 single differences lie.
    """

    bias: Estimate
    sd: Estimate
    low: Estimate
    high: Estimate


def measure_limits(values: npt.ArrayLike, reference: npt.ArrayLike, confidence: float = 0.95) -> Limits:
    """Describe the differences of pairs by their bias and limits of agreement.

    The interval of the bias is Student's, that of the SD from chi-squared; the limits have the exact
    interval of a normal quantile (noncentral t), which at few pairs is wider outwards than inwards.

    Parameters
    ----------
    values, reference : array_like of float, shape (n,)
        Pairs; a pair with a nan is left out.
    confidence : float, optional
        Of the limits and of all intervals.

    Returns
    -------
    Limits

    References
    ----------
    Bland JM, Altman DG (1986), Lancet 327, 307-310; (1999), Stat Methods Med Res 8, 135-160.
    Carkeet A (2015), Optom Vis Sci 92, e71-e80.

    Examples
    --------
    >>> limits = measure_limits([10, 12, 14, 11], [9, 12, 12, 10])
    >>> limits.bias.value, round(limits.low.value, 2), round(limits.high.value, 2)
    (1.0, -0.6, 2.6)
    """
    first, second, note = _pair(values, reference)
    n = first.size
    if n < LEAST:
        return Limits(*[Estimate(n=n, note=note)] * 4)
    differences = first - second
    mean, sd = float(differences.mean()), float(differences.std(ddof=1))
    tail = (1 - confidence) / 2
    half = stats.t.ppf(1 - tail, n - 1) * sd / np.sqrt(n)
    sd_low, sd_high = sd * np.sqrt((n - 1) / stats.chi2.ppf([1 - tail, tail], n - 1))
    z = stats.norm.ppf(1 - tail)
    inner, outer = sd * stats.nct.ppf([tail, 1 - tail], n - 1, z * np.sqrt(n)) / np.sqrt(n) if sd else (0, 0)
    return Limits(
        _make(mean, mean - half, mean + half, n, note),
        _make(sd, sd_low, sd_high, n, note),
        _make(mean - z * sd, mean - outer, mean - inner, n, note),
        _make(mean + z * sd, mean + inner, mean + outer, n, note),
    )


def describe_limits(confidence: float = 0.95) -> str:
    """Describe in words what limits of agreement are.

    Examples
    --------
    >>> describe_limits()
    'bias ± 1.96 SD, between which 95 of 100 single differences are expected'
    """
    z = stats.norm.ppf((1 + confidence) / 2)
    return f"bias ± {z:.2f} SD, between which {100 * confidence:g} of 100 single differences are expected"


def measure_relative_limits(
    values: npt.ArrayLike, reference: npt.ArrayLike, confidence: float = 0.95
) -> Limits:
    """Describe the ratios of pairs by their bias and limits of agreement, in per cent.

    Counts differ more where there is more to count; their ratios do not. The limits are those of the
    differences of the logarithms, 100 (exp(d) - 1): a bias of 5 is 5 % more than the reference.

    Parameters
    ----------
    values, reference : array_like of float, shape (n,)
        Pairs; one with a nan, or with a zero, which has no logarithm, is left out.
    confidence : float, optional
        Of the limits and of all intervals.

    Returns
    -------
    Limits
        `bias`, `low` and `high` in per cent; `sd` of the natural logarithms, times 100.

    References
    ----------
    Bland JM, Altman DG (1999), Stat Methods Med Res 8, 135-160, section 3.1.

    Examples
    --------
    >>> round(measure_relative_limits([110, 220, 55], [100, 200, 50]).bias.value, 6)
    10.0
    """
    first, second, _ = _pair(values, reference)
    zero = (first <= 0) | (second <= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs, logs_2 = (np.where(zero, np.nan, np.log(one)) for one in (first, second))
    limits = measure_limits(logs, logs_2, confidence)
    left = f"{int(zero.sum())} pairs with a zero have no ratio" if zero.any() else ""

    def scale(one: Estimate, back: bool = True) -> Estimate:
        value, low, high = (100 * (np.expm1(x) if back else x) for x in (one.value, one.ci_low, one.ci_high))
        return _make(value, low, high, one.n, "; ".join(part for part in (left, one.note) if part))

    return Limits(scale(limits.bias), scale(limits.sd, back=False), scale(limits.low), scale(limits.high))


def measure_icc(ratings: npt.ArrayLike, confidence: float = 0.95) -> Estimate:
    """Measure the intraclass correlation ICC(2,1): two-way random, absolute agreement, one rating.

    Parameters
    ----------
    ratings : array_like of float, shape (n, readers)
        A row per thing counted, a column per reader; a row with a nan is left out.
    confidence : float, optional
        Of the interval.

    Returns
    -------
    Estimate

    References
    ----------
    Shrout PE, Fleiss JL (1979), Psychol Bull 86, 420-428.
    McGraw KO, Wong SP (1996), Psychol Methods 1, 30-46, ICC(A,1).

    Examples
    --------
    >>> table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    >>> round(measure_icc(table).value, 2)
    0.29
    """
    table = np.asarray(ratings, np.float64)
    table = table[np.isfinite(table).all(axis=1)]
    n, k = table.shape
    if n < LEAST:
        return Estimate(n=n, note=_tell_few(n))
    if np.ptp(table) == 0:
        return Estimate(n=n, note="all values are equal")
    rows, columns = table.mean(axis=1) - table.mean(), table.mean(axis=0) - table.mean()
    rest = table - table.mean() - rows[:, None] - columns[None, :]
    ms_rows, ms_columns = k * (rows**2).sum() / (n - 1), n * (columns**2).sum() / (k - 1)
    ms_rest = (rest**2).sum() / ((n - 1) * (k - 1))
    icc = (ms_rows - ms_rest) / (ms_rows + (k - 1) * ms_rest + k * (ms_columns - ms_rest) / n)
    if 1 - icc < 1e-12:
        return Estimate(1.0, n=n, note="perfect agreement: no interval")
    # The degrees of freedom make no sense for an ICC below 0; they are those of 0 then.
    odds = max(icc, 0.0) / (1 - icc)
    a, b = k * odds / n, 1 + k * odds * (n - 1) / n
    parts = (a * ms_columns) ** 2 / (k - 1) + (b * ms_rest) ** 2 / ((n - 1) * (k - 1))
    if parts == 0:
        return Estimate(float(icc), n=n, note="what is counted does not vary: no interval")
    freedom = (a * ms_columns + b * ms_rest) ** 2 / parts
    tail = (1 - confidence) / 2
    lower, upper = stats.f.ppf(1 - tail, n - 1, freedom), stats.f.ppf(1 - tail, freedom, n - 1)
    other = k * ms_columns + (k * n - k - n) * ms_rest
    low = n * (ms_rows - lower * ms_rest) / (lower * other + n * ms_rows)
    high = n * (upper * ms_rows - ms_rest) / (other + n * upper * ms_rows)
    return _make(icc, low, high, n, "")


def measure_ccc(values: npt.ArrayLike, reference: npt.ArrayLike, confidence: float = 0.95) -> Estimate:
    """Measure Lin's concordance correlation coefficient: how near pairs lie to the line of identity.

    Parameters
    ----------
    values, reference : array_like of float, shape (n,)
        Pairs; one with a nan is left out.
    confidence : float, optional
        Of the interval (Fisher's z).

    Returns
    -------
    Estimate

    References
    ----------
    Lin LI (1989), Biometrics 45, 255-268; correction of the variance: (2000), Biometrics 56, 324-325.

    Examples
    --------
    >>> round(measure_ccc([1, 2, 3, 4], [2, 3, 4, 5]).value, 3)
    0.714
    """
    first, second, note = _pair(values, reference)
    n = first.size
    if n < LEAST:
        return Estimate(n=n, note=note)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return Estimate(n=n, note="one side has one value only")
    sd, sd_2 = first.std(), second.std()
    shift = first.mean() - second.mean()
    covariance = ((first - first.mean()) * (second - second.mean())).mean()
    ccc = float(2 * covariance / (sd**2 + sd_2**2 + shift**2))
    r, u = covariance / (sd * sd_2), shift / np.sqrt(sd * sd_2)
    if abs(r) < 1e-12 or 1 - abs(r) < 1e-12:
        return Estimate(ccc, n=n, note="correlation of 0 or 1: no interval")
    variance = (1 - r**2) * ccc**2 / ((1 - ccc**2) * r**2)
    variance += 2 * ccc**3 * (1 - ccc) * u**2 / (r * (1 - ccc**2) ** 2)
    variance -= ccc**4 * u**4 / (2 * r**2 * (1 - ccc**2) ** 2)
    half = stats.norm.ppf((1 + confidence) / 2) * np.sqrt(variance / (n - 2))
    return _make(ccc, np.tanh(np.arctanh(ccc) - half), np.tanh(np.arctanh(ccc) + half), n, note)


def measure_kappa(table: npt.ArrayLike, confidence: float = 0.95) -> Estimate:
    """Measure Cohen's kappa: agreement of calls beyond what chance gives.

    Parameters
    ----------
    table : array_like of int, shape (classes, classes)
        How often the first gave the row's class and the second the column's.
    confidence : float, optional
        Of the interval (large-sample standard error, cut at -1 and 1).

    Returns
    -------
    Estimate

    References
    ----------
    Cohen J (1960), Educ Psychol Meas 20, 37-46.
    Fleiss JL, Cohen J, Everitt BS (1969), Psychol Bull 72, 323-327.

    Examples
    --------
    >>> round(measure_kappa([[20, 5], [10, 15]]).value, 3)
    0.4
    """
    counts = np.asarray(table, np.float64)
    n = int(counts.sum())
    if n < LEAST:
        return Estimate(n=n, note=_tell_few(n))
    share = counts / n
    rows, columns = share.sum(axis=1), share.sum(axis=0)
    seen, chance = float(np.trace(share)), float(rows @ columns)
    if 1 - chance < 1e-12:
        return Estimate(n=n, note="only one class was called")
    kappa = (seen - chance) / (1 - chance)
    if seen == 1:
        return Estimate(1.0, n=n, note="perfect agreement: no interval")
    both = columns[:, None] + rows[None, :]
    diagonal = (np.diag(share) * (1 - np.diag(both) * (1 - kappa)) ** 2).sum()
    off = (1 - kappa) ** 2 * (share * both**2)[~np.eye(len(share), dtype=bool)].sum()
    variance = (diagonal + off - (kappa - chance * (1 - kappa)) ** 2) / (n * (1 - chance) ** 2)
    half = stats.norm.ppf((1 + confidence) / 2) * np.sqrt(max(variance, 0.0))
    return _make(kappa, max(-1.0, kappa - half), min(1.0, kappa + half), n, "")


def measure_proportion(count: int, n: int, confidence: float = 0.95) -> Estimate:
    """Measure a proportion with Wilson's interval.

    Parameters
    ----------
    count, n : int
        How many of how many.
    confidence : float, optional
        Of the interval.

    Returns
    -------
    Estimate

    References
    ----------
    Wilson EB (1927), J Am Stat Assoc 22, 209-212.

    Examples
    --------
    >>> found = measure_proportion(18, 20)
    >>> found.value, round(found.ci_low, 3), round(found.ci_high, 3)
    (0.9, 0.699, 0.972)
    """
    if n == 0:
        return Estimate(note="there is none to judge")
    bounds = stats.binomtest(count, n).proportion_ci(confidence, method="wilson")
    return _make(count / n, bounds.low, bounds.high, n, "")


def measure_f1(both: int, only_first: int, only_second: int, confidence: float = 0.95) -> Estimate:
    """Measure F1, the harmonic mean of precision and recall, with an interval.

    F1 = 2 p / (1 + p), p being the share of objects found by both among those found by either; p has
    Wilson's interval, and F1 rises with p.

    Parameters
    ----------
    both, only_first, only_second : int
        Objects found by both, by the first only (false positives) and by the second only (missed).
    confidence : float, optional
        Of the interval.

    Returns
    -------
    Estimate

    Examples
    --------
    >>> measure_f1(8, 2, 2).value
    0.8
    """
    share = measure_proportion(both, both + only_first + only_second, confidence)
    value, low, high = (2 * p / (1 + p) for p in (share.value, share.ci_low, share.ci_high))
    return _make(value, low, high, share.n, share.note)


def compare_values(values: npt.ArrayLike, reference: npt.ArrayLike, confidence: float = 0.95) -> pd.DataFrame:
    """Compare two counts of the same things by every measure for numbers.

    Parameters
    ----------
    values, reference : array_like of float, shape (n,)
        Pairs; nan is missing. Differences are value - reference.
    confidence : float, optional
        Of limits and intervals.

    Returns
    -------
    DataFrame
        Columns `AGREEMENT_COLUMNS`, a row per measure: bias, sd, limit_low, limit_high; the same three
        in per cent (bias_percent, limit_low_percent, limit_high_percent); icc, ccc.

    Examples
    --------
    >>> compare_values([10, 12, 14, 11], [9, 12, 12, 10])["measure"].tolist()[:4]
    ['bias', 'sd', 'limit_low', 'limit_high']
    """
    limits = measure_limits(values, reference, confidence)
    relative = measure_relative_limits(values, reference, confidence)
    pairs = np.stack([np.asarray(values, np.float64), np.asarray(reference, np.float64)], axis=1)
    return tabulate_estimates(
        {
            "bias": limits.bias,
            "sd": limits.sd,
            "limit_low": limits.low,
            "limit_high": limits.high,
            "bias_percent": relative.bias,
            "limit_low_percent": relative.low,
            "limit_high_percent": relative.high,
            "icc": measure_icc(pairs, confidence),
            "ccc": measure_ccc(values, reference, confidence),
        }
    )


def compare_calls(
    calls: Sequence[bool] | npt.NDArray[np.bool_],
    reference: Sequence[bool] | npt.NDArray[np.bool_],
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Compare two calls, positive or negative, of the same objects.

    Parameters
    ----------
    calls, reference : array_like of bool, shape (n,)
        Whether each is positive.
    confidence : float, optional
        Of the intervals.

    Returns
    -------
    DataFrame
        Columns `AGREEMENT_COLUMNS`, a row per measure: sensitivity and specificity (against the
        reference), agreement (share of equal calls), kappa.

    Examples
    --------
    >>> table = compare_calls([True, True, False, False], [True, False, False, False])
    >>> table["estimate"].round(2).tolist()
    [1.0, 0.67, 0.75, 0.5]
    """
    first, second = np.asarray(calls, bool), np.asarray(reference, bool)
    hits, refusals = int((first & second).sum()), int((~first & ~second).sum())
    table = [[hits, int((first & ~second).sum())], [int((~first & second).sum()), refusals]]
    return tabulate_estimates(
        {
            "sensitivity": measure_proportion(hits, int(second.sum()), confidence),
            "specificity": measure_proportion(refusals, int((~second).sum()), confidence),
            "agreement": measure_proportion(hits + refusals, first.size, confidence),
            "kappa": measure_kappa(table, confidence),
        }
    )


def tabulate_estimates(estimates: dict[str, Estimate]) -> pd.DataFrame:
    """Tabulate estimates by name, columns `AGREEMENT_COLUMNS`.

    Examples
    --------
    >>> tabulate_estimates({"kappa": Estimate(0.4, 0.1, 0.7, 50)}).to_dict("records")
    [{'measure': 'kappa', 'n': 50, 'estimate': 0.4, 'ci_low': 0.1, 'ci_high': 0.7, 'note': ''}]
    """
    rows: list[dict[str, Any]] = [
        {
            "measure": name,
            "n": one.n,
            "estimate": one.value,
            "ci_low": one.ci_low,
            "ci_high": one.ci_high,
            "note": one.note,
        }
        for name, one in estimates.items()
    ]
    return pd.DataFrame(rows, columns=list(AGREEMENT_COLUMNS))


def _pair(values: npt.ArrayLike, reference: npt.ArrayLike) -> tuple[Floats, Floats, str]:
    """Complete pairs, and a note if they are few."""
    first, second = np.asarray(values, np.float64), np.asarray(reference, np.float64)
    both = np.isfinite(first) & np.isfinite(second)
    return first[both], second[both], _tell_few(int(both.sum()))


def _tell_few(n: int) -> str:
    return f"fewer than {LEAST} pairs" if n < LEAST else ""


def _make(value: Any, low: Any, high: Any, n: int, note: str) -> Estimate:
    return Estimate(float(value), float(low), float(high), n, note)
