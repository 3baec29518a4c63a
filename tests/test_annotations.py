"""Annotations: literal files, and label maps that survive the way out and back."""

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from histoquant.annotations import (
    MAX_FILE_BYTES,
    Region,
    encode_regions,
    join_regions,
    labels_to_features,
    make_properties,
    rasterize_area,
    read_annotations,
    read_regions,
)
from histoquant.errors import AnnotationError

GEOJSON = Path(__file__).parents[1].parent / "shared" / "data" / "geojson"
SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]]}


def feature(geometry=SQUARE, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def write(folder, data):
    path = folder / "areas µ.geojson"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "data",
    [
        SQUARE,
        feature(),
        [feature()],
        [SQUARE],
        {"type": "FeatureCollection", "features": [feature()]},
        {"type": "Feature", "geometry": SQUARE, "properties": None},
        feature(classification=None),
        feature({"type": "GeometryCollection", "geometries": [SQUARE]}),
        feature({"type": "Polygon", "coordinates": [[[*xy, 9] for xy in SQUARE["coordinates"][0]]]}),
    ],
)
def test_every_form_keeps_in_um(tmp_path, data):
    found = read_annotations(write(tmp_path, data), 0.5, bounds_offset_px=(10, 20))
    assert found.keep.equals(shapely.box(5, 10, 7, 12))
    assert found.exclude is None
    assert found.notes == ()


@pytest.mark.parametrize(
    ("classification", "excluded"),
    [
        ({"name": "Exclude"}, True),
        ({"name": "exclude", "colorRGB": -3140401}, True),
        ({"name": "Fold*"}, True),
        ({"names": ["Muscle", "Ignore*"]}, True),
        ("Exclude", True),
        ({"name": "Muscle", "color": [1, 2, 3]}, False),
        ({"name": "Excluded"}, False),
        ({"name": None}, False),
        (None, False),
    ],
)
def test_class_decides(tmp_path, classification, excluded):
    found = read_annotations(write(tmp_path, feature(classification=classification)), 1.0)
    assert (found.exclude is not None) == excluded
    assert (found.keep is None) == excluded


def test_areas_of_a_kind_are_united(tmp_path):
    right = {"type": "Polygon", "coordinates": [[[2, 0], [6, 0], [6, 4], [2, 4], [2, 0]]]}
    found = read_annotations(write(tmp_path, [feature(), feature(right)]), 1.0)
    assert found.keep.equals(shapely.box(0, 0, 6, 4))


def test_lines_points_and_nothing_are_noted(tmp_path):
    line = {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}
    empty = {"type": "Polygon", "coordinates": []}
    mixed = {"type": "GeometryCollection", "geometries": [SQUARE, line]}
    found = read_annotations(
        write(tmp_path, [feature(line), feature(None), feature(empty), feature(mixed)]), 1.0
    )
    assert found.notes == (
        "Feature 1: LineString is no area, ignored.",
        "Feature 2: no geometry, ignored.",
        "Feature 3: Polygon is no area, ignored.",
        "Feature 4: its lines and points are ignored.",
    )
    assert found.keep.area == 16


def test_crossed_outline_is_repaired(tmp_path):
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]]}
    found = read_annotations(write(tmp_path, bow), 1.0)
    assert found.keep.is_valid
    assert found.keep.area == pytest.approx(8)
    assert found.notes == ("Feature 1: outline crosses itself, repaired.",)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is not JSON"),
        ("<ASAP_Annotations/>", "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("3", "feature 1: is neither"),
        ('{"type": "Topology"}', "feature 1: is neither"),
        ('{"type": ["Feature"]}', "feature 1: is neither"),
        ('{"type": "FeatureCollection", "features": {}}', "no list of features"),
        (json.dumps([feature(), 4]), "feature 2: is neither"),
        (json.dumps(feature({"type": "Circle"})), "feature 1: has a geometry of unknown type"),
        (json.dumps(feature({"type": "Polygon"})), "malformed geometry"),
        (json.dumps(feature({"type": "Polygon", "coordinates": [[["a", "b"]]]})), "malformed geometry"),
        (json.dumps(feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]})), "malformed geometry"),
        (json.dumps(feature({"type": "Polygon", "coordinates": 5})), "malformed geometry"),
        (json.dumps(feature(classification={"name": 5})), "class that is no name"),
        (json.dumps(SQUARE).replace("[4, 4]", "[4, NaN]"), "not a pixel"),
        (json.dumps(SQUARE).replace("[4, 4]", "[4, 1e400]"), "not a pixel"),
        (json.dumps(SQUARE).replace("[4, 4]", "[4, 1e9]"), "not a pixel"),
        (json.dumps(SQUARE).replace("[4, 4]", f"[4, 1{'0' * 400}]"), "malformed geometry"),
        (json.dumps(SQUARE).replace("[4, 4]", "[4, " + "[" * 400 + "]" * 400 + "]"), "malformed geometry"),
    ],
)
def test_wrong_file_says_what_and_where(tmp_path, text, what):
    path = write(tmp_path, text)
    with pytest.raises(AnnotationError, match=what) as caught:
        read_annotations(path, 1.0)
    assert caught.value.where.startswith(str(path))
    assert caught.value.fix


