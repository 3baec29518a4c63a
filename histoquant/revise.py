"""Revision: a measured field and a reviewer's edits in, objects and counts as the reviewer has them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from shapely.geometry.base import BaseGeometry
from shapely.ops import split as split_geometry

from histoquant.annotations import rasterize_area
from histoquant.counts import count_field
from histoquant.edits import Call, Change, Cut, Disc, Kind, Merger, Outline, split_id
from histoquant.errors import EditError
from histoquant.geometry import Field, rasterize_field
from histoquant.measure import locate_cells
from histoquant.objects import OBJECT_COLUMNS, list_objects
from histoquant.protocol import CellSettings, MarkerSettings, Protocol
from histoquant.sensitivity import CALLED
from histoquant.stains import Stains

Labels = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]
REDRAWN = "edited by the reviewer"
_DRAW = ("add", "split", "merge", "redraw")
_WHERE = ("x_um", "y_um", "area_um2", "positive", "counted")


@dataclass(frozen=True)
class StoredField:
    """A field as the machine measured it.

    Attributes
    ----------
    row : mapping
        Its row in measured.json: field, status, reason, counts.
    objects : DataFrame
        Its rows of objects.parquet.
    fibers, cells : ndarray of int32, shape (rows, columns)
        Its label maps.
    x_um, y_um, mpp : float
        Where the label maps lie.
    """

    row: Mapping[str, Any]
    objects: pd.DataFrame
    fibers: Labels
    cells: Labels
    x_um: float
    y_um: float
    mpp: float


@dataclass(frozen=True)
class Ground:
    """What objects are measured on.

    Attributes
    ----------
    stains : Stains
        Of the field and its margin.
    inside : ndarray of bool
        Where objects count; see `histoquant.objects.find_inside`.
    """

    stains: Stains
    inside: Mask


@dataclass(frozen=True)
class RevisedField:
    """A field after the edits: as `StoredField`, without what was rejected, merged away or covered."""

    row: dict[str, Any]
    objects: pd.DataFrame
    fibers: Labels
    cells: Labels


@dataclass
class _Sheet:
    """Label maps being drawn on, and what is said of objects."""

    fibers: Labels
    cells: Labels
    x_um: float
    y_um: float
    mpp: float
    calls: dict[str, bool] = field(default_factory=dict)
    rejected: set[str] = field(default_factory=set)
    added: set[str] = field(default_factory=set)

    def get(self, kind: Kind) -> Labels:
        return self.fibers if kind == "fiber" else self.cells

    def find(self, name: str) -> Mask:
        """Pixels of an object; an error if it has none."""
        _, kind, label = split_id(name)
        found = self.get(kind) == label
        if not found.any():
            raise EditError(
                f"{name} is not there: never found, merged into another, or covered by one", "edit", "undo"
            )
        return np.asarray(found)


def needs_ground(edits: Sequence[Change]) -> bool:
    """Say whether edits draw objects, which must then be measured on the slide's pixels."""
    return any(edit.action in _DRAW for edit in edits)


def revise_field(
    stored: StoredField,
    edits: Sequence[Change],
    marker: MarkerSettings,
    protocol: Protocol,
    ground: Ground | None = None,
) -> RevisedField:
    """Apply a reviewer's edits to a field.

    Objects whose pixels changed are measured as the machine measures, on the edited label maps, and count
    by half area; all others keep what was measured. A cell that the reviewer called keeps that call,
    through splits and merges too; one that the reviewer added has a nucleus, since the reviewer saw a cell.

    Parameters
    ----------
    stored : StoredField
        As measured.
    edits : sequence of Change
        Edits that stand (`History.done`), in order; those of other fields are passed over.
    marker : MarkerSettings
        Of the section's marker.
    protocol : Protocol
        Of the run.
    ground : Ground or None, optional
        Needed if `needs_ground`.

    Returns
    -------
    RevisedField

    Raises
    ------
    EditError
        An edit names an object that is not there, draws nothing, or needs the ground.
    """
    number = int(stored.row["field"])
    own = [edit for edit in edits if edit.field == number]
    if not any(edit.object for edit in own):
        return RevisedField(judge_field(stored.row, own), stored.objects, stored.fibers, stored.cells)
    sheet = _draw_edits(stored, own)
    fibers, cells = (_drop(sheet.get(kind), kind, sheet.rejected) for kind in ("fiber", "cell"))
    moved = _find_moved(stored.fibers, sheet.fibers, number, "fiber")
    moved |= _find_moved(stored.cells, sheet.cells, number, "cell")
    present = _list_names(fibers, number, "fiber") | _list_names(cells, number, "cell")
    objects = stored.objects.reindex(columns=list(OBJECT_COLUMNS))
    objects = objects[objects["object"].isin(present - moved)]
    if not np.array_equal(fibers, stored.fibers):
        objects = _place_cells(objects, fibers, cells, stored.mpp, protocol.cells)
    if moved & present:
        if ground is None:
            raise EditError("objects were drawn, so the slide's pixels are needed", f"field {number}")
        how = (marker, protocol.cells, protocol.fibers)
        fresh = list_objects(number, fibers, cells, ground.stains, ground.inside, *how)
        fresh = _mark_drawn(fresh[fresh["object"].isin(moved)], sheet.added)
        objects = pd.concat([objects, fresh], ignore_index=True).astype(fresh.dtypes.to_dict())
    objects = _mark_called(objects, sheet.calls)
    objects = objects.sort_values(["kind", "label"], ascending=[False, True], ignore_index=True)
    row = judge_field(_count_again(stored, objects), own)
    return RevisedField(row, objects, fibers, cells)


