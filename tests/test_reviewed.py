"""Reviewed tables: the machine's where nothing was edited, a script's where something was."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import invoke

from histoquant.edits import Change, choose_id, make_change, undo_last
from histoquant.errors import EditError, HistoquantError, ResultsError
from histoquant.objects import list_objects
from histoquant.results import read_json, read_labels, write_bytes
from histoquant.reviewed import (
    open_section,
    publish_review,
    read_ground,
    read_stored_field,
)
from histoquant.revise import complete_change, revise_field
from histoquant.trails import open_trail

TABLES = ("fields.csv", "sections.csv", "patients.csv", "statistics.csv")
NAME = "P01-CD19"


@pytest.fixture(scope="module")
def measured(small_study: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two sections, of a study table of its own, so that a test may take its slides away."""
    study = tmp_path_factory.mktemp("reviewed µ") / "study"
    shutil.copytree(small_study, study)
    out = study.parent / "run"
    # Measured from the same files already, so that nothing is measured again.
    shutil.copytree(small_run / "sections", out / "sections", ignore=shutil.ignore_patterns("P02*"))
    words = ("--protocol", study / "PROTOCOL.toml", "--workers", 1, "--only", NAME, "P01-BAFF-R")
    done = invoke("run", study / "STUDY.csv", "--out", out, *words)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def run(measured: Path, tmp_path: Path) -> Path:
    shutil.copytree(measured, tmp_path / "run")
    return tmp_path / "run"


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def edit(run: Path, *changes: Change, reviewer: str = "Li", name: str = NAME) -> None:
    section = open_section(run, name)
    with open_trail(section.folder, reviewer) as trail:
        for change in changes:
            if change.field is None:
                trail.append(change)
                continue
            stored = read_stored_field(section, change.field)
            trail.append(complete_change(change, stored, trail.history.done))


def choose(run: Path, kind: str, positive: bool, field: int = 1) -> pd.Series:
    objects = open_section(run, NAME).objects
    mask = objects["field"].eq(field) & objects["kind"].eq(kind) & objects["counted"]
    return objects[mask & objects["positive"].eq(positive)].iloc[0]


def test_a_stored_field_measured_again_is_what_is_stored(run: Path) -> None:
    section = open_section(run, NAME)
    assert section.list_fields() == (1, 2)
    for number in section.list_fields():
        stored, ground = read_stored_field(section, number), read_ground(section, number)
        again = list_objects(
            number,
            stored.fibers,
            stored.cells,
            ground.stains,
            ground.inside,
            section.marker,
            section.protocol.cells,
        )
        pd.testing.assert_frame_equal(again, stored.objects, check_exact=True)


def test_without_edits_that_matter_the_tables_are_the_machines(run: Path) -> None:
    cell = choose(run, "cell", False)
    edit(run, make_change("call", cell["object"], positive=True), make_change("exclude", 2, "a fold"))
    section = open_section(run, NAME)
    with open_trail(section.folder, "Li") as trail:
        while trail.history.done:
            trail.append(undo_last(trail.history))
    edit(run, make_change("accept", cell["object"]))
    before = read_files(run)
    folder, notes = publish_review(run, "Li")
    assert notes == ()
    assert folder == run / "reviewed" / "Li"
    for name in TABLES:
        assert (folder / name).read_bytes() == before[name], name
    edits = pd.read_csv(folder / "edits.csv")
    assert edits["action"].tolist() == ["call", "exclude", "undo", "undo", "accept"]
    assert edits["stands"].tolist() == [False, False, False, False, True]
    after = read_files(run)
    assert {name: data for name, data in after.items() if not name.startswith("reviewed/")} == before