def test_nested_collections_end_in_one_error(tmp_path):
    text = json.dumps(SQUARE)
    for _ in range(900):
        text = '{"type": "GeometryCollection", "geometries": [' + text + "]}"
    with pytest.raises(AnnotationError):
        read_annotations(write(tmp_path, text), 1.0)


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_annotations(tmp_path / "none.geojson", 1.0)
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_annotations(tmp_path, 1.0)
    path = tmp_path / "latin.geojson"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(AnnotationError, match="is not JSON"):
        read_annotations(path, 1.0)


def test_enormous_file_is_refused(tmp_path):
    path = tmp_path / "large.geojson"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse
    with pytest.raises(AnnotationError, match="256 MB, more than 256"):
        read_annotations(path, 1.0)


@pytest.mark.skipif(not GEOJSON.is_dir(), reason="../shared/data/geojson is absent")
@pytest.mark.parametrize(
    ("name", "area_px", "notes"),
    [
        ("rectangle", 36960.0, 0),
        ("polygon", 94491.5, 0),
        ("ellipse", 45350.454, 0),
        ("brush", 10071.918, 0),
        ("wand", 2651.5, 0),
        ("polygon-cell-classified", 442.588, 0),
        ("line", 0, 1),
        ("polyline", 0, 1),
        ("point", 0, 1),
        ("multipoint", 0, 1),
    ],
)
def test_files_of_qupath(name, area_px, notes):
    found = read_annotations(GEOJSON / f"qupath-{name}.json", 0.5)
    assert len(found.notes) == notes
    assert found.exclude is None
    if area_px == 0:
        assert found.keep is None
        return
    assert found.keep.is_valid
    assert found.keep.area == pytest.approx(area_px / 4, rel=1e-5)
    left, top, right, bottom = found.keep.bounds
    shape = round((bottom - top) / 0.1) + 2, round((right - left) / 0.1) + 2
    mask = rasterize_area(found.keep, shape, left, top, 0.1)
    assert mask.sum() * 0.01 == pytest.approx(area_px / 4, rel=0.003)


@pytest.mark.skipif(not GEOJSON.is_dir(), reason="../shared/data/geojson is absent")
def test_asap_file_is_refused():
    with pytest.raises(AnnotationError, match="is not JSON"):
        read_annotations(GEOJSON / "asap-polygon.xml", 0.5)


def test_rasterize_takes_pixel_centers():
    triangle = shapely.Polygon([(0, 0), (4, 0), (0, 4)])
    expected = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    # Centers on the long side itself belong to the pixel's right: the boundary is half-open.
    assert rasterize_area(triangle, (4, 4), 0, 0, 1).astype(int).tolist() == expected
    ring = shapely.box(0, 0, 6, 6).difference(shapely.box(2, 2, 4, 4))
    assert rasterize_area(ring, (3, 3), 0, 0, 2).astype(int).tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
    assert rasterize_area(shapely.box(-9, -9, 99, 99), (2, 3), 0, 0, 1).all()
    assert not rasterize_area(shapely.box(50, 50, 99, 99), (2, 3), 0, 0, 1).any()
    assert not rasterize_area(shapely.box(-9, 0, -1, 9), (2, 3), 0, 0, 1).any()
    assert not rasterize_area(shapely.Polygon(), (2, 3), 0, 0, 1).any()


@settings(deadline=None, max_examples=60)
@given(
    # Whole numbers of 1/1024, since shapely itself fails on points 1e-186 apart.
    st.lists(st.tuples(st.integers(-5120, 25600), st.integers(-5120, 25600)), min_size=3, max_size=9).map(
        lambda points: [(x / 1024, y / 1024) for x, y in points]
    ),
    st.floats(0.3, 3),
    st.floats(-4, 4),
)
def test_rasterize_agrees_with_shapely(points, mpp, corner):
    area = shapely.make_valid(shapely.Polygon(points))
    area = shapely.union_all([p for p in shapely.get_parts(area) if p.geom_type == "Polygon"])
    mask = rasterize_area(area, (12, 15), corner, -corner, mpp)
    x = np.broadcast_to(corner + (np.arange(15) + 0.5) * mpp, (12, 15))
    y = np.broadcast_to((-corner + (np.arange(12) + 0.5) * mpp)[:, None], (12, 15))
    off_boundary = shapely.distance(area.boundary, shapely.points(x, y)) > 1e-9
    assert (mask == shapely.contains_xy(area, x, y))[off_boundary | np.isnan(x)].all()


def test_neighbours_share_no_pixel():
    cut = [(3.0, -1.0), (4.5, 3.5), (2.5, 9.0)]
    left = shapely.Polygon([(-1, -1), *cut, (-1, 9)])
    right = shapely.Polygon([(9, -1), *cut, (9, 9)])
    masks = [rasterize_area(one, (8, 8), 0, 0, 1) for one in (left, right)]
    assert (masks[0] ^ masks[1]).all()