def judge_field(row: Mapping[str, Any], edits: Sequence[Change]) -> dict[str, Any]:
    """Give a field's row the status that the reviewer gave it: the last of exclude and include holds.

    Examples
    --------
    >>> from histoquant.edits import make_change
    >>> judge_field({"field": 3, "status": "ok", "reason": ""}, [make_change("exclude", 3, "a fold")])
    {'field': 3, 'status': 'excluded', 'reason': 'by the reviewer: a fold'}
    """
    last = [edit for edit in edits if edit.action in ("exclude", "include") and edit.field == row["field"]]
    if not last or last[-1].action == "include":
        return dict(row)
    return {**row, "status": "excluded", "reason": f"by the reviewer: {last[-1].reason}"}


def complete_change(change: Change, stored: StoredField, edits: Sequence[Change]) -> Change:
    """Check a change against the field as it stands, and say in it what was before.

    Parameters
    ----------
    change : Change
        What the reviewer wants.
    stored : StoredField
        The change's field as measured.
    edits : sequence of Change
        Edits that stand so far.

    Returns
    -------
    Change
        With `before`: the object's x_um, y_um, area_um2, or the field's status; ready for `Trail.append`.

    Raises
    ------
    EditError
        The object is not there, or what is drawn covers no pixel of the picture.
    """
    own = [edit for edit in edits if edit.field == change.field]
    if change.object is None:
        before: dict[str, Any] = {}
        if change.field is not None:
            before = {"status": judge_field(stored.row, own)["status"]}
        return change.model_copy(update={"before": before})
    sheet = _draw_edits(stored, own)
    before = {} if change.action == "add" else _describe(sheet, change.object, stored)
    _draw(sheet, change)
    return change.model_copy(update={"before": before})


def _describe(sheet: _Sheet, name: str, stored: StoredField) -> dict[str, Any]:
    """Where an object is, and what is said of it."""
    rows, columns = np.nonzero(sheet.find(name))
    found: dict[str, Any] = {
        "x_um": round(float(sheet.x_um + (columns.mean() + 0.5) * sheet.mpp), 3),
        "y_um": round(float(sheet.y_um + (rows.mean() + 0.5) * sheet.mpp), 3),
        "area_um2": round(float(len(rows) * sheet.mpp**2), 3),
    }
    machine = stored.objects.loc[stored.objects["object"].eq(name), "positive"]
    if name in sheet.calls or len(machine):
        found["positive"] = bool(sheet.calls.get(name, machine.iloc[0] if len(machine) else False))
    return found | ({"verdict": "rejected"} if name in sheet.rejected else {})


def _draw_edits(stored: StoredField, edits: Sequence[Change]) -> _Sheet:
    place = (stored.x_um, stored.y_um, stored.mpp)
    sheet = _Sheet(stored.fibers.copy(), stored.cells.copy(), *place)
    for edit in edits:
        try:
            _draw(sheet, edit)
        except EditError as error:
            number = getattr(edit, "number", None)
            if number is None:
                raise
            raise EditError(
                error.what, f"edit {number} of {getattr(edit, 'reviewer', '')}", error.fix
            ) from error
    return sheet


def _draw(sheet: _Sheet, edit: Change) -> None:
    steps: dict[str, Callable[[_Sheet, Change, str], None]] = {
        **{"accept": _judge, "reject": _judge, "call": _call},
        **{"add": _add, "redraw": _redraw, "split": _split, "merge": _merge},
    }
    if edit.object is not None:
        steps[edit.action](sheet, edit, edit.object)


def _judge(sheet: _Sheet, edit: Change, name: str) -> None:
    sheet.find(name)
    if edit.action == "reject":
        sheet.rejected.add(name)
    else:
        sheet.rejected.discard(name)


def _call(sheet: _Sheet, edit: Change, name: str) -> None:
    sheet.find(name)
    assert isinstance(edit.after, Call)
    sheet.calls[name] = edit.after.positive


