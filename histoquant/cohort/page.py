"""The page of a cohort: outcomes, groups compared, regression, markers, and how it was judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from histoquant.cohort.logistic import FIRTH, ML
from histoquant.cohort.markers import Markers
from histoquant.cohort.outcome import NON_REFRACTORY, REFRACTORY, UNDETERMINED, OutcomeSettings
from histoquant.cohort.prints import (
    print_correlations,
    print_groups,
    print_logistic,
    print_markers,
    print_odds,
    print_outcomes,
    print_places,
)
from histoquant.report.article import Figure, Part, build_article
from histoquant.report.forest import plot_forest
from histoquant.report.formats import format_count, format_number, format_p
from histoquant.report.plots import plot_groups, plot_scatter
from histoquant.report.table import Table

_LIMITS = (
    "Variables chosen by their P in the same patients look stronger than they are; P and intervals of the "
    "multivariate model do not know of the choice. Confirm them in other patients.",
    "With fewer than ten events per coefficient odds ratios are unsure and, by maximum likelihood, too far "
    "from 1. Firth's method mends that in part.",
    "P values of a table of many variables are expected to fall below 0.05 once in twenty without any "
    "difference. The columns Holm and FDR allow for that.",
    "Patients with a missing value are left out of what needs it. If values are missing for a reason, "
    "results lean.",
    "For research; not a diagnosis.",
)


@dataclass(frozen=True)
class Cohort:
    """What the analysis of a cohort gave.

    Attributes
    ----------
    outcomes : DataFrame
        See `histoquant.cohort.outcome.judge_patients`.
    summaries, tests : DataFrame
        Covariates by outcome; see `histoquant.cohort.groups`.
    logistic : DataFrame
        See `histoquant.cohort.logistic.regress_outcome`.
    markers : Markers or None
        Of a run.
    settings : OutcomeSettings
        How outcomes were judged.
    enter : float
        P below which variables enter the multivariate model.
    notes : tuple of str
        What was left out or looks odd.
    """

    outcomes: pd.DataFrame
    summaries: pd.DataFrame
    tests: pd.DataFrame
    logistic: pd.DataFrame
    markers: Markers | None
    settings: OutcomeSettings
    enter: float
    notes: tuple[str, ...] = ()


def build_page(cohort: Cohort, mean: bool) -> str:
    """Write the page.

    Parameters
    ----------
    cohort : Cohort
        What came out.
    mean : bool
        Numbers as mean ± SD, otherwise as median and quartiles.

    Returns
    -------
    str
        HTML, complete in itself.
    """
    tables = print_tables(cohort, mean)
    counts = cohort.outcomes["outcome"].value_counts()
    facts = {
        "patients": format_count(len(cohort.outcomes)),
        "visits": format_count(cohort.outcomes["visits"].sum()),
        **{name: format_count(counts.get(name, 0)) for name in (NON_REFRACTORY, REFRACTORY, UNDETERMINED)},
    }
    told = tell_outcomes(cohort.outcomes)
    regression = [tables[name] for name in ("univariate", "multivariate") if name in tables]
    parts = [
        Part("Result", state=told[0], points=[*told[1:], *tell_model(cohort.logistic)], texts=cohort.notes),
        *([Part("Groups", tables=[tables["groups"]])] if "groups" in tables else []),
        *([Part("Regression", figures=_draw(cohort.logistic), tables=regression)] if regression else []),
        *_show_markers(cohort.markers, tables),
        Part("Patients", tables=[tables["outcomes"]]),
        Part("How outcomes were judged", points=explain_rules(cohort.settings)),
        Part("What it does not mean", points=_LIMITS),
    ]
    subtitle = "Outcome of every patient by rule, and what goes with it"
    return build_article("histoquant: cohort", subtitle, facts, parts)


def print_tables(cohort: Cohort, mean: bool) -> dict[str, Table]:
    """Print every table that the cohort has, by the name of its files."""
    sizes = count_groups(cohort.outcomes)
    tables = {"outcomes": print_outcomes(cohort.outcomes)}
    if len(cohort.tests):
        tables["groups"] = print_groups("Patients by outcome.", cohort.summaries, cohort.tests, sizes, mean)
    for model in ("univariate", "multivariate"):
        rows = cohort.logistic[cohort.logistic["model"].eq(model)]
        if len(rows):
            caption = f"Logistic regression of a refractory outcome, {model}."
            tables[model] = print_logistic(caption, rows, cohort.enter)
    markers = cohort.markers
    if markers is not None:
        groups = markers.patients["group"].value_counts()
        own = {name: int(groups.get(name, 0)) for name in sizes}
        caption = f"Patients with at least {markers.least} positive cell(s) over all fields of a marker."
        tables["markers"] = print_markers(markers.statistics, markers.summaries)
        tables["positives"] = print_groups(caption, markers.positives, markers.positive_tests, own, mean)
        tables["correlations"] = print_correlations(markers.statistics)
        if len(markers.places):
            tables["places"] = print_places(markers.places)
    return tables


def count_groups(outcomes: pd.DataFrame) -> dict[str, int]:
    """Count the patients of either decided outcome."""
    return {name: int(outcomes["outcome"].eq(name).sum()) for name in (NON_REFRACTORY, REFRACTORY)}


def tell_outcomes(outcomes: pd.DataFrame) -> list[str]:
    """Tell in sentences how many patients had which outcome, and why others have none.

    Examples
    --------
    >>> rows = [("refractory", "relapse", "complete"), ("non-refractory", "", "complete"),
    ...     ("undetermined", "no visit", "lost")]
    >>> print(tell_outcomes(pd.DataFrame(rows, columns=["outcome", "rule", "follow_up"]))[0])
    1 of 2 patients with a determined outcome (50.0 %) was refractory; 1 is undetermined.
    """
    sizes = count_groups(outcomes)
    known, bad = sum(sizes.values()), sizes[REFRACTORY]
    share = f" ({format_number(100 * bad / known, 1)} %)" if known else ""
    left = len(outcomes) - known
    state = (
        f"{bad} of {known} patients with a determined outcome{share} {'was' if bad == 1 else 'were'} "
        f"refractory; {left} {'is' if left == 1 else 'are'} undetermined."
    )
    lost, n = int(outcomes["follow_up"].eq("lost").sum()), len(outcomes)
    told = [f"Lost to follow-up before 12 months: {lost} of {n} ({format_number(100 * lost / n, 1)} %)."]
    rules = outcomes.loc[outcomes["rule"].ne(""), "rule"].value_counts()
    told += [f"{count} by the rule: {rule}." for rule, count in rules.items()]
    return [state, *told]


def tell_model(logistic: pd.DataFrame) -> list[str]:
    """Tell what the multivariate model says, by the method that stands."""
    rows = choose_rows(logistic, "multivariate")
    return [
        f"{row['term']}: odds ratio and 95 % CI {print_odds(row)}, P {format_p(row['p'])}, multivariate, "
        f"{row['method']}."
        for row in rows.to_dict("records")
    ]


def choose_rows(logistic: pd.DataFrame, model: str) -> pd.DataFrame:
    """Choose Firth's rows where a model separates, else those of maximum likelihood."""
    own = logistic[logistic["model"].eq(model) & logistic["method"].notna()]
    block = own["variable"] if model == "univariate" else own["model"]
    infinite = own["method"].eq(ML) & own["odds_ratio"].isna()
    separated = infinite.groupby(block).transform("any")
    rows = own[own["method"].eq(FIRTH) == separated]
    return rows[rows["odds_ratio"].notna()]


