# This module touches files: it reads a run's folder and writes a plan into it.
"""A plan of a study from a pilot run: tables and a page."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from histoquant.errors import ResultsError
from histoquant.fields import spawn_generator
from histoquant.planning.components import (
    Components,
    attenuate,
    plan_fields,
    plan_patients,
    split_variance,
)
from histoquant.publish import read_run
from histoquant.report.article import Part, build_article
from histoquant.report.formats import format_count, format_number
from histoquant.report.table import Column, Table, make_table
from histoquant.results import open_run, read_table, write_bytes, write_table
from histoquant.tables import FIELD_COLUMNS, SECTION_COLUMNS

FIELDS = (5, 10, 15, 20, 30, 40, 60)
_DRAWS = 2_000
_COLUMNS = {
    "components": ("marker", "patients", "sections", "fields", "mean", "variance_patient", "variance_section",
                   "variance_field", "note"),
    "fields": ("marker", "fields", "coefficient_of_error"),
    "patients": ("marker", "difference", "fields", "sd", "patients_per_group", "power"),
    "correlations": ("marker", "marker_2", "factor", "fields", "fields_2", "rho", "rho_without_error"),
}  # fmt: skip
_HOW = (
    "Variances come from a mixed model (REML) of the field values: patients, sections of a patient (if any "
    "patient has two), fields of a section. With one section per patient, what varies between sections "
    "counts as patients.",
    "Coefficient of error: standard error of a section's mean over its fields / mean. It is an average over "
    "sections; those with a focal infiltrate have more.",
    "Patients per group: Mann-Whitney, P < 0.05 two-sided, by simulation of normal values of equal spread. "
    "The spread is between patients within groups plus what fields and sections add. Skewed values change "
    "it somewhat.",
    "Correlation: error of fields and sections multiplies a correlation by the factor shown (root of the "
    "product of the reliabilities). It is estimated from the pilot, unsure with few patients, and no "
    "correction to publish alone.",
    "All of it rests on the pilot's variances. With fewer than 20 patients they may be off by half.",
)


@dataclass(frozen=True)
class Plan:
    """What a plan holds: tables by name (components, fields, patients, correlations), and wanted fields.

    Attributes
    ----------
    tables : dict of str to DataFrame
        See the page for their meaning.
    error, power : float
        Wanted coefficient of error, and power.
    wanted : dict of str to int
        Fields per section that give it, by marker.
    """

    tables: dict[str, pd.DataFrame]
    error: float
    power: float
    wanted: dict[str, int]


def plan_study(path: Path, error: float = 0.1, power: float = 0.8, difference: float | None = None) -> Plan:
    """Plan fields and patients from a pilot run.

    Parameters
    ----------
    path : Path
        The run's folder.
    error : float, optional
        Wanted coefficient of error of a section.
    power : float, optional
        Wanted.
    difference : float, optional
        Between groups, in positive cells per fiber; half of each marker's mean if not given.

    Returns
    -------
    Plan

    Raises
    ------
    ResultsError
        The folder is no finished run's, a wish is out of bounds, or no section has two usable fields.
    """
    _check(error, power, difference)
    run, _ = read_run(path)
    fields = read_table(path / "fields.csv", FIELD_COLUMNS)
    fields = fields[fields["status"].eq("ok") & fields["control"].eq("") & fields["cells_per_fiber"].notna()]
    sections = read_table(path / "sections.csv", SECTION_COLUMNS)
    # A section may be left out as a whole, its fields being ok.
    used = sections.loc[sections["status"].isin(["ok", "incomplete"]), "section"]
    fields = fields[fields["section"].isin(used)]
    if not fields["section"].duplicated().any():
        raise ResultsError("has no section with two usable fields", path, "plan from a run of more fields")
    rng = spawn_generator(int(run["seed"]), "plan")
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _COLUMNS}
    overall, wanted = {}, {}
    for marker, own in fields.groupby("marker", sort=True):
        name = str(marker)
        within, overall[name] = split_variance(own, True), split_variance(own, False)
        rows["components"].append(_describe(name, within))
        if not (within.field > 0 and within.mean > 0):
            continue
        wanted[name] = plan_fields(within.field, within.mean, error)
        rows["fields"] += [
            {"marker": name, "fields": n, "coefficient_of_error": np.sqrt(within.field / n) / within.mean}
            for n in FIELDS
        ]
        if np.isfinite(within.patient):
            rows["patients"] += _plan_groups(name, within, difference or within.mean / 2, power, rng)
    rows["correlations"] = _attenuate(fields, overall)
    tables = {name: pd.DataFrame(found, columns=list(_COLUMNS[name])) for name, found in rows.items()}
    return Plan(tables, error, power, wanted)


def write_plan(path: Path, plan: Plan) -> Path:
    """Write the plan's tables and page to `plan/` of the run's folder.

    Returns
    -------
    Path
        Of the page.
    """
    folder = path / "plan"
    page = build_page(plan)
    with open_run(path):
        folder.mkdir(exist_ok=True)
        for name, table in plan.tables.items():
            floats = table.select_dtypes("float").columns
            write_table(folder / f"{name}.csv", table.assign(**{one: table[one].round(6) for one in floats}))
        write_bytes(folder / "plan.html", page.encode())
    return folder / "plan.html"


def tell_plan(plan: Plan) -> list[str]:
    """Tell in sentences how many fields the wanted coefficient of error asks for."""
    return [
        f"{marker}: {format_count(n)} field(s) per section for a coefficient of error of "
        f"{100 * plan.error:g} %."
        for marker, n in plan.wanted.items()
    ] or ["No marker varies: nothing to plan."]


def build_page(plan: Plan) -> str:
    """Write the page of a plan."""
    told = tell_plan(plan)
    parts = [
        Part("Plan", state=told[0], points=told[1:]),
        Part("Fields per section", tables=[_print_fields(plan.tables["fields"])]),
        Part("Patients per group", tables=[_print_patients(plan.tables["patients"], plan.power)]),
        Part("Correlations", tables=[_print_correlations(plan.tables["correlations"])]),
        Part("Pilot", tables=[_print_components(plan.tables["components"])]),
        Part("How it was computed", points=_HOW),
    ]
    facts = {
        "wanted coefficient of error": f"{100 * plan.error:g} %",
        "wanted power": f"{100 * plan.power:g} %",
    }
    return build_article("histoquant: plan", "Fields and patients of a study, from a pilot run", facts, parts)


def _check(error: float, power: float, difference: float | None) -> None:
    for value, name, good in (
        (error, "--error", 0 < error < 10),
        (power, "--power", 0.05 < power < 1),
        (difference, "--difference", difference is None or 0 < difference < np.inf),
    ):
        if not good:
            fix = "give 0.1 for 10 %" if name == "--error" else "give more than 0.05 and less than 1"
            raise ResultsError(
                f"{value:g} is out of bounds", name, "give cells per fiber above 0" if "diff" in name else fix
            )


def _describe(marker: str, found: Components) -> dict[str, Any]:
    few = "too few patients or fields for a variance between patients" if np.isnan(found.patient) else ""
    return {
        **{"marker": marker, "patients": found.patients, "sections": found.sections, "fields": found.fields},
        **{"mean": found.mean, "variance_patient": found.patient, "variance_section": found.section},
        **{"variance_field": found.field, "note": few},
    }


def _plan_groups(
    marker: str, found: Components, difference: float, power: float, rng: np.random.Generator
) -> list[dict[str, Any]]:
    rows = []
    for n in FIELDS:
        sd = float(np.sqrt(found.patient + found.vary_value(n)))
        patients, reached = plan_patients(difference, sd, power, _DRAWS, rng)
        about = {"marker": marker, "difference": difference, "fields": n, "sd": sd}
        rows.append({**about, "patients_per_group": patients or np.nan, "power": reached})
    return rows


def _attenuate(fields: pd.DataFrame, found: dict[str, Components]) -> list[dict[str, Any]]:
    """Factor of every pair of markers, with the pilot's own rho before and after."""
    means = fields.pivot_table(index="patient", columns="marker", values="cells_per_fiber", aggfunc="mean")
    people = fields.groupby(["marker", "patient"])["section"]
    counts, sections = (per.groupby("marker").mean() for per in (people.size(), people.nunique()))
    rows = []
    for first, second in combinations(sorted(found), 2):
        pair = means[[first, second]].dropna()
        if len(pair) < 3 or not (found[first].patient > 0 and found[second].patient > 0):
            continue
        one, two = (float(counts[name]) for name in (first, second))
        cut = (float(sections[first]), float(sections[second]))
        factor = attenuate(found[first], found[second], (one, two), cut)
        varies = bool((np.ptp(pair.to_numpy(), axis=0) > 0).all())
        rho = float(stats.spearmanr(*pair.to_numpy().T).statistic) if varies else np.nan
        rows.append(
            {
                **{"marker": first, "marker_2": second, "factor": factor, "fields": one, "fields_2": two},
                **{"rho": rho, "rho_without_error": float(np.clip(rho / factor, -1, 1))},
            }
        )
    return rows


