import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from test_cells import MPP, SETTINGS, SHAPE, blank, draw_disc, draw_ring, stains_of

from histoquant import measure as inner
from histoquant.cells import find_cells
from histoquant.geometry import Patch
from histoquant.measure import measure_cells, measure_fibers
from histoquant.protocol import FiberSettings, MarkerSettings
from histoquant.stains import DEFAULT_VECTORS, Stains, separate_stains

MARKER = MarkerSettings(compartment="membrane", threshold_od=0.1)
NO_FIBERS = np.zeros(SHAPE, np.int32)
COLUMNS = ["kind", "label", "x_um", "y_um", "area_um2", "dab_od"]


def scene():
    """A positive cell, a negative one, and a ring without nucleus."""
    nuclei = draw_disc(draw_disc(blank(), 30, 30, 3.0, 0.5), 30, 90, 3.0, 0.5)
    rings = draw_ring(draw_ring(blank(), 30, 30, 3.0, 0.5), 90, 60, 3.0, 0.5)
    return stains_of(nuclei, rings)


def measure(stains, fibers=NO_FIBERS, marker=MARKER, labels=None):
    labels = find_cells(stains, SETTINGS) if labels is None else labels
    return measure_cells(labels, fibers, stains, marker, SETTINGS)


def at(table, row, column):
    distance = np.hypot(table.x_um - (column + 0.5) * MPP, table.y_um - (row + 0.5) * MPP)
    assert distance.min() < 1.5
    return table.loc[distance.idxmin()]


def test_columns():
    table = measure(scene())
    added = ["positive", "confidence", "nucleus", "place", "fiber", "reason"]
    assert list(table.columns) == COLUMNS + added
    assert table.positive.dtype == bool
    assert list(table.label) == sorted(table.label)


def test_ring_makes_a_nucleus_positive():
    table = measure(scene())
    assert len(table) == 3
    assert bool(at(table, 30, 30).positive)
    assert not at(table, 30, 90).positive
    assert at(table, 30, 30).dab_od == pytest.approx(0.4, abs=0.12)
    assert at(table, 30, 90).dab_od == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(("ring_od", "positive"), [(0.0, False), (0.4, True)])
def test_a_dark_nucleus_is_not_brown_for_its_blurred_edge(ring_od, positive):
    """Light is blurred, not density: the edge of a dark nucleus looks brown by itself."""
    nuclei = draw_disc(np.full(SHAPE, 0.08, np.float32), 60, 60, 4.0, 1.5)
    rings = draw_ring(blank(), 60, 60, 4.0, ring_od)
    unit = np.array([np.array(v) / np.linalg.norm(v) for v in DEFAULT_VECTORS])
    light = 250 * 10 ** -(np.multiply.outer(nuclei, unit[0]) + np.multiply.outer(rings, unit[1]))
    blurred = np.clip(cv2.GaussianBlur(light, (0, 0), 0.6 / MPP).round(), 0, 255).astype(np.uint8)
    stains = separate_stains(Patch(blurred, 0.0, 0.0, MPP), (250.0, 250.0, 250.0))
    marker = MarkerSettings(compartment="membrane", threshold_od=0.04)
    cell = at(measure(stains, marker=marker), 60, 60)
    assert bool(cell.positive) is positive


def test_ring_without_nucleus_is_said():
    ring = at(measure(scene()), 90, 60)
    assert bool(ring.positive)
    assert not ring.nucleus
    assert ring.reason == "no nucleus in the plane"
    assert bool(at(measure(scene()), 30, 30).nucleus)


def test_negative_between_two_positive_neighbours_stays_negative():
    nuclei, rings = blank(), blank()
    for column in (45, 60, 75):
        nuclei = draw_disc(nuclei, 60, column, 3.0, 0.5)
    for column in (45, 75):
        rings = draw_ring(rings, 60, column, 3.0, 0.6)
    table = measure(stains_of(nuclei, rings))
    assert bool(at(table, 60, 45).positive)
    assert bool(at(table, 60, 75).positive)
    assert not at(table, 60, 60).positive


