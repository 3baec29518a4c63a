"""Overlap of two markers' cells: windows, pairs, nulls, densities and fields, on planted patterns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histoquant.errors import ResultsError
from histoquant.geometry import Field
from histoquant.results import encode_labels
from histoquant.serial.compare import _read_spaces, tell_limit
from histoquant.serial.density import correlate_fields, smooth_windows
from histoquant.serial.gallery import select_inside
from histoquant.serial.intervals import choose_units, jackknife
from histoquant.serial.nulls import move_sites, shuffle_markers
from histoquant.serial.overlap import RADII_UM, Pairs, _ratio, count_pairs, estimate_overlap
from histoquant.serial.spaces import Spaces, class_ground, lay_spaces
from histoquant.serial.transform import make_affine
from histoquant.serial.weights import weigh_ground
from histoquant.serial.windows import PIXEL_UM, Window, list_windows, make_window, measure_pairs
from histoquant.synthetic.sites import SitesSettings, scatter_sites

SIDE = 110
_ROW, _COLUMN = (np.indices((SIDE, SIDE)) + 0.5) * PIXEL_UM
DISC = np.hypot(_ROW - 275, _COLUMN - 275) < 275
AT_50 = int(np.flatnonzero(RADII_UM == 50)[0])


def plant(seed: int, blocks: int, fields: int, **settings: float) -> list[Window]:
    rng = np.random.default_rng(seed)
    windows = []
    for block in range(blocks):
        for _ in range(fields):
            one, two, rest, other = scatter_sites(rng, 550.0, SitesSettings(**settings))
            cells = np.vstack([one, rest]), np.vstack([two, other])
            marks = np.arange(len(cells[0])) < len(one), np.arange(len(cells[1])) < len(two)
            windows.append(make_window(f"b{block}", DISC, *cells, *marks))
    return windows


def estimate(windows: list[Window]) -> tuple[float, float, float]:
    found = estimate_overlap(count_pairs(windows), choose_units([w.block for w in windows]))
    return tuple(float(part[AT_50]) for part in found)  # type: ignore[return-value]


@pytest.mark.parametrize("planted", [0.0, 0.6])
def test_the_planted_overlap_is_found(planted: float) -> None:
    """Mean over seeds within three standard errors of itself; the benchmark has more seeds."""
    values = [estimate(plant(seed, 2, 8, overlap=planted))[0] for seed in range(12)]
    assert np.mean(values) == pytest.approx(planted, abs=3 * np.std(values, ddof=1) / np.sqrt(12) + 0.02)


def test_a_marker_overlaps_itself() -> None:
    """The same sites, other cells in them."""
    value, low, high = estimate(plant(3, 1, 10, overlap=1.0))
    assert low < 1 < high
    assert value > 0.8


def test_cells_without_sites_have_no_overlap_to_estimate() -> None:
    few = plant(1, 1, 3, sites_per_mm2=1.0, cells=1.0)
    assert np.isnan(estimate(few)).all()


def test_pairs_expected_in_a_disc_follow_its_set_covariance() -> None:
    """Above the diameter it is the area squared; for small radii pi r2 times the area, less the rim."""
    area = DISC.sum() * PIXEL_UM**2
    found = measure_pairs(DISC, 2.0 * DISC, np.array([20.0, 600.0]))
    small, whole = found[1]
    assert found[0] == pytest.approx(2 * found[1])
    assert found[2] == pytest.approx(4 * found[1])
    assert whole == pytest.approx(area**2, rel=1e-6)
    # First order: the disc's covariance falls by 2 R h (Matheron 1975).
    assert small == pytest.approx(np.pi * 20**2 * area - 2 * 275 * 2 * np.pi * 20**3 / 3, rel=0.02)


def test_independent_markers_are_not_told_to_overlap_and_shared_sites_are() -> None:
    apart = shuffle_markers(plant(0, 1, 8, overlap=0.0), np.random.default_rng(0), draws=99)
    together = shuffle_markers(plant(0, 1, 8, overlap=0.9), np.random.default_rng(0), draws=99)
    assert apart.p > 0.05
    assert together.p == pytest.approx(0.01)
    assert together.ratio[AT_50] > together.high[AT_50] > 1


def test_sites_that_are_shared_go_beyond_where_cells_are() -> None:
    apart = move_sites(plant(0, 1, 8, overlap=0.0), np.random.default_rng(0), draws=99)
    together = move_sites(plant(0, 1, 8, overlap=0.9), np.random.default_rng(0), draws=99)
    assert apart.p > 0.05
    assert together.p == pytest.approx(0.01)
    assert together.ratio[AT_50] > together.high[AT_50] > 1


def _plant_network(known: bool = True) -> list[Window]:
    """Spaces 8 um wide between fibers of 52 um, on both sections; cells in them, in sites of either's own."""
    rng = np.random.default_rng(2)
    away = np.arange(550) % 60
    fibers = ((away[:, None] >= 8) & (away[None, :] >= 8)).astype(np.int32)
    classes = class_ground(fibers, 1.0)
    windows = []
    for _ in range(8):
        marks = []
        for _ in range(2):
            cells = rng.uniform(0, 550, (6000, 2))
            cells = cells[fibers[tuple(cells.astype(int).T[::-1])] == 0]
            reach = np.hypot(*(cells[:, None] - rng.uniform(0, 550, (6, 2))).T).min(0)
            marks.append((cells, rng.random(len(cells)) < 0.2 * np.exp(-0.5 * (reach / 80) ** 2)))
        (one, first), (two, second) = marks
        spaces = (classes, classes) if known else None
        windows.append(make_window("b", DISC, one, two, first, second, spaces))
    return windows