def _print_components(table: pd.DataFrame) -> Table:
    columns = (
        *(Column("Marker", False), Column("Patients"), Column("Sections"), Column("Fields"), Column("Mean")),
        *(Column("SD, patients"), Column("SD, sections"), Column("SD, fields"), Column("Note", False)),
    )
    rows = (
        (
            *(str(row["marker"]), *(format_count(row[name]) for name in ("patients", "sections", "fields"))),
            format_number(row["mean"]),
            *(format_number(np.sqrt(row[f"variance_{name}"])) for name in ("patient", "section", "field")),
            str(row["note"]) or "–",
        )
        for row in table.to_dict("records")
    )
    return make_table(
        "Positive cells per fiber in the pilot's fields; patients within groups.", columns, rows
    )


def _print_fields(table: pd.DataFrame) -> Table:
    columns = (Column("Marker", False), *(Column(f"{n} fields, %") for n in FIELDS))
    rows = (
        (str(marker), *(format_number(100 * value, 1) for value in own["coefficient_of_error"]))
        for marker, own in table.groupby("marker", sort=True)
    )
    return make_table("Coefficient of error of a section's mean.", columns, rows)


def _print_patients(table: pd.DataFrame, power: float) -> Table:
    columns = (
        *(Column("Marker", False), Column("Difference")),
        *(Column(f"{n} fields") for n in FIELDS),
    )
    rows = (
        (
            *(str(marker), format_number(own["difference"].iloc[0])),
            *(format_count(value) for value in own["patients_per_group"]),
        )
        for marker, own in table.groupby("marker", sort=True)
    )
    remark = "Difference in positive cells per fiber. A dash: more than 2,000."
    return make_table(
        f"Patients per group for a power of {100 * power:g} %, by fields per section.", columns, rows, remark
    )


def _print_correlations(table: pd.DataFrame) -> Table:
    columns = (
        *(Column("Markers", False), Column("Fields"), Column("Factor")),
        *(Column("ρ of the pilot"), Column("ρ without error")),
    )
    rows = (
        (
            f"{row['marker']} and {row['marker_2']}",
            f"{format_number(row['fields'], 1)} and {format_number(row['fields_2'], 1)}",
            *(format_number(row[name]) for name in ("factor", "rho", "rho_without_error")),
        )
        for row in table.to_dict("records")
    )
    return make_table("How far the error of fields pulls a correlation towards 0.", columns, rows)