def test_brown_fiber_makes_no_cell_positive_and_is_positive_itself():
    fibers = np.zeros(SHAPE, np.int32)
    fibers[10:55, 10:110], fibers[60:80, 10:110], fibers[85:110, 10:110] = 1, 2, 3
    dab = np.where(fibers == 1, 0.4, 0.05).astype(np.float32)
    stains = stains_of(draw_disc(blank(), 30, 60, 3.0, 0.6), dab)
    labels = find_cells(stains, SETTINGS)
    cells = measure_cells(labels, fibers, stains, MARKER, SETTINGS)
    assert len(cells) == 1
    assert not cells.positive[0]
    assert (cells.place[0], cells.fiber[0]) == ("internal", 1)
    table = measure_fibers(fibers, labels, stains, MARKER, FiberSettings())
    assert list(table.columns) == [
        *COLUMNS[:-1],
        "min_feret_um",
        "max_feret_um",
        "dab_od",
        "positive",
        "reason",
    ]
    assert list(table.positive) == [True, False, False]
    assert list(table.min_feret_um) == [45 * MPP, 20 * MPP, 25 * MPP]
    assert table.dab_od[0] == pytest.approx(0.4, abs=0.01)


def test_weak_ring_on_strong_background_is_positive():
    dab = draw_ring(np.full(SHAPE, 0.15, np.float32), 60, 60, 3.0, 0.45)
    assert measure(stains_of(draw_disc(blank(), 60, 60, 3.0, 0.5), dab)).positive.all()


def test_a_weak_ring_beside_a_brown_fiber_is_positive():
    fibers = np.zeros(SHAPE, np.int32)
    fibers[:, :48] = 1
    dab = np.where(fibers == 1, 0.5, 0.03).astype(np.float32)
    stains = stains_of(draw_disc(blank(), 60, 60, 3.0, 0.5), draw_ring(dab, 60, 60, 3.0, 0.2))
    marker = MarkerSettings(compartment="membrane", threshold_od=0.05)
    assert at(measure(stains, fibers, marker), 60, 60).positive


def test_a_cell_in_a_brown_fiber_that_is_drawn_too_small_is_negative():
    """Its free sectors lie beyond the drawn edge, in what is the brown fiber all the same."""
    columns = np.arange(SHAPE[1])
    fibers = np.where(columns < 60, 1, 0) * np.ones(SHAPE, np.int32)
    dab = np.where(columns < 66, 0.5, 0.03).astype(np.float32) * np.ones(SHAPE, np.float32)
    rows, across = np.indices(SHAPE)
    labels = np.where(np.hypot(rows - 60, across - 45) < 9, 1, 0).astype(np.int32)
    labels[np.hypot(rows - 60, across - 59) < 9] = 2
    marker = MarkerSettings(compartment="membrane", threshold_od=0.05)
    table = measure(stains_of(blank(), dab), fibers.astype(np.int32), marker, labels)
    assert not table.positive.any()


@pytest.mark.parametrize("compartment", ["nucleus", "membrane", "cytoplasm", "cell"])
def test_compartments(compartment):
    distance = np.hypot(*(np.indices(SHAPE) - 60)) * MPP
    where = {
        "nucleus": distance < 2.5,
        "membrane": (distance > 3.0) & (distance < 4.4),
        "cytoplasm": (distance > 3.0) & (distance < 4.4),
        "cell": distance < 4.4,
    }[compartment]
    labels = (distance < 4.5).astype(np.int32)
    stains = stains_of(blank(), np.where(where, 0.5, 0).astype(np.float32))
    table = measure(stains, marker=MarkerSettings(compartment=compartment), labels=labels)
    assert table.dab_od[0] == pytest.approx(0.45, abs=0.15)
    blue = measure(stains_of(blank(), blank()), marker=MarkerSettings(compartment=compartment), labels=labels)
    assert blue.dab_od[0] == pytest.approx(0.0, abs=0.01)


def test_confidence_grows_with_the_distance_to_the_threshold():
    at_value = measure(scene()).dab_od.max()
    sure = measure(scene(), marker=MarkerSettings(threshold_od=0.1)).confidence.min()
    torn = measure(scene(), marker=MarkerSettings(threshold_od=float(at_value))).confidence.min()
    assert 0.5 <= torn < 0.6 < 0.9 < sure <= 1


