import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from histoquant.cells import (
    _measure_depth,
    _take_walls,
    find_cells,
    find_cells_of_field,
    grow_labels,
    subtract_background,
)
from histoquant.protocol import CellSettings
from histoquant.stains import Stains

MPP = 0.5
SHAPE = (120, 120)
SETTINGS = CellSettings()
MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


def blank():
    return np.zeros(SHAPE, np.float32)


def draw_disc(image, row, column, radius_um, od):
    distance = np.hypot(*(np.indices(image.shape) - np.array([row, column])[:, None, None])) * MPP
    return np.maximum(image, np.where(distance <= radius_um, od, 0)).astype(np.float32)


def draw_ring(image, row, column, radius_um, od):
    """A ring 0.7 um outside a nucleus of the radius."""
    distance = np.hypot(*(np.indices(image.shape) - np.array([row, column])[:, None, None])) * MPP
    ring = od * np.exp(-(((distance - radius_um - 0.7) / 0.9) ** 2))
    return np.maximum(image, ring).astype(np.float32)


def stains_of(haematoxylin, dab):
    soft = [cv2.GaussianBlur(image, (0, 0), 0.8) for image in (haematoxylin, dab)]
    return Stains(soft[0], soft[1], np.zeros_like(dab), 0.0, 0.0, MPP)


def find(haematoxylin, dab, compartment="membrane"):
    return find_cells(stains_of(haematoxylin, dab), SETTINGS, compartment)


def test_nucleus_is_found_and_grown():
    labels = find(draw_disc(blank(), 60, 60, 3.0, 0.5), blank())
    assert labels.dtype == np.int32
    assert labels.max() == 1
    assert ndimage.center_of_mass(labels) == pytest.approx((60, 60), abs=0.6)
    radius_um = np.sqrt((labels > 0).sum() * MPP**2 / np.pi)
    assert radius_um == pytest.approx(3.0 + SETTINGS.growth_um, abs=0.7)


def test_nothing_on_glass():
    assert find(blank(), blank()).max() == 0


def test_tinted_fiber_is_not_a_cell_but_its_nucleus_is():
    fiber = draw_disc(blank(), 60, 60, 25.0, 0.3)
    assert find(fiber, blank()).max() == 0
    assert find(draw_disc(fiber, 60, 60, 3.0, 0.8), blank()).max() == 1


def test_touching_pair_is_split():
    pair = draw_disc(draw_disc(blank(), 60, 54, 3.5, 0.5), 60, 66, 3.5, 0.5)
    labels = find(pair, blank())
    assert labels.max() == 2
    assert labels[60, 54] != labels[60, 66]


def test_ring_around_a_pale_nucleus_makes_a_cell():
    pale = draw_disc(blank(), 60, 60, 2.5, 0.08)
    assert find(pale, blank()).max() == 0
    assert find(pale, draw_ring(blank(), 60, 60, 2.5, 0.5)).max() == 1


def test_ring_without_nucleus_is_a_cell():
    labels = find(blank(), draw_ring(blank(), 60, 60, 3.0, 0.5))
    assert labels.max() == 1
    assert labels[60, 60] == 1


def test_touching_rings_are_two_cells():
    nuclei = draw_disc(draw_disc(blank(), 60, 53, 2.5, 0.5), 60, 67, 2.5, 0.5)
    rings = draw_ring(draw_ring(blank(), 60, 53, 2.5, 0.6), 60, 67, 2.5, 0.6)
    assert find(nuclei, rings).max() == 2


def test_brown_body_of_cell_size_is_a_cell():
    assert find(blank(), draw_disc(blank(), 60, 60, 4.0, 0.6)).max() == 1


def test_precipitate_is_refused():
    assert find(blank(), draw_disc(blank(), 60, 60, 1.0, 1.3)).max() == 0


def test_brown_fiber_is_refused():
    assert find(blank(), draw_disc(blank(), 60, 60, 25.0, 0.4)).max() == 0


def test_brown_nucleus_needs_the_nuclear_compartment():
    brown = draw_disc(blank(), 60, 60, 3.0, 0.6)
    labels = find(blank(), brown, "nucleus")
    assert labels.max() == 1


def test_a_nucleus_too_large_is_refused():
    assert find(draw_disc(blank(), 60, 60, 12.0, 0.8), blank()).max() == 0


@given(
    hnp.arrays(np.float32, (2, 5, 7), elements=st.floats(-1, 1, width=32)),
    hnp.arrays(np.uint8, (2, 5, 7), elements=st.integers(0, 1)),
)
def test_walls_of_rings_hold_no_haematoxylin(densities, masks):
    (blue, brown), (around, close) = densities, masks
    walls = (close > 0) | ((around > 0) & (brown > np.float32(0.2)))
    expected = np.where(walls, 0, blue - np.float32(0.25) * np.maximum(brown, 0))
    found = np.empty_like(blue)
    _take_walls(blue, brown, around, close, np.float32(0.2), np.float32(0.25), found)
    np.testing.assert_array_equal(found, expected)


