# This module touches files: it reads stored sections and writes the run's tables, run.json and report.
"""What a run publishes: tables, statistics and report, always made from what is stored."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from histoquant import __version__, results
from histoquant.compared import read_comparisons
from histoquant.counts import explain_section, judge_section
from histoquant.errors import ResultsError
from histoquant.fibers import identify_segmenter
from histoquant.fields import spawn_generator
from histoquant.geometry import Field, contains_points
from histoquant.inclusion import count_half_area
from histoquant.measure import CUT
from histoquant.objects import select_countable
from histoquant.protocol import (
    MarkerSettings,
    Protocol,
    QcSettings,
    hash_measurement,
    hash_protocol,
    validate_protocol,
)
from histoquant.report import RunTables, build_report
from histoquant.sensitivity import suggest_thresholds, try_thresholds, try_vectors
from histoquant.stats import compute_statistics
from histoquant.study import Section, Study, encode_name
from histoquant.tables import (
    FIELD_COLUMNS,
    SECTION_COLUMNS,
    build_fields,
    build_patients,
    build_sections,
    exclude_repeat,
)

_RULES = ("half_area", "centroid", "clipped", "whole")
_PLACE = ("center_x_um", "center_y_um", "width_um", "height_um")
_JUDGED = ["status", "reason", "positive_cells"]
_OBJECT_COLUMNS = (
    *(
        "field",
        "kind",
        "label",
        "x_um",
        "y_um",
        "area_um2",
        "min_feret_um",
        "fraction_in_field",
        "positive",
        "reason",
    ),
    "dab_od",
)
TABLES = {
    "fields": FIELD_COLUMNS,
    "sections": SECTION_COLUMNS,
    "patients": ("patient", "group"),
    "statistics": ("analysis", "marker", "marker_2"),
}
_LIBRARIES = (
    *("numpy", "scipy", "pandas", "scikit-image", "opencv-python-headless"),
    *("openslide-python", "openslide-bin", "tifffile", "imagecodecs", "simplejpeg"),
)


def read_records(
    path: Path, sections: Sequence[Section], unavailable: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Records of the sections that were measured, by ID.

    Parameters
    ----------
    path : Path
        The run's folder.
    sections : sequence of Section
        Of the study.
    unavailable : mapping of str to str
        Sections whose stored result does not stand for their slide now: they have failed, for this reason.

    Returns
    -------
    dict
    """
    found = {section.id: results.read_record(path / "sections" / section.folder) for section in sections}
    records = {name: record for name, record in found.items() if record is not None}
    for name, reason in unavailable.items():
        records[name] |= {"status": "failed", "reason": reason, "fields": []}
    return records


def publish_tables(
    path: Path, study: Study, protocol: Protocol, seed: int, unavailable: Mapping[str, str]
) -> pd.DataFrame:
    """Write fields.csv and sections.csv from the stored sections, then what follows from them.

    Parameters
    ----------
    path : Path
        The run's folder.
    study : Study
        Names, groups and batches come from it, so that a mended table needs no new measurement.
    protocol : Protocol
        Of the intervals and tests.
    seed : int
        The run's.
    unavailable : mapping of str to str
        See `read_records`.

    Returns
    -------
    DataFrame
        sections.csv.
    """
    records = read_records(path, study.sections, unavailable)
    fields = build_fields(study.sections, records)
    sections = build_sections(study.sections, records, fields, protocol.statistics, seed, protocol.qc)
    results.write_table(path / "fields.csv", fields)
    results.write_table(path / "sections.csv", sections)
    publish_statistics(path, sections, protocol, seed)
    return sections


def publish_statistics(path: Path, sections: pd.DataFrame, protocol: Protocol, seed: int) -> None:
    """Write patients.csv and statistics.csv from sections.csv."""
    patients = build_patients(sections, protocol.markers)
    markers = [name for name in patients.columns if name not in ("patient", "group")]
    rng = spawn_generator(seed, "statistics")
    statistics = compute_statistics(patients, markers, protocol.statistics, rng)
    results.write_table(path / "patients.csv", patients)
    results.write_table(path / "statistics.csv", statistics)