def test_a_common_network_of_spaces_is_no_overlap() -> None:
    windows = _plant_network()
    assert shuffle_markers(windows, np.random.default_rng(0), draws=99).ratio[0] > 1.3
    assert move_sites(windows, np.random.default_rng(0), draws=99).p > 0.05
    assert move_sites(_plant_network(False), np.random.default_rng(0), draws=99).p == pytest.approx(0.01)


def test_pairs_that_spaces_make_expect_are_taken_off() -> None:
    units = choose_units(["b"] * 8)
    windows = _plant_network()
    found, even = (estimate_overlap(count_pairs(windows, even=one), units) for one in (False, True))
    assert found.low[1] < 0 < found.high[1]
    assert even.value[1] > found.value[1] + 0.1
    unknown = estimate_overlap(count_pairs(_plant_network(False)), units)
    assert unknown.value.tolist() == even.value.tolist()


def test_ground_weighs_by_how_many_cells_lie_so_far_from_fibers() -> None:
    """By hand: 100 x 100 um2, half of it fiber's inside; 3 of 4 cells of the first lie in the other half."""
    mask = np.ones((20, 20), bool)
    classes = np.repeat(np.array([[0, 4]], np.uint8), 50, axis=1).repeat(100, axis=0)
    first = np.array([[10.0, 10], [60, 10], [70, 10], [80, 10]])
    second = np.array([[10.0, 90], [90, 90]])
    marks = np.ones(4, bool), np.ones(2, bool)
    window = make_window("b", mask, first, second, *marks, (classes, classes))
    ((one, two),) = weigh_ground([window])
    assert one[0].tolist() == [0.5] * 10 + [1.5] * 10
    assert two[0].tolist() == [1.0] * 20
    pairs = count_pairs([window], np.array([300.0]))
    assert pairs.area.tolist() == [[10_000.0, 10_000.0]]
    # All pairs are within reach: products of areas, whatever the weights.
    assert pairs.expected[0, :, 0] == pytest.approx([1e8] * 3)
    plain = make_window("b", mask, first, second, *marks)
    assert all((part == mask).all() for part in weigh_ground([plain])[0])


def test_a_marker_without_cells_weighs_all_ground_alike() -> None:
    classes = np.zeros((100, 100), np.uint8)
    none = np.empty((0, 2)), np.empty((0, 2)), np.empty(0, bool), np.empty(0, bool)
    window = make_window("b", np.ones((20, 20), bool), *none, (classes, classes))
    assert all((part == 1).all() for part in weigh_ground([window])[0])


def test_ground_is_told_apart_by_its_distance_to_fibers() -> None:
    """A fiber of 8 pixels of 1 um, then space; laid on a window that is shifted by 10 um and flipped."""
    fibers = np.zeros((10, 30), np.int32)
    fibers[:, :8] = 1
    classes = class_ground(fibers, 1.0)
    assert classes[0].tolist() == [0] * 5 + [1] * 3 + [2] * 3 + [3] * 8 + [4] * 11
    flipped = make_affine([[-1, 0, 30], [0, 1, 5]])
    laid = lay_spaces(Spaces(classes, 0.0, 5.0, 1.0), flipped, 0.0, 0.0, (10, 35))
    assert laid[0, :30].tolist() == classes[0, ::-1].tolist()
    # Where the section shows nothing.
    assert laid[0, 30:].tolist() == [4] * 5


