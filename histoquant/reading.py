# This module touches files: it reads a run's fields and keeps what a reader counted in them.
"""Blinded reading: fields of a run in shuffled order, without what tells whose they are or what was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from histoquant import __version__, results
from histoquant.errors import ResultsError
from histoquant.fields import spawn_generator
from histoquant.geometry import Field, Patch, contains_points
from histoquant.prepare import restore_task
from histoquant.reviewed import find_source, open_section
from histoquant.slide import open_slide
from histoquant.study import encode_name
from histoquant.tables import FIELD_COLUMNS
from histoquant.trails import check_name
from histoquant.validation.pairs import USABLE, make_field

Kind = Literal["fiber", "positive", "negative", "uncertain"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CALLS = {"positive": 1, "negative": 0, "uncertain": -1}
COUNT_COLUMNS = ("section", "field", "fibers", "positive_cells")
POINT_COLUMNS = ("section", "field", "x_um", "y_um", "positive")
SURROUND_UM = 60.0
"""Shown around a field, so that what its edge cuts is seen whole."""
_FIX = "read under another name, 'Li 2' say"


@dataclass(frozen=True)
class Mark:
    """Something that a reader counted; x to the right and y down from the field's center, um."""

    kind: Kind
    x_um: float
    y_um: float


@dataclass(frozen=True)
class FieldReading:
    """What a reader marked in one field, and whether the reader is done with it."""

    marks: tuple[Mark, ...] = ()
    done: bool = False


@dataclass(frozen=True)
class Plan:
    """A reading as it was begun.

    Attributes
    ----------
    reader : str
        Who.
    seed : int
        Of the order, which depends on it and on the reader.
    fibers : bool
        Whether fibers are counted.
    places : tuple of (str, Field)
        Section and field, in the order of reading.
    """

    reader: str
    seed: int
    fibers: bool
    places: tuple[tuple[str, Field], ...]


class BlindReading:
    """A reading under way, held by this process; see `open_reading`.

    Fields are known by their place in the order, from 0: nothing here tells whose they are.
    """

    def __init__(self, run: Path, folder: Path, plan: Plan) -> None:
        self._run, self._folder, self._plan = run, folder, plan
        self._read = {number: _read_field(folder, number) for number in range(len(plan.places))}

    def __len__(self) -> int:
        return len(self._plan.places)

    @property
    def fibers(self) -> bool:
        """Whether fibers are counted."""
        return self._plan.fibers

    @property
    def done(self) -> int:
        """How many fields the reader is done with."""
        return sum(one.done for one in self._read.values())

    def next_open(self, after: int = -1) -> int | None:
        """The next field that is not done, from the beginning again at the end; None if all are."""
        order = [*range(after + 1, len(self)), *range(min(after + 1, len(self)))]
        return next((number for number in order if not self._read[number].done), None)

    def get(self, number: int) -> FieldReading:
        """What is marked in a field."""
        return self._read[number]

    def outline(self, number: int) -> Field:
        """A field about its own center, which is (0, 0), without its number."""
        field = self._plan.places[number][1]
        return Field(0, field.shape, 0.0, 0.0, field.width_um, field.height_um)

    def show(self, number: int) -> Patch:
        """Read the picture of a field from its slide, with some of what is around it.

        Parameters
        ----------
        number : int
            Its place in the order.

        Returns
        -------
        Patch
            x_um and y_um count from the field's center.

        Raises
        ------
        HistoquantError
            The slide is gone or is not the one that was measured.
        """
        name, field = self._plan.places[number]
        section = open_section(self._run, name)
        row = next((row for row in section.record["fields"] if int(row["field"]) == field.number), None)
        if row is None or not _is_same(make_field(row), field):
            raise _tell_changed(self._folder)
        receipt = results.read_json(section.folder / "receipt.json") or {}
        task = restore_task(find_source(section), receipt, row, section.protocol)
        width, height = field.width_um + 2 * SURROUND_UM, field.height_um + 2 * SURROUND_UM
        left, top = field.center_x_um - width / 2, field.center_y_um - height / 2
        with closing(open_slide(task.path, task.mpp, task.kind)) as slide:
            x, y = max(left, 0.0), max(top, 0.0)
            patch = slide.read(x, y, left + width - x, top + height - y)
        return Patch(patch.pixels, patch.x_um - field.center_x_um, patch.y_um - field.center_y_um, patch.mpp)

    def save(self, number: int, marks: Sequence[Mark], done: bool) -> None:
        """Keep what is marked in a field; when this returns it is on the disk, whole.

        Parameters
        ----------
        number : int
            The field's place in the order.
        marks : sequence of Mark
            All of them.
        done : bool
            Whether the reader is done with the field. Only then do the tables have it.

        Raises
        ------
        StorageError
            The disk is full or the folder is gone; what was kept before stays.
        """
        reading = FieldReading(tuple(marks), done)
        about = {"time": _now(), "done": done, "marks": [asdict(mark) for mark in marks]}
        results.write_json(_locate_field(self._folder, number), about)
        self._read[number] = reading
        if done:
            write_reading(self._folder, self._plan, self._read)


