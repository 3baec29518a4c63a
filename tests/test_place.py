"""Where cells sit: every rule on drawn fibers, and lumens told from cracks, glass and holes in fibers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from histoquant.pixels import list_pixels
from histoquant.place import (
    PLACES,
    _find_inner,
    _measure_shapes,
    find_lumens,
    find_perimysial,
    place_cells,
)
from histoquant.protocol import CellSettings
from histoquant.spans import list_spans
from histoquant.stains import Stains

MPP = 0.5
SHAPE = (500, 500)
SETTINGS = CellSettings()


def draw(image: np.ndarray, column: float, row: float, axes: tuple[float, float], value: float) -> None:
    """An upright ellipse; all in um."""
    middle, half = (round(column / MPP), round(row / MPP)), tuple(round(axis / MPP) for axis in axes)
    cv2.ellipse(image, middle, half, 0, 0, 360, value, -1)


def make_fibers() -> np.ndarray:
    """Fibers of 46 um with 4 um between them; a space of 36 um runs across."""
    fibers = np.zeros(SHAPE, np.int32)
    tops = (0, 50, 100, 182)
    for number, (top, left) in enumerate(((t, x) for t in tops for x in range(0, 250, 50)), start=1):
        fibers[2 * top + 4 : 2 * top + 96, 2 * left + 4 : 2 * left + 96] = number
    return fibers


def make_stains(fibers: np.ndarray) -> Stains:
    blue = np.where(fibers > 0, 0.1, 0.04).astype(np.float32)
    return Stains(blue, np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32), 0.0, 0.0, MPP)


def draw_vessel(stains: Stains, column: float, row: float, radius: float = 8.0) -> None:
    draw(stains.haematoxylin, column, row, (radius + 4, radius + 4), 0.15)
    draw(stains.haematoxylin, column, row, (radius, radius), 0.0)


def place_labels(
    labels: np.ndarray, nuclei: np.ndarray, marked: np.ndarray, fibers: np.ndarray, lumens: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    pixels = list_pixels(list_spans(labels), labels, np.s_[0 : labels.shape[0], 0 : labels.shape[1]])
    perimysial = find_perimysial(fibers, pixels.centers, MPP, SETTINGS)
    within = nuclei.ravel()[pixels.places]
    return place_cells(pixels, within, marked, fibers, perimysial, lumens, MPP, SETTINGS)


def place(
    cells: list[tuple[float, ...]], marked: tuple[int, ...] = (), vessel: tuple[float, float] | None = None
) -> list[str]:
    """Places of cells given by column, row and half axes of the nucleus."""
    fibers, labels, nuclei = make_fibers(), np.zeros(SHAPE, np.int32), np.zeros(SHAPE, np.uint8)
    stains = make_stains(fibers)
    if vessel:
        draw_vessel(stains, *vessel)
    for number, (column, row, *axes) in enumerate(cells, start=1):
        along, across = axes or (3.0, 3.0)
        draw(labels, column, row, (along + 1.5, across + 1.5), number)
        draw(nuclei, column, row, (along, across), 1)
    is_marked = np.isin(np.arange(1, len(cells) + 1), marked)
    lumens = find_lumens(fibers, labels, stains, SETTINGS)
    found, fiber = place_labels(labels, nuclei > 0, is_marked, fibers, lumens)
    assert set(found) <= set(PLACES) and (fiber > 0).all()
    return found.tolist()


def test_between_fibers_and_between_fascicles() -> None:
    assert place([(100, 50), (100, 165)]) == ["endomysial", "perimysial"]


def test_a_cell_that_touches_a_fiber_is_endomysial_in_a_wide_space_too() -> None:
    assert place([(125, 150.5), (125, 156)]) == ["endomysial", "perimysial"]


def test_around_a_vessel() -> None:
    cells = [(150, 165), (215, 165), (100, 75)]
    assert place(cells, vessel=(125, 165)) == ["perivascular", "perimysial", "endomysial"]
    assert place(cells) == ["perimysial", "perimysial", "endomysial"]


@pytest.mark.parametrize(
    ("nuclei", "marked", "expected"),
    [
        (1, (), ["internal"]),
        (2, (), ["internal"] * 2),
        (3, (), ["invading"] * 3),
        (2, (2,), ["internal", "invading"]),
    ],
)
def test_nuclei_deep_in_a_fiber(nuclei: int, marked: tuple[int, ...], expected: list[str]) -> None:
    assert place([(65.0 + 10 * i, 75.0) for i in range(nuclei)], marked) == expected


def test_flat_nuclei_of_the_rim_are_the_fibers_own_in_an_invaded_fiber_too() -> None:
    rim = (75.0, 53.8, 4.5, 1.5)
    deep = [(65.0 + 10 * i, 75.0) for i in range(3)]
    assert place([rim]) == ["internal"]
    assert place([rim, *deep]) == ["internal"] + ["invading"] * 3
    assert place([rim], (1,)) == ["internal"]
    assert place([(75.0, 50.0, 4.5, 1.5)]) == ["endomysial"]


def test_a_hole_among_fibers_is_no_perimysium() -> None:
    fibers = make_fibers()
    at = np.array([[330, 150, 150], [250, 150, 200]])
    assert find_perimysial(fibers, at, MPP, SETTINGS).tolist() == [True, False, False]
    # One fiber is missing: wide, but not long.
    hole = np.where(fibers == 7, 0, fibers)
    assert not find_perimysial(hole, at, MPP, SETTINGS)[1]
    assert find_perimysial(hole, at, MPP, CellSettings(perimysium_length_um=10.0))[1]
    assert not find_perimysial(np.ones(SHAPE, np.int32), at, MPP, SETTINGS).any()
    assert find_perimysial(fibers, at[:, :0], MPP, SETTINGS).shape == (0,)


def lumens(stains: Stains, fibers: np.ndarray, **settings: float) -> float:
    """Area of what is found, um2."""
    cells = np.zeros(SHAPE, np.int32)
    return float(find_lumens(fibers, cells, stains, CellSettings(**settings)).sum() * MPP**2)


def test_a_lumen_is_found_whole_and_only_in_the_limits_of_size() -> None:
    fibers = make_fibers()
    stains = make_stains(fibers)
    draw_vessel(stains, 125, 165)
    assert lumens(stains, fibers) == pytest.approx(np.pi * 8**2, rel=0.15)
    assert lumens(stains, fibers, min_lumen_um=20.0) == 0
    assert lumens(stains, fibers, max_lumen_um=12.0) == 0


def test_what_is_clear_but_no_lumen() -> None:
    fibers = make_fibers()
    slit, bare, border, inside = (make_stains(fibers) for _ in range(4))
    draw(slit.haematoxylin, 125, 165, (34, 7), 0.15)
    draw(slit.haematoxylin, 125, 165, (30, 3), 0.0)
    draw(bare.haematoxylin, 125, 165, (8, 8), 0.0)
    draw_vessel(border, 0, 165)
    draw_vessel(inside, 75, 75)
    assert [lumens(stains, fibers) for stains in (slit, bare, border, inside)] == [0, 0, 0, 0]
    # Where a fiber fell out, fibers are all around.
    fallen = np.where(fibers == 7, 0, fibers)
    stains = make_stains(fallen)
    stains.haematoxylin[fibers == 7] = 0
    assert lumens(stains, fallen) == 0


def test_without_fibers_cells_or_ground_nothing_is_said() -> None:
    nothing = np.zeros(SHAPE, np.int32)
    stains = make_stains(nothing)
    labels = nothing.copy()
    labels[10:20, 10:20] = 3
    none = nothing > 0
    found, fiber = place_labels(labels, labels > 0, np.array([False]), nothing, none)
    assert (found.tolist(), fiber.tolist()) == (["endomysial"], [0])
    assert len(place_labels(nothing, none, np.array([], bool), make_fibers(), none)[0]) == 0
    assert lumens(stains, nothing) == 0
    assert lumens(stains, np.ones(SHAPE, np.int32)) == 0


grids = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.int32, shape, elements=st.sampled_from([0, 0, 1, 2, 7]))
)


@given(grids)
def test_inner_pixels_have_only_their_own_label_beside_them(labels: np.ndarray) -> None:
    around = np.pad(labels, 1, mode="edge")
    beside = [around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]]
    expected = np.logical_and.reduce([labels > 0, *(side == labels for side in beside)])
    assert (_find_inner(labels) == expected).all()


@given(grids.filter(np.any), st.integers(0, 2**32 - 1))
def test_means_and_moments_of_shapes(labels: np.ndarray, seed: int) -> None:
    rows, columns = np.nonzero(labels)
    names, index = np.unique(labels[rows, columns], return_inverse=True)
    where = np.random.default_rng(seed).random(len(index)) < 0.7
    where[np.unique(index, return_index=True)[1]] = True
    found = np.zeros((6, len(names)))
    _measure_shapes(index, rows, columns, where, found)
    for own, column in enumerate(found.T):
        places = np.stack([rows, columns], axis=1)[where & (index == own)]
        (down, right), middle = (places - places.mean(axis=0)).T, places.mean(axis=0)
        moments = [np.mean(down**2), np.mean(right**2), np.mean(down * right)]
        np.testing.assert_allclose(column, [len(places), *middle, *moments], rtol=1e-12, atol=1e-12)


def test_cells_at_the_borders_of_the_image_are_placed() -> None:
    fibers, cells = np.zeros((40, 40), np.int32), np.zeros((40, 40), np.int32)
    fibers[:12], fibers[30:] = 5, 6
    for number, corner in enumerate(((0, 0), (0, 39), (39, 0), (39, 39), (20, 0)), start=1):
        cells[corner] = number
    none = np.zeros((40, 40), bool)
    found, fiber = place_labels(cells, cells > 0, np.zeros(5, bool), fibers, none)
    assert found.tolist() == ["internal"] * 4 + ["endomysial"]
    assert fiber.tolist() == [5, 5, 6, 6, 5]