def rings_of(feature):
    return feature["geometry"]["coordinates"]


def test_outline_follows_edges_with_hole_and_pieces():
    labels = np.array([[5, 5, 5, 0, 5], [5, 0, 5, 0, 0], [5, 5, 5, 0, 2]])
    two, five = labels_to_features(labels, 10.0, 20.0, 1.0, 0.5, {5: {"name": "x"}})
    assert two["geometry"] == {
        "type": "Polygon",
        "coordinates": [[[30, 44], [30, 46], [28, 46], [28, 44], [30, 44]]],
    }
    assert two["properties"] == {}
    assert five["properties"] == {"name": "x"}
    assert five["geometry"]["type"] == "MultiPolygon"
    assert [len(part) for part in rings_of(five)] == [2, 1]
    assert shapely.geometry.shape(five["geometry"]).area == 9 * 4


def test_only_the_labels_asked_for_are_outlined():
    labels = np.array([[5, 5, 0, 2, 7]])
    every = labels_to_features(labels, 0, 0, 1, 1)
    assert labels_to_features(labels, 0, 0, 1, 1, only={5, 7, 9}) == every[1:]


def test_diagonal_touch_gives_valid_polygons():
    # Two pieces that meet at a corner; a hole that meets the outside at a corner.
    pieces, pinch = np.array([[1, 0], [0, 1]]), np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]])
    for labels, count in ((pieces, 2), (pinch, 1)):
        (found,) = labels_to_features(labels, 0, 0, 1, 1)
        geometry = shapely.geometry.shape(found["geometry"])
        assert geometry.is_valid
        assert len(shapely.get_parts(geometry)) == count
        assert geometry.area == (labels > 0).sum()


def test_nothing_labelled_gives_nothing():
    assert labels_to_features(np.zeros((3, 4), np.int32), 0, 0, 1, 1) == []


@settings(deadline=None, max_examples=150)
@given(
    arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)),
    st.floats(0.2, 2),
    st.floats(0.1, 1.1),
    st.floats(-500, 30_000),
)
def test_labels_survive_the_way_out_and_back(labels, mpp, slide_mpp, corner):
    features = labels_to_features(labels, corner, corner / 2, mpp, slide_mpp)
    features = json.loads(json.dumps(features))
    numbers = np.unique(labels[labels > 0])
    assert len(features) == len(numbers)
    for number, found in zip(numbers, features, strict=True):
        geometry = shapely.geometry.shape(found["geometry"])
        assert geometry.is_valid
        area = shapely.transform(geometry, lambda xy: xy * slide_mpp)
        mask = rasterize_area(area, labels.shape, corner, corner / 2, mpp)
        assert (mask == (labels == number)).all()


def test_features_read_back_from_a_file(tmp_path):
    labels = np.zeros((20, 30), np.int32)
    labels[3:9, 4:20] = 1
    labels[5, 6:8] = 0
    properties = {1: make_properties("annotation", "Fold*", (1, 2, 3), {"Area um2": 94.0})}
    found = labels_to_features(labels, 100.0, 50.0, 0.5, 0.25, properties)
    exclude = read_annotations(write(tmp_path, found), 0.25).exclude
    assert (rasterize_area(exclude, labels.shape, 100.0, 50.0, 0.5) == (labels == 1)).all()


def test_regions_keep_their_classes_on_the_way_out_and_back(tmp_path):
    holed = shapely.box(0, 0, 9, 9) - shapely.box(2, 2, 4, 4)
    parted = shapely.union(shapely.box(20, 0, 25, 5), shapely.box(30, 0, 35, 5))
    regions = [Region(("Tumor",), holed), Region(("Tumor", "Positive"), parted), Region((), holed)]
    path = tmp_path / "out.geojson"
    path.write_bytes(encode_regions(regions, 0.25, (100, 40)))
    back, notes = read_regions(path, 0.25, (100, 40))
    assert notes == ()
    assert [region.names for region in back] == [region.names for region in regions]
    for region, other in zip(regions, back, strict=True):
        assert region.geometry.equals(other.geometry)
    properties = [one["properties"] for one in json.loads(path.read_text())["features"]]
    assert properties[0]["classification"]["name"] == "Tumor"
    assert properties[1]["classification"]["names"] == ["Tumor", "Positive"]
    assert properties[2] == {"objectType": "annotation"}


def test_regions_are_joined_by_what_they_do():
    box, other = shapely.box(0, 0, 2, 2), shapely.box(1, 0, 4, 2)
    joined = join_regions([Region((), box), Region(("Muscle",), other), Region(("Fold*",), box)], ["a"])
    assert joined.keep.equals(shapely.box(0, 0, 4, 2))
    assert joined.exclude.equals(box)
    assert joined.notes == ("a",)
    assert join_regions([]).keep is None