def _add(sheet: _Sheet, edit: Change, name: str) -> None:
    _, kind, label = split_id(name)
    if (sheet.get(kind) == label).any():
        raise EditError(f"{name} is there already", "edit", "give the new object an ID of its own")
    _paint(sheet, edit, kind, label)
    sheet.added.add(name)


def _redraw(sheet: _Sheet, edit: Change, name: str) -> None:
    before = sheet.find(name)
    _, kind, label = split_id(name)
    sheet.get(kind)[before] = 0
    _paint(sheet, edit, kind, label)


def _paint(sheet: _Sheet, edit: Change, kind: Kind, label: int) -> None:
    """What is drawn covers what was there of its kind."""
    after, name = edit.after, edit.object
    assert isinstance(after, Disc | Outline)
    assert name is not None
    if isinstance(after, Disc):
        x, y, r = after.x_um, after.y_um, after.radius_um
        shape: Field | BaseGeometry = Field(1, "circle", x, y, 2 * r, 2 * r)
        bounds = (x - r, y - r, x + r, y + r)
    else:
        shape = shapely.make_valid(shapely.Polygon(after.outline))
        bounds = shape.bounds
    box = _find_box(sheet, bounds)
    pixels = _rasterize(sheet, shape, box)
    if not pixels.any():
        raise EditError(
            f"{name} covers no pixel of the field and its margin", "edit", "draw it larger, or nearer"
        )
    _crop(sheet.get(kind), box)[pixels] = label
    if after.positive is not None:
        sheet.calls[name] = after.positive


