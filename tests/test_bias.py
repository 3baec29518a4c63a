import numpy as np
import pandas as pd
import pytest

from histoquant.bias import RULES, check_bias, compute_disc_bias, simulate_bias
from histoquant.errors import HistoquantError
from histoquant.geometry import Field, rasterize_field
from histoquant.inclusion import count_frame, count_half_area, measure_inclusion

WIDTH_UM = 0.24**0.5 * 1000


def test_reference_figures_of_the_design() -> None:
    # 60 um 1.3:1 elliptic fibers, 9 um cells, 0.24 mm2 square, pieces over 10 um2.
    table = simulate_bias(WIDTH_UM, 60, 9, np.random.default_rng(0), "square")
    bias = table["cells_per_fiber_percent"]
    assert table.index.tolist() == list(RULES)
    assert bias["clipped"] == pytest.approx(-19, abs=1)
    assert bias["discarded"] == pytest.approx(26, abs=1)
    assert bias["half_area"] == pytest.approx(0.5, abs=4 * 0.14)
    assert bias["centroid"] == pytest.approx(0, abs=4 * 0.14)
    assert bias["counting_frame"] == pytest.approx(0, abs=4 * 0.14)
    assert (table["cells_per_fiber_se"] < 0.15).all()


@pytest.mark.parametrize("shape", ["circle", "square"])
@pytest.mark.parametrize(
    ("field_um", "fiber_um", "cell_um", "piece_um2"),
    [(550, 60, 9, 10), (200, 150, 100, 3000), (200, 120, 12, 0), (300, 80, 10, 60)],
)
def test_simulation_agrees_with_closed_forms(
    shape: str, field_um: float, fiber_um: float, cell_um: float, piece_um2: float
) -> None:
    rng = np.random.default_rng(1)
    table = check_bias(field_um, fiber_um, cell_um, rng, shape, piece_um2, objects=8_000)  # type: ignore[arg-type]
    rules = list(RULES[:4] if shape == "circle" else RULES)
    assert (table.loc[rules, "difference_se"].abs() < 4).all()
    assert table.loc[rules].notna().all(axis=None)


def test_closed_forms_without_a_least_piece_are_minkowski_sum_and_erosion() -> None:
    square = compute_disc_bias(200, 40, "square", min_piece_um2=0)
    assert square["clipped"] == pytest.approx(100 * (4 * 200 * 20 + np.pi * 20**2) / 200**2)
    assert square["discarded"] == pytest.approx(100 * (160**2 / 200**2 - 1))
    circle = compute_disc_bias(200, 40, "circle", min_piece_um2=0)
    assert circle["clipped"] == pytest.approx(100 * (1.2**2 - 1))
    assert circle["discarded"] == pytest.approx(100 * (0.8**2 - 1))


def test_a_tiny_least_piece_and_none_are_the_same_limit() -> None:
    for shape in ("circle", "square"):
        none, tiny = (compute_disc_bias(200, 40, shape, piece) for piece in (0.0, 1e-6))  # type: ignore[arg-type]
        assert tiny["clipped"] == pytest.approx(none["clipped"], abs=0.01)


@pytest.mark.parametrize("shape", ["circle", "square"])
def test_half_area_in_closed_form_agrees_with_numeric_integration(shape: str) -> None:
    # Centers on a grid over the field; the disc's share inside by points of the disc.
    width, radius = 10.0, 2.0
    axis = (np.arange(81) - 40) * 0.05
    x, y = (z.ravel() for z in np.meshgrid(axis, axis))
    disc = np.stack([x, y])[:, np.hypot(x, y) < radius]
    centers = (np.arange(120) + 0.5) / 120 * width / 2
    counted = 0
    for cx in centers:
        px, py = disc[0][None, :] + cx, disc[1][None, :] + centers[:, None]
        if shape == "circle":
            within = np.hypot(px, py) < width / 2
        else:
            within = (np.abs(px) < width / 2) & (np.abs(py) < width / 2)
        counted += int((within.mean(axis=1) > 0.5).sum())
    field = 120**2 * (np.pi / 4 if shape == "circle" else 1)
    expected = compute_disc_bias(width, 2 * radius, shape, min_piece_um2=0)["half_area"]  # type: ignore[arg-type]
    assert 100 * (counted / field - 1) == pytest.approx(expected, abs=0.6)
    assert expected < -1


def test_rules_on_label_maps_have_the_closed_forms_bias() -> None:
    # Discs on a lattice of random phase, one px = 1 um: every place equally likely, none touch.
    rng = np.random.default_rng(2)
    width, diameter, pitch, size = 100, 30, 34, 170
    inside = rasterize_field(Field(1, "square", 85, 85, width, width), (size, size), 0, 0, 1)
    grid = np.arange(size) + 0.5
    counts = []
    for _ in range(400):
        shift = rng.uniform(0, pitch, 2)
        cell, offset = np.divmod(grid[:, None] + shift, pitch)
        near = (offset - pitch / 2) ** 2
        number = cell[:, 1][:, None] * 10 + cell[:, 0][None, :] + 1
        disc = near[:, 1][:, None] + near[:, 0][None, :] < (diameter / 2) ** 2
        labels = np.where(disc, number, 0).astype(np.int32)
        table = measure_inclusion(labels, inside)
        half = count_half_area(table["fraction_in_field"])
        whole = table["fraction_in_field"] == 1
        piece = table["inside_px"] > 100
        counts.append([piece.sum(), whole.sum(), half.sum(), count_frame(labels, inside).sum()])
    bias = (np.array(counts) / (width / pitch) ** 2 - 1) * 100
    se = bias.std(axis=0, ddof=1) / np.sqrt(len(bias))
    exact = compute_disc_bias(width, diameter, "square", 100)[
        ["clipped", "discarded", "half_area", "counting_frame"]
    ]
    # Discs of whole pixels are a little smaller across than true ones: 1 % of the count of whole ones.
    assert (np.abs(bias.mean(axis=0) - exact) < 4 * se + [0, 1, 0, 0]).all()


def test_same_seed_same_table() -> None:
    tables = [simulate_bias(300, 60, 9, np.random.default_rng(7), objects=500) for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)
    assert np.isnan(tables[0].loc["counting_frame", "cells_percent"])


def test_tells_how_far_it_is_and_counts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = simulate_bias(300, 60, 9, np.random.default_rng(7), objects=25)
    monkeypatch.setattr("histoquant.bias._PART", 10)
    told: list[tuple[int, int]] = []
    rng = np.random.default_rng(7)
    parts = simulate_bias(300, 60, 9, rng, objects=25, progress=lambda *done: told.append(done))
    assert told == [(10, 50), (20, 50), (25, 50), (35, 50), (45, 50), (50, 50)]
    pd.testing.assert_frame_equal(parts, whole)


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({"fiber_um": 0.0}, "not positive"),
        ({"field_um": float("nan")}, "not positive"),
        ({"fiber_um": 290.0}, "not narrower"),
        ({"cell_um": 3.0}, "no larger than the least piece"),
        ({"shape": "hexagon"}, "no field of shape"),
        ({"fiber_elongation": 0.5}, "elongation under 1"),
        ({"objects": 0}, "no objects"),
    ],
)
def test_refuses_sizes_that_make_no_sense(sizes: dict[str, object], problem: str) -> None:
    given = {"field_um": 300.0, "fiber_um": 60.0, "cell_um": 9.0, "rng": np.random.default_rng(0)} | sizes
    with pytest.raises(HistoquantError, match=problem):
        simulate_bias(**given)  # type: ignore[arg-type]
