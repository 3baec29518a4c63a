# This module touches files: it reads stored sections and writes the run's tables, run.json and report.
"""What a run publishes: tables, statistics and report, always made from what is stored."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from histoquant import __version__, results
from histoquant.errors import ResultsError
from histoquant.fields import spawn_generator
from histoquant.geometry import Field, contains_points
from histoquant.inclusion import count_half_area
from histoquant.protocol import Protocol, hash_protocol, validate_protocol
from histoquant.stats import compute_statistics
from histoquant.study import Section, Study, encode_name
from histoquant.tables import build_fields, build_patients, build_sections

_RULES = ("half_area", "centroid", "clipped", "whole")
_PLACE = ("center_x_um", "center_y_um", "width_um", "height_um")
TABLES = ("fields", "sections", "patients", "statistics")
_LIBRARIES = (
    *("numpy", "scipy", "pandas", "scikit-image", "opencv-python-headless"),
    *("openslide-python", "openslide-bin", "tifffile", "imagecodecs"),
)


def read_records(path: Path, sections: Sequence[Section]) -> dict[str, dict[str, Any]]:
    """Records of the sections that were measured, by ID."""
    found = {section.id: results.read_record(path / "sections" / section.folder) for section in sections}
    return {name: record for name, record in found.items() if record is not None}


def publish_tables(path: Path, study: Study, protocol: Protocol, seed: int) -> pd.DataFrame:
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

    Returns
    -------
    DataFrame
        sections.csv.
    """
    records = read_records(path, study.sections)
    fields = build_fields(study.sections, records)
    sections = build_sections(study.sections, records, fields, protocol.statistics, seed)
    results.write_table(path / "fields.csv", fields)
    results.write_table(path / "sections.csv", sections)
    publish_statistics(path, sections, protocol, seed)
    return sections


def publish_statistics(path: Path, sections: pd.DataFrame, protocol: Protocol, seed: int) -> None:
    """Write patients.csv and statistics.csv from sections.csv."""
    patients = build_patients(sections)
    markers = [name for name in patients.columns if name not in ("patient", "group")]
    rng = spawn_generator(seed, "statistics")
    statistics = compute_statistics(patients, markers, protocol.statistics, rng)
    results.write_table(path / "patients.csv", patients)
    results.write_table(path / "statistics.csv", statistics)


def write_run(
    path: Path, study: Study, protocol: Protocol, seed: int, started: datetime, finished: datetime | None
) -> None:
    """Write run.json: what was run, on what, and the status of every section.

    Parameters
    ----------
    path : Path
        The run's folder.
    study, protocol, seed
        Of the run.
    started, finished : datetime
        UTC; None while the run goes on.
    """
    records = read_records(path, study.sections)
    statuses = _read_statuses(path) if finished else {}
    sections = {
        section.id: _describe_section(section, records.get(section.id), statuses.get(section.id))
        for section in study.sections
    }
    run = {
        "histoquant": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _find_version(name) for name in _LIBRARIES},
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds") if finished else None,
        "seed": seed,
        "study": {
            "path": str(study.path),
            "encoding": study.encoding,
            "delimiter": study.delimiter,
        },
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
        The folder is not a run's.
    ProtocolError
        The protocol is from a newer version.
    """
    run = results.read_json(path / "run.json")
    if not isinstance(run, dict) or "protocol" not in run:
        raise ResultsError(
            "is not a run's folder: it has no readable run.json", path, "give the --out of a run"
        )
    return run, validate_protocol(run["protocol"], path / "run.json")


def publish_report(path: Path) -> Path:
    """Write report.html from the stored tables and pictures.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    ResultsError
        A table is absent or damaged.
    """
    from histoquant.report import RunTables, build_report

    run, _ = read_run(path)
    tables = {name: results.read_table(path / f"{name}.csv") for name in TABLES}
    fields = tables["fields"]
    places = {
        (name, int(number)): f"sections/{encode_name(name)}/overlays/{int(number)}"
        for name, number in zip(fields["section"], fields["field"], strict=True)
        if (path / "sections" / encode_name(name) / f"overlays/{int(number)}.jpg").is_file()
    }
    overviews = {
        name: file.read_bytes()
        for name in tables["sections"]["section"]
        if (file := path / "sections" / encode_name(name) / "overview.webp").is_file()
    }
    page = build_report(
        RunTables(
            title=f"histoquant: {Path(run['study']['path']).name}",
            run=run,
            fields=fields,
            sections=tables["sections"],
            patients=tables["patients"],
            statistics=tables["statistics"],
            overviews=overviews,
            thumbnails={key: (path / f"{place}_small.webp").read_bytes() for key, place in places.items()},
            links={key: f"{place}.jpg" for key, place in places.items()},
            rules=compare_rules(path, fields),
        )
    )
    results.write_bytes(path / "report.html", page.encode())
    return path / "report.html"


def compare_rules(path: Path, fields: pd.DataFrame) -> pd.DataFrame | None:
    """Count the stored objects of a run by four rules, to show what the choice of rule does.

    Parameters
    ----------
    path : Path
        The run's folder.
    fields : DataFrame
        fields.csv.

    Returns
    -------
    DataFrame or None
        Columns rule, fibers, positive_cells, cells_per_fiber (total / total); None without objects.
        `clipped` counts every object with any part inside, `whole` only those without a part outside.
    """
    totals = pd.DataFrame(0, index=list(_RULES), columns=["fibers", "positive_cells"])
    columns = ["field", "kind", "x_um", "y_um", "fraction_in_field", "positive", "nucleus"]
    for name, rows in fields.groupby("section"):
        file = path / "sections" / encode_name(str(name)) / "objects.parquet"
        if not file.is_file():
            continue
        objects = pd.read_parquet(file, columns=columns)
        for row in rows.to_dict("records"):
            place = [float(row[column]) for column in _PLACE]
            field = Field(int(row["field"]), row["shape"], *place)
            totals += _count_by_rules(objects[objects["field"].eq(field.number)], field)
    if not totals.to_numpy().any():
        return None
    totals["cells_per_fiber"] = totals["positive_cells"] / totals["fibers"].where(totals["fibers"] > 0)
    return totals.rename_axis("rule").reset_index()


def _count_by_rules(objects: pd.DataFrame, field: Field) -> pd.DataFrame:
    fraction = objects["fraction_in_field"]
    center = contains_points(field, objects["x_um"].to_numpy(float), objects["y_um"].to_numpy(float))
    fiber = objects["kind"].eq("fiber")
    cell = ~fiber & objects["positive"].astype(bool) & ~objects["nucleus"].eq(False)
    rules = (count_half_area(fraction), center, fraction.gt(0), fraction.eq(1))
    counts = [
        {"fibers": int((fiber & rule).sum()), "positive_cells": int((cell & rule).sum())} for rule in rules
    ]
    return pd.DataFrame(counts, index=list(_RULES))


def _describe_section(
    section: Section, record: Mapping[str, Any] | None, status: tuple[str, str] | None
) -> dict[str, Any]:
    if record is None:
        return {"status": "pending", "reason": "", "folder": section.folder}
    shown = status or (record["status"], record["reason"])
    kept = {name: record.get(name) for name in ("inputs", "seconds", "version", "protocol_hash", "seed")}
    return {"status": shown[0], "reason": shown[1], "folder": section.folder, **kept}


def _read_statuses(path: Path) -> dict[str, tuple[str, str]]:
    table = results.read_table(path / "sections.csv")
    return dict(zip(table["section"], zip(table["status"], table["reason"], strict=True), strict=True))


def _find_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