def write_run(
    path: Path,
    study: Study,
    protocol: Protocol,
    seed: int,
    times: tuple[datetime, datetime | None],
    unavailable: Mapping[str, str],
    waiting: Collection[str] = (),
) -> None:
    """Write run.json: what was run, on what, and the status of every section.

    Parameters
    ----------
    path : Path
        The run's folder.
    study, protocol, seed
        Of the run.
    times : tuple of datetime
        UTC; when the run began, and when it finished, None while it goes on.
    unavailable : mapping of str to str
        See `read_records`.
    waiting : collection of str, optional
        Sections that are still to be measured.
    """
    records = read_records(path, study.sections, unavailable)
    segmenter = identify_segmenter(protocol.fibers)
    sections = {}
    for section in study.sections:
        record = None if section.id in waiting else records.get(section.id)
        current = (hash_measurement(protocol, section.marker), segmenter, seed, __version__)
        sections[section.id] = {"folder": section.folder, **_describe_record(record, current, protocol.qc)}
    started, finished = times
    run = {
        "histoquant": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _find_version(name) for name in _LIBRARIES},
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds") if finished else None,
        "seed": seed,
        "study": {
            "path": str(study.path.resolve()),
            "encoding": study.encoding,
            "delimiter": study.delimiter,
        },
        "segmenter": segmenter,
        "protocol": protocol.model_dump(mode="json"),
        "protocol_hash": hash_protocol(protocol),
        "sections": sections,
    }
    results.write_json(path / "run.json", run)


def read_run(path: Path) -> tuple[dict[str, Any], Protocol]:
    """Read run.json and the protocol in it.

    Raises
    ------
    ResultsError
        The folder is not a run's, or the run has not finished.
    ProtocolError
        The protocol is from a newer version.
    """
    run = results.read_json(path / "run.json")
    if not isinstance(run, dict) or "protocol" not in run:
        raise ResultsError(
            "is not a run's folder: it has no readable run.json", path, "give the --out of a run"
        )
    if not run.get("finished"):
        raise ResultsError("holds a run that has not finished", path, "give `histoquant run` again")
    return run, validate_protocol(run["protocol"], path / "run.json")


def publish_report(path: Path, reviewer: str | None = None) -> Path:
    """Write report.html from the stored tables and pictures, with sensitivity.csv and thresholds.csv.

    Parameters
    ----------
    path : Path
        The run's folder.
    reviewer : str or None, optional
        Report the tables with this reviewer's edits, which must be there, beside them.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    ResultsError
        A table is absent or damaged.
    """
    run, protocol = read_run(path)
    folder = path if reviewer is None else results.locate_review(path, reviewer)
    tables = {name: results.read_table(folder / f"{name}.csv", columns) for name, columns in TABLES.items()}
    fields, sections = tables["fields"], tables["sections"]
    places = {
        (name, int(number)): f"sections/{encode_name(name)}/overlays/{int(number)}"
        for name, number in zip(fields["section"], fields["field"], strict=True)
        if (path / "sections" / encode_name(name) / f"overlays/{int(number)}_small.webp").is_file()
    }
    overviews = {
        name: file.read_bytes()
        for name in sections["section"]
        if (file := path / "sections" / encode_name(name) / "overview.webp").is_file()
    }
    objects, unread = read_objects(path, fields, sections, protocol, reviewer)
    notes = [*_note_sections(run), *_note_receipts(path, sections), *_note_rings(objects)]
    notes += _note_longitudinal(objects)
    sensitivity = try_thresholds(objects, fields, sections, protocol)
    negative, unread_controls = read_objects(path, fields, sections, protocol, reviewer, "negative")
    compared = read_comparisons(path, fields, reviewer)
    notes += [*unread, *unread_controls, *compared.notes]
    thresholds = suggest_thresholds(negative, sections, protocol.markers)
    results.write_table(folder / "sensitivity.csv", sensitivity)
    tried = results.read_vectors(path, sections) if reviewer is None else None
    if tried is not None:
        by_vectors = try_vectors(objects, tried[1], fields, sections, protocol)
        results.write_table(path / "sensitivity_vectors.csv", by_vectors)
    elif reviewer is None:
        # It tells of cells that are not there any more.
        (path / "sensitivity_vectors.csv").unlink(missing_ok=True)
    results.write_table(folder / "thresholds.csv", thresholds)
    up = "" if reviewer is None else "../../"
    if reviewer is not None:
        notes.append("Pictures show the objects as the program found them, before the edits.")
    page = build_report(
        RunTables(
            title=f"histoquant: {Path(run['study']['path']).name}",
            run=run,
            fields=fields,
            sections=sections,
            patients=tables["patients"],
            statistics=tables["statistics"],
            overviews=overviews,
            thumbnails={key: (path / f"{place}_small.webp").read_bytes() for key, place in places.items()},
            links={key: f"{up}{place}.jpg" for key, place in places.items()},
            rules=compare_rules(objects, fields),
            sizes=list_sizes(objects, sections),
            sensitivity=sensitivity,
            vectors=None if tried is None else (by_vectors, tried[0]),
            thresholds=thresholds,
            validations=compared.validations,
            readings=compared.readings,
            reviewer=reviewer,
            notes=tuple(notes),
        )
    )
    results.write_bytes(folder / "report.html", results.encode_text(page))
    return folder / "report.html"