def test_spaces_are_read_from_stored_fibers(tmp_path: Path) -> None:
    """Half a um per pixel, a fiber 20 um wide, and 20 um of space; read at 1 um, where it was."""
    fibers = np.zeros((20, 80), np.int32)
    fibers[:, :40] = 3
    (tmp_path / "fields").mkdir()
    (tmp_path / "fields" / "2_fibers.tif").write_bytes(encode_labels(fibers, 100.0, 50.0, 0.5))
    (tmp_path / "fields" / "3_fibers.tif").write_bytes(encode_labels(0 * fibers, 100.0, 50.0, 0.5))
    two, three, four = (Field(number, "square", 120.0, 55.0, 10.0, 10.0) for number in (2, 3, 4))
    found = _read_spaces(tmp_path, two)
    assert found is not None
    assert found.mpp == 1.0
    laid = lay_spaces(found, make_affine([[1, 0, 100], [0, 1, 50]]), 0.0, 0.0, (10, 40))
    assert laid[5].tolist() == [0] * 17 + [1] * 3 + [2] * 3 + [3] * 8 + [4] * 9
    assert _read_spaces(tmp_path, three) is None
    assert _read_spaces(tmp_path, four) is None
    (tmp_path / "fields" / "4_fibers.tif").write_bytes(b"no picture")
    with pytest.raises(ResultsError, match="4_fibers"):
        _read_spaces(tmp_path, four)


def test_products_of_densities_come_from_different_windows() -> None:
    """By hand: 10 x 5 cells in each of two windows of 10 um2, 25 of 15 pairs ... expected of the others."""
    cells = np.array([[10.0, 5.0], [10.0, 5.0]])
    own = np.array([[[15.0], [25.0], [12.0]]] * 2)
    area, reach = np.full((2, 2), 10.0), np.full((2, 3, 1), 10.0)
    pairs = Pairs(np.zeros(2, int), area, cells, reach, own)
    # Densities of the other window: 1 and 0.5 per um2, so that 10, 20 and 5 pairs are expected.
    scale = np.sqrt((50 - 20) * (24 - 5))
    assert _ratio(pairs, np.ones(2)) == pytest.approx((30 - 10) / scale)
    # Ground that bears half as many of the second marker's cells, for all pairs of it.
    half = Pairs(np.zeros(2, int), area * (1, 0.5), cells, reach, own)
    assert _ratio(half, np.ones(2)) == pytest.approx((30 - 20) / np.sqrt((50 - 20) * (24 - 20)))


def test_an_envelope_without_pairs_says_nothing() -> None:
    empty = make_window("b", DISC, np.empty((0, 2)), np.empty((0, 2)), np.empty(0, bool), np.empty(0, bool))
    assert np.isnan(shuffle_markers([empty] * 3, np.random.default_rng(0), draws=9).p)
    assert np.isnan(move_sites([empty] * 3, np.random.default_rng(0), draws=9).p)


def test_smoothed_densities_of_one_pattern_are_alike() -> None:
    windows = [
        make_window(w.block, DISC, w.first, w.first, w.first_positive, w.first_positive)
        for w in plant(6, 1, 6, overlap=0.5)
    ]
    units = choose_units([w.block for w in windows])
    same = smooth_windows(windows, units, 50.0)
    assert same.spearman.value == pytest.approx(1.0)
    assert same.first.value[0] == pytest.approx(same.second.value[0])
    assert same.first.value[0] > same.first_chance
    apart = smooth_windows(plant(7, 1, 8, overlap=0.0), np.arange(8), 50.0)
    assert apart.spearman.low[0] < 0 < apart.spearman.high[0]


def test_intervals_of_shares_and_correlations_stay_within_their_bounds() -> None:
    few = smooth_windows(plant(8, 1, 3, overlap=0.9), np.arange(3), 100.0)
    assert -1 <= few.spearman.low[0] <= few.spearman.high[0] <= 1
    assert 0 <= few.first.low[0] <= few.first.high[0] <= 1


def test_only_cells_in_their_own_field_are_shown() -> None:
    fields = [Field(1, "circle", 100.0, 100.0, 100.0, 100.0), Field(2, "circle", 300.0, 100.0, 100.0, 100.0)]
    cells = pd.DataFrame({"field": [1, 1, 2, 2], "x_um": [100.0, 160.0, 300.0, 100.0], "y_um": 100.0})
    assert select_inside(cells, fields).index.tolist() == [0, 2]


