"""Edits of a reviewer: what one is, as a line of a trail, and which of them stand after undo and redo."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from histoquant.errors import EditError

Kind = Literal["fiber", "cell"]
Action = Literal[
    "accept",
    "reject",
    "call",
    "add",
    "split",
    "merge",
    "redraw",
    "exclude",
    "include",
    "sign",
    "undo",
    "redo",
]
_ID = re.compile(r"([1-9]\d*)([fc])([1-9]\d*)")
_DECIMALS = 3  # a nanometre
_MAX_UM = 1e7


def _round(value: float) -> float:
    return round(value, _DECIMALS)


Place = Annotated[float, Field(ge=-_MAX_UM, le=_MAX_UM), AfterValidator(_round)]
Point = tuple[Place, Place]
ObjectId = Annotated[str, Field(pattern=f"^{_ID.pattern}$")]
Ring = Annotated[tuple[Point, ...], Field(min_length=3, max_length=100_000)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Verdict(_Frozen):
    """Of `accept` and `reject`: whether an object is what it is said to be; the last verdict holds."""

    verdict: Literal["accepted", "rejected"]


class Call(_Frozen):
    """Of `call`: whether a cell is positive."""

    positive: bool


class Disc(_Frozen):
    """Of `add`: a round object; without a call of its own it is called as every cell is, by its DAB."""

    x_um: Place
    y_um: Place
    radius_um: Annotated[float, Field(gt=0, le=1000), AfterValidator(_round)]
    positive: bool | None = None


class Outline(_Frozen):
    """Of `add` and `redraw`: a closed outline, (x, y) in um."""

    outline: Ring
    positive: bool | None = None


class Cut(_Frozen):
    """Of `split`: the line, (x, y) in um, that cuts an object in two, and the ID of the new part.

    The line is prolonged at both ends. The larger part keeps the object's ID.
    """

    line: Annotated[tuple[Point, ...], Field(min_length=2, max_length=10_000)]
    part: ObjectId


class Merger(_Frozen):
    """Of `merge`: objects that become part of the edited one."""

    parts: Annotated[tuple[ObjectId, ...], Field(min_length=1)]


class Standing(_Frozen):
    """Of `exclude` and `include`: whether a field is used."""

    status: Literal["excluded", "included"]


class Signature(_Frozen):
    """Of `sign`: the counts that the reviewer stands for."""

    fibers: Annotated[int, Field(ge=0)]
    positive_cells: Annotated[int, Field(ge=0)]
    cells_per_fiber: float | None = None


class Target(_Frozen):
    """Of `undo` and `redo`: the number of the edit that is undone or done again."""

    edit: Annotated[int, Field(ge=1)]


After = Verdict | Call | Disc | Outline | Cut | Merger | Standing | Signature | Target
_AFTER: dict[str, tuple[type[_Frozen], ...]] = {
    **{"accept": (Verdict,), "reject": (Verdict,), "call": (Call,), "add": (Disc, Outline)},
    **{"split": (Cut,), "merge": (Merger,), "redraw": (Outline,)},
    **{"exclude": (Standing,), "include": (Standing,), "sign": (Signature,)},
    **{"undo": (Target,), "redo": (Target,)},
}
_WORDS = {"accept": "accepted", "reject": "rejected", "exclude": "excluded", "include": "included"}
_OF_FIELD, _OF_SECTION = ("exclude", "include"), ("sign", "undo", "redo")


class Change(_Frozen):
    """What a reviewer does; as a line of a trail it becomes an `Edit`.

    Attributes
    ----------
    action : str
        One of `Action`.
    field : int or None
        Number of the field; None for `sign`, `undo` and `redo`.
    object : str or None
        ID of the object, `<field>f<label>` for fibers and `<field>c<label>` for cells. It stays with the
        object through splits and merges and is never given to another.
    before : dict
        What was, for reading; plain values.
    after : one of `After`
        What shall be.
    reason : str
        Why; must be given for `exclude`.
    """

    action: Action
    field: Annotated[int, Field(ge=1)] | None = None
    object: ObjectId | None = None
    before: dict[str, Any] = {}
    after: After
    reason: Annotated[str, Field(max_length=2000)] = ""

    @model_validator(mode="before")
    @classmethod
    def _read_after(cls, data: Any) -> Any:
        """What `after` holds depends on the action."""
        after = data.get("after") if isinstance(data, dict) else None
        kinds = _AFTER.get(str(data.get("action")), ()) if isinstance(data, dict) else ()
        if not isinstance(after, dict) or not kinds:
            return data
        kind = kinds[-1] if "outline" in after else kinds[0]
        return {**data, "after": kind.model_validate(after)}

    @model_validator(mode="after")
    def _check_parts(self) -> Change:
        """The parts of a change fit its action."""
        if not isinstance(self.after, _AFTER[self.action]):
            raise ValueError(f"after does not fit the action {self.action}")
        word = getattr(self.after, "verdict", getattr(self.after, "status", None))
        if word is not None and word != _WORDS[self.action]:
            raise ValueError(f"after says {word}, the action is {self.action}")
        if self.action == "exclude" and not self.reason.strip():
            raise ValueError("a field is excluded for a reason: say it")
        if self.action in _OF_SECTION:
            needed = (self.field is None, self.object is None)
        else:
            needed = (self.field is not None, (self.object is None) == (self.action in _OF_FIELD))
        if not all(needed):
            raise ValueError(f"field and object do not fit the action {self.action}")
        self._check_objects()
        return self

    def _check_objects(self) -> None:
        """All objects lie in the field and are of one kind."""
        if self.object is None:
            return
        names = (self.object, *getattr(self.after, "parts", ()), *_list_new(self))
        split = [split_id(name) for name in names]
        if len(set(names)) < len(names):
            raise ValueError("an object is named twice")
        if len({(field, kind) for field, kind, _ in split}) > 1:
            raise ValueError("objects of one edit lie in one field and are of one kind")
        if split[0][0] != self.field:
            raise ValueError(f"object {self.object} is not of field {self.field}")
        if self.action == "call" and split[0][1] == "fiber":
            raise ValueError("a fiber is not called positive or negative")
        if split[0][1] == "fiber" and getattr(self.after, "positive", None) is not None:
            raise ValueError("a fiber is not called positive or negative")


class Edit(Change):
    """A line of a trail.

    Attributes
    ----------
    number : int
        From 1; numbers of a trail follow each other, so that a missing line is noticed.
    time : datetime
        With its offset from UTC.
    reviewer : str
        Who.
    measured : str
        First characters of the key of the measurement that was edited.
    """

    number: Annotated[int, Field(ge=1)]
    time: datetime
    reviewer: Annotated[str, Field(min_length=1, max_length=200)]
    measured: str

    @model_validator(mode="after")
    def _check_time(self) -> Edit:
        if self.time.tzinfo is None:
            raise ValueError("time lacks its offset from UTC")
        return self


_Model = TypeVar("_Model", bound=Change)


@dataclass(frozen=True)
class History:
    """A trail as read.

    Attributes
    ----------
    lines : tuple of Edit
        All of it, undo and redo included.
    notes : tuple of str
        What is damaged and was left out.
    """

    lines: tuple[Edit, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def done(self) -> tuple[Edit, ...]:
        """Edits that stand, in their order."""
        return replay(self.lines)[0]

    @property
    def undone(self) -> tuple[Edit, ...]:
        """Edits that can be done again, the next one last."""
        return replay(self.lines)[1]


def split_id(name: str) -> tuple[int, Kind, int]:
    """Split an object's ID into field, kind and label.

    Raises
    ------
    EditError
        It is no ID.

    Examples
    --------
    >>> split_id("3c17")
    (3, 'cell', 17)
    """
    found = _ID.fullmatch(name)
    if found is None:
        raise EditError(f"{name!r} is no object", "edit", "name one of objects.parquet, 3c17 say")
    return int(found[1]), "fiber" if found[2] == "f" else "cell", int(found[3])


def join_id(field: int, kind: Kind, label: int) -> str:
    """Make an object's ID.

    Examples
    --------
    >>> join_id(3, "cell", 17)
    '3c17'
    """
    return f"{field}{kind[0]}{label}"


def choose_id(field: int, kind: Kind, highest: int, lines: Sequence[Change]) -> str:
    """Choose the ID of a new object: one that neither the measurement nor any line has used.

    Parameters
    ----------
    field : int
        Number of the field.
    kind : {"fiber", "cell"}
        Of the object.
    highest : int
        Highest label of the kind as measured.
    lines : sequence of Change
        The whole trail, undone edits included.

    Returns
    -------
    str

    Examples
    --------
    >>> choose_id(3, "cell", 17, [])
    '3c18'
    """
    used = [split_id(name) for line in lines for name in (line.object, *_list_new(line)) if name]
    labels = [label for number, of, label in used if (number, of) == (field, kind)]
    return join_id(field, kind, max([highest, *labels]) + 1)


def make_change(action: Action, target: str | int | None = None, reason: str = "", **after: Any) -> Change:
    """Make a change.

    Parameters
    ----------
    action : str
        `accept`, `reject`; `call` (positive); `add` (x_um, y_um, radius_um, or outline; positive);
        `split` (line, part); `merge` (parts); `redraw` (outline); `exclude`, `include`; `sign` (fibers,
        positive_cells, cells_per_fiber); `undo`, `redo` (edit).
    target : str or int or None
        ID of the object, or number of the field.
    reason : str, optional
        Why.
    **after
        What is in brackets above; see `After`.

    Returns
    -------
    Change

    Raises
    ------
    EditError
        Something is missing, unknown or out of bounds.

    Examples
    --------
    >>> make_change("call", "3c17", positive=True).after
    Call(positive=True)
    >>> make_change("exclude", 3, "a fold").field
    3
    """
    if isinstance(target, str):
        place: dict[str, Any] = {"field": split_id(target)[0], "object": target}
    else:
        place = {"field": target}
    if action in _WORDS:
        after = {("status" if action in _OF_FIELD else "verdict"): _WORDS[action], **after}
    return _validate(Change, {"action": action, **place, "after": after, "reason": reason}, "edit")


def parse_line(text: str, where: str) -> Edit:
    """Read a line of a trail.

    Parameters
    ----------
    text : str
        JSON.
    where : str
        File and line, for errors.

    Returns
    -------
    Edit

    Raises
    ------
    EditError
        A value is wrong, or from a newer version.
    ValueError
        It is no JSON: the line is torn.
    """
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("no JSON object")
    return _validate(Edit, data, where)


def format_line(edit: Edit) -> str:
    """Write an edit as a line of a trail, without its end.

    Returns
    -------
    str
        JSON: number, time, reviewer, measured, action, field, object, before, after, reason.
    """
    data = edit.model_dump(mode="json")
    first = ("number", "time", "reviewer", "measured")
    ordered = {name: data[name] for name in first} | data
    return json.dumps(ordered, ensure_ascii=False, allow_nan=False)


def replay(lines: Sequence[Edit]) -> tuple[tuple[Edit, ...], tuple[Edit, ...]]:
    """Find which edits stand after all undo and redo.

    Parameters
    ----------
    lines : sequence of Edit
        A trail.

    Returns
    -------
    done : tuple of Edit
        Edits that stand, in order.
    undone : tuple of Edit
        Edits that can be done again, the next one last; a new edit empties it.

    Raises
    ------
    EditError
        A line undoes what is not the last edit, or does again what was not the last undone.
    """
    done: list[Edit] = []
    undone: list[Edit] = []
    for line in lines:
        if not isinstance(line.after, Target):
            done.append(line)
            undone.clear()
            continue
        source, other = (done, undone) if line.action == "undo" else (undone, done)
        if not source or source[-1].number != line.after.edit:
            raise EditError(
                f"cannot {line.action} edit {line.after.edit}, which is not the last one",
                f"edit {line.number} of {line.reviewer}",
                "the trail was changed by hand: restore it",
            )
        other.append(source.pop())
    return tuple(done), tuple(undone)


def undo_last(history: History) -> Change:
    """Make the change that undoes the last edit.

    Raises
    ------
    EditError
        There is none.
    """
    if not history.done:
        raise EditError("there is nothing to undo")
    return make_change("undo", edit=history.done[-1].number)


def redo_last(history: History) -> Change:
    """Make the change that does the last undone edit again.

    Raises
    ------
    EditError
        There is none.
    """
    if not history.undone:
        raise EditError("there is nothing to redo")
    return make_change("redo", edit=history.undone[-1].number)


def _list_new(change: Change) -> tuple[str, ...]:
    """IDs that a change gives, beside that of its object."""
    return (change.after.part,) if isinstance(change.after, Cut) else ()


def _validate(model: type[_Model], data: dict[str, Any], where: str) -> _Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise EditError(
            f"{key}: {message}" if key else message, where, "correct it, or update histoquant"
        ) from error