def read_objects(
    path: Path,
    fields: pd.DataFrame,
    sections: pd.DataFrame,
    protocol: Protocol,
    reviewer: str | None = None,
    control: str = "",
) -> tuple[pd.DataFrame, list[str]]:
    """Read the objects of all fields with status `ok` of sections that are no controls, or that are.

    Parameters
    ----------
    path : Path
        The run's folder.
    fields, sections : DataFrame
        fields.csv and sections.csv.
    protocol : Protocol
        Says per marker whether cells without a nucleus count.
    reviewer : str or None, optional
        Take the objects with this reviewer's edits, where there are any.
    control : str, optional
        Kind of control to read: `positive` or `negative`; sections that are none if empty.

    Returns
    -------
    objects : DataFrame
        section, field, kind, label, x_um, y_um, area_um2, min_feret_um, fraction_in_field, positive, reason,
        dab_od,
        and countable (may count at all).
    unread : list of str
        A sentence on each table that cannot be read, whose section is missing.
    """
    parts, unread = [], []
    own = sections[sections["control"].eq(control) & sections["status"].isin(["ok", "incomplete"])]
    for name, marker in zip(own["section"], own["marker"], strict=True):
        used = fields.loc[fields["section"].eq(name) & fields["status"].eq("ok"), "field"]
        place = f"sections/{encode_name(name)}/objects.parquet"
        file = path / place
        if reviewer is not None and (results.locate_review(path, reviewer) / place).is_file():
            file = results.locate_review(path, reviewer) / place
        try:
            table = pd.read_parquet(file, columns=[*_OBJECT_COLUMNS, "nucleus"])
        except (OSError, ValueError) as error:  # costs the comparison, not the report
            unread.append(
                f"{file.relative_to(path)} cannot be read ({error}): what follows from single objects "
                f"(sizes, rules, thresholds) lacks {name}. Run `histoquant run` again."
            )
            continue
        table["countable"] = select_countable(table, protocol.markers.get(marker, MarkerSettings()))
        parts.append(table[table["field"].isin(used)].drop(columns="nucleus").assign(section=name))
    columns = ["section", *_OBJECT_COLUMNS, "countable"]
    objects = pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
    return objects, unread


def compare_rules(objects: pd.DataFrame, fields: pd.DataFrame) -> pd.DataFrame | None:
    """Count stored objects by four rules, to show what the choice of rule does.

    Parameters
    ----------
    objects : DataFrame
        See `read_objects`.
    fields : DataFrame
        fields.csv.

    Returns
    -------
    DataFrame or None
        Columns rule, fibers, positive_cells, cells_per_fiber (total / total); None without objects.
        `clipped` counts every object with any part inside, `whole` only those without a part outside.
    """
    totals = pd.DataFrame(0, index=list(_RULES), columns=["fibers", "positive_cells"])
    for row in fields[fields["status"].eq("ok")].to_dict("records"):
        own = objects[objects["section"].eq(row["section"]) & objects["field"].eq(row["field"])]
        place = [float(row[column]) for column in _PLACE]
        totals += _count_by_rules(own, Field(int(row["field"]), row["shape"], *place))
    if not totals.to_numpy().any():
        return None
    totals["cells_per_fiber"] = totals["positive_cells"] / totals["fibers"].where(totals["fibers"] > 0)
    return totals.rename_axis("rule").reset_index()


def list_sizes(objects: pd.DataFrame, sections: pd.DataFrame) -> pd.DataFrame:
    """List the sizes of counted fibers that are seen whole.

    Parameters
    ----------
    objects : DataFrame
        See `read_objects`.
    sections : DataFrame
        sections.csv, for the groups.

    Returns
    -------
    DataFrame
        group, area_um2, min_feret_um.
    """
    counted = count_half_area(objects["fraction_in_field"]) & objects["countable"].astype(bool)
    whole = ~objects["reason"].str.contains(CUT, regex=False)
    fibers = objects[objects["kind"].eq("fiber") & counted & whole]
    group = fibers["section"].map(sections.set_index("section")["group"])
    return fibers[["area_um2", "min_feret_um"]].assign(group=group).reset_index(drop=True)


