# This module touches files: it reads a run's folder and writes what reviewers made of it beside it.
"""Reviewed: stored sections opened for review, and a run's tables with a reviewer's edits."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from histoquant import __version__, results
from histoquant.edits import Edit, History, Signature
from histoquant.errors import EditError, ResultsError, StorageError
from histoquant.objects import find_inside
from histoquant.prepare import read_field, restore_task
from histoquant.protocol import MarkerSettings, Protocol
from histoquant.publish import publish_report, publish_statistics, read_run
from histoquant.results import EDITS, read_record, read_table
from histoquant.revise import Ground, RevisedField, StoredField, judge_field, needs_ground, revise_field
from histoquant.study import Section, encode_name, fingerprint_file, read_study
from histoquant.tables import FIELD_COLUMNS, SECTION_COLUMNS, build_fields, build_sections
from histoquant.trails import read_trail

EDIT_COLUMNS = (
    *("section", "number", "time", "reviewer", "action", "field", "object", "before", "after"),
    *("reason", "stands"),
)
_STORED = ("ok", "no_fibers")


@dataclass(frozen=True)
class StoredSection:
    """A measured section, opened for review; see `open_section`.

    Attributes
    ----------
    id : str
        As in sections.csv.
    folder : Path
        `sections/<ID>` of the run's folder: trails are opened here.
    marker : MarkerSettings
        Of its marker.
    protocol : Protocol
        Of the run.
    record : mapping
        measured.json.
    objects : DataFrame
        objects.parquet.
    study : Path
        The study table.
    """

    id: str
    folder: Path
    marker: MarkerSettings
    protocol: Protocol
    record: Mapping[str, Any]
    objects: pd.DataFrame
    study: Path

    def list_fields(self) -> tuple[int, ...]:
        """Numbers of the fields that have objects."""
        return tuple(int(row["field"]) for row in self.record["fields"] if row["status"] in _STORED)


def open_section(path: Path, section: str) -> StoredSection:
    """Open a measured section for review.

    Parameters
    ----------
    path : Path
        A run's folder.
    section : str
        ID of the section.

    Returns
    -------
    StoredSection

    Raises
    ------
    ResultsError
        The folder is no finished run's, the section was not measured, or its objects cannot be read.
    """
    run, protocol = read_run(path)
    table = read_table(path / "sections.csv", SECTION_COLUMNS)
    marker = dict(zip(table["section"], table["marker"], strict=True)).get(section)
    folder = path / "sections" / encode_name(section)
    record = read_record(folder)
    if marker is None or record is None:
        raise ResultsError(f"has no measured section {section}", path, "name one of sections.csv")
    settings = protocol.markers.get(marker, MarkerSettings())
    objects = (
        results.read_objects(folder / "objects.parquet")
        if any(row["status"] in _STORED for row in record["fields"])
        else None
    )
    return StoredSection(
        section,
        folder,
        settings,
        protocol,
        record,
        pd.DataFrame() if objects is None else objects,
        Path(run["study"]["path"]),
    )


def read_stored_field(section: StoredSection, number: int) -> StoredField:
    """Read a field as the machine measured it.

    Raises
    ------
    ResultsError
        The section has no such field, or its label maps cannot be read.
    """
    if number not in section.list_fields():
        raise ResultsError(f"field {number} has no objects", section.folder, "choose another field")
    row = _find_row(section, number)
    fibers, x_um, y_um, mpp = results.read_labels(section.folder / f"fields/{number}_fibers.tif")
    cells, *place = results.read_labels(section.folder / f"fields/{number}_cells.tif")
    if cells.shape != fibers.shape or place != [x_um, y_um, mpp]:
        raise ResultsError(
            f"the label maps of field {number} differ in place", section.folder, "run `histoquant run` again"
        )
    objects = section.objects[section.objects["field"].eq(number)].reset_index(drop=True)
    return StoredField(row, objects, fibers, cells, x_um, y_um, mpp)


def read_ground(section: StoredSection, number: int) -> Ground:
    """Read what a field's objects are measured on, from the slide itself.

    Parameters
    ----------
    section : StoredSection
        Of `open_section`.
    number : int
        Of the field.

    Returns
    -------
    Ground

    Raises
    ------
    HistoquantError
        The study table or the slide is gone, or has changed since it was measured.
    """
    source = find_source(section)
    receipt = results.read_json(section.folder / "receipt.json") or {}
    task = restore_task(source, receipt, _find_row(section, number), section.protocol)
    _, _, stains = read_field(task, section.marker, section.protocol)
    return Ground(stains, find_inside(task.field, task.annotations, stains))


def publish_review(path: Path, reviewer: str, page: bool = False) -> tuple[Path, tuple[str, ...]]:
    """Write a run's tables with a reviewer's edits to `reviewed/<reviewer>/` of its folder.

    fields.csv, sections.csv, patients.csv and statistics.csv as the run has them; edits.csv, every line of
    the trails; review.json, whose they are, and who signed what; of edited sections the objects and label
    maps. Without edits that matter, the tables are the machine's to the last digit. What an earlier call
    wrote is replaced; the machine's own files are only read.

    Parameters
    ----------
    path : Path
        A run's folder.
    reviewer : str
        Whose edits.
    page : bool, optional
        Write report.html too; one that is there is always written again, so that it tells what the tables
        hold.

    Returns
    -------
    folder : Path
        Where the tables are.
    notes : tuple of str
        Torn lines of the trails, and counts that are not those signed.

    Raises
    ------
    ResultsError
        The folder is no finished run's, or the reviewer has edited nothing in it.
    EditError
        A trail is damaged, or an edit does not fit.
    """
    run, protocol = read_run(path)
    with results.open_run(path):
        table = read_table(path / "sections.csv", SECTION_COLUMNS)
        trails = _read_trails(path, table["section"].tolist(), reviewer)
        sections = [_restore_section(row) for row in table.to_dict("records")]
        records = _read_records(path, table)
        folder = results.locate_review(path, reviewer)
        page = page or (folder / "report.html").exists()
        aside = folder.with_name(f".{folder.name[:100]}.new")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            for name, history in trails.items():
                rows = _revise_section(path, name, history.done, aside)
                records[name] = {**records[name], "fields": rows}
            fields = build_fields(sections, records)
            summary = build_sections(
                sections, records, fields, protocol.statistics, int(run["seed"]), protocol.qc
            )
            results.write_table(aside / "fields.csv", fields)
            results.write_table(aside / "sections.csv", summary)
            publish_statistics(aside, summary, protocol, int(run["seed"]))
            results.write_table(aside / "edits.csv", list_edits(trails))
            results.write_json(aside / "review.json", _describe_review(path, reviewer, trails))
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
        except OSError as error:
            raise StorageError(
                f"cannot be written ({error.strerror})",
                folder,
                "free space or mend the folder, then try again",
            ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        if page:
            publish_report(path, reviewer)
    notes = [note for history in trails.values() for note in history.notes]
    return folder, (*notes, *_compare_signed(trails, summary))


def list_edits(trails: Mapping[str, History]) -> pd.DataFrame:
    """List every line of trails in a table.

    Parameters
    ----------
    trails : mapping of str to History
        By section.

    Returns
    -------
    DataFrame
        Columns `EDIT_COLUMNS`; before and after as JSON; `stands`: not undone (undo and redo never stand).
    """
    rows = []
    for section, history in trails.items():
        standing = {edit.number for edit in history.done}
        for edit in history.lines:
            data = edit.model_dump(mode="json")
            texts = {name: json.dumps(data[name], ensure_ascii=False) for name in ("before", "after")}
            rows.append({**data, **texts, "section": section, "stands": edit.number in standing})
    return pd.DataFrame(rows, columns=list(EDIT_COLUMNS)).astype({"field": "Int64"})


def _find_row(section: StoredSection, number: int) -> Mapping[str, Any]:
    rows: list[Mapping[str, Any]] = [row for row in section.record["fields"] if row["field"] == number]
    return rows[0]


def find_source(section: StoredSection) -> Section:
    """Find a section in the study table, its files unchanged.

    Parameters
    ----------
    section : StoredSection
        Of `open_section`.

    Returns
    -------
    Section

    Raises
    ------
    ResultsError
        Its row is gone from the table, or a file is gone or is not what was measured.
    StudyError
        The table cannot be read.
    """
    study = read_study(section.study, section.protocol.markers)
    found = [one for one in study.sections if one.id == section.id]
    if not found:
        raise ResultsError(f"has no section {section.id} any more", section.study, "restore its row")
    known = set(section.record["inputs"].values())
    for file in [p for source in found[0].sources for p in (source.path, source.annotations) if p]:
        try:
            same = fingerprint_file(file) in known
        except OSError as error:
            raise ResultsError(
                f"cannot be read ({error.strerror}), and its pixels are needed", file, "bring it back"
            ) from error
        if not same:
            raise ResultsError(
                "is not the file that was measured, and its pixels are needed", file, "bring the old one back"
            )
    return found[0]


def _read_trails(path: Path, sections: Sequence[str], reviewer: str) -> dict[str, History]:
    """The reviewer's trails by section, those sections only that have one."""
    folders = {name: path / "sections" / encode_name(name) for name in sections}
    file = f"{encode_name(reviewer)}.jsonl"
    trails = {
        name: read_trail(folder, reviewer)
        for name, folder in folders.items()
        if (folder / EDITS / file).is_file()
    }
    if not trails:
        known = sorted({one for folder in folders.values() for one in results.list_reviewers(folder)})
        there = f"it has edits by {', '.join(known)}" if known else "nobody has edited anything in it"
        raise ResultsError(f"has no edits by {reviewer}", path, there)
    return trails