@contextmanager
def open_reading(
    run: Path, reader: str, seed: int = 0, first: int = 0, fibers: bool = True
) -> Iterator[BlindReading]:
    """Begin a reading of a run's fields, or go on with it.

    Kept in `readings/<reader>/` of the run's folder: plan.json (seed and order), a file per field, and of
    the fields that are done `<reader>.csv` (counts) and `<reader> cells.csv` (points), both in the form that
    `histoquant validate` takes.

    Parameters
    ----------
    run : Path
        A finished run's folder.
    reader : str
        Who reads; a second reading by the same person has a name of its own.
    seed : int, optional
        Of the order. Of a reading that was begun, this and what follows stay as they were.
    first : int, optional
        Fields per section, in the order drawn; 0: all.
    fibers : bool, optional
        Whether fibers are counted.

    Yields
    ------
    BlindReading

    Raises
    ------
    EditError
        The name cannot be used.
    ResultsError
        The folder is no finished run's, has no field to read or cannot be written, its fields were
        drawn anew since the reading began, or another window holds the reading.
    """
    check_name(reader, run)
    fields = results.read_table(run / "fields.csv", FIELD_COLUMNS)
    folder = run / "readings" / encode_name(reader)
    taken = ResultsError(f"the reading by {reader} is open in another window", folder, "close that one first")
    with results.hold_lock(folder / ".lock", taken):
        (folder / "fields").mkdir(exist_ok=True)
        if not (folder / "plan.json").exists():
            plan = plan_reading(fields, reader, seed, first, fibers)
            results.write_json(folder / "plan.json", _encode_plan(plan, first))
        yield BlindReading(run, folder, _read_plan(folder, fields))


def plan_reading(fields: pd.DataFrame, reader: str, seed: int, first: int, fibers: bool) -> Plan:
    """Shuffle the fields of a run for a reader.

    Parameters
    ----------
    fields : DataFrame
        fields.csv; only fields that count are read.
    reader, seed, first, fibers
        See `open_reading`.

    Returns
    -------
    Plan

    Raises
    ------
    ResultsError
        There is no field to read.
    """
    rows = fields[fields["status"].isin(USABLE)].sort_values(["section", "field"])
    rows = rows.groupby("section").head(first) if first else rows
    if rows.empty:
        raise ResultsError("has no field to read", "fields.csv", "measure a section first")
    order = spawn_generator(seed, f"reading by {reader}").permutation(len(rows))
    shuffled = rows.iloc[order].to_dict("records")
    places = [(str(row["section"]), make_field({str(k): v for k, v in row.items()})) for row in shuffled]
    return Plan(reader, seed, fibers, tuple(places))