def test_the_command_line_writes_what_a_script_computes(run: Path) -> None:
    section, before = open_section(run, NAME), read_files(run)
    fiber, cell = choose(run, "fiber", False), choose(run, "cell", False)
    stored = read_stored_field(section, 1)
    x, y = float(fiber["x_um"]), float(fiber["y_um"])
    part = choose_id(1, "fiber", int(stored.fibers.max()), [])
    added = choose_id(1, "cell", int(stored.cells.max()), [])
    changes = (
        make_change("call", cell["object"], "brown ring", positive=True),
        make_change("split", fiber["object"], line=[(x - 9, y), (x + 9, y)], part=part),
        make_change("add", added, x_um=x, y_um=y, radius_um=4, positive=True),
        make_change("exclude", 2, "a fold"),
    )
    edit(run, *changes)
    done = invoke("stats", run, "--edits", "Li")
    assert done.returncode == 0, done.stderr
    folder = run / "reviewed" / "Li"
    assert done.stdout.strip() == str(folder / "statistics.csv")
    script = revise_field(stored, changes, section.marker, section.protocol, read_ground(section, 1))
    fields = pd.read_csv(folder / "fields.csv").set_index(["section", "field"])
    row = fields.loc[(NAME, 1)]
    counts = ["fibers", "positive_cells", "straddling_fibers", "straddling_cells", "positive_fibers"]
    assert {name: row[name] for name in counts} == {name: script.row[name] for name in counts}
    assert script.row["fibers"] == stored.row["fibers"] + 1
    assert script.row["positive_cells"] >= stored.row["positive_cells"] + 1
    assert fields.loc[(NAME, 2), "status"] == "excluded"
    assert fields.loc[(NAME, 2), "reason"] == "by the reviewer: a fold"
    sections = pd.read_csv(folder / "sections.csv").set_index("section")
    assert sections.loc[NAME, "status"] == "incomplete"
    assert sections.loc[NAME, "cells_per_fiber"] == round(script.row["cells_per_fiber"], 6)
    patients = pd.read_csv(folder / "patients.csv")
    assert patients["CD19"].tolist() == [sections.loc[NAME, "cells_per_fiber"]]
    objects = pd.read_parquet(folder / f"sections/{NAME}/objects.parquet")
    own = objects[objects["field"].eq(1)].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, script.objects, check_exact=True)
    for kind, labels in (("fibers", script.fibers), ("cells", script.cells)):
        np.testing.assert_array_equal(read_labels(folder / f"sections/{NAME}/fields/1_{kind}.tif")[0], labels)
    other = sections.loc["P01-BAFF-R"]
    assert (
        other["cells_per_fiber"]
        == pd.read_csv(run / "sections.csv").set_index("section").loc["P01-BAFF-R", "cells_per_fiber"]
    )
    after = read_files(run)
    trail = f"sections/{NAME}/edits/"
    assert {
        name: data for name, data in after.items() if not name.startswith(("reviewed/", trail))
    } == before, "nothing of the machine's was touched"


def test_the_report_says_whose_it_is(run: Path) -> None:
    cell = choose(run, "cell", False)
    edit(run, make_change("call", cell["object"], positive=True), reviewer="李 娜")
    done = invoke("report", run, "--edits", "李 娜")
    assert done.returncode == 0, done.stderr
    folder = run / "reviewed" / "李 娜"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "with the edits of reviewer 李 娜" in page
    assert "before the edits" in page
    links = re.findall(r'href="([^"#]+\.jpg)"', page)
    assert links
    assert all((folder / link).is_file() for link in links)
    assert "with the edits" not in (run / "report.html").read_text(encoding="utf-8")
    review = read_json(folder / "review.json")
    assert review["reviewer"] == "李 娜"
    assert review["sections"][NAME]["edits"] == 1
    counts = [
        pd.read_csv(place / "fields.csv").set_index(["section", "field"]).loc[(NAME, 1), "positive_cells"]
        for place in (run, folder)
    ]
    assert counts[1] == counts[0] + 1


def test_two_reviewers_have_two_folders_and_an_old_one_is_replaced(run: Path) -> None:
    cell = choose(run, "cell", False)["object"]
    edit(run, make_change("reject", cell), reviewer="Li")
    edit(run, make_change("call", cell, positive=True), reviewer="Wang")
    li, wang = (publish_review(run, name)[0] for name in ("Li", "Wang"))
    tables = [pd.read_parquet(folder / f"sections/{NAME}/objects.parquet") for folder in (li, wang)]
    assert [cell in set(table["object"]) for table in tables] == [False, True]
    with open_trail(run / "sections" / NAME, "Li") as trail:
        trail.append(undo_last(trail.history))
    assert publish_review(run, "Li")[0] == li
    assert not (li / "sections").exists()
    assert (wang / "sections").exists()
    assert not list((run / "reviewed").glob(".*"))


def test_a_reviewer_without_edits_is_refused_by_name(run: Path) -> None:
    with pytest.raises(ResultsError, match="no edits by Li; nobody has edited anything in it"):
        publish_review(run, "Li")
    edit(run, make_change("exclude", 2, "a fold"), reviewer="Wang")
    done = invoke("report", run, "--edits", "Li")
    assert done.returncode == 2
    assert "no edits by Li; it has edits by Wang" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (run / "reviewed").exists()


