# This module touches files: it reads truth tables and GeoJSON.
"""What a person counted or marked: counts per field, points, or outlines."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import shapely
from shapely.affinity import scale
from shapely.geometry.base import BaseGeometry

from histoquant.annotations import judge_area, read_shapes
from histoquant.sheets import Line, read_rows
from histoquant.study import encode_name
from histoquant.synthetic.truth import BODY_UM, TruthError

COUNTS = ("section", "field", "fibers", "positive_cells")
POINTS = ("section", "x_um", "y_um", "positive")
_OPTIONAL = ("nucleus_radius_um", "nucleus")
MARK_COLUMNS = ("section", "field", "kind", "cell", "positive", "nucleus", "shape")
_CALLS = {"1": 1, "0": 0, "-1": -1}
_FORMS = f"give the columns {', '.join(COUNTS)} for counts, or {', '.join(POINTS)} for points"


@dataclass(frozen=True)
class Place:
    """Where a section's marks lie.

    Attributes
    ----------
    fields : frozenset of int
        Fields of the run.
    mpp : float or None
        Pixel size of level 0; None for several images, which have no common coordinates.
    """

    fields: frozenset[int]
    mpp: float | None


@dataclass(frozen=True)
class Truth:
    """What a person counted or marked.

    Attributes
    ----------
    name : str
        Name of the file or folder, without its ending.
    form : {"counts", "points", "outlines"}
        How it was given.
    counts : DataFrame
        section, field, fibers, positive_cells (nan where empty); empty for marks.
    marks : DataFrame
        Columns `MARK_COLUMNS`: field (nan: any), kind ("cell", "fiber"), cell (its row or feature),
        positive (1, 0, or -1: uncertain), nucleus (bool), shape (point or area in um); empty for counts.
    """

    name: str
    form: Literal["counts", "points", "outlines"]
    counts: pd.DataFrame
    marks: pd.DataFrame


def read_truth(path: Path, places: Mapping[str, Place]) -> Truth:
    """Read truth in any of its three forms.

    Parameters
    ----------
    path : Path
        A CSV with the columns `COUNTS` or `POINTS` (optionally field, nucleus_radius_um and nucleus), or a
        folder of GeoJSON files, each named by its section.
    places : mapping of str to Place
        Sections of the run.

    Returns
    -------
    Truth

    Raises
    ------
    TruthError
        A column is missing, a value is wrong, a row is repeated, or the run lacks a section or field.
    StudyError
        The table cannot be read.
    AnnotationError
        A GeoJSON file cannot be read.
    """
    if path.is_dir():
        return Truth(path.name, "outlines", _tabulate_counts([]), _read_outlines(path, places))
    _, _, rows = read_rows(path, "truth", ("section",), (*COUNTS, *POINTS, *_OPTIONAL))
    if not rows:
        raise TruthError("has no rows below its header", path, _FORMS)
    given = set(rows[0][1])
    if set(COUNTS) <= given:
        return Truth(path.stem, "counts", _read_counts(rows, path, places), _tabulate_marks([]))
    if set(POINTS) <= given:
        return Truth(path.stem, "points", _tabulate_counts([]), _read_points(rows, path, places))
    raise TruthError(f"has the columns {', '.join(sorted(given))}", f"{path}, row 1", _FORMS)


def _tabulate_counts(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COUNTS))


def _tabulate_marks(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(MARK_COLUMNS))


def _read_counts(rows: list[Line], path: Path, places: Mapping[str, Place]) -> pd.DataFrame:
    seen: dict[tuple[str, int], int] = {}
    found = []
    for line, row in rows:
        where = f"{path}, row {line}"
        place = _find_place(row["section"], places, f"{where}, column section")
        field = _parse_field(row["field"], place, row["section"], f"{where}, column field")
        if (row["section"], field) in seen:
            raise TruthError(
                f"counts field {field} of {row['section']} again, as row {seen[row['section'], field]} did",
                where,
                "remove one of the two; give each reader a file",
            )
        seen[row["section"], field] = line
        counts = {name: _parse_count(row[name], f"{where}, column {name}") for name in COUNTS[2:]}
        found.append({"section": row["section"], "field": field, **counts})
    return _tabulate_counts(found)


def _read_points(rows: list[Line], path: Path, places: Mapping[str, Place]) -> pd.DataFrame:
    seen: dict[tuple[str, ...], int] = {}
    found = []
    for line, row in rows:
        where = f"{path}, row {line}"
        section = row["section"]
        place = _find_place(section, places, f"{where}, column section")
        field: float = math.nan
        if row.get("field"):
            field = _parse_field(row["field"], place, section, f"{where}, column field")
        elif place.mpp is None:
            raise TruthError(
                f"{section} has several images, so a point needs its field",
                where,
                "add the column field",
            )
        key = (section, row["x_um"], row["y_um"], row.get("field", ""))
        if key in seen:
            raise TruthError(f"repeats the point of row {seen[key]}", where, "remove one of the two")
        seen[key] = line
        x, y = (_parse_number(row[name], f"{where}, column {name}") for name in ("x_um", "y_um"))
        if row["positive"] not in _CALLS:
            raise TruthError(
                f"{row['positive'] or 'empty'} is not 1 (positive), 0 (negative) or -1 (cannot be told)",
                f"{where}, column positive",
                "give one of the three",
            )
        shape: BaseGeometry = shapely.Point(x, y)
        if row.get("nucleus_radius_um"):
            radius = _parse_number(row["nucleus_radius_um"], f"{where}, column nucleus_radius_um")
            shape = shape.buffer(max(radius, 0.0) + BODY_UM, quad_segs=32)
        nucleus = row.get("nucleus", "").lower() not in ("0", "false", "no")
        found.append(_mark(section, field, "cell", str(line), _CALLS[row["positive"]], nucleus, shape))
    return _tabulate_marks(found)


def _read_outlines(folder: Path, places: Mapping[str, Place]) -> pd.DataFrame:
    names = {encode_name(section): section for section in places} | {section: section for section in places}
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".geojson", ".json"))
    if not files:
        raise TruthError("holds no GeoJSON", folder, "name each file by its section: P01-CD19.geojson")
    found = []
    seen: dict[str, Path] = {}
    for file in files:
        # Some systems store accents apart from their letters.
        stem = unicodedata.normalize("NFC", file.stem)
        section = names.get(stem, stem)
        place = _find_place(section, places, file)
        if (other := seen.setdefault(section, file)) != file:
            raise TruthError(f"marks {section} again, as {other.name} did", file, "give each reader a folder")
        if place.mpp is None:
            raise TruthError(
                f"{section} has several images, whose pixels one file cannot tell apart",
                file,
                "give a CSV of points with the column field",
            )
        for number, shape in enumerate(read_shapes(file), start=1):
            if judge_area(shape.names) == "exclude":
                continue
            kind, positive = _judge_class(shape.names, shape.where)
            if kind == "fiber" and shape.geometry.geom_type == "Point":
                raise TruthError("is a fiber without outline", shape.where, "outline it, or count by CSV")
            outline = scale(shape.geometry, place.mpp, place.mpp, origin=(0, 0))
            found.append(_mark(section, math.nan, kind, str(number), positive, True, outline))
    return _tabulate_marks(found)


def _judge_class(names: tuple[str, ...], where: str) -> tuple[str, int]:
    """Kind and call of a drawn object, from words of its class."""
    words = " ".join(names).casefold()
    if any(word in words for word in ("fiber", "fibre")):
        return "fiber", 0
    for word, call in (("uncertain", -1), ("negative", 0), ("positive", 1)):
        if word in words:
            return "cell", call
    raise TruthError(
        f"has the class {words!r}" if words else "has no class",
        where,
        "give it a class that says Positive, Negative, Uncertain or Fiber; Exclude or a name ending in * "
        "leaves it out",
    )


def _mark(
    section: str, field: float, kind: str, cell: str, positive: int, nucleus: bool, shape: Any
) -> dict[str, Any]:
    return dict(zip(MARK_COLUMNS, (section, field, kind, cell, positive, nucleus, shape), strict=True))


def _find_place(section: str, places: Mapping[str, Place], where: object) -> Place:
    if section in places:
        return places[section]
    raise TruthError(f"the run has no section {section or '(empty)'}", where, _suggest(section, places))


def _suggest(section: str, known: Collection[str]) -> str:
    near = get_close_matches(section, list(known), n=1) or sorted(known)[:3]
    return (
        f"name a section of the run, such as {', '.join(near)}" if near else "the run has no section at all"
    )


def _parse_field(text: str, place: Place, section: str, where: str) -> int:
    if text.isdecimal() and int(text) in place.fields:
        return int(text)
    known = ", ".join(map(str, sorted(place.fields))) or "none"
    raise TruthError(
        f"{section} has no field {text or '(empty)'}", where, f"its fields are {known} (fields.csv)"
    )


def _parse_count(text: str, where: str) -> float:
    """A whole number, or nan where the cell is empty."""
    if not text:
        return math.nan
    number = _parse_number(text, where)
    if number < 0 or number != int(number):
        raise TruthError(f"{text} is no count", where, "give a whole number, or nothing if not counted")
    return number


def _parse_number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise TruthError(f"{text or 'empty'} is not a number", where, "write it with digits and a point")
    return number
