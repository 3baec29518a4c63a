import json
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from histoquant.errors import FieldsError
from histoquant.fields import draw_fields, frame_image, measure_tissue, restore_fields, spawn_generator
from histoquant.geometry import Field, rasterize_field
from histoquant.protocol import FieldSettings

MPP = 8.0
Mask = npt.NDArray[np.bool_]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def nothing(tissue: Mask) -> Mask:
    return np.zeros_like(tissue)


def overlap(a: Field, b: Field) -> bool:
    dx, dy = abs(a.center_x_um - b.center_x_um), abs(a.center_y_um - b.center_y_um)
    return np.hypot(dx, dy) < a.width_um if a.shape == "circle" else max(dx, dy) < a.width_um


# Uniform: the first field of many draws, over bins of the slide and over bins of an overview pixel

ONE = FieldSettings(count=1, width_um=100.0)
DRAWS = 1500


def draw_centers(tissue: Mask, forbidden: Mask, one: FieldSettings, seed: int) -> npt.NDArray[np.float64]:
    generator = rng(seed)
    fields = [draw_fields(tissue, forbidden, MPP, one, generator).fields[0] for _ in range(DRAWS)]
    return np.array([(field.center_x_um, field.center_y_um) for field in fields])


def judge_even(centers: npt.NDArray[np.float64], low: float, high: tuple[float, float], bins: int) -> float:
    """P of the chi-square test that centers are even over bins of a rectangle."""
    ranges = [(low, end) for end in high]
    counts = np.histogram2d(centers[:, 0], centers[:, 1], bins=bins, range=ranges)[0]
    assert counts.sum() == len(centers)
    return float(stats.chisquare(counts.ravel()).pvalue)


@pytest.fixture(scope="module")
def centers() -> npt.NDArray[np.float64]:
    tissue = np.ones((50, 40), bool)
    return draw_centers(tissue, nothing(tissue), ONE, 1)


def test_centers_are_even_over_all_feasible_positions(centers: npt.NDArray[np.float64]) -> None:
    assert judge_even(centers, 50.0, (270.0, 350.0), 6) > 0.001


def test_centers_lie_on_no_grid(centers: npt.NDArray[np.float64]) -> None:
    assert judge_even(centers % MPP, 0.0, (MPP, MPP), 4) > 0.001


