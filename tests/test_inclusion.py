import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from histoquant.errors import HistoquantError
from histoquant.geometry import Field, rasterize_field
from histoquant.inclusion import count_centroid, count_frame, count_half_area, measure_inclusion
from histoquant.spans import list_spans

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
label_maps = shapes.flatmap(lambda shape: hnp.arrays(np.int32, shape, elements=st.integers(0, 5)))
maps_and_fields = shapes.flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.int32, shape, elements=st.integers(0, 5)),
        hnp.arrays(np.bool_, shape),
        hnp.arrays(np.bool_, shape),
    )
)


def test_measures_area_fraction_straddling_and_border() -> None:
    labels = np.array([[0, 0, 0, 0, 0], [0, 7, 7, 2, 0], [0, 7, 7, 2, 0], [0, 0, 0, 0, 0], [4, 4, 0, 9, 0]])
    inside = np.zeros((5, 5), dtype=bool)
    inside[:3, :2] = True
    inside[4, 3] = True
    table = measure_inclusion(labels, inside)
    assert table.index.tolist() == [2, 4, 7, 9]
    assert table.index.name == "label"
    assert table["area_px"].tolist() == [2, 2, 4, 1]
    assert table["inside_px"].tolist() == [0, 0, 2, 1]
    assert table["fraction_in_field"].tolist() == [0, 0, 0.5, 1]
    assert table["straddling"].tolist() == [False, False, True, False]
    assert table["touches_border"].tolist() == [False, True, False, True]


def test_exactly_half_does_not_count() -> None:
    labels = np.ones((3, 6), dtype=np.int32)
    inside = np.zeros((3, 6), dtype=bool)
    inside[:, :3] = True
    assert not count_half_area(measure_inclusion(labels, inside)["fraction_in_field"]).any()
    inside[0, 3] = True
    assert count_half_area(measure_inclusion(labels, inside)["fraction_in_field"]).all()


