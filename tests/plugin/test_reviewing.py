"""A review: every edit on the disk at once, counts those of the library's tables, nothing lost to a crash."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
from napari.components import ViewerModel
from napari_histoquant.describing import describe_counts, describe_last, describe_object, list_queue
from napari_histoquant.layers import POSITIVE
from napari_histoquant.marking import REJECTED, show_meant, show_review
from napari_histoquant.opening import add_layers
from napari_histoquant.refreshing import refresh_layer
from napari_histoquant.review import find_offset, find_section
from napari_histoquant.reviewing import Review, require_object
from napari_histoquant.scene import find_layer
from napari_histoquant.slides import KEY

from histoquant.edits import make_change
from histoquant.errors import EditError, HistoquantError, ResultsError
from histoquant.reviewed import publish_review
from histoquant.trails import read_trail

NAME = "P01-CD19"


@pytest.fixture
def run(measured_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(measured_run, tmp_path / "run µ")
    return tmp_path / "run µ"


def choose(review: Review, kind: str, **values: Any) -> pd.Series[Any]:
    """The first object of field 2 that counts and has these values."""
    objects = review.list_objects()
    mask = objects["field"].eq(2) & objects["kind"].eq(kind) & objects["counted"]
    for name, value in values.items():
        mask &= objects[name].eq(value)
    return objects[mask].iloc[0]


def edit_all(review: Review) -> None:
    """One edit of every kind."""
    cell, fiber = choose(review, "cell", positive=True), choose(review, "fiber", straddling=False)
    x, y = float(fiber["x_um"]), float(fiber["y_um"])
    review.apply(make_change("reject", cell["object"], "precipitate"))
    review.apply(make_change("call", choose(review, "cell", positive=False)["object"], positive=True))
    review.apply(
        make_change("split", fiber["object"], line=[(x, y - 9), (x, y + 9)], part=review.name_new(2, "fiber"))
    )
    new = review.name_new(2, "cell")
    review.apply(make_change("add", new, x_um=x, y_um=y, radius_um=4.5, positive=True))
    names = review.list_objects().query("field == 2 and kind == 'fiber' and counted")["object"].tolist()
    review.apply(make_change("merge", names[-1], parts=[names[-2]]))
    square = [(x - 15, y - 15), (x + 15, y - 15), (x + 15, y + 15), (x - 15, y + 15)]
    review.apply(make_change("redraw", fiber["object"], outline=square))
    review.apply(make_change("exclude", 1, "a fold"))


def list_files(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and "edits" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_the_counts_shown_are_those_of_the_tables_and_the_machines_stay(run: Path) -> None:
    before = list_files(run)
    review = Review(run, NAME, "Li")
    edit_all(review)
    review.undo()
    review.undo()
    assert [review.redo().action, review.redo().action] == ["redraw", "exclude"]
    now, machine = review.summarise(), review.summarise(machine=True)
    rows = review.list_rows()
    review.close()
    assert list_files(run) == before
    folder, _ = publish_review(run, "Li")
    written = pd.read_csv(folder / "sections.csv").iloc[0]
    own = pd.read_csv(run / "sections.csv").iloc[0]
    for name in ("fields", "fibers", "positive_cells", "positive_fibers"):
        assert (now[name], machine[name]) == (written[name], own[name]), name
    # A table of sections is made of a table of fields: its six decimals have been rounded twice.
    for name in ("cells_per_fiber", "cells_per_fiber_pooled", "ci_low", "ci_high"):
        assert (now[name], machine[name]) == pytest.approx(
            (written[name], own[name]), abs=1.01e-6, nan_ok=True
        )
    fields = pd.read_csv(folder / "fields.csv")
    assert fields["fibers"].tolist() == [row["fibers"] for row in rows]
    assert fields["status"].tolist() == [row["status"] for row in rows] == ["excluded", "ok"]


def test_a_later_sitting_goes_on_where_the_last_one_ended(run: Path) -> None:
    review = Review(run, NAME, "Li")
    with pytest.raises(ResultsError, match="is open in another window"):
        Review(run, NAME, "Li")
    edit_all(review)
    assert not review.signed
    review.sign()
    assert review.signed
    before, objects = review.summarise(), review.list_objects()
    review.close()
    again = Review(run, NAME, "Li")
    again.prepare()
    assert again.signed
    assert again.summarise() == pytest.approx(before, nan_ok=True)
    key = ["field", "object"]
    pd.testing.assert_frame_equal(
        again.list_objects().sort_values(key, ignore_index=True), objects.sort_values(key, ignore_index=True)
    )
    other = Review(run, NAME, "Wang")
    other.prepare()
    assert other.summarise()["fibers"] == other.summarise(machine=True)["fibers"] != before["fibers"]
    again.close()
    other.close()


def test_killed_in_the_midst_every_edit_but_the_last_is_there(run: Path) -> None:
    code = """
import sys
from pathlib import Path
from napari_histoquant.reviewing import Review
from histoquant.edits import make_change
review = Review(Path(sys.argv[1]), "P01-CD19", "Li")
names = review.list_objects().query("kind == 'cell' and field == 2")["object"].tolist()
for number in range(10_000):
    review.apply(make_change("call", names[number % len(names)], positive=bool(number % 2)))
    print(number + 1, flush=True)
