import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoquant.geometry import Field, contains_points, rasterize_field

quarters = st.integers(1, 40).map(lambda n: n / 4)
offsets = st.integers(-40, 40).map(lambda n: n / 8)


def test_edges_and_area() -> None:
    circle = Field(1, "circle", 300.0, 200.0, 550.0, 550.0)
    assert (circle.left_um, circle.top_um) == (25.0, -75.0)
    assert circle.area_um2 == pytest.approx(237_582.94)
    assert Field(1, "square", 0.0, 0.0, 4.0, 4.0).area_um2 == 16.0
    assert Field(1, "rectangle", 0.0, 0.0, 4.0, 3.0).area_um2 == 12.0


def test_a_field_does_not_change() -> None:
    field = Field(1, "circle", 0.0, 0.0, 1.0, 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        field.number = 2  # type: ignore[misc]


def test_rasterizes_rows_down_and_columns_right() -> None:
    field = Field(1, "rectangle", 12.0, 21.0, 4.0, 2.0)
    expected = [[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert rasterize_field(field, (4, 4), 10.0, 19.0, 1.0).astype(int).tolist() == expected


def test_rasterizes_a_circle_by_pixel_centers() -> None:
    field = Field(1, "circle", 2.0, 2.0, 4.0, 4.0)
    expected = [[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]]
    assert rasterize_field(field, (4, 4), 0.0, 0.0, 1.0).astype(int).tolist() == expected


def test_an_image_elsewhere_holds_nothing() -> None:
    for shape in ("circle", "square"):
        field = Field(1, shape, 0.0, 0.0, 4.0, 4.0)
        assert not rasterize_field(field, (5, 5), 2.0, 0.0, 1.0).any()


def test_a_rectangle_is_half_open_and_a_circle_open() -> None:
    ends = np.array([-1.0, 1.0])
    assert contains_points(Field(1, "square", 0.0, 0.0, 2.0, 2.0), ends, np.zeros(2)).tolist() == [
        True,
        False,
    ]
    assert contains_points(Field(1, "square", 0.0, 0.0, 2.0, 2.0), np.zeros(2), ends).tolist() == [
        True,
        False,
    ]
    assert not contains_points(Field(1, "circle", 0.0, 0.0, 2.0, 2.0), ends, np.zeros(2)).any()


@given(
    width=quarters,
    height=quarters,
    left=offsets,
    top=offsets,
    counts=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    mpp=st.sampled_from([0.125, 0.25, 0.5, 1.0]),
)
def test_rectangles_that_tile_a_region_share_no_pixel_and_leave_none(
    width: float, height: float, left: float, top: float, counts: tuple[int, int], mpp: float
) -> None:
    image = (50, 60)
    tiles = [
        Field(1, "rectangle", left + (i + 0.5) * width, top + (j + 0.5) * height, width, height)
        for i in range(counts[0])
        for j in range(counts[1])
    ]
    times = sum(rasterize_field(tile, image, -6.0, -6.0, mpp).astype(int) for tile in tiles)
    whole_width, whole_height = counts[0] * width, counts[1] * height
    whole = Field(1, "rectangle", left + whole_width / 2, top + whole_height / 2, whole_width, whole_height)
    np.testing.assert_array_equal(times, rasterize_field(whole, image, -6.0, -6.0, mpp).astype(int))


@given(
    st.sampled_from(["circle", "square", "rectangle"]),
    st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
    st.tuples(st.floats(0.1, 60), st.floats(0.1, 60)),
    st.sampled_from([0.25, 0.5, 1.0, 1.7]),
)
def test_pixels_are_those_whose_centers_a_field_contains(shape, center, size, mpp) -> None:
    field = Field(1, shape, *center, size[0], size[1] if shape == "rectangle" else size[0])
    x, y = 1.5 + (np.arange(30) + 0.5) * mpp, -7.0 + (np.arange(40) + 0.5) * mpp
    expected = contains_points(field, x[None], y[:, None])
    np.testing.assert_array_equal(rasterize_field(field, (40, 30), 1.5, -7.0, mpp), expected)


@given(x=st.floats(60, 70), y=st.floats(60, 70), radius=st.floats(20, 55))
def test_a_circles_pixels_have_its_area(x: float, y: float, radius: float) -> None:
    mask = rasterize_field(Field(1, "circle", x, y, 2 * radius, 2 * radius), (260, 260), 0.0, 0.0, 0.5)
    assert mask.sum() * 0.25 == pytest.approx(np.pi * radius**2, rel=0.01)
    rows, columns = np.nonzero(mask)
    assert (columns.mean() + 0.5) * 0.5 == pytest.approx(x, abs=0.1)
    assert (rows.mean() + 0.5) * 0.5 == pytest.approx(y, abs=0.1)