@given(area=st.integers(1, 2**40), data=st.data())
def test_half_area_is_exact_in_whole_pixels(area: int, data: st.DataObject) -> None:
    near = st.integers(max(0, area // 2 - 2), min(area, area // 2 + 2))
    within = data.draw(st.one_of(near, st.integers(0, area)))
    assert bool(count_half_area(np.float64(within) / np.float64(area))) == (2 * within > area)


@given(maps_and_fields)
def test_any_map_and_field_agree_with_counting_pixel_by_pixel(case: tuple[np.ndarray, ...]) -> None:
    labels, inside, _ = case
    before = labels.copy(), inside.copy()
    table = measure_inclusion(labels, inside)
    pd.testing.assert_frame_equal(table, measure_inclusion(list_spans(labels), inside))
    assert table.index.tolist() == [name for name in range(1, 6) if (labels == name).any()]
    counted = count_half_area(table["fraction_in_field"])
    centroid = count_centroid(labels, inside)
    assert centroid.index.equals(table.index)
    for place, name in enumerate(table.index):
        mine = labels == name
        assert table.loc[name, "area_px"] == mine.sum()
        assert counted[place] == (2 * (mine & inside).sum() > mine.sum())
        assert table.loc[name, "straddling"] == (0 < (mine & inside).sum() < mine.sum())
        assert table.loc[name, "touches_border"] == (mine[1:-1, 1:-1].sum() < mine.sum())
        row, column = (int(np.floor(np.mean(axis) + 0.5)) for axis in np.nonzero(mine))
        assert centroid[name] == inside[row, column]
    assert (before[0] == labels).all() and (before[1] == inside).all()


@given(maps_and_fields)
def test_a_larger_field_never_loses_an_object(case: tuple[np.ndarray, ...]) -> None:
    labels, small, more = case
    part, whole = (measure_inclusion(labels, field)["fraction_in_field"] for field in (small, small | more))
    assert (whole >= part).all()
    assert (count_half_area(whole) >= count_half_area(part)).all()


@given(label_maps, st.integers(1, 5), st.data())
def test_an_object_counts_in_at_most_one_field_of_a_partition(
    labels: np.ndarray, fields: int, data: st.DataObject
) -> None:
    owner = data.draw(hnp.arrays(np.int8, labels.shape, elements=st.integers(0, fields - 1)))
    tables = [measure_inclusion(labels, owner == field) for field in range(fields)]
    assert (sum(count_half_area(t["fraction_in_field"]).astype(int) for t in tables) <= 1).all()
    assert np.allclose(sum(t["fraction_in_field"] for t in tables), 1)
    assert (sum(count_centroid(labels, owner == field).astype(int) for field in range(fields)) == 1).all()


@given(label_maps, st.data())
def test_an_object_counts_in_exactly_one_counting_frame_of_a_partition(
    labels: np.ndarray, data: st.DataObject
) -> None:
    rows, columns = labels.shape
    high, wide = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    total = 0
    for top in range(0, rows, high):
        for left in range(0, columns, wide):
            inside = np.zeros(labels.shape, dtype=bool)
            inside[top : top + high, left : left + wide] = True
            total = total + count_frame(labels, inside).astype(int)
    assert (total == 1).all()


def test_rasterized_rectangles_partition_the_plane() -> None:
    labels = np.random.default_rng(0).integers(0, 40, (50, 70)).astype(np.int32)
    total = np.zeros(39, dtype=int)
    for number, (x, y) in enumerate(np.ndindex(3, 2)):
        field = Field(number, "rectangle", 6 + 12 * x, 6.5 + 13 * y, 12, 13)
        inside = rasterize_field(field, labels.shape, 0.1, 0.3, 0.5)
        total += count_half_area(measure_inclusion(labels, inside)["fraction_in_field"])
    assert total.max() <= 1


def test_counting_frame_by_hand() -> None:
    # The frame is rows 1-2, columns 1-2 of a 4 x 4 image.
    inside = np.zeros((4, 4), dtype=bool)
    inside[1:3, 1:3] = True
    labels = np.zeros((4, 4), dtype=np.int32)
    labels[0:2, 1] = 1  # over the upper edge: counts
    labels[1, 2:4] = 2  # over the right edge: counts
    labels[2, 0:2] = 3  # over the left edge: out
    labels[2:4, 2] = 4  # over the lower edge: out
    labels[0, 3] = 5  # outside
    assert count_frame(labels, inside).to_dict() == {1: True, 2: True, 3: False, 4: False, 5: False}
    # Beyond the right edge and downwards: allowed right of the line, not where it turns back under the frame.
    labels[:] = 0
    labels[2, 2:4] = labels[3, 3] = 1
    assert count_frame(labels, inside).to_dict() == {1: True}
    labels[3, 2] = 1
    assert count_frame(labels, inside).to_dict() == {1: False}


@pytest.mark.parametrize("shape", ["circle", "square"])
@pytest.mark.parametrize("mpp", [0.5, 1.0])
def test_agrees_with_exact_geometry(shape: str, mpp: float) -> None:
    rng = np.random.default_rng(5)
    field = Field(1, shape, 100.3, 99.8, 120, 120)  # type: ignore[arg-type]
    size = int(200 / mpp)
    inside = rasterize_field(field, (size, size), 0, 0, mpp)
    if shape == "circle":
        exact_field = shapely.Point(100.3, 99.8).buffer(60, quad_segs=200)
    else:
        exact_field = shapely.box(40.3, 39.8, 160.3, 159.8)
    grid = (np.arange(size) + 0.5) * mpp
    x, y = np.meshgrid(grid, grid)
    decided = 0
    for _ in range(60):
        turn = np.sort(rng.uniform(0, 2 * np.pi, 12))
        radius = rng.uniform(12, 30, 12)
        center = rng.uniform(35, 165, 2)
        fiber = shapely.Polygon(center + np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1))
        fiber = fiber.convex_hull
        exact = fiber.intersection(exact_field).area / fiber.area
        labels = shapely.contains_xy(fiber, x, y).astype(np.int32)
        fraction = float(measure_inclusion(labels, inside)["fraction_in_field"].iloc[0])
        assert fraction == pytest.approx(exact, abs=0.03 * mpp)
        if abs(exact - 0.5) > 0.03 * mpp:
            decided += 1
            assert bool(count_half_area(fraction)) == (exact > 0.5)
    assert decided > 40


def test_huge_label_numbers_need_no_huge_table() -> None:
    labels = np.array([[2**31 - 1, 5, 0]], dtype=np.int32)
    inside = np.array([[True, False, True]])
    assert measure_inclusion(labels, inside)["inside_px"].to_dict() == {5: 0, 2**31 - 1: 1}
    assert count_centroid(labels, inside).to_dict() == {5: False, 2**31 - 1: True}


@pytest.mark.parametrize("shape", [(3, 4), (0, 4)])
def test_no_objects_no_rows(shape: tuple[int, int]) -> None:
    labels, inside = np.zeros(shape, dtype=np.int32), np.ones(shape, dtype=bool)
    assert measure_inclusion(labels, inside).empty
    assert count_centroid(labels, inside).empty
    assert count_half_area([]).size == 0


@pytest.mark.parametrize("count", [measure_inclusion, count_centroid, count_frame])
def test_refuses_other_shapes_and_negative_labels(count: object) -> None:
    with pytest.raises(HistoquantError, match="differ in shape"):
        count(np.zeros((2, 3), dtype=np.int32), np.ones((3, 2), dtype=bool))  # type: ignore[operator]
    with pytest.raises(HistoquantError, match="negative"):
        count(np.full((2, 2), -1), np.ones((2, 2), dtype=bool))  # type: ignore[operator]


@pytest.mark.parametrize("inside", [[[1, 1], [1, 0]], [[0, 0], [0, 0]]])
def test_counting_frame_needs_a_rectangle(inside: list[list[int]]) -> None:
    with pytest.raises(HistoquantError, match="rectangle"):
        count_frame(np.ones((2, 2), dtype=np.int32), np.array(inside, dtype=bool))
