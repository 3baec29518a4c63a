"""Other stain vectors on a finished run: the run's own give what is stored, others move the calls."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import call, invoke

from histoquant.errors import ResultsError
from histoquant.executors import SerialExecutor
from histoquant.prepare import prepare_section, restore_task
from histoquant.protocol import StainSettings
from histoquant.publish import publish_report
from histoquant.results import read_json, read_table, read_vectors
from histoquant.reviewed import StoredSection, find_source, open_section
from histoquant.sensitivity import RECALLED_COLUMNS, VECTORS_COLUMNS
from histoquant.stains import DEFAULT_VECTORS
from histoquant.tables import SECTION_COLUMNS
from histoquant.vectors import ESTIMATED, Estimate, estimate_images, pool_vectors, recall_field, try_run

NAME = "P01-CD19"
TURNED = ((0.60, 0.74, 0.30), (0.30, 0.60, 0.74))


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_run, tmp_path / "run")
    return tmp_path / "run"


def restore(section: StoredSection, number: int):  # type: ignore[no-untyped-def]
    (row,) = (row for row in section.record["fields"] if row["field"] == number)
    receipt = read_json(section.folder / "receipt.json")
    return restore_task(find_source(section), receipt, row, section.protocol)


def test_the_vectors_of_the_run_call_every_cell_as_stored(run: Path) -> None:
    """The run's own are passed over, so the same directions at another length stand in."""
    section = open_section(run, NAME)
    longer = tuple(tuple(2 * value for value in vector) for vector in DEFAULT_VECTORS)
    tried = {"same": DEFAULT_VECTORS, "longer": longer, "turned": TURNED}
    table = recall_field(section.folder, restore(section, 1), section.marker, section.protocol, tried)
    assert list(table) == list(RECALLED_COLUMNS)
    cells = section.objects[section.objects["field"].eq(1) & section.objects["kind"].eq("cell")]
    again = table[table["vectors"].eq("longer")]
    assert table["vectors"].unique().tolist() == ["longer", "turned"]
    np.testing.assert_array_equal(again["label"], cells["label"])
    np.testing.assert_array_equal(again["positive"], cells["positive"])
    np.testing.assert_allclose(again["dab_od"], cells["dab_od"], atol=1e-5)
    moved = table.loc[table["vectors"].eq("turned"), "dab_od"].to_numpy() - cells["dab_od"].to_numpy()
    assert np.abs(moved).max() > 0.01


def test_slide_vectors_are_those_that_an_auto_run_takes(run: Path) -> None:
    section = open_section(run, NAME)
    found = estimate_images([restore(section, number) for number in section.list_fields()])
    assert len(found) == 2 and found[0] == found[1]
    auto = section.protocol.model_copy(update={"stain": StainSettings(vectors="auto")})
    stains = prepare_section(find_source(section), auto, 0).receipt["stains"]
    assert found[0] == (stains["vectors"], stains["vectors_source"])


def test_a_batch_takes_the_median_of_what_was_estimated() -> None:
    blue = (0.65, 0.70, 0.29)
    brown = [(0.25, 0.55, 0.80), (0.27, 0.57, 0.78), (0.9, 0.1, 0.1)]
    known = [Estimate((blue, one), ESTIMATED) for one in brown]
    _, dab = pool_vectors([*known, Estimate(DEFAULT_VECTORS, "default, since …")])
    assert np.linalg.norm(dab) == pytest.approx(1)
    np.testing.assert_allclose(dab, (0.27, 0.55, 0.78) / np.linalg.norm((0.27, 0.55, 0.78)), atol=1e-6)
    assert pool_vectors([Estimate(TURNED, "default, since …")]) == DEFAULT_VECTORS


def test_the_command_adds_a_table_to_the_report_and_changes_no_count(run: Path) -> None:
    names = ("fields.csv", "sections.csv", "patients.csv", "statistics.csv", "sensitivity.csv")
    before = {name: (run / name).read_bytes() for name in names}
    assert "Stain vectors." not in (run / "report.html").read_text(encoding="utf-8")
    done = call("vectors", run, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "4 sections measured again, 0 not" in done.stdout
    assert {name: (run / name).read_bytes() for name in names} == before
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Stain vectors." in page and "vectors.csv" in page
    table = pd.read_csv(run / "sensitivity_vectors.csv")
    assert table["vectors"].unique().tolist() == ["as used", "default", "slide", "batch"]
    sections = read_table(run / "sections.csv", SECTION_COLUMNS)
    shown = table[table["vectors"].eq("as used") & table["analysis"].eq("ratio")]
    means = sections.groupby(["marker", "group"])["cells_per_fiber"].mean()
    got = shown.set_index(["marker", "group"])["estimate"]
    np.testing.assert_allclose(got.sort_index(), means.sort_index(), atol=1e-6)
    tried = pd.read_csv(run / "vectors.csv")
    assert list(tried) == list(VECTORS_COLUMNS)
    assert len(set(tried["batch_vectors"])) == 1  # one batch

    # A section that is measured anew, or put into another batch, has no such calls: no table.
    assert read_vectors(run, sections) is not None
    assert read_vectors(run, sections.assign(batch="other")) is None
    (run / "sections" / NAME / "vectors.parquet").unlink()
    publish_report(run)
    assert "Stain vectors." not in (run / "report.html").read_text(encoding="utf-8")
    assert not (run / "sensitivity_vectors.csv").exists(), "nor a file that looks like the run's"


def test_a_lost_slide_is_named_and_the_others_are_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(section: StoredSection) -> object:
        if section.id == NAME:
            raise ResultsError("cannot be read", "CD19.tif", "bring it back")
        return find_source(section)

    monkeypatch.setattr("histoquant.vectors.find_source", fail)
    table, troubles = try_run(run, SerialExecutor(), lambda done, total: None)
    assert list(troubles) == [NAME] and "bring it back" in troubles[NAME]
    assert len(table) == 3 and NAME not in set(table["section"])
    assert read_vectors(run, read_table(run / "sections.csv", SECTION_COLUMNS)) is None


def test_what_cannot_be_read_again_fails_alone_and_nothing_left_is_an_error(run: Path) -> None:
    for folder in (run / "sections").iterdir():
        (folder / "fields/1_cells.tif").write_bytes(b"no image")
    done = invoke("vectors", run, "--workers", 1, "--quiet")
    assert done.returncode == 2
    assert f"{NAME}: field 1: " in done.stderr and "no section that could be read again" in done.stderr
    assert invoke("vectors", run.parent / "nothing").returncode == 2
