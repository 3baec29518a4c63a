# This module touches files: it reads a measured section and appends to a reviewer's trail.
"""A section under review: every edit goes to the trail at once, and the library counts anew."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.counts import summarise_section
from histoquant.edits import (
    Change,
    Edit,
    History,
    Kind,
    Signature,
    Verdict,
    choose_id,
    make_change,
    redo_last,
    split_id,
    undo_last,
)
from histoquant.errors import EditError
from histoquant.fields import spawn_generator
from histoquant.review import list_judged, rank_fields, rank_objects
from histoquant.reviewed import StoredSection, open_section, read_ground, read_stored_field
from histoquant.revise import (
    Ground,
    RevisedField,
    StoredField,
    complete_change,
    judge_field,
    needs_ground,
    revise_field,
)
from histoquant.tracing import trace_rings
from histoquant.trails import open_trail

Points = npt.NDArray[np.float64]
Row = Mapping[str, Any]
_COUNTED = (
    *("fibers", "positive_cells", "cells_per_fiber", "positive_fibers", "tissue_mm2"),
    *("status", "reason"),
)


class Review:
    """A reviewer's sitting over one section; the trail is held until `close`.

    Parameters
    ----------
    run : Path
        A run's folder.
    section : str
        ID of the section.
    reviewer : str
        Whose edits.

    Raises
    ------
    HistoquantError
        The section cannot be opened, or the trail is damaged or held by another window.
    """

    def __init__(self, run: Path, section: str, reviewer: str) -> None:
        self.run, self.reviewer = run, reviewer
        self.section: StoredSection = open_section(run, section)
        self._held = ExitStack()
        self._trail = self._held.enter_context(open_trail(self.section.folder, reviewer))
        # Tables of all edited fields, but the label maps of one field only: those are large.
        self._tables: dict[int, tuple[dict[str, Any], pd.DataFrame]] = {}
        self._stored: StoredField | None = None
        self._ground: Ground | None = None
        self._shown: RevisedField | None = None

    def close(self) -> None:
        """Let the trail go."""
        self._held.close()

    @property
    def history(self) -> History:
        """All lines of the trail."""
        return self._trail.history

    @property
    def signed(self) -> bool:
        """Whether the last edit that stands is a signature."""
        done = self.history.done
        return bool(done) and isinstance(done[-1].after, Signature)

    def prepare(self) -> None:
        """Count the edits of earlier sittings; may take seconds, and touches no window."""
        for number in sorted({edit.field for edit in self.history.done if edit.object and edit.field}):
            self._count(number)

    def show(self, number: int) -> tuple[StoredField, RevisedField]:
        """A field as measured, and as it is with the edits."""
        stored = self._open(number)
        if self._shown is None:
            self._count(number)
        assert self._shown is not None
        return stored, self._shown

    def apply(self, change: Change) -> Edit:
        """Check a change, write it to the trail, and count anew.

        Raises
        ------
        EditError
            It does not fit; nothing is written.
        ResultsError
            The slide is gone or changed, and something was drawn; nothing is written.
        StorageError
            The trail cannot be written.
        """
        if change.field is not None:
            stored = self._open(change.field)
            change = complete_change(change, stored, self.history.done)
            if needs_ground([change]):
                self._read_ground(int(stored.row["field"]))
        edit = self._trail.append(change)
        self._update(edit.field)
        return edit

    def undo(self) -> Edit:
        """Undo the last edit; return it."""
        change = undo_last(self.history)
        edit = self.history.done[-1]
        self._trail.append(change)
        self._update(edit.field)
        return edit

    def redo(self) -> Edit:
        """Do the edit undone last again; return it."""
        change = redo_last(self.history)
        edit = self.history.undone[-1]
        self._trail.append(change)
        self._update(edit.field)
        return edit

    def sign(self) -> Edit:
        """Stand for the counts as they are now."""
        now = self.summarise()
        ratio = now["cells_per_fiber"]
        return self.apply(
            make_change(
                "sign",
                fibers=now["fibers"],
                positive_cells=now["positive_cells"],
                cells_per_fiber=None if ratio != ratio else ratio,
            )
        )

    def list_rows(self) -> list[dict[str, Any]]:
        """Rows of all fields, with the edits."""
        done = self.history.done
        return [
            judge_field(self._tables[number][0] if number in self._tables else row, done)
            for row in self.section.record["fields"]
            for number in [int(row["field"])]
        ]

    def list_objects(self) -> pd.DataFrame:
        """Objects of all fields, with the edits."""
        stored = self.section.objects
        if not self._tables:
            return stored
        rest = stored[~stored["field"].isin(list(self._tables))]
        return pd.concat([rest, *(table for _, table in self._tables.values())], ignore_index=True)

    def rank(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Queues of fields and of objects, what matters most first."""
        rows = self.list_rows()
        return rank_fields(rows), rank_objects(rows, self.list_objects(), list_judged(self.history.done))

    def summarise(self, machine: bool = False) -> dict[str, Any]:
        """Summary of the section with the edits, or as the machine has it."""
        rows = list(self.section.record["fields"]) if machine else self.list_rows()
        table = pd.DataFrame(rows).reindex(columns=list(_COUNTED))
        rng = spawn_generator(int(self.section.record["seed"]), f"{self.section.id}/bootstrap")
        asked = int(self.section.record["fields_asked"])
        return summarise_section(table, asked, self.section.protocol.statistics, rng)

    def find_row(self, number: int, machine: bool = False) -> Row:
        """Row of a field, with the edits or as the machine has it."""
        rows = self.section.record["fields"] if machine else self.list_rows()
        return next(row for row in rows if int(row["field"]) == number)

    def find_object(self, number: int, x_um: float, y_um: float, kind: Kind | None = None) -> str | None:
        """ID of the object at a place of a field: a cell, else a fiber, unless one kind is asked for."""
        stored, now = self.show(number)
        row, column = (int(np.floor(v / stored.mpp)) for v in (y_um - stored.y_um, x_um - stored.x_um))
        for of, labels in (("c", now.cells), ("f", now.fibers)):
            if kind is not None and kind[0] != of:
                continue
            inside = 0 <= row < labels.shape[0] and 0 <= column < labels.shape[1]
            if inside and labels[row, column] > 0:
                return f"{number}{of}{labels[row, column]}"
        return None

    def describe(self, name: str) -> Row | None:
        """What is measured of an object; None if it is not there."""
        objects = self.list_objects()
        found = objects[objects["object"].eq(name)]
        return None if found.empty else {str(key): value for key, value in found.iloc[0].items()}

    def outline(self, name: str) -> list[Points]:
        """Outer rings (y, x) of an object along the edges of its pixels, um; empty if it is not there."""
        number, kind, label = split_id(name)
        stored, now = self.show(number)
        mask = (now.fibers if kind == "fiber" else now.cells) == label
        if not mask.any():
            return []
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.int32)
        corner = np.array([stored.y_um + rows[0] * stored.mpp, stored.x_um + columns[0] * stored.mpp])
        return [np.array(ring, float)[:, ::-1] * stored.mpp + corner for _, ring in trace_rings(part)]

    def name_new(self, number: int, kind: Kind) -> str:
        """ID for a new object."""
        stored = self._open(number)
        labels = stored.fibers if kind == "fiber" else stored.cells
        return choose_id(number, kind, int(labels.max(initial=0)), self.history.lines)

    def list_rejected(self, number: int) -> dict[str, Points]:
        """Objects of a field that are rejected, and where (y, x) they were, um."""
        found: dict[str, Points] = {}
        for edit in self.history.done:
            if edit.field != number or edit.object is None or not isinstance(edit.after, Verdict):
                continue
            found.pop(edit.object, None)
            if edit.action == "reject":
                found[edit.object] = np.array([edit.before["y_um"], edit.before["x_um"]], float)
        return found

    def _open(self, number: int) -> StoredField:
        if self._stored is None or int(self._stored.row["field"]) != number:
            self._stored = read_stored_field(self.section, number)
            self._ground = self._shown = None
        return self._stored

    def _read_ground(self, number: int) -> Ground:
        self._open(number)
        if self._ground is None:
            self._ground = read_ground(self.section, number)
        return self._ground

    def _update(self, number: int | None) -> None:
        if number is not None:
            self._open(number)
            self._count(number)

    def _count(self, number: int) -> None:
        """Count a field with the edits that stand."""
        stored = self._open(number)
        own = [edit for edit in self.history.done if edit.field == number]
        ground = self._read_ground(number) if needs_ground(own) else None
        self._shown = revise_field(stored, own, self.section.marker, self.section.protocol, ground)
        if any(edit.object for edit in own):
            self._tables[number] = self._shown.row, self._shown.objects
        else:
            self._tables.pop(number, None)


def require_object(name: str | None) -> str:
    """The object that is chosen.

    Raises
    ------
    EditError
        None is.
    """
    if name is None:
        raise EditError("no object is chosen", "Review", "click one, or take the next of the queue")
    return name