def explain_rules(settings: OutcomeSettings) -> list[str]:
    """Explain how outcomes were judged, with the settings in force."""
    return [
        f"12 months: the visit nearest to day {settings.judged_day:g} of treatment, within "
        f"{settings.window_days:g} days; of two equally near the later. mRS 0 to 2 there: non-refractory; "
        "3 to 5: refractory; 6 or missing: undetermined.",
        "A relapse at any visit after the first makes a patient refractory, whatever the mRS. It asks for "
        "all of: creatine kinase above the baseline (the first visit) again, after a visit since then at or "
        f"below it; above {settings.relapse_ck_limits:g} times the upper reference limit; weakness worse; no "
        "other cause.",
        "A missing value is neither yes nor no: a relapse that it leaves possible makes the outcome "
        "undetermined."
        + (" Empty weakness_worse and other_cause were taken as no." if settings.empty_is_no else ""),
        "Lost to follow-up: the last visit lies before the window of 12 months.",
        "The rules follow Zhao et al., Orphanet J Rare Dis 2020, doi 10.1186/s13023-020-01431-7; where the "
        "paper is silent (window, what back above means, mRS 6), this is our reading.",
    ]


def _draw(logistic: pd.DataFrame) -> list[Figure]:
    figures = []
    for model in ("univariate", "multivariate"):
        rows = choose_rows(logistic, model)
        if rows.empty:
            continue
        texts = [
            print_odds(row) + (", Firth" if row["method"] == FIRTH else "") for row in rows.to_dict("records")
        ]
        shown = rows.assign(label=rows["term"], estimate=rows["odds_ratio"], text=texts)
        svg = plot_forest(shown, f"odds ratio of a refractory outcome, {model}")
        caption = f"{model.capitalize()} odds ratios with 95 % intervals; Firth's where the data separate."
        figures.append(Figure(Markup(svg), caption))
    return figures


def _show_markers(markers: Markers | None, tables: Mapping[str, Table]) -> Sequence[Part]:
    if markers is None:
        return []
    names = [name for name in markers.patients.columns if name not in ("patient", "group")]
    differing = [
        f"{row['patient']}: {row['group']} in the study, {row['outcome']} by the rules."
        for row in markers.differing.to_dict("records")
    ]
    shown = markers.patients[markers.patients["group"].ne("")]
    figures = []
    if len(shown):
        svg = plot_groups(shown, names)
        figures.append(Figure(Markup(svg), "One point per patient; median and quartiles."))
    for row in markers.statistics[markers.statistics["analysis"].eq("correlation")].to_dict("records"):
        svg = plot_scatter(markers.patients, str(row["marker"]), str(row["marker_2"]))
        figures.append(Figure(Markup(svg), f"{row['marker']} and {row['marker_2']}, one point per patient."))
    own = [tables[name] for name in ("markers", "positives", "correlations", "places") if name in tables]
    texts = list(markers.notes) + (["The groups of the study differ from the outcomes:"] if differing else [])
    return [Part("Markers", texts=texts, points=differing, figures=figures, tables=own)]
