"""Speed of the napari plugin, for docs/napari.md: `xvfb-run -a python benchmarks/napari_speed.py`.

A real window on a display that nobody looks at, drawn by the processor (no graphics card): figures of a
desk's machine are better. Times are by the clock, since a user waits by the clock, and of the processor (all
threads), which other work on the machine does not lengthen. Every question is asked in a process of its own.

threshold  a new threshold in Tune, from the value set to the window drawn anew, one default field
open       a slide of 40,000 x 40,000 px, from the call to the first picture, and the memory of the process;
           the plugin's own loading is in it
pan        a frame while the view moves over 10,000 cells and 3,000 fibers shown, as labels and points;
           then over nothing and over one layer at a time. A frame is everything until the window has come
           to rest, with the number of times its picture was drawn for it
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SIDE_PX, TILE_PX, MPP = 40_000, 512, 0.25
CELLS, FIBERS = 10_000, 3_000
GOALS = {"threshold": "300 ms", "open": "2 s, 1 GB", "pan": "50 ms"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="?", choices=list(GOALS))
    parser.add_argument("--folder", type=Path, help="keeps the slide for another time")
    words = parser.parse_args()
    if words.what:
        print(json.dumps(ASK[words.what](words.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = words.folder or Path(name)
        write_large(folder / "large.tif")
        for what, goal in GOALS.items():
            command = [sys.executable, "-W", "ignore", __file__, what, "--folder", str(folder)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            print(
                f"{what} (goal {goal}, load {os.getloadavg()[0]:.1f}): {done.stdout.splitlines()[-1]}",
                flush=True,
            )


def write_large(path: Path) -> None:
    """Write a pyramidal, tiled TIFF of 40,000 x 40,000 px: a few tiles of noise, repeated."""
    if path.is_file():
        return
    import cv2
    import tifffile  # not above: they are part of what the plugin loads

    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    coarse = [rng.integers(low, low + 60, (32, 32, 3), np.uint8) for low in range(60, 190, 10)]
    kinds = [cv2.resize(one, (TILE_PX, TILE_PX), interpolation=cv2.INTER_CUBIC) for one in coarse]
    aside = path.with_suffix(".new")
    sides = [SIDE_PX // step for step in (1, 4, 16, 64)]
    with tifffile.TiffWriter(aside, bigtiff=True) as file:
        for level, side in enumerate(sides):
            across = -(-side // TILE_PX)
            tiles = (
                kinds[(row * 7 + column) % len(kinds)] for row in range(across) for column in range(across)
            )
            per_cm = 1e4 * side / SIDE_PX / MPP
            file.write(
                tiles,
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 70},
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
            )
    aside.replace(path)


def open_window() -> Any:
    import napari
    from qtpy.QtTest import QTest

    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1366, 768)
    QTest.qWait(1500)
    return viewer


def draw_frame(viewer: Any) -> int:
    """Let everything that waits be done and be drawn on the screen; return how often that was drawn."""
    from qtpy.QtWidgets import QApplication

    canvas = viewer.window._qt_viewer.canvas._scene_canvas
    drawn: list[Any] = []
    canvas.events.draw.connect(drawn.append)
    canvas.update()
    before = -1
    while before < len(drawn):  # what is drawn may ask for finer tiles, and be drawn anew with them
        before = len(drawn)
        QApplication.processEvents()
    canvas.context.finish()
    canvas.events.draw.disconnect(drawn.append)
    return len(drawn)


def ask_threshold(folder: Path) -> dict[str, Any]:
    from napari_histoquant.drawing import Request, draw_fields, show_drawn
    from napari_histoquant.opening import add_layers
    from napari_histoquant.scene import find_slide
    from napari_histoquant.tuning import tune_field

    from histoquant.protocol import Protocol
    from histoquant.synthetic import LayoutSettings, RenderSettings, render_section, write_section

    slide = folder / "P01-CD19.svs"
    if not slide.is_file():
        settings = RenderSettings(size_um=(1800.0, 1600.0), layout=LayoutSettings(foci_per_mm2=5.0))
        write_section(render_section(np.random.default_rng(5), settings), slide)
    viewer = open_window()
    add_layers(viewer, slide)
    protocol = Protocol.model_validate({"fields": {"count": 1}})
    request = Request(folder / "results", "P01", "a", "CD19", 0, protocol)
    drawn = draw_fields(find_slide(viewer), [], request, "a benchmark")
    show_drawn(viewer, drawn)
    _, widget = viewer.window.add_plugin_dock_widget("histoquant", "Tune")
    widget._accept(tune_field(drawn, 1, widget.choose_protocol()))
    times: list[tuple[float, float]] = []
    for step in range(20):
        draw_frame(viewer)
        start = Start()
        widget.threshold.value = 0.05 + 0.01 * step
        draw_frame(viewer)
        times.append(start.tell())
    cells = int(widget.tuned.objects["kind"].eq("cell").sum())
    return {**tell(times), "cells in the field and its margin": cells}


def ask_open(folder: Path) -> dict[str, Any]:
    viewer = open_window()
    from qtpy.QtTest import QTest

    draw_frame(viewer)
    before = read_memory_mb()
    start = Start()
    from napari_histoquant.opening import add_layers

    loaded = start.tell()[1]
    (layer,) = add_layers(viewer, folder / "large.tif")
    draw_frame(viewer)
    while not layer.loaded:
        QTest.qWait(1)
    draw_frame(viewer)
    seconds, processor = start.tell()
    picture = viewer.screenshot(canvas_only=True, flash=False)
    shown = float((picture[..., :3].std(axis=2) > 0).mean())
    for step in range(12):  # a walk from the whole slide to single pixels
        viewer.scene.camera.zoom *= 2
        viewer.scene.camera.center = (0.0, 3000.0 + 300 * step, 4000.0)
        draw_frame(viewer)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        **{"first picture, s": round(seconds, 2), "of the processor, s": round(processor, 2)},
        "of which to load the plugin, s": round(loaded, 2),
        "size, px": list(layer.data[0].shape[:2]),
        "canvas covered": round(shown, 2),
        "memory before, MB": round(before),
        "peak after a walk through all levels, MB": round(peak),
    }


def ask_pan(folder: Path) -> dict[str, Any]:
    from napari.layers import Layer
    from napari_histoquant.layers import show_labels, show_points
    from napari_histoquant.mosaic import Piece, join_pieces

    viewer = open_window()
    rng = np.random.default_rng(0)
    cells, fibers = make_objects(CELLS, "cell", rng), make_objects(FIBERS, "fiber", rng)
    layers = []
    for table, name, half in ((fibers, "fibers", 40), (cells, "cells", 7)):
        labels = np.zeros((6000, 6000), np.int32)
        for label, (x, y) in enumerate(table[["x_um", "y_um"]].to_numpy(), start=1):
            row, column = int(2 * y), int(2 * x)
            labels[max(row - half, 0) : row + half, max(column - half, 0) : column + half] = label
        mosaic = join_pieces([Piece(labels, 0.0, 0.0)], 0.5)
        layers.append(show_labels(mosaic.levels, table, name, 0.0, 0.0, 0.5))
    layers.append(show_points(cells))
    for data in layers:
        viewer.layers.append(Layer.create(*data))
    names = [layer.name for layer in viewer.layers]
    found = {}
    for view, width_um in (("3 mm", 3000.0), ("one field of 0.55 mm", 550.0)):
        viewer.scene.camera.zoom = min(viewer.canvas.size) / width_um
        found[f"all, {view}"] = move_view(viewer, names, 20)
        for shown in ([], *([name] for name in names)):
            found[f"{' '.join(shown) or 'nothing'}, {view}"] = move_view(viewer, shown, 10)
    return found


def move_view(viewer: Any, shown: list[str], frames: int) -> dict[str, Any]:
    """Move over some of the layers by 10 um a frame."""
    for layer in viewer.layers:
        layer.visible = layer.name in shown
    viewer.scene.camera.center = (0.0, 1500.0, 1000.0)
    for _ in range(3):
        draw_frame(viewer)
    times, drawings = [], []
    for step in range(frames):
        start = Start()
        viewer.scene.camera.center = (0.0, 1500.0, 1000.0 + 10 * step)
        drawings.append(draw_frame(viewer))
        times.append(start.tell())
    return {**tell(times), "drawings of a frame": float(np.median(drawings))}


def make_objects(number: int, kind: str, rng: np.random.Generator) -> pd.DataFrame:
    """Rows as objects.parquet has them, over 3 mm."""
    import pandas as pd  # not above: it was part of what the plugin loaded for a slide

    from histoquant.objects import OBJECT_COLUMNS

    counted = rng.random(number) < 0.8
    values: dict[str, Any] = {
        "object": [f"1{kind[0]}{label}" for label in range(1, number + 1)],
        **{"field": 1, "kind": kind, "label": np.arange(1, number + 1)},
        **{"x_um": rng.uniform(20, 2980, number), "y_um": rng.uniform(20, 2980, number)},
        **{"fraction_in_field": np.where(counted, 1.0, 0.4), "counted": counted, "straddling": ~counted},
        **{"positive": True, "dab_od": 0.2, "confidence": 0.9, "nucleus": True, "countable": True},
        **{"place": "endomysial", "fiber": 0, "reason": "", "area_um2": 60.0},
    }
    table = pd.DataFrame(values)
    return table.reindex(columns=list(dict.fromkeys([*OBJECT_COLUMNS, *table.columns])))


class Start:
    """Now, by the clock and by the processor."""

    def __init__(self) -> None:
        self.clock, self.processor = perf_counter(), process_time()

    def tell(self) -> tuple[float, float]:
        """Seconds since then, by both."""
        return perf_counter() - self.clock, process_time() - self.processor


def tell(times: list[tuple[float, float]]) -> dict[str, Any]:
    clock, processor = 1000 * np.array(times).T
    return {
        "median, ms": round(float(np.median(clock))),
        "90 %, ms": round(float(np.quantile(clock, 0.9))),
        "of the processor, ms": round(float(np.median(processor))),
        "tries": len(times),
    }


def read_memory_mb() -> float:
    """Memory of this process now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


ASK = {"threshold": ask_threshold, "open": ask_open, "pan": ask_pan}

if __name__ == "__main__":
    main()