def test_drawn_objects_need_the_slide_that_was_measured(
    measured: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(run, make_change("reject", choose(run, "cell", True)["object"]))
    slide = measured.parent / "study" / "slides" / f"{NAME}.svs"
    aside = slide.with_suffix(".away")
    slide.rename(aside)
    try:
        publish_review(run, "Li")
        fiber = choose(run, "fiber", False)
        x, y = float(fiber["x_um"]), float(fiber["y_um"])
        edit(run, make_change("redraw", fiber["object"], outline=[(x, y), (x + 20, y), (x, y + 20)]))
        before = read_files(run / "reviewed")
        done = invoke("stats", run, "--edits", "Li")
        assert done.returncode == 2
        assert f"{NAME}.svs" in done.stderr
        assert "Traceback" not in done.stderr
        assert read_files(run / "reviewed") == before, "what was there stays"
        slide.write_bytes(b"other pixels")
        with pytest.raises(ResultsError, match=r"svs: is not the file that was measured"):
            publish_review(run, "Li")
    finally:
        aside.replace(slide)
    publish_review(run, "Li")
    table = measured.parent / "study" / "STUDY.csv"
    text = table.read_text(encoding="utf-8")
    try:
        table.write_text("".join(line for line in text.splitlines(True) if f"{NAME}.svs" not in line))
        with pytest.raises(ResultsError, match=f"has no section {NAME} any more"):
            publish_review(run, "Li")
    finally:
        table.write_text(text, encoding="utf-8")


def test_a_torn_line_and_a_broken_signature_are_said(run: Path) -> None:
    stored = pd.read_csv(run / "sections.csv").set_index("section").loc[NAME]
    counts = {name: int(stored[name]) for name in ("fibers", "positive_cells")}
    edit(run, make_change("sign", **counts, cells_per_fiber=float(stored["cells_per_fiber"])))
    folder, notes = publish_review(run, "Li")
    assert notes == ()
    assert read_json(folder / "review.json")["sections"][NAME]["signed"] is not None
    file = run / "sections" / NAME / "edits" / "Li.jsonl"
    with file.open("ab") as opened:
        opened.write(b'{"number": 2, "ti')
    done = invoke("stats", run, "--edits", "Li")
    assert done.returncode == 0
    assert "line 2: is torn and was left out" in done.stderr
    edit(run, make_change("exclude", 2, "a fold"))
    assert read_json(publish_review(run, "Li")[0] / "review.json")["sections"][NAME]["signed"] is None
    edit(run, make_change("sign", fibers=1, positive_cells=1))
    assert any("signed were 1 fibers and 1 positive cells" in note for note in publish_review(run, "Li")[1])


def test_an_edit_that_does_not_fit_names_section_and_number(run: Path) -> None:
    with open_trail(run / "sections" / NAME, "Li") as trail:
        trail.append(make_change("accept", "1c999999"))
    with pytest.raises(EditError, match=f"{NAME}, edit 1 of Li: 1c999999 is not there"):
        publish_review(run, "Li")


def test_a_failed_field_and_a_section_without_fields_stay_as_they_are(run: Path) -> None:
    file = run / "sections" / NAME / "measured.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    record["fields"][1] |= {"status": "failed", "reason": "share lost"}
    write_bytes(file, json.dumps(record).encode())
    edit(run, make_change("reject", choose(run, "cell", True)["object"]))
    fields = pd.read_csv(publish_review(run, "Li")[0] / "fields.csv").set_index(["section", "field"])
    assert fields.loc[(NAME, 2), "status"] == "failed"
    with pytest.raises(ResultsError, match="field 2 has no objects"):
        read_stored_field(open_section(run, NAME), 2)


def test_a_section_that_is_not_there_is_refused(run: Path) -> None:
    with pytest.raises(ResultsError, match="has no measured section P09; name one of"):
        open_section(run, "P09")
    (run / "sections" / NAME / "objects.parquet").write_bytes(b"")
    with pytest.raises(ResultsError, match=r"objects\.parquet: cannot be read"):
        open_section(run, NAME)


def test_label_maps_that_do_not_fit_are_refused(run: Path) -> None:
    place = run / "sections" / NAME / "fields"
    shutil.copy(place / "2_cells.tif", place / "1_cells.tif")
    with pytest.raises(ResultsError, match="label maps of field 1 differ in place"):
        read_stored_field(open_section(run, NAME), 1)


def test_a_lost_section_is_named(run: Path) -> None:
    edit(run, make_change("exclude", 2, "a fold"))
    (run / "sections" / "P01-BAFF-R" / "measured.json").unlink()
    with pytest.raises(HistoquantError, match="has lost section P01-BAFF-R"):
        publish_review(run, "Li")
