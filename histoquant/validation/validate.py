# This module touches files: it reads a run's folder and truth, and writes what came of them.
"""Compare a stored run with truth, and keep the result in the run's folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from histoquant.errors import ResultsError
from histoquant.objects import select_countable
from histoquant.protocol import MarkerSettings, Protocol
from histoquant.publish import publish_report, read_run
from histoquant.results import open_run, read_json, read_table, write_bytes, write_table
from histoquant.study import encode_name
from histoquant.synthetic.truth import TruthError
from histoquant.tables import FIELD_COLUMNS
from histoquant.validation.cells import CELL_COLUMNS, match_field
from histoquant.validation.page import build_page
from histoquant.validation.pairs import (
    USABLE,
    count_truth,
    make_field,
    pair_fields,
    pair_sections,
    select_field,
    summarise_agreement,
)
from histoquant.validation.truth import Place, Truth, read_truth

_DECIMALS = 6
_OBJECTS = ["field", "object", "kind", "x_um", "y_um", "positive", "counted", "nucleus"]


@dataclass(frozen=True)
class Validation:
    """What a comparison gave.

    Attributes
    ----------
    folder : Path
        Where its tables and its page are.
    agreement : DataFrame
        agreement.csv.
    notes : tuple of str
        What was left out or looks odd.
    """

    folder: Path
    agreement: pd.DataFrame
    notes: tuple[str, ...]


def validate_run(path: Path, truth_path: Path) -> Validation:
    """Compare a run with a person's counts, points or outlines, in the run's own fields.

    Written to `validation/<name of the truth>/` of the run's folder: fields.csv, sections.csv,
    agreement.csv, for points and outlines cells.csv, and validation.html; the run's report tells of it.

    Parameters
    ----------
    path : Path
        The run's folder.
    truth_path : Path
        See `histoquant.validation.truth.read_truth`.

    Returns
    -------
    Validation

    Raises
    ------
    ResultsError
        The folder is no finished run's.
    TruthError
        The truth is wrong, or nothing of it can be compared.
    """
    run, protocol = read_run(path)
    fields = read_table(path / "fields.csv", FIELD_COLUMNS)
    truth = read_truth(truth_path, read_places(path, fields, protocol, truth_path.is_dir()))
    usable = fields[fields["status"].isin(USABLE)]
    truth = _doubt_hidden(truth, fields, protocol)
    counts = truth.counts if truth.form == "counts" else count_truth(usable, truth.marks)
    pairs = pair_fields(usable, counts)
    if pairs.empty:
        raise TruthError(
            "has no field that the run counted",
            truth_path,
            "count in the fields of fields.csv with status ok",
        )
    sections = pair_sections(pairs)
    cells = match_cells(path, usable, truth, protocol)
    notes = (*_note_left_out(fields, truth), *_note_marks(pairs, cells, truth))
    agreement = summarise_agreement(pairs, sections, cells, protocol.statistics.confidence)
    folder = path / "validation" / encode_name(truth.name)
    page = build_page(truth, run, pairs, sections, agreement, notes, protocol.statistics.confidence)
    tables = {"fields": pairs, "sections": sections, "agreement": agreement}
    tables |= {} if truth.form == "counts" else {"cells": cells}
    with open_run(path):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cells.csv").unlink(missing_ok=True)
        for name, table in tables.items():
            write_table(folder / f"{name}.csv", _finish(table))
        write_bytes(folder / "validation.html", page.encode())
        publish_report(path)
    return Validation(folder, agreement, notes)


def read_places(path: Path, fields: pd.DataFrame, protocol: Protocol, outlines: bool) -> dict[str, Place]:
    """Read which fields each section has, and the pixel size its marks are in.

    Parameters
    ----------
    path : Path
        The run's folder.
    fields : DataFrame
        fields.csv.
    protocol : Protocol
        Of the run.
    outlines : bool
        Whether marks come as GeoJSON.

    Returns
    -------
    dict of str to Place

    Raises
    ------
    TruthError
        GeoJSON of this run counts from a corner that is not stored.
    """
    if outlines and protocol.geojson_from_bounds:
        raise TruthError(
            "counts GeoJSON from the corner of the scanned area (geojson_from_bounds)",
            path,
            "give the truth as a CSV of points in um",
        )
    places = {}
    for section, own in fields.groupby("section", sort=True):
        receipt = read_json(path / "sections" / encode_name(str(section)) / "receipt.json") or {}
        images = receipt.get("images", [])
        mpp = receipt.get("mpp") or (images[0]["mpp"] if len(images) == 1 else None)
        places[str(section)] = Place(frozenset(own["field"].astype(int)), mpp)
    return places


def match_cells(path: Path, fields: pd.DataFrame, truth: Truth, protocol: Protocol) -> pd.DataFrame:
    """Match the stored cells of every marked section with its marks.

    Parameters
    ----------
    path : Path
        The run's folder.
    fields : DataFrame
        Usable rows of fields.csv.
    truth : Truth
        Its marks.
    protocol : Protocol
        Of the run.

    Returns
    -------
    DataFrame
        Columns `CELL_COLUMNS`; empty without marks of cells.

    Raises
    ------
    ResultsError
        The stored objects of a section cannot be read.
    """
    parts = []
    marks = truth.marks[truth.marks["kind"].eq("cell")]
    for section, own in marks.groupby("section", sort=True):
        rows = fields[fields["section"].eq(section)]
        objects = _read_cells(path, str(section), rows, protocol)
        for row in rows.to_dict("records"):
            inside = select_field(own, int(row["field"]))
            if inside is not None:
                found = objects[objects["field"].eq(row["field"])]
                matched = match_field(make_field({str(k): v for k, v in row.items()}), inside, found)
                parts.append(matched.assign(section=section))
    columns = list(CELL_COLUMNS)
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _read_cells(path: Path, section: str, fields: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Cells of a section that may count, in its fields and their margins."""
    file = path / "sections" / encode_name(section) / "objects.parquet"
    try:
        objects = pd.read_parquet(file, columns=_OBJECTS)
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot be read ({error})", file, "run `histoquant run` again") from error
    marker = _find_marker(fields, section, protocol)
    return objects[objects["kind"].eq("cell") & select_countable(objects, marker)]


