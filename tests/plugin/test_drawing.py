"""Regions and fields: drawn in napari, exchanged with QuPath; the fields are those of a run by script."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from napari.components import ViewerModel
from napari_histoquant.annotate import (
    FEASIBLE,
    TISSUE,
    open_regions,
    read_screen,
    show_feasible,
    show_tissue,
    start_region,
    survey,
)
from napari_histoquant.drawing import (
    Request,
    choose_protocol,
    describe_drawn,
    draw_fields,
    find_drawn,
    show_drawn,
    step_field,
)
from napari_histoquant.opening import add_layers
from napari_histoquant.regions import EXCLUDE, KEEP, collect_regions, save_regions, show_regions
from napari_histoquant.scene import find_layer, find_slide, put_layer
from PIL import Image

from histoquant.annotations import Annotations, Region, read_annotations, read_regions
from histoquant.draws import list_draws
from histoquant.errors import (
    AnnotationError,
    FieldsError,
    HistoquantError,
    ProtocolError,
    ResultsError,
    ScaleError,
    StorageError,
)
from histoquant.protocol import Protocol

HOLED = shapely.box(0, 0, 90, 60) - shapely.box(10, 10, 30, 30) - shapely.box(50, 20, 70, 40)
PARTED = shapely.union(shapely.box(200, 0, 230, 30), shapely.box(240, 0, 260, 30))


@pytest.fixture
def screen(study: Path) -> ViewerModel:
    viewer = ViewerModel()
    add_layers(viewer, study / "slides" / "P01-CD19.svs")
    return viewer


def ask(study: Path, out: Path, **changes: Any) -> Request:
    settings = choose_protocol(study / "PROTOCOL.toml")
    return replace(Request(out, "P01", "refractory", "CD19", 0, settings), **changes)


def test_regions_come_back_from_the_screen_with_class_holes_and_parts() -> None:
    viewer = ViewerModel()
    regions = [Region(("Tumor", "Positive"), HOLED), Region((), PARTED), Region(("Artefact*",), PARTED)]
    layer = put_layer(viewer, show_regions(regions))
    assert layer.nshapes == 5
    back = collect_regions(layer)
    assert [region.names for region in back] == [region.names for region in regions]
    for region, other in zip(regions, back, strict=True):
        assert region.geometry.equals(other.geometry)


def test_what_is_drawn_is_of_the_class_chosen(screen: ViewerModel) -> None:
    layer = start_region(screen, EXCLUDE)
    assert layer.mode == "add_polygon"
    layer.add_ellipses(np.array([[10.0, 20.0], [10.0, 60.0], [30.0, 60.0], [30.0, 20.0]]))
    start_region(screen, KEEP)
    layer.add_rectangles(np.array([[0.0, 0.0], [0.0, 200.0], [100.0, 200.0], [100.0, 0.0]]))
    layer.add_lines(np.array([[0.0, 0.0], [9.0, 9.0]]))
    found = collect_regions(layer)
    assert [region.names for region in found] == [(EXCLUDE,), (KEEP,)]
    assert found[0].geometry.area == pytest.approx(np.pi * 20 * 10, rel=1e-3)
    assert found[0].geometry.bounds == pytest.approx((20.0, 10.0, 60.0, 30.0))
    annotations = read_screen(screen)
    assert annotations.keep is not None and annotations.keep.bounds == (0, 0, 200, 100)


def test_a_region_without_area_is_named(screen: ViewerModel) -> None:
    layer = start_region(screen, KEEP)
    layer.add_polygons(np.array([[0.0, 0.0], [5.0, 5.0], [10.0, 10.0]]))
    with pytest.raises(AnnotationError, match="shape 1: has no area; delete it"):
        collect_regions(layer)


def test_regions_go_to_qupath_and_back(screen: ViewerModel, tmp_path: Path) -> None:
    path = tmp_path / "regions µ.geojson"
    layer = put_layer(screen, show_regions([Region((KEEP,), HOLED), Region(("Fold*",), PARTED)]))
    assert save_regions(layer, path, 0.5) == 2
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    assert [one["properties"]["classification"]["name"] for one in features] == [KEEP, "Fold*"]
    assert {one["properties"]["objectType"] for one in features} == {"annotation"}
    assert max(x for x, _ in features[0]["geometry"]["coordinates"][0]) == 180.0  # level-0 pixels
    assert open_regions(screen, path) == "2 regions opened"
    shown = read_screen(screen)
    read = read_annotations(path, 0.5)
    assert shown.keep is not None and read.keep is not None and shown.keep.equals(read.keep)
    assert shown.exclude is not None and read.exclude is not None and shown.exclude.equals(read.exclude)


def test_the_tissue_shown_obeys_the_regions(screen: ViewerModel) -> None:
    slide = find_slide(screen)
    whole = survey(slide, Annotations(None, None, ()), Protocol())
    half = survey(slide, Annotations(shapely.box(0, 0, 350, 700), None, ()), Protocol())
    assert 0 < half.tissue_mm2 < 0.7 * whole.tissue_mm2
    small = choose_protocol(None, width_um=200.0)
    assert survey(slide, Annotations(None, None, ()), small).feasible_mm2 > whole.feasible_mm2
    assert show_tissue(screen, whole).data.sum() == whole.tissue.sum()
    show_tissue(screen, half)
    show_feasible(screen, half)
    assert [layer.name for layer in screen.layers] == ["P01-CD19.svs", TISSUE, FEASIBLE]
    # A pixel's center lies where it lay on the slide.
    assert find_layer(screen, TISSUE).data_to_world((0, 0)) == pytest.approx((whole.mpp / 2,) * 2)


def test_fields_are_those_of_a_run_by_script(
    screen: ViewerModel, study: Path, measured_run: Path, tmp_path: Path
) -> None:
    drawn = draw_fields(find_slide(screen), [], ask(study, tmp_path / "out"))
    receipt = json.loads((measured_run / "sections/P01-CD19/receipt.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(drawn.prepared.receipt["fields"])) == receipt["fields"]
    layer = show_drawn(screen, drawn)
    assert layer.features["field"].tolist() == [1, 2]
    assert find_drawn(screen) is drawn
    assert "2 fields, drawn from" in describe_drawn(drawn)
    assert [step_field(screen, 1), step_field(screen, 1), step_field(screen, 1)] == [1, 2, 1]
    assert step_field(screen, -1) == 2
    assert screen.scene.camera.center[1:] == pytest.approx(
        (drawn.fields[1].center_y_um, drawn.fields[1].center_x_um)
    )


def test_a_redraw_after_a_count_wants_a_reason(
    screen: ViewerModel, study: Path, measured_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "out"
    (run / "sections").mkdir(parents=True)
    (run / "sections" / "P01-CD19").symlink_to(measured_run / "sections" / "P01-CD19")
    slide = find_slide(screen)
    region = [Region((KEEP,), shapely.box(0, 0, 600, 700))]
    draw_fields(slide, [], ask(study, run))
    with pytest.raises(FieldsError, match="give the reason for drawing anew"):
        draw_fields(slide, region, ask(study, run, seed=5))
    assert not (run / "annotations" / "P01-CD19.geojson").exists()
    drawn = draw_fields(slide, region, ask(study, run, seed=5), "field 2 lay on a fold")
    assert [draw["reason"] for draw in list_draws(run, "P01-CD19")] == ["", "field 2 lay on a fold"]
    kept = drawn.section.sources[0].annotations
    assert kept == run / "annotations" / "P01-CD19.geojson"
    assert read_regions(kept, 0.5)[0][0].names == (KEEP,)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_fields_that_do_not_fit_are_told(screen: ViewerModel, study: Path, tmp_path: Path) -> None:
    slide = find_slide(screen)
    drawn = draw_fields(slide, [], ask(study, tmp_path, protocol=choose_protocol(None, width_um=250.0)))
    assert describe_drawn(drawn).startswith(f"Only {len(drawn.fields)} of 10 fields fit")
    with pytest.raises(FieldsError, match="no room for a field of 5000 um"):
        draw_fields(slide, [], ask(study, tmp_path, protocol=choose_protocol(None, width_um=5000.0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patient": " "}, "no patient is given"),
        ({"group": ""}, "no group is given"),
        ({"run": Path()}, "no folder is chosen"),
    ],
)
def test_what_is_not_filled_in_is_named(
    screen: ViewerModel, study: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(HistoquantError, match=message):
        draw_fields(find_slide(screen), [], ask(study, tmp_path, **changes))


def test_the_folder_of_another_study_is_left_alone(
    screen: ViewerModel, study: Path, measured_run: Path
) -> None:
    with pytest.raises(ResultsError, match="holds the results of another study"):
        draw_fields(find_slide(screen), [], ask(study, measured_run))


def test_a_folder_that_cannot_be_made_is_named(screen: ViewerModel, study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    region = [Region((KEEP,), shapely.box(0, 0, 600, 700))]
    for regions in ([], region):
        with pytest.raises(StorageError, match="choose another folder for the results"):
            draw_fields(find_slide(screen), regions, ask(study, tmp_path / "file" / "out"))


def test_without_a_slide_or_its_pixel_size_nothing_begins(tmp_path: Path) -> None:
    viewer = ViewerModel()
    viewer.add_points(name="mine")
    for action in (find_slide, lambda viewer: start_region(viewer, KEEP)):
        with pytest.raises(HistoquantError, match="no slide is open; drag a slide"):
            action(viewer)
    with pytest.raises(HistoquantError, match="no fields are drawn; draw them"):
        find_drawn(viewer)
    assert step_field(viewer, 1) is None
    Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(tmp_path / "camera.png")
    add_layers(viewer, tmp_path / "camera.png")
    with pytest.raises(ScaleError, match=r"pixel size is not known.*with its pixel size"):
        find_slide(viewer)


def test_files_that_cannot_be_used_are_named(screen: ViewerModel, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="no region is drawn"):
        save_regions(None, tmp_path / "a.geojson", 0.5)
    (tmp_path / "a.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(AnnotationError, match="holds no area"):
        open_regions(screen, tmp_path / "a.geojson")
    (tmp_path / "new.toml").write_text("version = 2")
    with pytest.raises(ProtocolError, match="has version 2; update histoquant"):
        choose_protocol(tmp_path / "new.toml")