def test_centroids_are_pixel_centers_and_slide_positions():
    stains = scene()
    moved = type(stains)(stains.haematoxylin, stains.dab, stains.residual, 1000.0, 2000.0, MPP)
    labels = np.zeros(SHAPE, np.int32)
    labels[4:6, 8:12] = 7
    row = measure(moved, labels=labels).loc[0]
    assert (row.label, row.x_um, row.y_um, row.area_um2) == (7, 1005.0, 2002.5, 2.0)


def test_renumbering_changes_nothing_but_the_number():
    stains = scene()
    labels = find_cells(stains, SETTINGS)
    fibers = np.zeros(SHAPE, np.int32)
    fibers[:50, :50], fibers[60:, 60:] = 1, 2
    new = np.array([0, 40, 7, 9000], np.int32)
    first = measure(stains, fibers, labels=labels)
    second = measure(stains, fibers, labels=new[labels])
    first["label"] = new[first.label]
    pd.testing.assert_frame_equal(
        first.sort_values("label", ignore_index=True), second, check_dtype=False, check_exact=True
    )


@given(arrays(np.int32, (31, 40), elements=st.integers(0, 2)), st.integers(0, 2**32 - 1))
def test_a_fiber_is_as_brown_as_the_median_outside_cells(cells, seed):
    """A large one by every fourth pixel, and none that cells cover whole."""
    labels = np.zeros((31, 40), np.int32)
    labels[:, :25], labels[3:17, 30:], labels[20:, 27:35] = 9, 4, 6
    cells[labels == 6], cells[0, 0], cells[4, 32] = 1, 0, 0
    dab = np.random.default_rng(seed).normal(0, 0.1, labels.shape).astype(np.float32)
    stains = Stains(dab, dab, dab, 0.0, 0.0, 0.5)
    table = measure_fibers(labels, cells, stains, MARKER, FiberSettings()).set_index("label")
    free = cells == 0
    assert table.dab_od[4] == np.median(dab[free & (labels == 4)].astype(float))
    thinned = (free & (labels == 9))[::2, ::2]
    assert table.dab_od[9] == np.median(dab[::2, ::2][thinned].astype(float))
    assert np.isnan(table.dab_od[6])


def test_edited_map_goes_back_in():
    stains = scene()
    labels = find_cells(stains, SETTINGS)
    edited = np.where(labels == labels[30, 90], 0, labels)
    edited[70:74, 10:14] = 900
    table = measure(stains, labels=edited.astype(np.int32))
    assert len(table) == 3
    assert not at(table, 72, 12).positive
    assert at(table, 30, 30).dab_od == pytest.approx(at(measure(stains), 30, 30).dab_od, abs=1e-6)


def test_places():
    fibers = np.zeros(SHAPE, np.int32)
    fibers[:, :30], fibers[:, 34:50], fibers[:, 112:] = 1, 2, 3
    nuclei = blank()
    for column in (15, 32, 80):
        nuclei = draw_disc(nuclei, 60, column, 2.5, 0.6)
    table = measure(stains_of(nuclei, blank()), fibers)
    assert list(table.sort_values("x_um").place) == ["internal", "endomysial", "perimysial"]
    assert at(table, 60, 15).fiber == 1
    assert at(table, 60, 80).fiber == 2


@pytest.mark.parametrize(("compartment", "place"), [("membrane", "invading"), ("nucleus", "internal")])
def test_a_positive_cell_in_a_fiber_invades_it_unless_the_marker_is_nuclear(compartment, place):
    fibers = np.zeros(SHAPE, np.int32)
    fibers[:, 20:100] = 1
    distance = np.hypot(*(np.indices(SHAPE) - 60)) * MPP
    stains = stains_of(blank(), np.where(distance < 4.4, 0.5, 0).astype(np.float32))
    marker = MarkerSettings(compartment=compartment, threshold_od=0.1)
    table = measure(stains, fibers, marker, (distance < 4.5).astype(np.int32))
    assert (table.positive.tolist(), table.place.tolist()) == ([True], [place])