"""
    command = [sys.executable, "-c", code, str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 25:
                os.kill(process.pid, signal.SIGKILL)
                break
        told = 25 + len(process.stdout.read().split())
    kept = read_trail(run / "sections" / NAME, "Li").lines
    assert told <= len(kept) <= told + 1
    review = Review(run, NAME, "Li")
    review.prepare()
    assert len(review.history.done) == len(kept)
    review.close()


def test_what_does_not_fit_is_not_written(run: Path, study: Path) -> None:
    review = Review(run, NAME, "Li")
    for change, message in (
        (make_change("reject", "2c99999"), "2c99999 is not there"),
        (make_change("exclude", 9, "a fold"), "field 9 has no objects"),
    ):
        with pytest.raises(HistoquantError, match=message):
            review.apply(change)
    with pytest.raises(EditError, match="nothing to undo"):
        review.undo()
    slide = study / "slides" / "P01-CD19.svs"
    slide.rename(study / "away.svs")
    try:
        add = make_change("add", review.name_new(2, "cell"), x_um=300, y_um=300, radius_um=5, positive=True)
        with pytest.raises(HistoquantError, match=r"P01-CD19\.svs"):
            review.apply(add)
    finally:
        (study / "away.svs").rename(slide)
    assert review.history.lines == ()
    review.close()
    with pytest.raises(EditError, match="no reviewer's name"):
        Review(run, NAME, "")
    with pytest.raises(EditError, match="no object is chosen; click one"):
        require_object(None)


def test_objects_are_found_under_the_pointer_and_outlined(run: Path) -> None:
    review = Review(run, NAME, "Li")
    fiber = choose(review, "fiber", straddling=False)
    x, y = float(fiber["x_um"]), float(fiber["y_um"])
    assert review.find_object(2, x, y, "fiber") == fiber["object"]
    assert review.find_object(2, -900.0, y) is None
    polygon = shapely.Polygon(review.outline(fiber["object"])[0][:, ::-1])
    assert polygon.area >= fiber["area_um2"] * 0.999  # holes are not drawn
    assert polygon.contains(shapely.Point(x, y))
    assert review.outline("2f99999") == []
    review.apply(make_change("add", review.name_new(2, "cell"), x_um=x, y_um=y, radius_um=4, positive=True))
    cell = review.find_object(2, x, y)
    assert cell is not None and cell.startswith("2c")
    review.apply(make_change("reject", cell))
    assert review.list_rejected(2)[cell] == pytest.approx((y, x), abs=0.5)
    review.apply(make_change("accept", cell))
    assert review.list_rejected(2) == {}
    review.close()


def test_an_edit_changes_the_queue(run: Path) -> None:
    review = Review(run, NAME, "Li")
    fields, objects = review.rank()
    assert sorted(fields["field"]) == [1, 2]
    first = objects["object"].iloc[0]
    review.apply(make_change("accept", first))
    assert first not in review.rank()[1]["object"].tolist()
    entries = list(list_queue(*review.rank()))
    assert [target for _, target in entries[:2]] == fields["field"].tolist()
    assert "cut by the field's edge" in " ".join(text for text, _ in entries)
    review.close()


def test_a_field_under_review_becomes_layers(run: Path) -> None:
    viewer = ViewerModel()
    with pytest.raises(HistoquantError, match="no measured section is open"):
        find_section(viewer)
    add_layers(viewer, run)
    assert find_section(viewer) == (run, NAME)
    review = Review(run, NAME, "Li")
    row = review.find_row(2)
    assert find_offset(viewer, row) == 0.0
    assert find_offset(viewer, {**row, "center_x_um": row["center_x_um"] - 500}) == pytest.approx(500)
    cell = choose(review, "cell", positive=True)
    for offset in (0.0, 500.0):
        stored, now = review.show(2)
        for data in show_review(stored, now, review.list_rejected(2), offset):
            refresh_layer(viewer, data)
        layer = viewer.layers["cells"]
        y, x = float(cell["y_um"]), float(cell["x_um"]) + offset
        label = layer.get_value((y, x), world=True)
        assert layer.features["object"].iloc[label] == cell["object"]
        assert any(np.allclose(point, (y, x)) for point in find_layer(viewer, POSITIVE).data)
    viewer.layers["cells"].visible = False
    review.apply(make_change("reject", cell["object"]))
    for data in show_review(*review.show(2), review.list_rejected(2)):
        refresh_layer(viewer, data)
    assert not viewer.layers["cells"].visible
    assert find_layer(viewer, REJECTED).features["object"].tolist() == [cell["object"]]
    assert [layer.name for layer in viewer.layers].count("fibers") == 1
    meant = refresh_layer(viewer, show_meant(review.outline(choose(review, "fiber")["object"])))
    assert meant.nshapes == 1 and meant.metadata[KEY]["kind"] == "under review"
    review.close()


def test_counts_and_objects_are_said_in_words(run: Path) -> None:
    review = Review(run, NAME, "Li")
    cell = choose(review, "cell", positive=True)
    assert describe_last(review.history, False) == "No edit yet."
    review.apply(make_change("call", cell["object"], positive=False))
    rows = [review.find_row(2, machine) for machine in (True, False)]
    text = describe_counts(2, rows, review.summarise(True), review.summarise())
    count = int(rows[0]["positive_cells"])
    assert (
        f"<td>positive&nbsp;cells</td><td align=right>{count}</td><td align=right><b>{count - 1}</b></td>"
        in text
    )
    said = describe_object(review.describe(cell["object"]))
    assert (
        said.startswith(f"{cell['object']}: negative cell, counts; DAB ") and "called by the reviewer" in said
    )
    assert describe_last(review.history, False) == f"1 edits kept, the last: call {cell['object']}."
    fiber = choose(review, "fiber", straddling=False)
    assert "µm²; 100 % inside" in describe_object(review.describe(fiber["object"]))
    assert review.describe("2f99999") is None
    review.close()