def _count_by_rules(objects: pd.DataFrame, field: Field) -> pd.DataFrame:
    fraction = objects["fraction_in_field"]
    center = contains_points(field, objects["x_um"].to_numpy(float), objects["y_um"].to_numpy(float))
    fiber = objects["kind"].eq("fiber")
    cell = ~fiber & objects["positive"] & objects["countable"]
    fiber &= objects["countable"]
    rules = (count_half_area(fraction), center, fraction.gt(0), fraction.eq(1))
    counts = [((fiber & rule).sum(), (cell & rule).sum()) for rule in rules]
    return pd.DataFrame(counts, index=list(_RULES), columns=["fibers", "positive_cells"])


def _describe_record(
    record: Mapping[str, Any] | None, current: tuple[str, str, int, str], qc: QcSettings
) -> dict[str, Any]:
    """Status of a section, and whether it was measured as this run would measure it."""
    if record is None:
        return {"status": "pending", "reason": ""}
    rows, asked = pd.DataFrame(record["fields"], columns=_JUDGED), int(record["fields_asked"])
    status, reason = judge_section(rows, asked), explain_section(rows, asked)
    if record["status"] == "failed":
        status, reason = "failed", record["reason"]
    elif status in ("ok", "incomplete"):
        judged = {"status": status, "reason": reason}
        status, reason = (judged | exclude_repeat(record["fields"], judged, qc)).values()
    made = tuple(record.get(name) for name in ("measurement_hash", "segmenter", "seed", "version"))
    kept = {name: record.get(name) for name in ("inputs", "seconds", "segmenter", "seed", "version")}
    return {"status": status, "reason": reason, **kept, "as_this_run": made == current}


def _note_sections(run: Mapping[str, Any]) -> list[str]:
    """Say which sections were measured otherwise, as `--only` leaves them."""
    other = [name for name, entry in run["sections"].items() if entry.get("as_this_run") is False]
    waiting = [name for name, entry in run["sections"].items() if entry["status"] == "pending"]
    notes = []
    if other:
        notes.append(f"Measured under another protocol, seed or version, and kept: {', '.join(other)}.")
    if waiting:
        notes.append(f"Not measured yet: {', '.join(waiting)}.")
    return notes + _note_twins(run)


def _note_twins(run: Mapping[str, Any]) -> list[str]:
    """Say which sections are one file, or copies of it: a row of the study table may name the wrong slide."""
    same: dict[tuple[str, ...], list[str]] = {}
    for name, entry in run["sections"].items():
        if files := tuple(sorted((entry.get("inputs") or {}).values())):
            same.setdefault(files, []).append(name)
    return [
        f"The same image stands for {', '.join(names)}: is the study table right?"
        for files, names in same.items()
        if len(names) > 1 and "unreadable" not in files
    ]


def _note_receipts(path: Path, sections: pd.DataFrame) -> list[str]:
    """What reading and drawing noted, each note once, with the sections it concerns."""
    said: dict[str, list[str]] = {}
    for name in sections["section"]:
        receipt = results.read_json(path / "sections" / encode_name(name) / "receipt.json") or {}
        for entry in [receipt, *receipt.get("images", [])]:
            notes = list(entry.get("notes", []))
            if entry.get("stains", {}).get("white_source") == "brightest":
                notes.append("No glass was seen, so densities are relative to the palest tissue.")
            for note in notes:
                said.setdefault(note, []).append(name)
    return [f"{note} ({', '.join(dict.fromkeys(names))})" for note, names in said.items()]


def _note_rings(objects: pd.DataFrame) -> list[str]:
    """How many positive rings lie in the fields whose nucleus is outside the plane of the section."""
    inside = objects["kind"].eq("cell") & objects["fraction_in_field"].gt(0.5)
    hidden = int((inside & objects["positive"].astype(bool) & ~objects["countable"].astype(bool)).sum())
    return [f"Positive rings without a nucleus in the plane, not counted: {hidden}."] if hidden else []


def _note_longitudinal(objects: pd.DataFrame) -> list[str]:
    """How many fibers in the fields are cut along their length."""
    along = objects["kind"].eq("fiber") & ~objects["countable"].astype(bool)
    number = int((along & objects["fraction_in_field"].gt(0.5)).sum())
    return [f"Fibers cut along their length, not counted: {number}."] if number else []


def _find_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
