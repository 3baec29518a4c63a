"""Overlap of two markers' cells: windows, pairs, nulls, densities and fields, on planted patterns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from histoquant.geometry import Field
from histoquant.serial.compare import tell_limit
from histoquant.serial.density import correlate_fields, smooth_windows
from histoquant.serial.gallery import select_inside
from histoquant.serial.intervals import choose_units, jackknife
from histoquant.serial.nulls import move_labels, shuffle_markers
from histoquant.serial.overlap import RADII_UM, Pairs, count_pairs, estimate_overlap, tell_chance
from histoquant.serial.transform import make_affine
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
    small, whole = measure_pairs(DISC, np.array([20.0, 600.0]))
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
    apart = move_labels(plant(0, 1, 8, overlap=0.0), np.random.default_rng(0), draws=99)
    together = move_labels(plant(0, 1, 8, overlap=0.9), np.random.default_rng(0), draws=99)
    assert apart.p > 0.05
    assert together.p == pytest.approx(0.01)
    assert together.ratio[AT_50] > together.high[AT_50] > 1


def _plant_network() -> list[Window]:
    """Cells on lines 60 um apart, on both sections; positive ones in sites of either marker's own."""
    rng = np.random.default_rng(2)
    windows = []
    for _ in range(8):
        along, line = rng.uniform(0, 550, 900), 60 * rng.integers(0, 10, 900) + rng.normal(0, 2, 900)
        lines = rng.random(900) < 0.5
        cells = np.where(lines[:, None], np.column_stack([along, line]), np.column_stack([line, along]))
        marks = []
        for _ in range(2):
            away = np.hypot(*(cells[:, None] - rng.uniform(0, 550, (4, 2))).T).min(0)
            marks.append(rng.random(900) < 0.4 * np.exp(-0.5 * (away / 40) ** 2))
        windows.append(make_window("b", DISC, cells, cells, *marks))
    return windows


def test_a_common_network_of_cells_is_no_overlap() -> None:
    windows = _plant_network()
    near = shuffle_markers(windows, np.random.default_rng(0), draws=99).ratio[0]
    assert near > 1.3
    assert move_labels(windows, np.random.default_rng(0), draws=99).p > 0.05


def test_the_overlap_of_a_common_network_is_expected_of_where_cells_lie() -> None:
    windows = _plant_network()
    found = estimate_overlap(count_pairs(windows), choose_units(["b"] * 8)).value[0]
    ratio = move_labels(windows, np.random.default_rng(0), draws=99).ratio
    assert tell_chance(count_pairs(windows), ratio)[0] == pytest.approx(found, abs=0.15)
    assert found > 0.15
    apart = plant(0, 1, 8, overlap=0.9)
    ratio = move_labels(apart, np.random.default_rng(0), draws=99).ratio
    assert abs(tell_chance(count_pairs(apart), ratio)[AT_50]) < 0.2


def test_chance_is_told_in_units_of_overlap() -> None:
    """By hand: 30 pairs of both, 10 of them expected of 20 x 10 cells in 2 x 10 um2; own pairs 50 and 24."""
    cells = np.array([[10.0, 5.0], [10.0, 5.0]])
    own = np.array([[[15.0], [25.0], [12.0]]] * 2)
    area, reach = np.full(2, 10.0), np.full((2, 1), 10.0)
    pairs = Pairs(np.zeros(2, int), area, cells, reach, own)
    # Densities of the other window: 1 and 0.5 per um2, so that 10, 20 and 5 pairs are expected.
    scale = np.sqrt((50 - 20) * (24 - 5))
    assert tell_chance(pairs, np.array([1.0])) == pytest.approx((30 - 10) / scale)
    assert tell_chance(pairs, np.array([2.0])) == pytest.approx((15 - 10) / scale)
    assert tell_chance(pairs, np.array([3.0])) == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(tell_chance(pairs, np.array([np.nan]))).all()


def test_sites_on_the_cells_there_are_say_nothing_where_all_cells_are_in_infiltrates() -> None:
    """Positive cells drawn at random from the cells of shared infiltrates: together, but not beyond them."""
    rng = np.random.default_rng(4)
    windows = []
    for window in plant(5, 1, 8, overlap=1.0, others_per_mm2=0.0, cells=16.0):
        marks = (rng.random(len(window.first)) < 0.4, rng.random(len(window.second)) < 0.4)
        windows.append(make_window("b", DISC, window.first, window.second, *marks))
    assert move_labels(windows, rng, draws=99).p > 0.05
    assert shuffle_markers(windows, rng, draws=99).p <= 0.05


def test_markers_that_prefer_one_place_do_not_overlap_for_that() -> None:
    """Both prefer a common band, the perimysium, and have no sites beyond that."""
    rng = np.random.default_rng(5)
    windows, unknown = [], []
    for _ in range(8):
        cells = rng.uniform(0, 550, (600, 2))
        band = np.abs(cells[:, 0] - rng.uniform(100, 450)) < 60
        marks = [rng.random(600) < np.where(band, 0.3, 0.02) for _ in range(2)]
        place = np.where(band, "perimysial", "endomysial")
        windows.append(make_window("b", DISC, cells, cells, *marks, place))
        unknown.append(make_window("b", DISC, cells, cells, *marks))
    assert move_labels(windows, np.random.default_rng(0), draws=99).p > 0.05
    assert move_labels(unknown, np.random.default_rng(0), draws=99).p == pytest.approx(0.01)


def test_an_envelope_without_pairs_says_nothing() -> None:
    empty = make_window("b", DISC, np.empty((0, 2)), np.empty((0, 2)), np.empty(0, bool), np.empty(0, bool))
    assert np.isnan(shuffle_markers([empty] * 3, np.random.default_rng(0), draws=9).p)
    assert np.isnan(move_labels([empty] * 3, np.random.default_rng(0), draws=9).p)


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
    cells = (cells[0].assign(place="endomysial"), cells[1].assign(place=["endomysial", "perimysial"]))
    transforms = (make_affine([[1, 0, 0], [0, 1, 0]]), make_affine([[1, 0, 100], [0, 1, 0]]))
    (window,) = list_windows("b", ([first], [second]), cells, transforms)
    assert window.area_um2 == pytest.approx(100 * 200, rel=0.06)
    assert len(window.first) == len(window.second) == 1
    assert window.first_positive.tolist() == [True]
    assert window.second_positive.tolist() == [False]
    assert window.second_place.tolist() == ["endomysial"]
    assert (window.second - window.first)[0].tolist() == pytest.approx([-10.0, 0.0], abs=0.01)


def test_the_limit_holds_nine_tenths_of_what_lies_together() -> None:
    rng = np.random.default_rng(0)
    away = np.hypot(*rng.normal(0, 7.0, (2, 100_000)))
    assert (away < tell_limit(float(np.median(away)))).mean() == pytest.approx(0.9, abs=0.005)
