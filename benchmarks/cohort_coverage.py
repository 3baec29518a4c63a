"""How often the intervals of a cohort hold the truth, and how often a cohort of 40 separates.

python benchmarks/cohort_coverage.py [DRAWS]     about five minutes for the default of 2,000
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import optimize, stats

from histoquant.cohort.groups import compare_counts, compare_samples
from histoquant.cohort.logistic import FIRTH, ML, fit_model

# Zhao et al. 2020: odds ratios of Table 2, frequencies of Table 1 among 40, 13 of 40 refractory.
ODDS = {"male": 19.57, "severe weakness": 7.51, "ILD": 39.70}
SHARES = {"male": 11 / 40, "severe weakness": 17 / 40, "ILD": 15 / 40}
REFRACTORY = 13 / 40
LEVELS = np.array([[0.5, 0.3, 0.2], [0.25, 0.35, 0.4]])  # shares of three levels in either group
SHIFTS = (0.0, 0.5, 1.0)  # means of three groups, SD 1


def find_intercept(odds: dict[str, float]) -> float:
    """Intercept that makes the expected share of refractory patients the study's."""
    patterns = np.array(np.meshgrid(*[[0, 1]] * len(odds))).reshape(len(odds), -1).T
    shares = np.array([SHARES[name] for name in odds])
    weights = np.prod(np.where(patterns, shares, 1 - shares), axis=1)
    slopes = patterns @ np.log(list(odds.values()))
    return float(
        optimize.brentq(lambda at: (weights / (1 + np.exp(-at - slopes))).sum() - REFRACTORY, -20, 20)
    )


def draw_cohorts(odds: dict[str, float], n: int, draws: int) -> Iterator[tuple[pd.DataFrame, pd.Series]]:
    rng = np.random.default_rng([n, draws])
    intercept = find_intercept(odds)
    for _ in range(draws):
        table = pd.DataFrame({name: (rng.random(n) < SHARES[name]).astype(float) for name in odds})
        logit = intercept + table.to_numpy() @ np.log(list(odds.values()))
        yield table, pd.Series(rng.random(n) < 1 / (1 + np.exp(-logit)))


def cover_logistic(odds: dict[str, float], n: int, draws: int) -> None:
    """Print a row per coefficient: how often either interval holds it."""
    held: dict[tuple[str, str], list[bool]] = {(name, method): [] for name in odds for method in (ML, FIRTH)}
    medians: dict[tuple[str, str], list[float]] = {key: [] for key in held}
    separated, unfit = 0, 0
    for table, outcome in draw_cohorts(odds, n, draws):
        rows = fit_model(table, outcome)
        if len(rows) < 2 * len(odds):
            unfit += 1
            continue
        separated += bool(rows[0]["separated"])
        for row in rows:
            if "odds_ratio" in row:
                key = (row["term"], row["method"])
                held[key].append(row["ci_low"] <= odds[row["term"]] <= row["ci_high"])
                medians[key].append(row["odds_ratio"])
    fitted = draws - unfit
    print(f"\nn = {n}: {separated} of {fitted} cohorts separated ({100 * separated / fitted:.1f} %)")
    print(f"{unfit} of {draws} could not be fitted (one outcome, or a constant variable)\n")
    print("| variable | odds ratio | ML, median | Wald holds it | Firth, median | profile holds it |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, ratio in odds.items():
        cells = []
        for method in (ML, FIRTH):
            found = held[name, method]
            share = f"{100 * np.mean(found):.1f} % of {len(found)}" if found else "-"
            cells += [f"{np.median(medians[name, method]):.1f}" if found else "-", share]
        print(f"| {name} | {ratio:g} | {' | '.join(cells)} |")


def cover_effects(n: int, draws: int) -> None:
    """Print how often the intervals of effects hold the truth, patients as 27 to 13."""
    rng = np.random.default_rng(n)
    one = round(n * 27 / 40)
    sizes = (one, n - one)
    chance = float(stats.norm.cdf(0.8 / np.sqrt(2)))
    joint = LEVELS * np.array(sizes)[:, None] / n
    expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
    v = float(np.sqrt(((joint - expected) ** 2 / expected).sum()))
    big = [rng.normal(shift, 1, 200_000) for shift in SHIFTS]
    epsilon = compare_samples(big)["effect"]
    held: dict[str, list[bool]] = {name: [] for name in ("difference", "PS", "V", "epsilon")}
    for _ in range(draws):
        yes = rng.binomial(sizes, (0.2, 0.6))
        trial = {
            "difference": (compare_counts([np.subtract(sizes, yes), yes], rng), 0.4),
            "PS": (compare_samples([rng.normal(0, 1, sizes[0]), rng.normal(0.8, 1, sizes[1])]), chance),
            "epsilon": (compare_samples([rng.normal(shift, 1, n // 3) for shift in SHIFTS]), epsilon),
        }
        levels = np.array([rng.multinomial(size, share) for size, share in zip(sizes, LEVELS, strict=True)])
        # At n = 40 the exact test, no part of the interval, would draw tables.
        trial["V"] = (compare_counts(levels.T, rng), v) if n > 100 else ({}, v)
        for name, (row, truth) in trial.items():
            if "ci_low" in row:
                held[name].append(row["ci_low"] <= truth <= row["ci_high"])
    shares = [f"{100 * np.mean(found):.1f} %" if found else "-" for found in held.values()]
    print(f"| {n} | {' | '.join(shares)} |")


def main() -> None:
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    cover_logistic(ODDS, 400, draws)
    cover_logistic(ODDS, 40, draws)
    print("\n| n | difference of shares | probability of superiority | Cramér's V | epsilon squared |")
    print("| --- | --- | --- | --- | --- |")
    for n in (40, 400):
        cover_effects(n, draws)


if __name__ == "__main__":
    main()