def _restore_section(row: Mapping[Any, Any]) -> Section:
    """A section as its row of sections.csv has it."""
    names = list(row)
    extra = {name: str(row[name]) for name in names[names.index("reason") + 1 :]}
    return Section(
        id=str(row["section"]),
        patient=str(row["patient"]),
        group=str(row["group"]),
        marker=str(row["marker"]),
        batch=str(row["batch"]),
        control=str(row["control"]),
        block="",
        sources=(),
        extra=extra,
    )


def _read_records(path: Path, table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Records of all sections of sections.csv, failed ones as that table has them."""
    shown = set(read_table(path / "fields.csv", FIELD_COLUMNS)["section"])
    records: dict[str, dict[str, Any]] = {}
    for row in table.to_dict("records"):
        name = str(row["section"])
        record = read_record(path / "sections" / encode_name(name))
        if record is None:
            raise ResultsError(f"has lost section {name}", path, "run `histoquant run` again")
        if name not in shown:
            record |= {"status": "failed", "reason": row["reason"], "fields": []}
        records[name] = record
    return records


def _revise_section(path: Path, name: str, edits: Sequence[Edit], aside: Path) -> list[dict[str, Any]]:
    """Field rows of a section after the edits; its objects and label maps are written."""
    section = open_section(path, name)
    touched = {edit.field for edit in edits if edit.object}
    folder = aside / "sections" / encode_name(name)
    rows: list[dict[str, Any]] = []
    parts: list[pd.DataFrame] = []
    for row in section.record["fields"]:
        number = int(row["field"])
        if number not in touched:
            rows.append(judge_field(row, edits))
            if number in section.list_fields():
                parts.append(section.objects[section.objects["field"].eq(number)])
            continue
        try:
            found = _revise(section, number, edits)
        except EditError as error:
            raise EditError(error.what, f"{name}, {error.where}", error.fix) from error
        rows.append(found.row)
        parts.append(found.objects)
        (folder / "fields").mkdir(parents=True, exist_ok=True)
        place = read_stored_field(section, number)
        for kind, labels in (("fibers", found.fibers), ("cells", found.cells)):
            data = results.encode_labels(labels, place.x_um, place.y_um, place.mpp)
            results.write_bytes(folder / f"fields/{number}_{kind}.tif", data)
    if touched:
        objects = pd.concat(parts, ignore_index=True)
        results.write_bytes(folder / "objects.parquet", results.encode_objects(objects))
    return rows


def _revise(section: StoredSection, number: int, edits: Sequence[Edit]) -> RevisedField:
    own = [edit for edit in edits if edit.field == number]
    ground = read_ground(section, number) if needs_ground(own) else None
    stored = read_stored_field(section, number)
    return revise_field(stored, own, section.marker, section.protocol, ground)


def _compare_signed(trails: Mapping[str, History], sections: pd.DataFrame) -> list[str]:
    """Say where the tables are not what the reviewer signed."""
    rows = {str(row["section"]): row for row in sections.to_dict("records")}
    notes = []
    for name, history in trails.items():
        after = history.done[-1].after if history.done else None
        if isinstance(after, Signature):
            found = (int(rows[name]["fibers"]), int(rows[name]["positive_cells"]))
            if found != (after.fibers, after.positive_cells):
                notes.append(
                    f"{name}: signed were {after.fibers} fibers and {after.positive_cells} positive cells, "
                    f"the tables have {found[0]} and {found[1]}"
                )
    return notes


def _describe_review(path: Path, reviewer: str, trails: Mapping[str, History]) -> dict[str, Any]:
    """Whose tables these are, what they rest on, and what was signed."""
    sections = {}
    for name, history in trails.items():
        file = path / "sections" / encode_name(name) / EDITS / f"{encode_name(reviewer)}.jsonl"
        last = history.done[-1] if history.done else None
        signed = isinstance(last.after, Signature) if last else False
        sections[name] = {
            "lines": len(history.lines),
            "edits": len([edit for edit in history.done if edit.action != "sign"]),
            "signed": last.time.isoformat() if last and signed else None,
            "trail_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "notes": history.notes,
        }
    return {
        "reviewer": reviewer,
        "histoquant": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "sections": sections,
    }