def make_counts(pairs: list[tuple[str, int, int]]) -> list[Window]:
    rng = np.random.default_rng(0)
    windows = []
    for block, one, two in pairs:
        points = [rng.uniform(200, 350, (number, 2)) for number in (one, two)]
        windows.append(make_window(block, DISC, *points, np.ones(one, bool), np.ones(two, bool)))
    return windows


def test_fields_of_one_patient_are_ranked() -> None:
    """Spearman of 1..6 against 2 1 4 3 6 5: 1 - 6 * 6 / 210."""
    found = correlate_fields(
        make_counts([("a", n, m) for n, m in zip(range(1, 7), (2, 1, 4, 3, 6, 5), strict=True)])
    )
    assert found.rho == pytest.approx(1 - 36 / 210)
    assert found.low < found.rho < found.high
    assert found.method == "Spearman"


def test_differences_between_patients_are_no_correlation_of_fields() -> None:
    """Patients differ in both markers, their fields in one direction only within each."""
    rng = np.random.default_rng(2)
    rows = []
    for patient in range(5):
        rows += [
            (f"p{patient}", 5 + 12 * patient + n, 20 + 12 * patient - n) for n in rng.permutation(8).tolist()
        ]
    found = correlate_fields(make_counts(rows))
    assert found.rho < -0.9
    assert found.blocks == 5
    assert "mixed" in found.method


def test_fields_that_do_not_differ_say_nothing() -> None:
    assert np.isnan(correlate_fields(make_counts([("a", 3, n) for n in range(1, 8)])).rho)


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    found = jackknife(lambda w: np.array([(w * values).sum() / w.sum()]), np.arange(4))
    assert found.value[0] == pytest.approx(4.0)
    # t of 3 degrees of freedom: 3.18245.
    assert found.high[0] - 4.0 == pytest.approx(3.18245 * values.std(ddof=1) / 2, rel=1e-5)
    assert np.isnan(jackknife(lambda w: np.array([1.0]), np.arange(2)).value[0])


def test_windows_are_where_fields_of_both_sections_lie() -> None:
    """The second section is shifted by 100 um; its field covers the right half of the first's."""
    first = Field(1, "square", 200.0, 200.0, 200.0, 200.0)
    second = Field(7, "square", 400.0, 200.0, 200.0, 200.0)
    cells = (
        pd.DataFrame({"field": [1, 1], "x_um": [150.0, 250.0], "y_um": [200.0] * 2, "positive": [True] * 2}),
        pd.DataFrame(
            {"field": [7, 7], "x_um": [340.0, 450.0], "y_um": [200.0] * 2, "positive": [False, True]}
        ),
    )
    transforms = (make_affine([[1, 0, 0], [0, 1, 0]]), make_affine([[1, 0, 100], [0, 1, 0]]))
    (window,) = list_windows("b", ([first], [second]), cells, transforms)
    assert window.area_um2 == pytest.approx(100 * 200, rel=0.06)
    assert len(window.first) == len(window.second) == 1
    assert window.first_positive.tolist() == [True]
    assert window.second_positive.tolist() == [False]
    assert window.spaces is None
    assert (window.second - window.first)[0].tolist() == pytest.approx([-10.0, 0.0], abs=0.01)
    known = {1: Spaces(np.full((200, 200), 1, np.uint8), 100.0, 100.0, 1.0)}
    also = {7: Spaces(np.full((200, 200), 3, np.uint8), 300.0, 100.0, 1.0)}
    (window,) = list_windows("b", ([first], [second]), cells, transforms, (known, also))
    assert window.spaces is not None
    assert [part[~(part == 4)].max() for part in window.spaces] == [1, 3]
    # A fiber that the second section misses where the first shows it.
    known, also = (
        {1: Spaces(0 * known[1].classes, *known[1][1:])},
        {7: Spaces(0 * also[7].classes + 4, *also[7][1:])},
    )
    (window,) = list_windows("b", ([first], [second]), cells, transforms, (known, also))
    assert window.spaces is not None
    assert (window.spaces[1] == window.spaces[0]).all()
    assert window.spaces[0].shape == tuple(5 * side for side in window.mask.shape)


def test_the_limit_holds_nine_tenths_of_what_lies_together() -> None:
    rng = np.random.default_rng(0)
    away = np.hypot(*rng.normal(0, 7.0, (2, 100_000)))
    assert (away < tell_limit(float(np.median(away)))).mean() == pytest.approx(0.9, abs=0.005)