def _split(sheet: _Sheet, edit: Change, name: str) -> None:
    assert isinstance(edit.after, Cut)
    _, kind, _ = split_id(name)
    number = split_id(edit.after.part)[2]
    whole = sheet.find(name)
    if (sheet.get(kind) == number).any():
        raise EditError(f"{edit.after.part} is there already", "edit", "give the part an ID of its own")
    rows, columns = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
    box = (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
    left, top = sheet.x_um + box[2] * sheet.mpp, sheet.y_um + box[0] * sheet.mpp
    frame = shapely.box(left, top, sheet.x_um + box[3] * sheet.mpp, sheet.y_um + box[1] * sheet.mpp)
    sides = _cut(frame, edit.after.line)
    first = _rasterize(sheet, sides[0], box) & _crop(whole, box)
    second = _crop(whole, box) & ~first
    if not first.any() or not second.any():
        raise EditError(f"the line does not cut {name}", "edit", "draw it across the object")
    # The larger keeps the name; of equals, the one that is met first from the top.
    smaller = min((second, first), key=lambda part: (part.sum(), -int(np.flatnonzero(part)[0])))
    _crop(sheet.get(kind), box)[smaller] = number
    part = edit.after.part
    if name in sheet.calls:
        sheet.calls[part] = sheet.calls[name]
    for names in (sheet.rejected, sheet.added):
        if name in names:
            names.add(part)


def _cut(frame: BaseGeometry, line: Sequence[tuple[float, float]]) -> list[BaseGeometry]:
    """The two sides of a line, prolonged, in a frame."""
    points = np.asarray(line, float)
    reach = 2 * float(np.ptp(np.vstack([points, shapely.get_coordinates(frame)]), axis=0).max())
    ends = []
    for end, inner in ((points[0], points[1]), (points[-1], points[-2])):
        length = float(np.hypot(*(end - inner)))
        if length == 0:
            raise EditError("the line has no direction", "edit", "draw it across the object")
        ends.append(end + (end - inner) / length * reach)
    knife = shapely.LineString(np.vstack([ends[0], points, ends[1]]))
    sides = list(split_geometry(frame, knife).geoms) if knife.is_simple else []
    if len(sides) != 2:
        raise EditError(
            "the line does not cross the object once", "edit", "cut straight across, one cut at a time"
        )
    return sides


def _merge(sheet: _Sheet, edit: Change, name: str) -> None:
    assert isinstance(edit.after, Merger)
    _, kind, label = split_id(name)
    sheet.find(name)
    names = (name, *edit.after.parts)
    for part in edit.after.parts:
        sheet.get(kind)[sheet.find(part)] = label
    calls = {sheet.calls.get(one) for one in names}
    agreed = calls.pop() if len(calls) == 1 else None
    for one in names:
        sheet.calls.pop(one, None)
    if agreed is not None:
        sheet.calls[name] = agreed
    if sheet.added & set(names):
        sheet.added.add(name)
    sheet.rejected -= set(edit.after.parts)


def _find_box(sheet: _Sheet, bounds: tuple[float, ...]) -> Box:
    """First and last row and column (exclusive) that bounds (left, top, right, bottom), um, touch."""
    rows, columns = sheet.cells.shape
    left, top, right, bottom = (
        (value - corner) / sheet.mpp
        for value, corner in zip(bounds, (sheet.x_um, sheet.y_um) * 2, strict=True)
    )
    first = [int(np.clip(np.floor(value), 0, size)) for value, size in ((top, rows), (left, columns))]
    last = [int(np.clip(np.ceil(value), 0, size)) for value, size in ((bottom, rows), (right, columns))]
    return first[0], last[0], first[1], last[1]


def _rasterize(sheet: _Sheet, shape: Field | BaseGeometry, box: Box) -> Mask:
    """Pixels of a box whose center lies inside a shape."""
    size = (box[1] - box[0], box[3] - box[2])
    place = (sheet.x_um + box[2] * sheet.mpp, sheet.y_um + box[0] * sheet.mpp, sheet.mpp)
    if 0 in size:
        return np.zeros(size, bool)
    if isinstance(shape, Field):
        return rasterize_field(shape, size, *place)
    areas = [part for part in shapely.get_parts(shape) if part.area > 0]
    found = np.zeros(size, bool)
    for area in areas:
        for part in shapely.get_parts(area):
            if part.geom_type == "Polygon":
                found |= rasterize_area(part, size, *place)
    return found


def _crop(array: npt.NDArray[Any], box: Box) -> npt.NDArray[Any]:
    return array[box[0] : box[1], box[2] : box[3]]


def _drop(labels: Labels, kind: Kind, names: set[str]) -> Labels:
    """The map without some objects."""
    gone = [label for _, of, label in map(split_id, sorted(names)) if of == kind]
    return np.where(np.isin(labels, gone), 0, labels).astype(np.int32) if gone else labels


def _find_moved(before: Labels, after: Labels, number: int, kind: Kind) -> set[str]:
    """Objects whose pixels are not what they were."""
    differs = before != after
    labels = np.union1d(before[differs], after[differs])
    return {f"{number}{kind[0]}{label}" for label in labels if label > 0}


def _list_names(labels: Labels, number: int, kind: Kind) -> set[str]:
    present = np.flatnonzero(np.bincount(labels.ravel()))
    return {f"{number}{kind[0]}{label}" for label in present if label > 0}


def _place_cells(
    objects: pd.DataFrame, fibers: Labels, cells: Labels, mpp: float, settings: CellSettings
) -> pd.DataFrame:
    """Say anew in or by which fiber each cell lies."""
    found = locate_cells(cells, fibers, mpp, settings)
    cell = objects["kind"].eq("cell")
    rows = found.reindex(objects.loc[cell, "label"])
    objects = objects.copy()
    known, fresh = objects.loc[cell, "place"], rows["place"].to_numpy()
    # Without stains no vessel is seen, nor which cells are positive; the edit changes neither.
    same = objects.loc[cell, "fiber"].to_numpy() == rows["fiber"].to_numpy()
    stays = (known.eq("perivascular") & (fresh == "perimysial")) | (
        known.eq("invading") & (fresh == "internal") & same
    )
    objects.loc[cell, "place"] = np.where(stays, known, fresh)
    objects.loc[cell, "fiber"] = rows["fiber"].to_numpy()
    return objects


def _mark_drawn(objects: pd.DataFrame, added: set[str]) -> pd.DataFrame:
    """Say that a person drew these, and count those added as cells with a nucleus."""
    new = objects["object"].isin(added) & objects["kind"].eq("cell")
    reason = objects["reason"].mask(new, objects["reason"].str.replace("no nucleus in the plane", ""))
    half = objects["fraction_in_field"].gt(0.5)
    return objects.assign(
        nucleus=objects["nucleus"].mask(new, True),
        counted=objects["counted"] | (new & half),
        reason=[_join(text, REDRAWN) for text in reason],
    )


def _mark_called(objects: pd.DataFrame, calls: Mapping[str, bool]) -> pd.DataFrame:
    """Give objects the reviewer's calls, which have no confidence."""
    called = objects["object"].isin(list(calls))
    if not called.any():
        return objects
    positive = [
        calls.get(name, call) for name, call in zip(objects["object"], objects["positive"], strict=True)
    ]
    reasons = [
        _join(text, CALLED) if mine else text for text, mine in zip(objects["reason"], called, strict=True)
    ]
    confidence = objects["confidence"].mask(called)
    return objects.assign(positive=positive, confidence=confidence, reason=reasons)


def _join(*texts: str) -> str:
    return "; ".join(part for text in texts for part in text.split("; ") if part)


def _count_again(stored: StoredField, objects: pd.DataFrame) -> dict[str, Any]:
    """The field's row with new counts; what else was noted of the field stays."""
    said = count_field(stored.objects)["reason"]
    rest = str(stored.row["reason"] or "").removeprefix(said).removeprefix("; ")
    counts = count_field(objects)
    return {**stored.row, **counts, "reason": _join(counts["reason"], rest)}
