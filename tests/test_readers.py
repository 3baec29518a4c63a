"""Two readers of the same fields: who is compared, with what figures, and where it is told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import invoke

from histoquant.agreement import measure_icc, measure_kappa, measure_limits
from histoquant.counts import count_field
from histoquant.edits import Change, make_change
from histoquant.errors import EditError, ResultsError
from histoquant.geometry import Field, rasterize_field
from histoquant.objects import list_objects
from histoquant.protocol import CellSettings, MarkerSettings, Protocol
from histoquant.publish import publish_report, publish_statistics
from histoquant.readers import PROGRAM, compare_readers
from histoquant.results import encode_labels, encode_objects, write_json, write_section, write_table
from histoquant.reviewed import publish_review
from histoquant.stains import Stains
from histoquant.study import Section
from histoquant.tables import build_fields, build_sections
from histoquant.trails import open_trail

NAMES = ("P1-CD19", "P2-CD19", "P3-CD19")
CELLS = 4


def measure(number: int, fibers: int) -> tuple[dict[str, Any], pd.DataFrame, dict[str, bytes]]:
    """A field of 60 um: fibers in a row on top, four cells with a nucleus below, none positive."""
    fiber_map, cell_map = np.zeros((120, 120), np.int32), np.zeros((120, 120), np.int32)
    blue = np.zeros((120, 120), np.float32)
    for label in range(1, fibers + 1):
        fiber_map[10:30, 12 * label : 12 * label + 8] = label
    for label in range(1, CELLS + 1):
        cell_map[60:70, 22 * label : 22 * label + 10] = label
        blue[62:68, 22 * label + 2 : 22 * label + 8] = 0.6
    flat = np.zeros_like(blue)
    field = Field(number, "square", 30.0, 30.0, 60.0, 60.0)
    inside = rasterize_field(field, (120, 120), 0.0, 0.0, 0.5)
    stains = Stains(blue, flat, flat, 0.0, 0.0, 0.5)
    objects = list_objects(number, fiber_map, cell_map, stains, inside, MarkerSettings(), CellSettings())
    place = {"center_x_um": 30.0, "center_y_um": 30.0, "width_um": 60.0, "height_um": 60.0}
    row = {"field": number, "shape": "square", **place, "tissue_fraction": 1.0, "tissue_mm2": 0.0036}
    files = {
        f"fields/{number}_fibers.tif": encode_labels(fiber_map, 0.0, 0.0, 0.5),
        f"fields/{number}_cells.tif": encode_labels(cell_map, 0.0, 0.0, 0.5),
    }
    return {**row, **count_field(objects)}, objects, files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder without slides: three sections of two fields."""
    path = tmp_path_factory.mktemp("readers") / "run"
    (path / "sections").mkdir(parents=True)
    protocol = Protocol.model_validate({"statistics": {"draws": 100}})
    sections, records = [], {}
    for at, name in enumerate(NAMES):
        parts = [measure(number, 3 + 2 * at) for number in (1, 2)]
        files = {key: data for part in parts for key, data in part[2].items()}
        files["objects.parquet"] = encode_objects(pd.concat([part[1] for part in parts], ignore_index=True))
        record = {"key": f"key of {name}", "status": "measured", "reason": "", "fields_asked": 2}
        records[name] = {**record, "fields": [part[0] for part in parts]}
        write_section(path / "sections" / name, files, records[name])
        sections.append(Section(name, name[:2], "", "CD19", "", "", "", ()))
    fields = build_fields(sections, records)
    table = build_sections(sections, records, fields, protocol.statistics, 0)
    write_table(path / "fields.csv", fields)
    write_table(path / "sections.csv", table)
    publish_statistics(path, table, protocol, 0)
    run = {"seed": 0, "finished": "2026-01-02T03:04:05+00:00", "study": {"path": "STUDY.csv"}}
    entries = {name: {"status": "ok", "reason": ""} for name in NAMES}
    write_json(path / "run.json", {**run, "protocol": protocol.model_dump(mode="json"), "sections": entries})
    return path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def edit(run: Path, reviewer: str, name: str, *changes: Change) -> None:
    with open_trail(run / "sections" / name, reviewer) as trail:
        for change in changes:
            trail.append(change)


def call_positive(*names: str) -> list[Change]:
    return [make_change("call", name, positive=True) for name in names]


def edit_all(run: Path) -> None:
    """Li: 2, 1, 3, 0, 1, 1 positive cells in the six fields; Wang: 2, 1, 2, 1, 1, 0."""
    edit(run, "Li", NAMES[0], *call_positive("1c1", "1c2", "2c1"))
    edit(run, "Li", NAMES[1], *call_positive("1c1", "1c2", "1c3"))
    edit(run, "Li", NAMES[2], *call_positive("1c1", "2c1"))
    edit(run, "Wang", NAMES[0], *call_positive("1c1", "1c2", "2c2"))
    edit(run, "Wang", NAMES[1], *call_positive("1c1", "1c2", "2c1"))
    edit(run, "Wang", NAMES[2], *call_positive("1c1"))