def test_the_judge_sees_corners_and_grids(centers: npt.NDArray[np.float64]) -> None:
    anchored = 50.0 + (centers - 50.0) * 0.93
    assert judge_even(anchored, 50.0, (270.0, 350.0), 6) < 1e-6
    assert judge_even(centers // MPP * MPP % MPP, 0.0, (MPP, MPP), 4) < 1e-6


@pytest.mark.parametrize("shape", ["circle", "square"])
def test_centers_are_even_on_ragged_tissue_too(shape: Any) -> None:
    tissue = ndimage.gaussian_filter(rng(2).normal(size=(50, 50)), 4) > -0.06
    forbidden = nothing(tissue)
    forbidden[30:33, 10:20] = True
    one = FieldSettings(count=1, width_um=100.0, shape=shape, min_tissue_fraction=0.75)
    drawn = draw_centers(tissue, forbidden, one, 3)
    tried = [Field(1, shape, *place, 100.0, 100.0) for place in rng(4).uniform(50, 350, (8000, 2)).tolist()]
    feasible = [
        (field.center_x_um, field.center_y_um)
        for field in tried
        if measure_tissue(tissue, MPP, field) >= 0.75 and measure_tissue(forbidden, MPP, field) == 0
    ]
    assert 1000 < len(feasible) < 7000
    tables = [
        np.histogram2d(*np.transpose(points), bins=5, range=[(50, 350)] * 2)[0].ravel()
        for points in (drawn, np.array(feasible))
    ]
    table = np.array(tables)[:, np.sum(tables, axis=0) >= 20]
    assert table.shape[1] > 10
    assert stats.chi2_contingency(table).pvalue > 0.001


@pytest.mark.parametrize("width_um", [90.0, 100.0])
def test_centers_reach_the_rim_of_what_is_feasible(width_um: float) -> None:
    tissue = np.zeros((14, 60), bool)
    tissue[:, :30] = True
    one = FieldSettings(count=1, width_um=width_um, shape="square", min_tissue_fraction=0.72)
    x, y = draw_centers(tissue, nothing(tissue), one, 5).T
    tried = [Field(1, "square", place, 56.0, width_um, width_um) for place in np.arange(60.0, 300.0, 0.25)]
    reach = max(field.center_x_um for field in tried if measure_tissue(tissue, MPP, field) >= 0.72)
    assert (x.min(), x.max()) == pytest.approx((width_um / 2, reach), abs=1.0)
    assert (y.min(), y.max()) == pytest.approx((width_um / 2, 112.0 - width_um / 2), abs=1.0)


# What a draw keeps to


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from(["circle", "square"]),
    fraction=st.sampled_from([0.0, 0.5, 0.7, 1.0]),
    width_um=st.floats(60, 150),
)
def test_fields_keep_to_the_rules(seed: int, shape: Any, fraction: float, width_um: float) -> None:
    noise = ndimage.gaussian_filter(rng(seed).normal(size=(2, 45, 60)), (0, 5, 5))
    tissue, forbidden = noise[0] > -0.02, noise[1] > 0.12
    asked = FieldSettings(
        count=6, shape=shape, width_um=width_um, min_tissue_fraction=fraction, max_sequences=2
    )
    try:
        draw = draw_fields(tissue, forbidden, MPP, asked, rng(seed))
    except FieldsError:
        return
    assert [field.number for field in draw.fields] == list(range(1, len(draw.fields) + 1))
    assert not any(overlap(a, b) for a, b in combinations(draw.fields, 2))
    for field in draw.fields:
        assert (field.shape, field.width_um, field.height_um) == (shape, width_um, width_um)
        assert min(field.left_um, field.top_um) >= -1e-9
        assert field.left_um + width_um <= 60 * MPP + 1e-9
        assert field.top_um + width_um <= 45 * MPP + 1e-9
        inside = rasterize_field(field, tissue.shape, 0.0, 0.0, MPP)
        assert tissue[inside].mean() >= fraction
        assert not forbidden[inside].any()


def test_many_fields_fill_a_slide_without_overlap() -> None:
    tissue = np.ones((100, 100), bool)
    asked = FieldSettings(count=20, width_um=120.0)
    fields = draw_fields(tissue, nothing(tissue), MPP, asked, rng()).fields
    assert len(fields) == 20
    assert not any(overlap(a, b) for a, b in combinations(fields, 2))


def test_excluded_regions_stay_empty() -> None:
    tissue = np.ones((40, 80), bool)
    forbidden = nothing(tissue)
    forbidden[:, 38] = True
    forbidden[:, 44:] = True
    asked = FieldSettings(count=2, width_um=100.0, min_tissue_fraction=0.0)
    fields = [
        field for seed in range(40) for field in draw_fields(tissue, forbidden, MPP, asked, rng(seed)).fields
    ]
    assert max(field.center_x_um for field in fields) < 38 * MPP - 46
    assert not any(measure_tissue(forbidden, MPP, field) for field in fields)


# Little room


def make_islands() -> Mask:
    tissue = np.zeros((40, 80), bool)
    for column in (5, 30, 55):
        tissue[10:24, column : column + 14] = True
    return tissue