def tabulate_reading(plan: Plan, read: Mapping[int, FieldReading]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tabulate what a reader counted in the fields that are done.

    Parameters
    ----------
    plan : Plan
        Of the reading.
    read : mapping of int to FieldReading
        By place in the order.

    Returns
    -------
    counts : DataFrame
        `COUNT_COLUMNS`; positive cells are those whose mark lies inside the field, fibers all that are
        marked (nan if they are not counted): the reader judges what is more than half inside.
    points : DataFrame
        `POINT_COLUMNS`, cells only, um from the slide's upper left corner.
    """
    counts: list[tuple[Any, ...]] = []
    points: list[tuple[Any, ...]] = []
    done = [(*place, read[number].marks) for number, place in enumerate(plan.places) if read[number].done]
    for section, field, marks in sorted(done, key=lambda one: (one[0], one[1].number)):
        cells = [mark for mark in marks if mark.kind != "fiber"]
        x = np.array([mark.x_um for mark in cells]) + field.center_x_um
        y = np.array([mark.y_um for mark in cells]) + field.center_y_um
        calls = np.array([CALLS[mark.kind] for mark in cells], int)
        positive = int((contains_points(field, x, y) & (calls == 1)).sum())
        fibers = float(len(marks) - len(cells)) if plan.fibers else np.nan
        counts.append((section, field.number, fibers, positive))
        placed = zip(x.round(3).tolist(), y.round(3).tolist(), calls.tolist(), strict=True)
        points += [(section, field.number, *point) for point in placed]
    table = pd.DataFrame(counts, columns=list(COUNT_COLUMNS)).astype({"fibers": "float"})
    return table, pd.DataFrame(points, columns=list(POINT_COLUMNS)).drop_duplicates(list(POINT_COLUMNS[:4]))


def read_reading(run: Path, reader: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read what a reader counted, as `tabulate_reading` gives it.

    Raises
    ------
    EditError
        The name cannot be used.
    ResultsError
        There is no such reading, it is damaged, or the run's fields were drawn anew since it began.
    """
    check_name(reader, run)
    folder = run / "readings" / encode_name(reader)
    if not (folder / "plan.json").exists():
        known = ", ".join(sorted(path.parent.name for path in run.glob("readings/*/plan.json")))
        raise ResultsError(
            f"has no reading by {reader}", run, f"it has readings by {known}" if known else "read first"
        )
    plan = _read_plan(folder, results.read_table(run / "fields.csv", FIELD_COLUMNS))
    return tabulate_reading(plan, {number: _read_field(folder, number) for number in range(len(plan.places))})


def write_reading(folder: Path, plan: Plan, read: Mapping[int, FieldReading]) -> None:
    """Write both tables of a reading into its folder."""
    counts, points = tabulate_reading(plan, read)
    name = encode_name(plan.reader)
    results.write_table(folder / f"{name}.csv", counts.astype({"fibers": "Int64"}))
    results.write_table(folder / f"{name} cells.csv", points)


def _encode_plan(plan: Plan, first: int) -> dict[str, Any]:
    return {
        **{"reader": plan.reader, "histoquant": __version__, "began": _now()},
        **{"seed": plan.seed, "first": first, "fibers": plan.fibers},
        "places": [{"section": section, **asdict(field)} for section, field in plan.places],
    }


def _read_plan(folder: Path, fields: pd.DataFrame) -> Plan:
    """The plan of a reading, whose fields are still those of the run."""
    about = results.read_json(folder / "plan.json")
    try:
        places = tuple(
            (str(one["section"]), make_field({**one, "field": one["number"]})) for one in about["places"]
        )
        plan = Plan(str(about["reader"]), int(about["seed"]), bool(about["fibers"]), places)
    except (LookupError, TypeError, ValueError) as error:
        raise ResultsError("is damaged", folder / "plan.json", f"restore it, or {_FIX}") from error
    rows = {(str(row["section"]), int(row["field"])): row for row in fields.to_dict("records")}
    for section, field in plan.places:
        row = rows.get((section, field.number))
        if row is None or not _is_same(make_field({str(k): v for k, v in row.items()}), field):
            raise _tell_changed(folder)
    return plan


def _read_field(folder: Path, number: int) -> FieldReading:
    path = _locate_field(folder, number)
    if not path.exists():
        return FieldReading()
    about = results.read_json(path)
    try:
        marks = tuple(Mark(one["kind"], float(one["x_um"]), float(one["y_um"])) for one in about["marks"])
        if any(mark.kind not in KINDS for mark in marks):
            raise ValueError("a mark of no known kind")
        return FieldReading(marks, bool(about["done"]))
    except (LookupError, TypeError, ValueError) as error:
        raise ResultsError("is damaged", path, "restore it, or remove it and read the field again") from error


def _locate_field(folder: Path, number: int) -> Path:
    return folder / "fields" / f"{number + 1}.json"


def _tell_changed(folder: Path) -> ResultsError:
    return ResultsError("is a reading of other fields: they were drawn anew since", folder, _FIX)


def _is_same(one: Field, other: Field) -> bool:
    """Whether two fields lie in one place, but for the rounding of tables."""
    place, place_2 = ((f.center_x_um, f.center_y_um, f.width_um, f.height_um) for f in (one, other))
    return one.shape == other.shape and bool(np.allclose(place, place_2, rtol=0, atol=0.01))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
