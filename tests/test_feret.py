"""Feret diameters: exact for what lies along the rows, within a pixel for discs, ellipses, turned shapes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.spatial.distance import pdist

from histoquant.feret import measure_feret, measure_hull

SIDE = 140
ANGLES = (0.0, 0.2, 0.5, np.pi / 4, 1.1, np.pi / 2)


def turn(angle: float, row: float = 70.3, column: float = 69.6) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across a direction."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    down, right = rows - row, columns - column
    return right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)


def measure_one(mask: np.ndarray) -> tuple[float, float]:
    table = measure_feret(mask.astype(np.int32))
    assert table.index.tolist() == [1]
    return tuple(table.iloc[0])


@pytest.mark.parametrize("diameter", [10, 33, 60, 121])
def test_discs(diameter: float) -> None:
    along, across = turn(0)
    least, most = measure_one(np.hypot(along, across) < diameter / 2)
    assert least == pytest.approx(diameter, abs=0.7)
    assert most == pytest.approx(diameter, abs=1)


@pytest.mark.parametrize("angle", ANGLES)
def test_rectangles_and_ellipses_in_any_direction(angle: float) -> None:
    along, across = turn(angle)
    least, most = measure_one((np.abs(along) < 50) & (np.abs(across) < 15))
    assert least == pytest.approx(30, abs=1.1)
    assert most == pytest.approx(np.hypot(100, 30), abs=1)
    least, most = measure_one((along / 50) ** 2 + (across / 15) ** 2 < 1)
    assert least == pytest.approx(30, abs=1.1)
    assert most == pytest.approx(100, abs=1)


@given(st.integers(2, 30), st.integers(1, 30))
def test_an_upright_rectangle_is_exact(rows: int, columns: int) -> None:
    least, most = measure_one(np.ones((rows, columns), bool))
    assert least == pytest.approx(min(rows, columns))
    # Between middles of the outermost pixels' sides, not between their corners.
    assert most == pytest.approx(max(np.hypot(rows - 1, columns), np.hypot(rows, columns - 1)))


def test_a_notch_changes_nothing_and_labels_are_kept_apart() -> None:
    labels = np.zeros((40, 60), np.int32)
    labels[2:22, 3:33], labels[25:35, 40:44] = 9, 4
    whole = measure_feret(labels)
    labels[2:22, 15:20][5:] = 0
    notched = measure_feret(labels)
    assert whole.index.tolist() == [4, 9]
    np.testing.assert_array_equal(whole, notched)
    assert whole["min_feret_px"].tolist() == [4, 20]


def test_touching_labels_and_the_border_of_the_image_end_an_object() -> None:
    labels = np.repeat([[1, 1, 1, 2, 2]], 8, axis=0)
    assert measure_feret(labels)["min_feret_px"].tolist() == [3, 2]


def test_nothing_gives_an_empty_table() -> None:
    table = measure_feret(np.zeros((5, 5), np.int32))
    assert table.columns.tolist() == ["min_feret_px", "max_feret_px"] and table.empty


@given(st.lists(st.floats(0.1, 40), min_size=2, max_size=12), st.floats(0, 3))
def test_a_polygon_on_a_circle_is_as_wide_as_projections_say(steps: list[float], start: float) -> None:
    angles = start + 2 * np.pi * np.cumsum(steps) / (sum(steps) + 1)
    corners = np.column_stack([np.cos(angles), np.sin(angles)]) * 50
    least, most = measure_hull(corners)
    directions = np.linspace(0, np.pi, 7200)
    across = corners @ np.array([np.cos(directions), np.sin(directions)])
    widths = np.ptp(across, axis=0)
    assert least <= widths.min() + 1e-9
    assert least == pytest.approx(widths.min(), abs=0.05)
    assert most == pytest.approx(pdist(corners).max())


def measure_plainly(mask: np.ndarray) -> tuple[float, float]:
    """Of the hull that OpenCV finds, by the formula for all corners at once."""
    halfway = np.array([(-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5)])
    points = (np.argwhere(mask)[:, None, ::-1] + halfway).reshape(-1, 2).astype(np.float32)
    corners = cv2.convexHull(points)[:, 0].astype(float)
    x, y = (corners[:, None, way] - corners[None, :, way] for way in (0, 1))
    side = np.roll(corners, -1, axis=0) - corners
    away = np.abs(side[:, 0] * y - side[:, 1] * x).max(axis=0)
    return (away / np.hypot(side[:, 0], side[:, 1])).min(), np.sqrt((x**2 + y**2).max())


@given(arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 3)))
def test_any_shape_is_measured_to_the_bit_as_the_hull_of_its_points(labels: np.ndarray) -> None:
    """In pieces too, with rows between that hold none of it."""
    table = measure_feret(labels)
    assert table.index.tolist() == [name for name in (1, 2, 3) if (labels == name).any()]
    for name, row in table.iterrows():
        assert tuple(row) == measure_plainly(labels == name)
