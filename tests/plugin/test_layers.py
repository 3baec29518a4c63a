"""Layers without a window: where pixels, fields, labels and points lie, and what they carry."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from napari.layers import Layer
from napari.layers._layer_actions import _duplicate_layer, _split_rgb
from napari_histoquant.layers import outline_box, show_fields, show_points
from napari_histoquant.mosaic import Piece, join_pieces
from napari_histoquant.opening import add_layers, replace_layers
from napari_histoquant.reader import NOTHING, get_reader, read, read_layers
from napari_histoquant.samples import render_sample, show_sample
from napari_histoquant.sections import list_measured, open_section
from napari_histoquant.slides import KEY
from PIL import Image

from histoquant import results
from histoquant.errors import ResultsError
from histoquant.geometry import Field
from histoquant.pictures import GREY, STYLES, VERMILLION
from histoquant.slide import open_slide


def test_a_slide_is_lazy_and_lies_in_micrometres(study: Path) -> None:
    path = study / "slides" / "P01-CD19.svs"
    ((levels, properties, kind),) = read_layers(path)
    assert kind == "image"
    assert [level.shape for level in levels] == [(1400, 1400, 3), (350, 350, 3), (88, 88, 3)]
    layer = Layer.create(levels, properties, kind)
    assert [str(unit) for unit in layer.units] == ["micrometer", "micrometer"]
    # The center of pixel (2, 4) lies 2.5 and 4.5 pixels from the slide's corner.
    assert layer.data_to_world((2, 4)) == pytest.approx((1.25, 2.25))
    with open_slide(path) as slide:
        expected = slide.read(100.0, 50.0, 8.0, 4.0).pixels
    np.testing.assert_array_equal(np.asarray(levels[0][100:108, 200:216]), expected)


def test_a_lazy_slide_stands_what_napari_does_with_a_layer(study: Path) -> None:
    layer = Layer.create(*read_layers(study / "slides" / "P01-CD19.svs")[0])
    coarse = np.asarray(layer.data[-1])
    np.testing.assert_array_equal(layer._slice.image.raw, coarse)
    assert layer.thumbnail[..., :3].std() > 0
    viewer = ViewerModel()
    viewer.layers.append(layer)
    _duplicate_layer(viewer.layers)
    copied = viewer.layers[1]
    assert copied.data[0] is layer.data[0]
    viewer.layers.selection.active = copied
    _split_rgb(viewer.layers)
    assert [one.name.split()[0] for one in viewer.layers] == ["P01-CD19.svs"] * 4
    for channel, one in enumerate(viewer.layers[1:]):
        assert [level.shape for level in one.data] == [(1400, 1400), (350, 350), (88, 88)]
        np.testing.assert_array_equal(np.asarray(one.data[-1]), coarse[..., channel])
    for one in viewer.layers:
        one.histogram.mode = "full"
        assert one.histogram.counts.sum() > 0


def test_neither_tables_nor_dask_are_loaded_to_see_a_slide(study: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from napari.components import ViewerModel
        from napari_histoquant.opening import add_layers
        add_layers(ViewerModel(), Path(sys.argv[1]))
        found = {"pandas", "dask.array"} & set(sys.modules)
        sys.exit(f"loaded: {found}" if found else 0)"""
    words = [sys.executable, "-W", "ignore", "-c", code, study / "slides" / "P01-CD19.svs"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_slide_without_pixel_size_opens_in_pixels_and_says_so(tmp_path: Path, messages: list[str]) -> None:
    path = tmp_path / "camera.png"
    Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(path)
    ((_, properties, _),) = read(str(path))  # type: ignore[misc]
    assert properties["units"] == ("pixel", "pixel")
    assert properties["metadata"][KEY]["mpp"] is None
    assert messages == ["camera.png: The file does not tell its pixel size."]
    ((_, properties, _),) = read_layers(path, 0.4)
    assert properties["scale"] == (0.4, 0.4)


def test_what_cannot_be_opened_gives_a_message(tmp_path: Path, messages: list[str]) -> None:
    path = tmp_path / "torn.svs"
    path.write_bytes(b"nothing")
    assert read(str(path)) == NOTHING
    (text,) = messages
    assert "Is not a slide" in text and "torn.svs" in text and "Traceback" not in text


def test_the_reader_leaves_to_others_what_is_not_ours(tmp_path: Path) -> None:
    assert get_reader("notes.txt") is None
    assert get_reader(str(tmp_path)) is None
    assert get_reader(["a.tif", "b.tif"]) is None
    assert get_reader("A.SVS") is read


def test_a_section_opens_whole(measured_run: Path) -> None:
    folder = measured_run / "sections" / "P01-CD19"
    opened = open_section(folder)
    assert opened.notes == ()
    layers = {layer[1]["name"]: Layer.create(*layer) for layer in opened.layers}
    assert list(layers) == ["P01-CD19", "fibers", "cells", "positive cells", "fields"]
    rows = results.read_record(folder)["fields"]  # type: ignore[index]
    fields = layers["fields"]
    assert fields.features["positive_cells"].tolist() == [row["positive_cells"] for row in rows]
    centers = [data.mean(axis=0).tolist() for data in fields.data]
    assert centers == [pytest.approx([row["center_y_um"], row["center_x_um"]]) for row in rows]
    objects = results.read_objects(folder / "objects.parquet")
    counted = objects[objects["kind"].eq("cell") & objects["positive"] & objects["counted"]]
    points = layers["positive cells"]
    shown = points.features[points.features["counted"]]
    assert sorted(shown["object"]) == sorted(counted["object"])
    assert set(points.features["counted"].map(type)) == {bool}
    colors = {
        counted: set(map(tuple, np.rint(255 * points.face_color[points.features["counted"] == counted, :3])))
        for counted in (True, False)
    }
    assert colors[True] == {VERMILLION} and colors[False] <= {GREY}
    assert STYLES["straddling_out"].color not in (VERMILLION, GREY), "cut and not counted is no positive cell"


def test_labels_of_a_section_lie_where_their_objects_are(measured_run: Path) -> None:
    folder = measured_run / "sections" / "P01-CD19"
    objects = results.read_objects(folder / "objects.parquet")
    fibers = next(layer for layer in open_section(folder).layers if layer[1]["name"] == "fibers")
    layer = Layer.create(*fibers)
    found = 0
    for row in objects[objects["kind"].eq("fiber") & objects["counted"]].to_dict("records"):
        value = layer.get_value((row["y_um"], row["x_um"]), world=True)
        number = value[1] if isinstance(value, tuple) else value
        # A concave fiber's center may lie outside of it.
        found += bool(number) and layer.features.loc[number, "object"] == row["object"]
    assert found >= 0.95 * objects[objects["kind"].eq("fiber")]["counted"].sum() > 0


def test_a_run_opens_its_first_section(measured_run: Path, messages: list[str]) -> None:
    assert get_reader(str(measured_run)) is read
    layers = read_layers(measured_run)
    assert layers[0][1]["name"] == "P01-CD19"
    assert list(list_measured(measured_run)) == ["P01-CD19"]
    assert messages == []


def test_a_section_whose_slide_is_gone_still_shows_its_results(measured_run: Path, tmp_path: Path) -> None:
    folder = measured_run / "sections" / "P01-CD19"
    copy = tmp_path / "P01-CD19"
    copy.mkdir()
    (copy / "fields").symlink_to(folder / "fields")
    (copy / "objects.parquet").symlink_to(folder / "objects.parquet")
    (copy / "receipt.json").symlink_to(folder / "receipt.json")
    record = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    (copy / "measured.json").write_text(json.dumps({**record, "inputs": {}}), encoding="utf-8")
    opened = open_section(copy)
    assert [layer[2] for layer in opened.layers] == ["labels", "labels", "points", "shapes"]
    assert "The slide is not shown" in opened.notes[0]


@pytest.mark.parametrize("where", ["", "run.json"])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, where: str) -> None:
    if where:
        (tmp_path / where).write_text('{"sections": {}}', encoding="utf-8")
    with pytest.raises(ResultsError, match=r"measured section|is not a run"):
        list_measured(tmp_path)
    with pytest.raises(ResultsError, match="holds no measured section"):
        open_section(tmp_path)