@given(MASKS)
def test_depth_is_the_distance_of_opencv(mask):
    """Which adds up whole numbers of 16 bits on some machines."""
    expected = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    at = np.flatnonzero(np.pad(mask, 1))
    found = _measure_depth(at, (mask.shape[0] + 2, mask.shape[1] + 2))[1:-1, 1:-1]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_stains_are_not_changed_and_the_result_repeats():
    stains = stains_of(draw_disc(blank(), 60, 60, 3.0, 0.5), draw_ring(blank(), 30, 30, 3.0, 0.5))
    before = stains.haematoxylin.copy(), stains.dab.copy()
    first, second = find_cells(stains, SETTINGS), find_cells(stains, SETTINGS)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(stains.haematoxylin, before[0])
    np.testing.assert_array_equal(stains.dab, before[1])


def test_background_keeps_the_edge_of_a_fiber_flat():
    fiber = blank()
    fiber[:, :60] = 0.4
    lifted = subtract_background(fiber, 8.0, MPP)
    assert np.abs(lifted[:, :56]).max() < 0.02
    assert np.abs(lifted[:, 64:]).max() < 0.02


def test_background_has_a_floor():
    assert subtract_background(np.full(SHAPE, -0.3, np.float32), 8.0, MPP, floor=0.0).max() < -0.25


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_background_is_the_opening_of_opencv(rows, columns, radius, seed):
    image = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    side = 2 * radius + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    smooth = cv2.GaussianBlur(image, (0, 0), 0.3)
    opened = cv2.morphologyEx(cv2.GaussianBlur(smooth, (0, 0), 0.4), cv2.MORPH_OPEN, disc)
    np.testing.assert_array_equal(subtract_background(image, radius, 1.0), smooth - opened)


def test_growing_does_not_overlap_or_change_its_argument():
    labels = np.zeros((9, 9), np.int32)
    labels[4, 1], labels[4, 7] = 5, 9
    before = labels.copy()
    grown = grow_labels(labels, 10.0)
    np.testing.assert_array_equal(labels, before)
    assert set(np.unique(grown)) == {5, 9}
    assert (grown[:, :4] == 5).all()
    assert (grown[:, 5:] == 9).all()


@given(
    hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(-20, 4)),
    st.sampled_from([0.7, 1.0, 1.4, 2.0, 2.2, 3.0, 4.5, 20.0]),
)
def test_growing_is_by_the_nearest_pixel_as_opencv_names_it(drawn, radius_px):
    labels = np.maximum(drawn, 0)
    ground = (labels == 0).astype(np.uint8)
    distance, nearest = cv2.distanceTransformWithLabels(
        ground, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owner = np.zeros(nearest.max() + 1, np.int32)
    owner[nearest[labels > 0]] = labels[labels > 0]
    expected = np.where(distance <= np.float32(radius_px), owner[nearest], 0) if labels.any() else labels
    np.testing.assert_array_equal(grow_labels(labels, radius_px), expected)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_growing_in_an_empty_image_gives_it_back(shape):
    assert grow_labels(np.zeros(shape, np.int32), 2.0).shape == shape


def test_growing_nothing_gives_nothing():
    assert grow_labels(np.zeros((3, 3), np.int32), 2.0).max() == 0


@pytest.mark.parametrize(("radius_um", "cells"), [(1.5, 0), (2.3, 0), (3.6, 1), (5.0, 1)])
def test_a_brown_body_has_room_for_a_nucleus(radius_um, cells):
    """The smallest lymphocytes are some 6 um wide; precipitate is smaller."""
    found = find_cells(stains_of(blank(), draw_disc(blank(), 60, 60, radius_um, 0.8)), SETTINGS)
    assert found.max() == cells


def test_cells_of_a_field_are_those_of_the_whole_region_up_to_30_um_around() -> None:
    haematoxylin = np.zeros((200, 200), np.float32)
    for x in (20, 40, 99, 150):
        haematoxylin = draw_disc(haematoxylin, 100, x, 3.0, 0.8)
    inside = np.zeros(haematoxylin.shape, bool)
    inside[95:105, 140:160] = True
    stains = stains_of(haematoxylin, 0 * haematoxylin)
    found, whole = find_cells_of_field(stains, inside, SETTINGS), find_cells(stains, SETTINGS)
    assert found.shape == whole.shape and whole.max() == 4
    assert found[100, 150] > 0 and found[100, 99] > 0
    assert found[:, :70].max() == 0
    assert np.array_equal(found[:, 95:] > 0, whole[:, 95:] > 0)


def test_a_cell_that_the_box_cuts_is_left_out() -> None:
    haematoxylin = draw_disc(draw_disc(np.zeros((200, 200)), 100, 80, 3.0, 0.8), 100, 150, 3.0, 0.8)
    inside = np.zeros(haematoxylin.shape, bool)
    inside[95:105, 140:160] = True
    assert np.unique(
        find_cells_of_field(stains_of(haematoxylin, 0 * haematoxylin), inside, SETTINGS)
    ).tolist() == [0, 1]
