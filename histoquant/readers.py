# This module touches files: it reads the tables of reviewers and writes how they agree.
"""Readers: how two reviewers of the same sections agree, or one and the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
from markupsafe import Markup

from histoquant import results
from histoquant.agreement import LEAST, describe_limits, measure_limits
from histoquant.errors import EditError, ResultsError
from histoquant.geometry import contains_points
from histoquant.objects import select_countable
from histoquant.protocol import MarkerSettings, Protocol
from histoquant.publish import read_run
from histoquant.reading import read_reading
from histoquant.report.agreement import plot_differences, plot_identity
from histoquant.report.article import Figure, Part, build_article
from histoquant.report.formats import format_count, format_interval, format_number, format_text, is_absent
from histoquant.report.table import Column, Table, make_table
from histoquant.reviewed import publish_review
from histoquant.study import encode_name
from histoquant.tables import FIELD_COLUMNS
from histoquant.validation.cells import CELL_COLUMNS, match_field, pair_points
from histoquant.validation.pairs import (
    QUANTITIES,
    USABLE,
    make_field,
    pair_fields,
    pair_sections,
    summarise_agreement,
)

PROGRAM = "the program"
_DECIMALS = 6
_NAMES = {
    **{"fibers": "Fibers", "positive_cells": "Positive cells", "cells_per_fiber": "Positive cells per fiber"},
    **{"positive cells": "Positive cells found by both", "call": "Calls of cells that both have"},
}
_CELL_MEASURES = {"f1": "F1", "agreement": "share of equal calls", "kappa": "Cohen's kappa"}
_WHAT = {
    False: "Sections that both have edited, fields that both use, the half-area rule.",
    True: "Fields that both have read without knowing whose they are or what the program found. Cells count "
    "by their mark, fibers as their reader judged.",
}
_HOW = (
    "Bias is the mean of the differences, first − second; limits of agreement: {limits} (Bland and Altman). "
    "ICC(2,1): two-way random, absolute agreement, one rating.",
    "Cells are the same up to 4 µm apart, one to one. Kappa is over the calls, positive or not, of cells "
    "that both have and at least one counts; 0 is chance, 1 perfect. F1 is over positive cells of either.",
)
_NOT_ALONE = (
    "Reviewers who edit the program's objects begin from the same counts, and agree better than two who "
    "count alone: what nobody edited is equal by itself. To compare independent readers, let each count "
    "without the program's objects."
)
_LIMITS = (
    "Fields of one section, and cells of one field, are alike: their intervals are too narrow; those of "
    "sections are not.",
)


@dataclass(frozen=True)
class Reading:
    """What one reader has: fields.csv, and where the objects of a section are.

    Attributes
    ----------
    name : str
        The reviewer, or `PROGRAM`.
    fields : DataFrame
        fields.csv.
    folders : tuple of Path
        Where a section's objects.parquet is looked for, the first that has it.
    sections : frozenset of str
        Sections that the reader has edited; all for the program.
    marks : DataFrame, optional
        Cells of a blinded reading, instead of objects: section, field, object, x_um, y_um, area_um2,
        positive (-1: the reader cannot tell), counted.
    """

    name: str
    fields: pd.DataFrame
    folders: tuple[Path, ...]
    sections: frozenset[str]
    marks: pd.DataFrame | None = None


def compare_readers(
    path: Path, first: str, second: str | None = None, blinded: bool = False
) -> tuple[Path, pd.DataFrame]:
    """Compare two reviewers of a run's sections, or the program and one reviewer; or blinded readers.

    Written to `readers/<first> against <second>/` of the run's folder, or for the program (differences are
    program − reviewer) to `validation/reviewer <first>/`, which the run's report shows: fields.csv and
    sections.csv (`true_` before the second's), cells.csv, agreement.csv, validation.html. Blinded readers
    have the word `blinded` before their names there, and the run's report shows them in either case.

    Parameters
    ----------
    path : Path
        A run's folder.
    first : str
        A reviewer.
    second : str or None, optional
        Another; the program if None.
    blinded : bool, optional
        Compare what they read blinded (`histoquant.reading`), not their edits.

    Returns
    -------
    folder : Path
        Of the tables and the page.
    agreement : DataFrame
        Columns of `histoquant.validation.pairs.SUMMARY_COLUMNS`.

    Raises
    ------
    EditError
        The two are one person.
    ResultsError
        There is no section that both have edited, or no field that both use.
    """
    if first == second:
        raise EditError(f"{first} is compared with {first}", path, "name two reviewers")
    run, protocol = read_run(path)
    read = _read_blinded if blinded else _read_reviewer
    how = "blinded " if blinded else ""
    if second is None:
        readings = (_read_program(path), read(path, first))
        folder = path / "validation" / encode_name(f"{how or 'reviewer '}{first}")
    else:
        readings = (read(path, first), read(path, second))
        folder = path / "readers" / encode_name(f"{how}{first} against {second}")
    pairs = _pair(readings)
    if pairs.empty:
        raise ResultsError(
            f"has no field that {readings[0].name} and {readings[1].name} both reviewed and use",
            path,
            "let both review the same sections",
        )
    sections = pair_sections(pairs)
    cells = _match_cells(readings, pairs, protocol)
    confidence = protocol.statistics.confidence
    agreement = summarise_agreement(pairs, sections, cells, confidence)
    names = (readings[0].name, readings[1].name)
    page = build_page(run, names, pairs, sections, agreement, confidence, blinded)
    with results.open_run(path):
        folder.mkdir(parents=True, exist_ok=True)
        tables = {"fields": pairs, "sections": sections, "cells": cells, "agreement": agreement}
        for name, table in tables.items():
            floats = table.select_dtypes("float").columns
            rounded = table.assign(**{column: table[column].round(_DECIMALS) for column in floats})
            results.write_table(folder / f"{name}.csv", rounded)
        results.write_bytes(folder / "validation.html", page.encode())
    return folder, agreement


def build_page(
    run: Mapping[str, Any],
    names: tuple[str, str],
    pairs: pd.DataFrame,
    sections: pd.DataFrame,
    agreement: pd.DataFrame,
    confidence: float,
    blinded: bool = False,
) -> str:
    """Write the page of a comparison of readers.

    Parameters
    ----------
    run : mapping
        run.json.
    names : tuple of str
        Of the first and the second.
    pairs, sections, agreement : DataFrame
        See `histoquant.validation.pairs`.
    confidence : float
        Of limits and intervals.
    blinded : bool, optional
        Whether they are blinded readers.

    Returns
    -------
    str
        HTML, complete in itself.
    """
    facts = {
        "first": names[0],
        "second": names[1],
        "sections": format_count(len(sections)),
        "fields": format_count(len(pairs)),
        "protocol hash": str(run.get("protocol_hash") or "")[:12],
    }
    tables = [tabulate_counts(agreement, level, confidence) for level in ("section", "field")]
    how = [text.replace("{limits}", describe_limits(confidence)) for text in _HOW]
    parts = [
        Part("Counts", figures=_draw(pairs, names, confidence), tables=tables),
        Part("Cells", tables=[tabulate_calls(agreement, confidence)]),
        Part("How it was compared", points=(_WHAT[blinded], *how)),
        Part("What it does not mean", points=_LIMITS if blinded else (_NOT_ALONE, *_LIMITS)),
    ]
    title = f"histoquant: {names[0]} and {names[1]}"
    return build_article(title, "Two readings of the same fields", facts, parts)


def tabulate_counts(agreement: pd.DataFrame, level: str, confidence: float) -> Table:
    """Tabulate bias, limits of agreement and ICC of a level ("section", "field")."""
    ci = f"({100 * confidence:g} % CI)"
    columns = (
        Column("Quantity", False), Column("n"), Column(f"Bias {ci}"), Column(f"Lower limit {ci}"),
        Column(f"Upper limit {ci}"), Column(f"ICC(2,1) {ci}"), Column("Note", False),
    )  # fmt: skip
    rows = []
    own = agreement[agreement["level"].eq(level)]
    for (marker, quantity), part in own.groupby(["marker", "quantity"], sort=False):
        found = {str(row["measure"]): row for row in part.to_dict("records")}
        decimals = 3 if quantity == "cells_per_fiber" else 1
        shown = [found[name] for name in ("bias", "limit_low", "limit_high", "icc")]
        notes = dict.fromkeys(str(row["note"]) for row in shown if not is_absent(row["note"]))
        rows.append(
            (
                _name(str(marker), str(quantity)),
                format_count(found["bias"]["n"]),
                *(_write(row, decimals) for row in shown[:3]),
                _write(shown[3], 3),
                format_text("; ".join(notes)),
            )
        )
    return make_table(f"Agreement by {level}; differences are first − second.", columns, rows)


def tabulate_calls(agreement: pd.DataFrame, confidence: float) -> Table:
    """Tabulate how positive cells and calls agree."""
    columns = (
        Column("Measure", False), Column("n"), Column("Value"), Column(f"{100 * confidence:g} % CI"),
        Column("Note", False),
    )  # fmt: skip
    own = agreement[agreement["level"].eq("cell") & agreement["measure"].isin(list(_CELL_MEASURES))]
    rows = (
        (
            f"{_name(str(row['marker']), str(row['quantity']))}: {_CELL_MEASURES[str(row['measure'])]}",
            format_count(row["n"]),
            format_number(row["estimate"]),
            format_interval(row["ci_low"], row["ci_high"]),
            format_text(row["note"]),
        )
        for row in own.to_dict("records")
    )
    return make_table("Positive cells and calls.", columns, rows)


def _read_program(path: Path) -> Reading:
    fields = results.read_table(path / "fields.csv", FIELD_COLUMNS)
    return Reading(PROGRAM, fields, (path,), frozenset(fields["section"]))


def _read_reviewer(path: Path, name: str) -> Reading:
    """A reviewer's tables, made from the trails as they are now."""
    folder, _ = publish_review(path, name)
    fields = results.read_table(folder / "fields.csv", FIELD_COLUMNS)
    review = results.read_json(folder / "review.json")
    return Reading(name, fields, (folder, path), frozenset(review["sections"]))


def _read_blinded(path: Path, name: str) -> Reading:
    """What a blinded reader counted, as if it were a run's."""
    counts, points = read_reading(path, name)
    fields = results.read_table(path / "fields.csv", FIELD_COLUMNS)
    own = fields.drop(columns=["fibers", "positive_cells"]).merge(counts, on=["section", "field"])
    placed = {(str(r["section"]), int(r["field"])): make_field(r) for r in _list_rows(own)}
    inside = [
        bool(contains_points(placed[row["section"], row["field"]], row["x_um"], row["y_um"]))
        for row in _list_rows(points)
    ]
    marks = points.assign(
        object=[f"mark {number}" for number in range(1, len(points) + 1)], counted=inside, area_um2=0.0
    )
    return Reading(f"{name}, blinded", own, (path,), frozenset(own["section"]), marks)


def _pair(readings: Sequence[Reading]) -> pd.DataFrame:
    """Counts of both side by side, in fields that both use of sections that both edited."""
    both = readings[0].sections & readings[1].sections
    one, other = (
        reading.fields[reading.fields["status"].isin(USABLE) & reading.fields["section"].isin(list(both))]
        for reading in readings
    )
    return pair_fields(one, other)


def _match_cells(readings: Sequence[Reading], pairs: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Cells of the first matched with those of the second, field by field."""
    parts = []
    fields = readings[0].fields.merge(pairs[["section", "field"]], on=["section", "field"])
    for section in sorted(set(fields["section"])):
        rows = fields[fields["section"].eq(section)]
        marker = protocol.markers.get(str(rows["marker"].iloc[0]), MarkerSettings())
        one, other = (_read_cells(reading, section, marker) for reading in readings)
        for row in rows.to_dict("records"):
            field = make_field({str(key): value for key, value in row.items()})
            own, theirs = _share_doubt(*(cells[cells["field"].eq(field.number)] for cells in (one, other)))
            matched = match_field(field, _make_marks(theirs), own)
            parts.append(matched.assign(section=section))
    columns = list(CELL_COLUMNS)
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _list_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _share_doubt(one: pd.DataFrame, other: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take a cell that the first cannot call as one that nobody can, so that it counts neither way."""
    doubted = one["positive"].astype(int).eq(-1)
    place, place_2 = (part[["x_um", "y_um"]].to_numpy(float) for part in (one[doubted], other))
    _, partners = pair_points(place, place_2)
    calls = other["positive"].astype(int).to_numpy().copy()
    calls[partners] = -1
    return one[~doubted], other.assign(positive=calls)


def _read_cells(reading: Reading, section: str, marker: MarkerSettings) -> pd.DataFrame:
    if reading.marks is not None:
        return reading.marks[reading.marks["section"].eq(section)]
    place = f"sections/{encode_name(section)}/objects.parquet"
    file = next((folder / place for folder in reading.folders if (folder / place).is_file()), None)
    objects = results.read_objects(file or reading.folders[-1] / place)
    return objects[objects["kind"].eq("cell") & select_countable(objects, marker)]


def _make_marks(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells as marks: discs of their area, so that they count by half of it; points where there is none."""
    centers = shapely.points(cells["x_um"].to_numpy(float), cells["y_um"].to_numpy(float))
    area = cells["area_um2"].to_numpy(float)
    discs = shapely.buffer(centers, np.sqrt(area / np.pi), quad_segs=32)
    shapes = np.where(area > 0, np.asarray(discs, object), np.asarray(centers, object))
    return pd.DataFrame(
        {
            "cell": cells["object"].astype(str).to_numpy(),
            "positive": cells["positive"].astype(int).to_numpy(),
            "shape": shapes,
        }
    )


def _name(marker: str, quantity: str) -> str:
    return f"{marker}: {_NAMES[quantity]}" if marker and marker != "nan" else _NAMES[quantity]


def _write(row: Mapping[Any, Any], decimals: int) -> str:
    value = format_number(row["estimate"], decimals)
    if is_absent(row["estimate"]) or is_absent(row["ci_low"]):
        return value
    return f"{value} ({format_interval(row['ci_low'], row['ci_high'], decimals)})"


def _draw(pairs: pd.DataFrame, names: tuple[str, str], confidence: float) -> list[Figure]:
    """Each quantity by field: against each other, and the differences of Bland and Altman."""
    figures = []
    for part in QUANTITIES:
        points = pd.DataFrame(
            {
                "name": pairs["section"] + " field " + pairs["field"].astype(str),
                "group": pairs["marker"],
                "value": pairs[part].astype(float),
                "reference": pairs[f"true_{part}"].astype(float),
            }
        ).dropna()
        if len(points) < LEAST:
            continue
        what = _NAMES[part].lower()
        limits = measure_limits(points["value"], points["reference"], confidence)
        one, two = (
            plot_identity(points, f"{what}, {names[0]}", f"{what}, {names[1]}"),
            plot_differences(points, limits, f"{what}, mean of both", "difference, first − second"),
        )
        figures.append(Figure(Markup(one), f"{_NAMES[part]} by field. Line: both equal."))
        figures.append(
            Figure(
                Markup(two),
                f"{_NAMES[part]} by field. Line: bias; dashed: limits of agreement; shaded: their intervals.",
            )
        )
    return figures