def test_another_section_takes_the_place_of_the_first(measured_run: Path) -> None:
    viewer = ViewerModel()
    folder = measured_run / "sections" / "P01-CD19"
    add_layers(viewer, folder)
    viewer.add_points(name="mine")
    replace_layers(viewer, folder)
    assert len(viewer.layers) == 6
    assert "mine" in viewer.layers
    assert viewer.canvas.overlays.scale_bar.visible


def test_fields_keep_shape_and_number() -> None:
    fields = [Field(1, "circle", 100.0, 50.0, 40.0, 40.0), Field(2, "rectangle", 10.0, 20.0, 4.0, 8.0)]
    layer = Layer.create(*show_fields(fields))
    assert list(layer.shape_type) == ["ellipse", "rectangle"]
    assert layer.features["field"].tolist() == [1, 2]
    assert outline_box(fields[1]).tolist() == [[16.0, 8.0], [16.0, 12.0], [24.0, 12.0], [24.0, 8.0]]
    assert Layer.create(*show_fields([])).nshapes == 0


def test_a_section_without_positive_cells_shows_none() -> None:
    names = ("object", "field", "kind", "x_um", "y_um", "positive", "counted", "straddling", "dab_od")
    table = pd.DataFrame({name: [] for name in (*names, "confidence", "nucleus", "place", "fiber", "reason")})
    assert len(Layer.create(*show_points(table)).data) == 0


@settings(deadline=None, max_examples=20)
@given(
    places=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), min_size=1, max_size=3),
    step=st.sampled_from([1, 2]),
)
def test_every_level_of_a_mosaic_shows_the_same(places: list[tuple[int, int]], step: int) -> None:
    pieces = [
        Piece(np.arange(1, 61, dtype=np.int32).reshape(6, 10) + 100 * i, 10.0 + 0.5 * x, 20.0 + 0.5 * y)
        for i, (x, y) in enumerate(places)
    ]
    mosaic = join_pieces(pieces, 0.5)
    assert (mosaic.x_um, mosaic.y_um) == (min(p.x_um for p in pieces), min(p.y_um for p in pieces))
    whole = np.zeros(mosaic.levels[0].shape, np.int32)
    for piece in reversed(pieces):
        row, column = round((piece.y_um - mosaic.y_um) / 0.5), round((piece.x_um - mosaic.x_um) / 0.5)
        whole[row : row + 6, column : column + 10] = piece.labels
    for number, level in enumerate(mosaic.levels):
        every = slice(None, None, 2**number)
        np.testing.assert_array_equal(np.asarray(level), whole[every, every])


def test_the_sample_is_a_slide_with_its_truth(tmp_path: Path) -> None:
    path = render_sample(tmp_path / "new folder", (400.0, 380.0))
    slide, fibers, cells = show_sample(path)
    assert slide[0][0].shape == (760, 800, 3)
    assert fibers[0].max() > 3
    assert len(cells[0]) == len(cells[1]["features"]) > 0
    written = path.stat().st_mtime_ns
    assert render_sample(path.parent, (400.0, 380.0)).stat().st_mtime_ns == written
    for layer in (slide, fibers, cells):
        Layer.create(*layer)
