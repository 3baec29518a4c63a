"""Tuning one field: the preview is what a run measures, and what is saved is what was on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from napari_histoquant.drawing import Drawn, Request, choose_protocol, draw_fields, show_drawn
from napari_histoquant.opening import add_layers
from napari_histoquant.scene import find_slide
from napari_histoquant.tuning import (
    call_cells,
    change_protocol,
    color_calls,
    count_calls,
    describe_calls,
    describe_stain,
    list_candidates,
    save_protocol,
    show_candidates,
    tune_field,
)

from histoquant.errors import HistoquantError, StorageError
from histoquant.protocol import Protocol, load_protocol
from histoquant.results import read_objects
from plugin.conftest import wait_for


def draw(viewer: Any, study: Path, out: Path) -> Drawn:
    add_layers(viewer, study / "slides" / "P01-CD19.svs")
    settings = choose_protocol(study / "PROTOCOL.toml")
    drawn = draw_fields(find_slide(viewer), [], Request(out, "P01", "refractory", "CD19", 0, settings))
    show_drawn(viewer, drawn)
    return drawn


def test_the_preview_is_what_a_run_measures(study: Path, measured_run: Path, tmp_path: Path) -> None:
    drawn = draw(ViewerModel(), study, tmp_path)
    objects = read_objects(measured_run / "sections" / "P01-CD19" / "objects.parquet")
    stored = objects[objects["field"].eq(2)].reset_index(drop=True)
    tuned = tune_field(drawn, 2, load_protocol(study / "PROTOCOL.toml"))
    pd.testing.assert_frame_equal(tuned.objects, stored, check_exact=True)
    # another threshold: as if the field had been measured with it
    changed = change_protocol(drawn.request.protocol, "CD19", 0.25, "auto", "default", "default")
    again, called = tune_field(drawn, 2, changed), call_cells(tuned, 0.25)
    assert called.objects["positive"].tolist() == again.objects["positive"].tolist()
    assert count_calls(called)["positive_cells"] == count_calls(again)["positive_cells"]
    assert count_calls(call_cells(tuned, 0.01))["positive_cells"] > count_calls(tuned)["positive_cells"] > 0
    assert f"field 2: {count_calls(called)['positive_cells']} positive cells" in describe_calls(called)
    colors = color_calls(called)
    positive = list_candidates(called)["positive"].to_numpy(bool)
    assert len(show_candidates(called)[0]) == len(colors)
    assert (colors[positive, 0] > colors[positive, 2]).all() and np.ptp(
        colors[~positive, :3], axis=0
    ).max() == 0
    with pytest.raises(HistoquantError, match="field 9 is not drawn; choose one of 1 to 2"):
        tune_field(drawn, 9, drawn.request.protocol)


def test_what_is_saved_is_what_was_on_the_screen(tmp_path: Path) -> None:
    stains = ("243 241 239", "0.65, 0.70, 0.29", "0.27 0.57 0.78")
    tuned = change_protocol(Protocol(), "BAFF", 0.15, *stains)
    assert tuned.markers["BAFF"].threshold_od == 0.15
    assert tuned.markers["CD19"] == Protocol().markers["CD19"]
    save_protocol(tuned, tmp_path / "lab µ.toml")
    assert load_protocol(tmp_path / "lab µ.toml") == tuned
    assert change_protocol(Protocol(), "BAFF", 0.15, *describe_stain(tuned)) == tuned
    usual = Protocol().markers["CD19"].threshold_od
    assert change_protocol(Protocol(), "CD19", usual, *describe_stain(Protocol())) == Protocol()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        save_protocol(tuned, tmp_path / "file" / "lab.toml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.1, "white", "default", "default"), "'white' is no white point; give three numbers"),
        ((0.1, "auto", "default", "auto"), "'default' is no stain vector"),
        ((0.1, "auto", "1 0 0", "2 0 0"), "nearly parallel"),
        ((9.0, "auto", "auto", "auto"), "threshold_od"),
    ],
)
def test_what_cannot_be_used_is_named(values: tuple[float, str, str, str], message: str) -> None:
    with pytest.raises(HistoquantError, match=message):
        change_protocol(Protocol(), "CD19", *values)


def test_a_field_is_tuned_by_clicks(viewer: Any, study: Path, tmp_path: Path, messages: list[str]) -> None:
    _, widget = viewer.window.add_plugin_dock_widget("histoquant", "Tune")
    hint = widget.native.sizeHint()
    assert hint.height() <= 620 and hint.width() <= 460
    widget.preview.native.click()
    widget.save.native.click()
    assert [text.splitlines()[0] for text in messages] == [
        "No fields are drawn.",
        "No protocol file is chosen.",
    ]
    messages.clear()
    draw(viewer, study, tmp_path / "out")
    widget.field.value = 2
    widget.preview.native.click()
    wait_for(lambda: widget.tuned is not None and widget.preview.enabled)
    assert {"haematoxylin", "DAB", "cells to call"} <= {layer.name for layer in viewer.layers}
    before = widget.about.value
    widget.threshold.value = 0.3
    assert widget.about.value != before and widget.histogram.threshold == pytest.approx(0.3)
    assert widget.histogram.counts.sum() == len(viewer.layers["cells to call"].data)
    widget.file.value = tmp_path / "lab.toml"
    widget.save.native.click()
    assert load_protocol(tmp_path / "lab.toml").markers["CD19"].threshold_od == pytest.approx(0.3)
    widget.threshold.value = 0.1
    widget.load.native.click()
    assert widget.threshold.value == pytest.approx(0.3)
    (tmp_path / "lab.toml").write_text("version = 2", encoding="utf-8")
    widget.load.native.click()
    assert "Has version 2" in messages[-1]