def _find_marker(fields: pd.DataFrame, section: str, protocol: Protocol) -> MarkerSettings:
    names = fields.loc[fields["section"].eq(section), "marker"]
    return protocol.markers.get(names.iloc[0], MarkerSettings()) if len(names) else MarkerSettings()


def _doubt_hidden(truth: Truth, fields: pd.DataFrame, protocol: Protocol) -> Truth:
    """Make marks whose nucleus is out of the plane uncertain, where the marker does not count such cells."""
    hidden = ~truth.marks["nucleus"].astype(bool)
    counted = {
        section: _find_marker(fields, section, protocol).count_without_nucleus
        for section in truth.marks["section"].unique()
    }
    hidden &= ~truth.marks["section"].map(counted).astype(bool)
    return replace(truth, marks=truth.marks.assign(positive=truth.marks["positive"].mask(hidden, -1)))


def _note_left_out(fields: pd.DataFrame, truth: Truth) -> list[str]:
    """Fields of the truth that the run did not count."""
    bad = fields[~fields["status"].isin(USABLE)]
    if truth.form == "counts":
        bad = bad.merge(truth.counts[["section", "field"]], on=["section", "field"])
    else:
        bad = bad[bad["section"].isin(truth.marks["section"])]
    return [
        f"Field {int(row['field'])} of {row['section']} is {row['status']} in the run and was not compared."
        for row in bad.to_dict("records")
    ]


def _note_marks(pairs: pd.DataFrame, cells: pd.DataFrame, truth: Truth) -> list[str]:
    """Marks that lie in no field, and fields without a mark, which may be mistakes."""
    notes = []
    inside = cells[cells["source"].eq("truth") & cells["counted"]]
    for section, marks in truth.marks[truth.marks["kind"].eq("cell")].groupby("section", sort=True):
        if not inside["section"].eq(section).any():
            notes.append(
                f"None of the {len(marks)} marked cells of {section} lies in a field: are they in um from "
                "the slide's upper left corner?"
            )
    if truth.form != "counts":
        empty = pairs[pairs["true_positive_cells"].eq(0) & pairs["positive_cells"].gt(0)]
        notes += [
            f"No positive mark in field {row['field']} of {row['section']}, where the run counts "
            f"{row['positive_cells']:.0f}: taken as none."
            for row in empty.to_dict("records")
        ]
    return notes


def _finish(table: pd.DataFrame) -> pd.DataFrame:
    """Whole counts without a point, other numbers to six decimals."""
    whole = [name for name in table if name in ("fields", "fibers", "positive_cells")]
    whole += [f"true_{name}" for name in whole if f"true_{name}" in table]
    floats = table.select_dtypes("float").columns
    return table.assign(**{name: table[name].round(_DECIMALS) for name in floats}).astype(
        dict.fromkeys(whole, "Int64")
    )