def test_room_for_three_gives_three_and_every_try() -> None:
    tissue = make_islands()
    asked = FieldSettings(count=10, width_um=100.0, min_tissue_fraction=0.9, max_sequences=4)
    draw = draw_fields(tissue, nothing(tissue), MPP, asked, rng())
    assert len(draw.fields) == 3
    assert [one["placed"] for one in draw.receipt["sequences"]] == [3, 3, 3, 3]
    assert sorted(int(field.center_x_um // (25 * MPP)) for field in draw.fields) == [0, 1, 2]
    refused = [item for one in draw.receipt["sequences"] for item in one["refused"]]
    assert {frozenset(item) for item in refused} == {frozenset(["x_um", "y_um", "reason"])}
    assert any(item["reason"].startswith("tissue over 0.8") for item in refused)


def test_a_refusal_names_the_field_in_the_way() -> None:
    tissue = np.ones((40, 40), bool)
    receipt = draw_fields(tissue, nothing(tissue), MPP, FieldSettings(count=9, width_um=80.0), rng()).receipt
    reasons = {item["reason"] for one in receipt["sequences"] for item in one["refused"]}
    assert reasons & {f"overlaps field {number}" for number in range(1, 9)}


def test_a_refusal_names_an_excluded_region() -> None:
    tissue = np.ones((40, 40), bool)
    forbidden = nothing(tissue)
    forbidden[::14, ::14] = True
    asked = FieldSettings(count=3, width_um=80.0, max_sequences=20)
    receipt = draw_fields(tissue, forbidden, MPP, asked, rng()).receipt
    reasons = {item["reason"] for one in receipt["sequences"] for item in one["refused"]}
    assert "touches an excluded region" in reasons


def test_a_sequence_that_left_no_room_is_begun_again() -> None:
    tissue = np.ones((13, 30), bool)
    asked = FieldSettings(count=2, shape="square", width_um=100.0, max_sequences=50)
    draws = [draw_fields(tissue, nothing(tissue), MPP, asked, rng(seed)) for seed in range(20)]
    assert all(len(draw.fields) == 2 for draw in draws)
    placed = [[one["placed"] for one in draw.receipt["sequences"]] for draw in draws]
    assert all(tries == [1] * (len(tries) - 1) + [2] for tries in placed)
    assert max(map(len, placed)) > 1


def test_the_longest_sequence_is_taken() -> None:
    tissue = np.ones((13, 30), bool)
    asked = FieldSettings(count=3, shape="square", width_um=100.0, max_sequences=6)
    draws = [draw_fields(tissue, nothing(tissue), MPP, asked, rng(seed)) for seed in range(20)]
    placed = [[one["placed"] for one in draw.receipt["sequences"]] for draw in draws]
    assert [len(draw.fields) for draw in draws] == [max(tries) for tries in placed]
    assert any(tries[-1] < max(tries) for tries in placed)


def test_the_receipt_says_how_much_room_there_was() -> None:
    tissue = np.zeros((50, 60), bool)
    tissue[:, :40] = True
    asked = FieldSettings(count=1, shape="square", width_um=80.0, min_tissue_fraction=1.0)
    receipt = draw_fields(tissue, nothing(tissue), MPP, asked, rng()).receipt
    assert receipt["overview_mpp"] == MPP
    assert receipt["tissue_mm2"] == pytest.approx(50 * 40 * 64e-6)
    assert receipt["feasible_mm2"] == pytest.approx((320 - 80) * (400 - 80) * 1e-6, rel=0.05)
    assert receipt["settings"] == asked.model_dump(mode="json")


def test_a_refusal_names_the_slides_edge() -> None:
    tissue = np.ones((13, 13), bool)
    asked = FieldSettings(count=2, width_um=100.0, max_sequences=20)
    receipt = draw_fields(tissue, nothing(tissue), MPP, asked, rng()).receipt
    reasons = {item["reason"] for one in receipt["sequences"] for item in one["refused"]}
    assert "reaches beyond the slide" in reasons


def test_no_tissue() -> None:
    empty = np.zeros((40, 40), bool)
    with pytest.raises(FieldsError, match="no tissue found; check the slide, or annotate"):
        draw_fields(empty, empty, MPP, ONE, rng())


@pytest.mark.parametrize(
    ("tissue", "forbidden", "one"),
    [
        (np.ones((11, 60), bool), np.zeros((11, 60), bool), ONE),
        (np.ones((40, 40), bool), np.ones((40, 40), bool), ONE),
        (np.eye(40, dtype=bool), np.zeros((40, 40), bool), ONE),
        # Nearly enough tissue everywhere: positions are tried, none will do.
        (np.indices((40, 40)).sum(0) % 3 > 0, np.zeros((40, 40), bool), FieldSettings(width_um=200.0)),
    ],
    ids=["slide too small", "all excluded", "too little tissue", "nearly enough tissue"],
)
def test_no_room(tissue: Mask, forbidden: Mask, one: FieldSettings) -> None:
    with pytest.raises(FieldsError, match=f"no room for a field of {one.width_um:g} um; "):
        draw_fields(tissue, forbidden, MPP, one, rng())


def test_a_draw_changes_none_of_its_masks() -> None:
    tissue = make_islands()
    before = tissue.copy()
    tissue.setflags(write=False)
    draw_fields(tissue, nothing(tissue), MPP, ONE, rng())
    np.testing.assert_array_equal(tissue, before)


# The same fields again


def draw_section(name: str, seed: int = 0) -> tuple[Field, ...]:
    tissue = np.ones((80, 80), bool)
    asked = FieldSettings(count=5, width_um=100.0)
    return draw_fields(tissue, nothing(tissue), MPP, asked, spawn_generator(seed, name)).fields


def test_the_same_seed_and_section_give_the_same_fields_whatever_comes_between() -> None:
    forth = {name: draw_section(name) for name in ("P1-CD19", "P2-CD19", "张三-BAFF")}
    back = {name: draw_section(name) for name in ("张三-BAFF", "P2-CD19", "P1-CD19")}
    assert forth == back
    assert len(set(forth.values())) == 3


def test_another_seed_or_section_gives_other_fields() -> None:
    found = {draw_section(name, seed) for name in ("P1-CD19", "P1-CD19-1") for seed in (0, 1, 2**40)}
    assert len(found) == 6


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**63), st.text(max_size=10))
def test_a_receipt_gives_exactly_the_same_fields(seed: int, name: str) -> None:
    tissue = make_islands()
    asked = FieldSettings(count=3, width_um=100.0, max_sequences=2)
    draw = draw_fields(tissue, nothing(tissue), MPP, asked, spawn_generator(seed, name))
    assert restore_fields(json.loads(json.dumps(draw.receipt))) == draw.fields


