# This module touches files: it reads a run's folder.
"""Markers of a measured run by the outcome of its patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoquant.cohort.groups import compare_variables, describe_variables
from histoquant.cohort.outcome import UNDETERMINED
from histoquant.errors import ResultsError
from histoquant.fields import spawn_generator
from histoquant.objects import select_countable
from histoquant.protocol import MarkerSettings, Protocol
from histoquant.publish import read_run
from histoquant.results import read_table
from histoquant.stats import compute_statistics
from histoquant.study import encode_name
from histoquant.tables import FIELD_COLUMNS, SECTION_COLUMNS

PLACES = ("endomysial", "perimysial", "perivascular", "invading", "internal")
_USED = ("ok", "incomplete")
_OBJECTS = ["field", "kind", "positive", "counted", "nucleus", "place"]


@dataclass(frozen=True)
class Markers:
    """Markers by outcome.

    Attributes
    ----------
    patients : DataFrame
        patient, group (the outcome; empty where undetermined), one column per marker.
    statistics : DataFrame
        See `histoquant.stats.compute_statistics`.
    summaries, positives : DataFrame
        Marker values, and patients with enough positive cells, by group, and the tests of the latter; see
        `describe_variables` and `compare_variables`.
    positive_tests : DataFrame
    places : DataFrame
        marker, group, place, cells, percent: where the counted positive cells sit.
    least : int
        Positive cells that make a patient positive.
    differing : DataFrame
        patient, group (the study's), outcome, where they differ.
    notes : tuple of str
        Patients that cannot be compared.
    """

    patients: pd.DataFrame
    statistics: pd.DataFrame
    summaries: pd.DataFrame
    positives: pd.DataFrame
    positive_tests: pd.DataFrame
    places: pd.DataFrame
    least: int
    differing: pd.DataFrame
    notes: tuple[str, ...]


def compare_markers(path: Path, outcomes: Mapping[str, str]) -> Markers:
    """Compare a run's markers between patients of different outcome.

    Parameters
    ----------
    path : Path
        The run's folder.
    outcomes : mapping of str to str
        Outcome by patient.

    Returns
    -------
    Markers

    Raises
    ------
    ResultsError
        The folder is no finished run's, or none of its patients is in the cohort.
    """
    run, protocol = read_run(path)
    stored = read_table(path / "patients.csv", ("patient", "group"))
    sections = read_table(path / "sections.csv", SECTION_COLUMNS)
    sections = sections[sections["control"].eq("") & sections["status"].isin(_USED)]
    judged = stored["patient"].map(lambda name: outcomes.get(name, ""))
    if not judged.ne("").any():
        raise ResultsError(
            "none of its patients is in the table of visits", path, "write the patients alike in both"
        )
    group = judged.where(judged.ne(UNDETERMINED), "")
    patients = stored.assign(group=group)
    by_name = dict(zip(stored["patient"], group, strict=True))
    markers = [name for name in stored.columns if name not in ("patient", "group")]
    settings = protocol.statistics
    rng = spawn_generator(int(run["seed"]), "cohort")
    names = pd.Series(pd.Categorical(group.where(group.ne(""), None)))
    positive = find_positive(stored["patient"], sections, markers, settings.positive_patient_cells)
    return Markers(
        patients,
        compute_statistics(patients, markers, settings, rng),
        describe_variables(patients[markers], names),
        describe_variables(positive, names),
        compare_variables(positive, names, rng, settings.confidence),
        count_places(path, sections.assign(group=sections["patient"].map(by_name)), protocol),
        settings.positive_patient_cells,
        list_differing(stored, judged),
        tuple(_note(stored, judged, outcomes)),
    )


def find_positive(
    patients: pd.Series[Any], sections: pd.DataFrame, markers: list[str], least: int
) -> pd.DataFrame:
    """Find which patients have at least so many positive cells over all fields of a marker.

    Parameters
    ----------
    patients : Series of str
        Names.
    sections : DataFrame
        sections.csv, the sections that count.
    markers : list of str
        Columns to make.
    least : int
        Cells that make a patient positive.

    Returns
    -------
    DataFrame
        Index of `patients`, columns `markers`, dtype boolean; missing where the marker was not measured.

    Examples
    --------
    >>> rows = pd.DataFrame({"patient": ["P1", "P1"], "marker": "CD19", "positive_cells": [0, 2]})
    >>> find_positive(pd.Series(["P1", "P2"]), rows, ["CD19"], 2)["CD19"].tolist()
    [True, <NA>]
    """
    totals = sections.groupby(["marker", "patient"])["positive_cells"].sum()
    columns = {}
    for marker in markers:
        own = patients.map(totals.get(marker, pd.Series(dtype=float)))
        columns[marker] = own.ge(least).astype("boolean").where(own.notna())
    return pd.DataFrame(columns, index=patients.index)


def list_differing(stored: pd.DataFrame, judged: pd.Series[Any]) -> pd.DataFrame:
    """List the patients whose group in the study is not their outcome."""
    own = stored["group"].fillna("").astype(str)
    apart = judged.ne("") & judged.ne(UNDETERMINED) & own.ne("") & own.str.lower().ne(judged)
    return pd.DataFrame({"patient": stored["patient"], "group": own, "outcome": judged})[apart]


def count_places(path: Path, sections: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Count where the counted positive cells sit, by marker and outcome.

    Parameters
    ----------
    path : Path
        The run's folder.
    sections : DataFrame
        section, marker, group.
    protocol : Protocol
        Of the run.

    Returns
    -------
    DataFrame
        marker, group, place, cells, percent (of the cells of marker and group).

    Raises
    ------
    ResultsError
        The stored objects of a section cannot be read.
    """
    parts = []
    fields = read_table(path / "fields.csv", FIELD_COLUMNS)
    used = fields[fields["status"].eq("ok")].groupby("section")["field"].agg(set)
    for row in sections[sections["group"].ne("")].to_dict("records"):
        file = path / "sections" / encode_name(str(row["section"])) / "objects.parquet"
        try:
            objects = pd.read_parquet(file, columns=_OBJECTS)
        except (OSError, ValueError) as error:
            raise ResultsError(f"cannot be read ({error})", file, "run `histoquant run` again") from error
        marker = protocol.markers.get(str(row["marker"]), MarkerSettings())
        cells = objects["kind"].eq("cell") & objects["counted"] & objects["positive"]
        cells &= objects["field"].isin(used.get(str(row["section"]), set())) & select_countable(
            objects, marker
        )
        own = objects.loc[cells, "place"]
        parts.append(pd.DataFrame({"marker": row["marker"], "group": row["group"], "place": own}))
    if not parts:
        return pd.DataFrame(columns=["marker", "group", "place", "cells", "percent"])
    joined = pd.concat(parts, ignore_index=True)
    counts = joined.groupby(["marker", "group", "place"]).size().rename("cells").reset_index()
    whole = counts.groupby(["marker", "group"])["cells"].transform("sum")
    return counts.assign(percent=np.round(100 * counts["cells"] / whole, 6))


def _note(stored: pd.DataFrame, judged: pd.Series[Any], outcomes: Mapping[str, str]) -> list[str]:
    """Patients in one table and not in the other, and those without an outcome."""
    unknown = stored.loc[judged.eq(""), "patient"].tolist()
    open_ = stored.loc[judged.eq(UNDETERMINED), "patient"].tolist()
    unmeasured = sorted(set(outcomes) - set(stored["patient"]))
    told = (
        (unknown, "measured, but without a visit: in correlations only"),
        (open_, "measured, but of undetermined outcome: in correlations only"),
        (unmeasured, "without a measured section"),
    )
    return [f"{len(names)} patient(s) {text} ({list_names(names)})." for names, text in told if names]


def list_names(names: list[str], most: int = 12) -> str:
    """List names, of many the first only."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
