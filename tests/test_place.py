"""Where cells sit: every rule on drawn fibers, and lumens told from cracks, glass and holes in fibers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from histoquant.place import PLACES, find_lumens, find_perimysium, place_cells
from histoquant.protocol import CellSettings
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
    found, fiber = place_cells(
        labels, nuclei > 0, is_marked, fibers, find_perimysium(fibers, MPP, SETTINGS), lumens, MPP, SETTINGS
    )
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
    whole = find_perimysium(fibers, MPP, SETTINGS)
    assert whole[330, 250] and not whole[150, 200]
    # One fiber is missing: wide, but not long.
    hole = find_perimysium(np.where(fibers == 7, 0, fibers), MPP, SETTINGS)
    assert not hole[150, 150]
    short = CellSettings(perimysium_length_um=10.0)
    assert find_perimysium(np.where(fibers == 7, 0, fibers), MPP, short)[150, 150]
    assert not find_perimysium(np.ones(SHAPE, np.int32), MPP, SETTINGS).any()


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
    found, fiber = place_cells(labels, labels > 0, np.array([False]), nothing, none, none, MPP, SETTINGS)
    assert (found.tolist(), fiber.tolist()) == (["endomysial"], [0])
    assert (
        len(place_cells(nothing, none, np.array([], bool), make_fibers(), none, none, MPP, SETTINGS)[0]) == 0
    )
    assert lumens(stains, nothing) == 0
    assert lumens(stains, np.ones(SHAPE, np.int32)) == 0
