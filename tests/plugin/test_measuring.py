"""Measuring from the screen gives what the command line gives, and stopping leaves nothing behind."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import shapely
from napari.components import ViewerModel
from napari_histoquant.drawing import Drawn, Request, choose_protocol, draw_fields, find_drawn, show_drawn
from napari_histoquant.measuring import Measurement, Stopped, describe_result
from napari_histoquant.opening import add_layers
from napari_histoquant.regions import EXCLUDE
from napari_histoquant.scene import OpenSlide, find_slide

from histoquant.annotations import Region
from histoquant.batch import COMPILING
from histoquant.cli.measure import run
from histoquant.compiled import Compiled
from histoquant.errors import HistoquantError, ResultsError, StorageError
from histoquant.results import open_run
from plugin.conftest import wait_for

TABLES = ("fields.csv", "sections.csv", "patients.csv", "statistics.csv")


@pytest.fixture
def slide(study: Path) -> OpenSlide:
    viewer = ViewerModel()
    add_layers(viewer, study / "slides" / "P01-CD19.svs")
    return find_slide(viewer)


def draw(slide: OpenSlide, study: Path, out: Path, regions: tuple[Region, ...] = (), **changes: Any) -> Drawn:
    settings = choose_protocol(study / "PROTOCOL.toml")
    request = replace(Request(out, "P01", "refractory", "CD19", 0, settings), **changes)
    return draw_fields(slide, regions, request)


def list_files(folder: Path) -> dict[str, bytes]:
    """All but the lock and the log, which tells of the stop."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "events.jsonl")
    ]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_tables_are_those_of_the_command_line(slide: OpenSlide, study: Path, tmp_path: Path) -> None:
    region = Region((EXCLUDE,), shapely.box(0, 0, 200, 260))
    measurement = Measurement(draw(slide, study, tmp_path / "screen", (region,)))
    result = measurement.run()
    assert measurement.progress == (3, 3)
    words = {"protocol": study / "PROTOCOL.toml", "workers": 1, "quiet": True}
    assert run(tmp_path / "screen" / "study.csv", out=tmp_path / "script", **words) == 0
    for name in TABLES:
        screen, script = ((tmp_path / way / name).read_bytes() for way in ("screen", "script"))
        assert screen == script, name
    row = pd.read_csv(tmp_path / "script" / "sections.csv").iloc[0]
    assert f"{row['cells_per_fiber']:.3f} positive cells per fiber, mean of 2 fields" in describe_result(
        result
    )
    assert result.report.is_file()
    lines = (tmp_path / "screen" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in lines] == [
        *("run_started", "section_started", "field_measured", "field_measured", "section_stored"),
        "run_finished",
    ]
    other = draw(slide, study, tmp_path / "screen", marker="BAFF-R")
    Measurement(other).run()
    sections = pd.read_csv(tmp_path / "screen" / "sections.csv")
    assert sections["section"].tolist() == ["P01-BAFF-R", "P01-CD19"]
    assert sections["cells_per_fiber"].iloc[1] == row["cells_per_fiber"]


def test_stopping_leaves_the_folder_as_it_was(slide: OpenSlide, study: Path, tmp_path: Path) -> None:
    drawn = draw(slide, study, tmp_path / "out")
    before = list_files(tmp_path / "out")
    measurement = Measurement(drawn)
    measured = measurement._executor.submit

    def stop_after_a_field(*args: Any) -> Any:
        future = measured(*args)
        if measurement.progress[0] == 2:
            measurement.stop()
        return future

    measurement._executor.submit = stop_after_a_field  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="the results are as they were before"):
        measurement.run()
    assert measurement.progress == (2, 3)
    assert list_files(tmp_path / "out") == before
    assert not (tmp_path / "out" / "sections").exists()
    lines = (tmp_path / "out" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["event"] == "run_stopped"


def test_a_section_that_cannot_be_measured_says_why(slide: OpenSlide, study: Path, tmp_path: Path) -> None:
    drawn = draw(slide, study, tmp_path / "out")
    copy = tmp_path / "gone.svs"
    source = replace(drawn.section.sources[0], path=copy)
    lost = replace(drawn, section=replace(drawn.section, sources=(source,)))
    with pytest.raises(ResultsError, match=r"P01-CD19: could not be measured.*gone\.svs does not exist"):
        Measurement(lost).run()
    row = pd.read_csv(tmp_path / "out" / "sections.csv").iloc[0]
    assert row["status"] == "failed"


def test_a_folder_in_use_or_of_another_study_is_refused(
    slide: OpenSlide, study: Path, tmp_path: Path
) -> None:
    drawn = draw(slide, study, tmp_path / "out")
    with open_run(tmp_path / "out"), pytest.raises(ResultsError, match="in use by another run"):
        Measurement(drawn).run()
    (tmp_path / "out" / "study.csv").write_text("patient,slide\n", encoding="utf-8")
    with pytest.raises(ResultsError, match="is the table of another study"):
        Measurement(drawn).run()
    (tmp_path / "out" / "study.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultsError, match="cannot be read"):
        Measurement(drawn).run()


def test_a_folder_that_cannot_be_written_is_refused(slide: OpenSlide, study: Path, tmp_path: Path) -> None:
    drawn = draw(slide, study, tmp_path / "out")
    (tmp_path / "out" / ".lock").mkdir()
    with pytest.raises(HistoquantError, match="is not writable"):
        Measurement(drawn).run()
    if os.geteuid():  # nothing is read-only to root
        (tmp_path / "out").chmod(0o555)
        with pytest.raises(StorageError):
            draw(slide, study, tmp_path / "out")


def test_a_section_is_measured_in_the_background(
    viewer: Any, study: Path, tmp_path: Path, messages: list[str]
) -> None:
    _, widget = viewer.window.add_plugin_dock_widget("histoquant", "Measure")
    hint = widget.native.sizeHint()
    assert hint.height() <= 620 and hint.width() <= 460
    widget.go.native.click()
    assert messages == ["No fields are drawn.\nWhat to do: draw them in Plugins > histoquant > Draw fields."]
    messages.clear()
    add_layers(viewer, study / "slides" / "P01-CD19.svs")
    settings = choose_protocol(study / "PROTOCOL.toml")
    request = Request(tmp_path / "out", "P01", "refractory", "CD19", 0, settings)
    show_drawn(viewer, draw_fields(find_slide(viewer), [], request))
    widget.go.native.click()
    widget.stop.native.click()
    wait_for(lambda: widget.go.enabled)
    assert messages == ["Stopped. The results are as they were before."]
    assert not (tmp_path / "out" / "sections").exists()
    widget.go.native.click()
    assert not widget.go.enabled
    for busy, said in ((True, COMPILING), (False, "measuring P01-CD19")):
        with pytest.MonkeyPatch.context() as context:
            context.setattr(Compiled, "under_way", busy)
            widget._show_progress()
            assert widget.about.value.startswith(said)
    wait_for(lambda: widget.go.enabled)
    assert widget.bar.value == widget.bar.max == 3
    assert "positive cells per fiber, mean of 2 fields" in widget.about.value
    assert [layer.name for layer in viewer.layers][-4:] == ["fibers", "cells", "positive cells", "fields"]
    assert find_drawn(viewer).request == request
