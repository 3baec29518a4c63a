"""Take the pictures of docs/napari.md in a real window of a small laptop: `make pictures`.

A section is rendered, measured, reviewed and read in a folder that is thrown away; so are two serial ones.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import cv2
import napari
import numpy as np
import pandas as pd
from napari._qt.dialogs.qt_notification import NapariQtNotification
from napari_histoquant.opening import add_layers
from qtpy.QtTest import QTest

from histoquant.synthetic import LayoutSettings, RenderSettings, render_section, write_section
from histoquant.synthetic.serial_study import SerialPlan, write_series

OUT = Path(__file__).parent / "pictures"
SIZE = (1366, 768)  # a small laptop


def main() -> None:
    """Go through all parts, or through those named; `review` needs what `measure` left in the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = {"measure": measure, "review": review, "serial": serial}
    parser.add_argument("parts", nargs="*", choices=list(parts))
    parser.add_argument("--folder", type=Path, help="keeps what is rendered and measured")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = words.folder or Path(name)
        for part in words.parts or parts:
            viewer = napari.Viewer(show=True)
            viewer.window._qt_window.resize(*SIZE)
            parts[part](viewer, folder)
            viewer.close()


def render(folder: Path) -> Path:
    """Render a section of 1.8 mm and a protocol of three fields."""
    slide = folder / "P01-CD19.svs"
    if not slide.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        settings = RenderSettings(size_um=(1800.0, 1500.0), layout=LayoutSettings(foci_per_mm2=5.0))
        write_section(render_section(np.random.default_rng(5), settings), slide)
        (folder / "protocol.toml").write_text("[fields]\ncount = 3\n", encoding="utf-8")
    return slide


def measure(viewer: Any, folder: Path) -> None:
    """From a slide to its count."""
    add_layers(viewer, render(folder))
    take(viewer, "open", reset=True)
    draw(viewer, folder)
    dock, widget = viewer.window.add_plugin_dock_widget("histoquant", "Measure")
    widget.go.native.click()
    wait_for(lambda: widget.bar.value >= 2)
    wait_for(lambda: widget.go.enabled)
    take(viewer, "measure", dock, reset=True)


def draw(viewer: Any, folder: Path) -> None:
    """Annotate and draw fields; tune on the first."""
    dock, annotate = viewer.window.add_plugin_dock_widget("histoquant", "Annotate")
    annotate.exclude.native.click()
    viewer.layers["regions"].add_polygons(
        np.array([[150, 150], [150, 700], [420, 620], [500, 200]], float),
    )
    viewer.layers["regions"].mode = "pan_zoom"
    annotate.tissue.native.click()
    wait_for(lambda: "tissue" in viewer.layers)
    take(viewer, "annotate", dock, reset=True)
    viewer.layers["tissue"].visible = False
    dock, widget = viewer.window.add_plugin_dock_widget("histoquant", "Draw fields")
    widget.patient.value, widget.group.value, widget.marker.value = "P01", "refractory", "CD19"
    widget.run.value, widget.protocol.value = folder / "results", folder / "protocol.toml"
    widget.draw.native.click()
    wait_for(lambda: "fields" in viewer.layers)
    take(viewer, "draw", dock, reset=True)
    dock, widget = viewer.window.add_plugin_dock_widget("histoquant", "Tune")
    widget.preview.native.click()
    wait_for(lambda: widget.tuned is not None and widget.preview.enabled)
    box = viewer.layers["fields"].data[0]
    viewer.scene.camera.center = (0.0, *box.mean(axis=0))
    viewer.scene.camera.zoom = min(viewer.canvas.size) / 300
    take(viewer, "tune", dock)
    for name in ("haematoxylin", "DAB", "cells to call"):
        viewer.layers.remove(name)


def review(viewer: Any, folder: Path) -> None:
    """Review the section, with a few edits, then read it blinded."""
    add_layers(viewer, folder / "results")
    dock, widget = viewer.window.add_plugin_dock_widget("histoquant", "Review")
    widget.reviewer.setText("Li")
    widget.begin.click()
    wait_for(lambda: widget.review is not None)
    for _ in range(7):
        widget.buttons["next"].click()
    widget.buttons["reject"].click()
    widget.buttons["accept"].click()
    take(viewer, "review")
    viewer.theme = "light"
    take(viewer, "review_light", dock)
    viewer.theme = "dark"
    viewer.layers.clear()
    dock, widget = viewer.window.add_plugin_dock_widget("histoquant", "Read blinded")
    widget.run.value = folder / "results"
    widget.reader.setText("Li")
    widget.begin.click()
    for number in range(14):
        kind = ("fiber", "fiber", "uncertain", "positive", "negative")[number % 5]
        x, y = 190 * np.cos(2.4 * number), 15 * number * np.sin(2.4 * number)
        widget._mark(kind, float(x), float(y))
    take(viewer, "blinded", dock)


def serial(viewer: Any, folder: Path) -> None:
    """Two serial sections on each other, the upper one half transparent, with five landmarks."""
    out = folder / "serial" / "out"
    if not out.is_dir():
        render = SerialPlan().render.model_copy(update={"size_um": (1150.0, 1150.0)})
        study = write_series(folder / "serial", SerialPlan(render=render))
        (folder / "serial" / "protocol.toml").write_text("[fields]\ncount = 2\n", encoding="utf-8")
        words = ["serial", study, "--out", out, "--protocol", folder / "serial" / "protocol.toml", "--quiet"]
        subprocess.run([sys.executable, "-m", "histoquant", *map(str, words)], check=True)
    dock, widget = viewer.window.add_plugin_dock_widget("histoquant", "Serial sections")
    widget.run.value = out
    widget.open.native.click()
    (section,) = widget.linked.others
    places = [
        pd.read_csv(folder / "serial" / "truth" / f"{name}_landmarks.csv", index_col="fiber")
        for name in (widget.linked.block.reference, section)
    ]
    fixed, moving = (one.loc[places[0].index.intersection(places[1].index)].to_numpy() for one in places)
    low, high = np.quantile(fixed, 0.2, axis=0), np.quantile(fixed, 0.8, axis=0)
    for spot in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5)):
        nearest = int(np.argmin(np.hypot(*(fixed - low - np.array(spot) * (high - low)).T)))
        widget.linked.fixed.setdefault(section, []).append(tuple(fixed[nearest]))
        widget.linked.moving.setdefault(section, []).append(tuple(moving[nearest]))
    widget._tell()
    widget.opacity.value = 0.5
    take(viewer, "serial", dock, reset=True)


def take(viewer: Any, name: str, dock: Any = None, reset: bool = False) -> None:
    """Take a picture of the window when it has come to rest; all of the slide is seen if so wanted."""
    QTest.qWait(1500)
    for note in viewer.window._qt_window.findChildren(NapariQtNotification):
        note.close()  # it lies on the scale bar
    if reset:
        viewer.reset_view()
    QTest.qWait(1500)
    picture = viewer.screenshot(canvas_only=False, flash=False)[..., :3]
    OUT.mkdir(exist_ok=True)
    cv2.imwrite(str(OUT / f"napari_{name}.jpg"), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])
    print(name, picture.shape, flush=True)
    if dock is not None:
        viewer.window.remove_dock_widget(dock)


def wait_for(condition: Callable[[], object], seconds: float = 900.0) -> None:
    """Let the window work until something is so."""
    end = monotonic() + seconds
    while not condition():
        if monotonic() > end:
            sys.exit("it did not happen in time")
        QTest.qWait(20)


if __name__ == "__main__":
    main()