def find(agreement: pd.DataFrame, level: str, quantity: str, measure: str) -> dict[str, Any]:
    mask = agreement["level"].eq(level) & agreement["quantity"].eq(quantity)
    (row,) = agreement[mask & agreement["measure"].eq(measure)].to_dict("records")
    return {str(key): value for key, value in row.items()}


def test_two_reviewers_are_compared_by_the_measures_asked_for(run: Path) -> None:
    edit_all(run)
    folder, agreement = compare_readers(run, "Li", "Wang")
    assert folder == run / "readers" / "Li against Wang"
    li, wang = [2, 1, 3, 0, 1, 1], [2, 1, 2, 1, 1, 0]
    pairs = pd.read_csv(folder / "fields.csv")
    assert pairs["positive_cells"].tolist() == li
    assert pairs["true_positive_cells"].tolist() == wang
    limits, icc = measure_limits(li, wang), measure_icc(np.transpose([li, wang]))
    for name, expected in (("bias", limits.bias), ("limit_high", limits.high), ("icc", icc)):
        row = find(agreement, "field", "positive_cells", name)
        assert [row["estimate"], row["ci_low"], row["ci_high"]] == pytest.approx(
            [expected.value, expected.ci_low, expected.ci_high]
        )
    # Of 24 cells both call 5 positive, Li alone 3, Wang alone 2.
    kappa = find(agreement, "cell", "call", "kappa")
    assert kappa["estimate"] == pytest.approx(measure_kappa([[5, 3], [2, 14]]).value)
    assert kappa["n"] == 24
    page = (folder / "validation.html").read_text(encoding="utf-8")
    for text in ("Cohen&#39;s kappa", "ICC(2,1)", "Li", "Wang", "begin from the same counts"):
        assert text in page
    report = publish_report(run, "Li").read_text(encoding="utf-8")
    assert "../../readers/Li%20against%20Wang/validation.html" in report
    assert "readers/" not in publish_report(run).read_text(encoding="utf-8")


def test_the_program_is_compared_with_a_reviewer(run: Path) -> None:
    edit_all(run)
    done = invoke("agree", run, "Li")
    assert done.returncode == 0, done.stderr
    folder = run / "validation" / "reviewer Li"
    assert str(folder / "validation.html") in done.stdout
    assert "kappa" in done.stdout
    pairs = pd.read_csv(folder / "fields.csv")
    assert pairs["positive_cells"].tolist() == [0] * 6
    assert pairs["true_positive_cells"].tolist() == [2, 1, 3, 0, 1, 1]
    assert PROGRAM in (folder / "validation.html").read_text(encoding="utf-8")
    assert "validation/reviewer%20Li/validation.html" in publish_report(run).read_text(encoding="utf-8")


def test_a_reviewers_report_outlives_a_comparison(run: Path) -> None:
    edit_all(run)
    publish_review(run, "Li", page=True)
    report = run / "reviewed" / "Li" / "report.html"
    before = report.read_text(encoding="utf-8")
    edit(run, "Li", NAMES[0], *call_positive("2c2"))
    compare_readers(run, "Li", "Wang")
    after = report.read_text(encoding="utf-8")
    assert after != before, "it tells what the tables hold now"
    assert not (run / "reviewed" / "Wang" / "report.html").exists()


def test_only_what_both_have_edited_and_use_is_compared(run: Path) -> None:
    edit(run, "Li", NAMES[0], *call_positive("1c1"), make_change("exclude", 2, "a fold"))
    edit(run, "Li", NAMES[1], *call_positive("1c1"))
    edit(run, "Wang", NAMES[0], make_change("reject", "1c1"), make_change("reject", "1f1"))
    folder, _ = compare_readers(run, "Li", "Wang")
    pairs = pd.read_csv(folder / "fields.csv")
    assert pairs[["section", "field"]].values.tolist() == [[NAMES[0], 1]]
    assert pairs[["fibers", "true_fibers"]].values.tolist() == [[3, 2]]
    cells = pd.read_csv(folder / "cells.csv")
    own = cells[cells["source"].eq("run") & cells["cell"].eq("1c1")]
    assert own["match"].isna().all(), "Wang rejected it"


def test_readers_that_share_nothing_are_refused(run: Path) -> None:
    edit(run, "Li", NAMES[0], *call_positive("1c1"))
    edit(run, "Wang", NAMES[1], *call_positive("1c1"))
    with pytest.raises(ResultsError, match="no field that Li and Wang both reviewed"):
        compare_readers(run, "Li", "Wang")
    with pytest.raises(EditError, match="Li is compared with Li; name two reviewers"):
        compare_readers(run, "Li", "Li")
    with pytest.raises(ResultsError, match="no edits by Chen; it has edits by Li, Wang"):
        compare_readers(run, "Li", "Chen")
    assert not (run / "readers").exists()