def test_objects_at_the_border_say_so():
    labels = np.zeros(SHAPE, np.int32)
    labels[:10, 50:60], labels[50:60, 50:60] = 1, 2
    stains = stains_of(np.full(SHAPE, 0.0, np.float32), blank())
    table = measure_fibers(labels, NO_FIBERS, stains, MARKER, FiberSettings())
    assert list(table.reason) == ["cut by the border of the image", ""]
    assert measure(stains, labels=labels).reason[0].startswith("cut by the border of the image; no nucleus")


def test_nothing_gives_empty_tables():
    stains = stains_of(blank(), blank())
    assert len(measure(stains, labels=NO_FIBERS)) == 0
    assert len(measure_fibers(NO_FIBERS, NO_FIBERS, stains, MARKER, FiberSettings())) == 0
    assert "confidence" in measure(stains, labels=NO_FIBERS)


def test_a_map_without_outside_is_measured():
    stains = stains_of(np.full(SHAPE, 0.2, np.float32), np.full(SHAPE, 0.3, np.float32))
    table = measure(stains, labels=np.ones(SHAPE, np.int32))
    assert table.dab_od[0] == pytest.approx(0.3, abs=0.01)


def test_arguments_are_not_changed():
    stains = scene()
    labels = find_cells(stains, SETTINGS)
    before = labels.copy(), stains.dab.copy()
    measure(stains, labels=labels)
    np.testing.assert_array_equal(labels, before[0])
    np.testing.assert_array_equal(stains.dab, before[1])


MAPS = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3))


@given(MAPS, st.integers(0, 2**32 - 1))
def test_sectors_are_those_of_the_angle_and_touch_what_their_pixels_touch(labels, seed):
    rows, columns = np.nonzero(labels)
    names, index = np.unique(labels[rows, columns], return_inverse=True)
    middle = [np.bincount(index, at) / np.bincount(index) for at in (rows, columns)]
    touching = np.random.default_rng(seed).random(len(rows)) < 0.2
    key, shared = inner._divide(touching, rows, columns, index, *middle)
    turn = np.arctan2(rows - middle[0][index], columns - middle[1][index]) / (2 * np.pi) + 0.5
    sector = np.minimum((turn * 12).astype(int), 11)
    np.testing.assert_array_equal(key, index * 12 + sector)
    expected = np.zeros((len(names), 12), bool)
    expected[index[touching], sector[touching]] = True
    np.testing.assert_array_equal(shared, expected)


def gather_whole(image):
    """Nearness in whole images: near at hand, a little of what is farther, and next to nothing of all."""
    near = cv2.GaussianBlur(image, (0, 0), 3.0)
    coarse = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    far = cv2.resize(cv2.GaussianBlur(coarse, (0, 0), 3.0), image.shape[::-1])
    return near + np.float32(3e-3) * far + np.float32(1e-6) * image.mean()


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_levels_round_places_are_those_of_whole_images_to_the_bit(seed, share):
    random = np.random.default_rng(seed)
    image, where = random.normal(0.1, 0.2, (25, 40)).astype(np.float32), random.random((25, 40)) < share
    weight = where.astype(np.float32)
    total, first, second = map(gather_whole, (weight, image * weight, image * (image * weight)))
    total = np.maximum(total, np.float32(1e-9))
    mean = first / total
    expected = mean + np.sqrt(np.maximum(second / total - mean * mean, 0))
    at = random.integers(0, image.size, 60)
    places, number = inner._list_once(at, image.size)
    found = inner._rate_surroundings(image, where, places, 1.0)[number]
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(found, expected.ravel()[at])


@given(MAPS, st.integers(0, 2**32 - 1))
def test_levels_of_fibers_are_mean_and_spread(fibers, seed):
    random = np.random.default_rng(seed)
    image = random.normal(0, 1, fibers.shape).astype(np.float32)
    where = random.random(image.shape) < 0.7
    level = inner._rate_fibers(image, where, fibers, fibers.max() + 1)
    assert len(level) == fibers.max() + 1
    for fiber, found in enumerate(level):
        own = image[(fibers == fiber) & where].astype(float)
        expected = own.mean() + own.std() if fiber and own.size else -np.inf
        assert found == pytest.approx(expected, abs=1e-6)
