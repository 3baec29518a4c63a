"""Tables of a run: fields, sections, patients, in the columns and order of the contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from histoquant.counts import summarise_section
from histoquant.fields import spawn_generator
from histoquant.protocol import QcSettings, StatisticsSettings
from histoquant.qc.verdict import decide
from histoquant.study import Section

IDENTITY = ("patient", "group", "marker", "section", "batch", "control")
FIELD_COLUMNS = (
    *IDENTITY,
    *("field", "shape", "center_x_um", "center_y_um", "width_um", "height_um", "tissue_fraction"),
    *("tissue_mm2", "fibers", "positive_cells", "cells_per_fiber", "positive_fibers"),
    *("straddling_fibers", "straddling_cells", "status", "reason"),
)
SECTION_COLUMNS = (
    *IDENTITY,
    *("fields_asked", "fields", "fibers", "positive_cells", "cells_per_fiber", "cells_per_fiber_sd"),
    *("ci_low", "ci_high", "cells_per_fiber_pooled", "positive_cells_per_mm2", "positive_fibers"),
    *("status", "reason"),
)
_COUNTS = ("fibers", "positive_cells", "positive_fibers", "straddling_fibers", "straddling_cells")
_USED = ("ok", "incomplete")
_DECIMALS = 6
_QC = QcSettings()


def build_fields(sections: Sequence[Section], records: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Build fields.csv: one row per field of every section with a record.

    Parameters
    ----------
    sections : sequence of Section
        Sections of the study.
    records : mapping
        Record of each section by ID; sections without one are left out.

    Returns
    -------
    DataFrame
        Columns `FIELD_COLUMNS`, sorted by patient, marker, section and field.
    """
    rows = [
        {**_identify(section), **row}
        for section in sections
        if section.id in records
        for row in records[section.id]["fields"]
    ]
    table = pd.DataFrame(rows, columns=list(FIELD_COLUMNS))
    table = table.astype(dict.fromkeys(("field", *_COUNTS), "Int64"))
    return _finish(table, "field")


def build_sections(
    sections: Sequence[Section],
    records: Mapping[str, Mapping[str, Any]],
    fields: pd.DataFrame,
    settings: StatisticsSettings,
    seed: int,
    qc: QcSettings = _QC,
) -> pd.DataFrame:
    """Build sections.csv: one row per section with a record, failed ones included.

    Parameters
    ----------
    sections, records
        As for `build_fields`.
    fields : DataFrame
        What `build_fields` made.
    settings : StatisticsSettings
        Of the interval over fields.
    seed : int
        The run's seed; each section's bootstrap has its own generator.
    qc : QcSettings, optional
        Says whether sections of slides to be repeated are excluded, and by which limits.

    Returns
    -------
    DataFrame
        Columns `SECTION_COLUMNS`, then the study table's own.
    """
    rows = []
    extras = _name_extras([name for section in sections for name in section.extra])
    for section in sections:
        if section.id not in records:
            continue
        record = records[section.id]
        own = fields[fields["section"].eq(section.id)]
        rng = spawn_generator(seed, f"{section.id}/bootstrap")
        summary = summarise_section(own, int(record["fields_asked"]), settings, rng)
        if record["status"] == "failed":
            summary |= {"status": "failed", "reason": record["reason"]}
        elif summary["status"] in _USED:
            summary |= exclude_repeat(record["fields"], summary, qc)
        extra = {extras[name]: value for name, value in section.extra.items()}
        rows.append({**_identify(section), **summary, **extra})
    table = pd.DataFrame(rows, columns=[*SECTION_COLUMNS, *extras.values()])
    counts = ("fields_asked", "fields", "fibers", "positive_cells", "positive_fibers")
    return _finish(table.astype(dict.fromkeys(counts, "Int64")))


def exclude_repeat(
    rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], qc: QcSettings
) -> dict[str, Any]:
    """Exclude a section whose slide is to be repeated, if the protocol says so.

    Parameters
    ----------
    rows : sequence of mapping
        Its fields as stored, with `quality` where it was measured.
    summary : mapping
        Its status and reason.
    qc : QcSettings
        Whether to exclude, and the limits.

    Returns
    -------
    dict
        The new status and reason; empty if nothing changes.
    """
    # What could not be measured is stored as null.
    measured = [
        {name: float("nan") if value is None else value for name, value in row["quality"].items()}
        for row in rows
        if row.get("quality")
    ]
    if not qc.exclude_repeat or not measured:
        return {}
    verdict, reasons = decide(measured, qc)
    if verdict != "repeat":
        return {}
    said = "left out of the statistics, since the slide is to be repeated (qc.exclude_repeat): "
    said += "; ".join(reasons)
    return {"status": "excluded", "reason": "; ".join(filter(None, [summary["reason"], said]))}


def build_patients(sections: pd.DataFrame, known: Iterable[str]) -> pd.DataFrame:
    """Build patients.csv: each patient's mean over the sections of a marker.

    Sections with status `ok` or `incomplete` enter; controls do not. A patient without any such section
    keeps a row, empty of values.

    Parameters
    ----------
    sections : DataFrame
        sections.csv.
    known : iterable of str
        Markers of the protocol; sections of others have failed and make no column.

    Returns
    -------
    DataFrame
        `patient`, `group`, then one column per marker, sorted by patient.

    Examples
    --------
    >>> build_patients(pd.DataFrame({"patient": ["P1", "P1"], "group": ["A", "A"], "control": ["", ""],
    ...     "marker": ["CD19", "CD19"], "status": ["ok", "ok"], "cells_per_fiber": [0.1, 0.3]}), ["CD19"])
      patient group  CD19
    0      P1     A   0.2
    """
    own = sections[sections["control"].fillna("").eq("")]
    markers = sorted(set(own["marker"]) & set(known))
    used = own[own["status"].isin(_USED) & own["marker"].isin(markers)]
    means = used.pivot_table(index="patient", columns="marker", values="cells_per_fiber", aggfunc="mean")
    people = own.groupby("patient", sort=True)["group"].first().fillna("")
    table = people.to_frame().join(means.reindex(index=people.index, columns=markers)).reset_index()
    table[markers] = table[markers].astype(float).round(_DECIMALS)
    return table


def _identify(section: Section) -> dict[str, str]:
    return {
        "patient": section.patient,
        "group": section.group,
        "marker": section.marker,
        "section": section.id,
        "batch": section.batch,
        "control": section.control,
    }


def _name_extras(columns: Iterable[str]) -> dict[str, str]:
    """Names in sections.csv of the study table's own columns; a name that is taken gets a prefix."""
    names: dict[str, str] = {}
    own = list(dict.fromkeys(columns))
    for column in own:
        name = column
        while name in SECTION_COLUMNS or (name != column and name in own):
            name = f"study_{name}"
        names[column] = name
    return names


def _finish(table: pd.DataFrame, *last: str) -> pd.DataFrame:
    floats = table.select_dtypes("float").columns
    table = table.assign(**{name: table[name].round(_DECIMALS) for name in floats})
    return table.sort_values(["patient", "marker", "section", *last], kind="stable", ignore_index=True)