@pytest.mark.parametrize(
    "receipt", [{}, {"fields": None}, {"fields": [{"number": 1}]}, {"fields": [[1]]}, {"fields": 3}]
)
def test_a_receipt_without_fields(receipt: dict[str, Any]) -> None:
    with pytest.raises(FieldsError, match="the receipt holds no fields; draw the section's fields again"):
        restore_fields(receipt)


# Camera images, and tissue


@pytest.mark.parametrize(
    ("width_um", "height_um", "expected"),
    [
        (400.0, 300.0, (200.0, 150.0, 280.0, 180.0)),
        (300.0, 400.0, (150.0, 200.0, 180.0, 280.0)),
        (1000.0, 100.0, (500.0, 50.0, 960.0, 60.0)),
        (50.0, 50.0, (25.0, 25.0, 30.0, 30.0)),
    ],
)
def test_a_camera_image_counts_in_an_inset_frame(
    width_um: float, height_um: float, expected: tuple[float, ...]
) -> None:
    assert frame_image(width_um, height_um, FieldSettings(), 7) == Field(7, "rectangle", *expected)


def test_the_inset_is_a_setting() -> None:
    asked = FieldSettings(inset_um=10.0, max_inset_fraction=0.05)
    assert frame_image(400.0, 300.0, asked) == Field(1, "rectangle", 200.0, 150.0, 380.0, 280.0)
    assert frame_image(400.0, 100.0, asked) == Field(1, "rectangle", 200.0, 50.0, 390.0, 90.0)


def test_measures_the_tissue_of_a_field() -> None:
    tissue = np.zeros((10, 10), bool)
    tissue[:, :4] = True
    assert measure_tissue(tissue, 10.0, Field(1, "square", 40.0, 50.0, 40.0, 40.0)) == 0.5
    assert measure_tissue(tissue, 10.0, Field(1, "square", 50.0, 50.0, 40.0, 40.0)) == 0.25
    assert measure_tissue(tissue, 10.0, Field(1, "circle", 20.0, 50.0, 40.0, 40.0)) == 1.0
    assert measure_tissue(tissue, 10.0, Field(1, "circle", 50.0, 50.0, 2.0, 2.0)) == 0.0
