from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from scipy.spatial import cKDTree
from skimage.measure import label

from histoquant.geometry import Field
from histoquant.synthetic import (
    CellsSettings,
    Count,
    LayoutSettings,
    MarkerPlan,
    RenderSettings,
    Section,
    StainingSettings,
    StudyPlan,
    Truth,
    find_uncertain,
    plan_study,
    read_truth,
    render_section,
    tell_truth,
    true_ratio,
    truth_in_field,
    vary_section,
    write_section,
    write_study,
    write_truth,
)
from histoquant.synthetic.layout import divide_plane
from histoquant.synthetic.truth import TruthError

SMALL = RenderSettings(size_um=(700, 600), layout=LayoutSettings(rim_um=40, fascicle_um=250, foci_per_mm2=8))


def render(seed: int = 0, **parts: object) -> Section:
    return render_section(np.random.default_rng(seed), SMALL.model_copy(update=parts))


@pytest.fixture(scope="module")
def section() -> Section:
    cells = CellsSettings(positive_cells_per_fiber=0.8, lymphocytes_per_fiber=0.8)
    layout = SMALL.layout.model_copy(update={"necrotic": 0.1})
    return render(3, cells=cells, layout=layout)


def table(*rows: tuple[float, float, float, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["x_um", "y_um", "nucleus_radius_um", "positive"])


# Rendering


def test_same_seed_gives_the_same_bytes() -> None:
    first, second, other = render(1), render(1), render(2)
    assert first.pixels.tobytes() == second.pixels.tobytes()
    assert first.labels.tobytes() == second.labels.tobytes()
    pd.testing.assert_frame_equal(first.cells, second.cells)
    assert first.pixels.tobytes() != other.pixels.tobytes()


def test_pixels_have_the_asked_size(section: Section) -> None:
    assert section.pixels.shape == (1200, 1400, 3)
    assert section.pixels.dtype == np.uint8
    assert section.labels.dtype == np.int32


@pytest.mark.parametrize("mpp", [0.25, 0.4, 1.0])
def test_any_pixel_size_shows_the_same_layout(mpp: float) -> None:
    size = RenderSettings(size_um=(300, 300), mpp=mpp, layout=LayoutSettings(rim_um=20, fascicle_um=250))
    made = render_section(np.random.default_rng(5), size)
    coarse = render_section(np.random.default_rng(5), size.model_copy(update={"mpp": 0.5}))
    assert made.pixels.shape == (round(300 / mpp), round(300 / mpp), 3)
    assert len(made.fibers) == len(coarse.fibers)
    np.testing.assert_allclose(made.fibers.area_um2.sum(), coarse.fibers.area_um2.sum(), rtol=0.03)


SIDE = st.floats(230, 420)


@given(st.tuples(SIDE, SIDE), st.sampled_from([0.3, 0.5, 0.7, 1.3]), st.floats(20, 200))
@settings(max_examples=12, deadline=None)
def test_any_size_can_be_rendered(size_um: tuple[float, float], mpp: float, fiber_um: float) -> None:
    layout = LayoutSettings(rim_um=20, fiber_um=fiber_um, vessels_per_mm2=20, foci_per_mm2=10)
    made = render_section(np.random.default_rng(0), RenderSettings(size_um=size_um, mpp=mpp, layout=layout))
    assert made.pixels.shape[:2] == (round(size_um[1] / mpp), round(size_um[0] / mpp))
    assert made.fibers.label.tolist() == np.setdiff1d(made.labels, [0]).tolist()


def test_every_fiber_is_one_connected_label(section: Section) -> None:
    labels = np.setdiff1d(section.labels, [0])
    assert labels.tolist() == section.fibers.label.tolist()
    assert label(section.labels, connectivity=1, background=0).max() == len(labels)
    assert (section.fibers.area_um2 > 0).all()


def test_fibers_are_where_their_table_says(section: Section) -> None:
    one = section.fibers.iloc[len(section.fibers) // 2]
    rows, columns = np.nonzero(section.labels == one.label)
    step, origin = section.labels_mpp, section.labels_origin_um
    assert one.x_um == pytest.approx(origin + (columns.mean() + 0.5) * step)
    assert one.y_um == pytest.approx(origin + (rows.mean() + 0.5) * step)
    assert one.area_um2 == pytest.approx(len(rows) * step**2)


def test_all_kinds_of_fiber_and_cell_appear(section: Section) -> None:
    assert set(section.fibers.kind) == {"normal", "atrophic", "necrotic", "regenerating"}
    assert {"lymphocyte", "macrophage", "myonucleus", "central", "endothelial"} <= set(section.cells.kind)
    assert {"endomysial", "perimysial", "invading"} <= set(section.cells.place)


def test_cells_lie_on_the_slide_and_invaders_in_necrotic_fibers(section: Section) -> None:
    cells = section.cells
    assert cells.x_um.between(0, 700).all()
    assert cells.y_um.between(0, 600).all()
    kind = section.fibers.set_index("label").kind
    assert (kind.loc[cells.fiber[cells.place == "invading"]] == "necrotic").all()
    between = cells[(cells.kind == "lymphocyte") & (cells.place != "invading")]
    rows = ((between.y_um - section.labels_origin_um) / section.labels_mpp).astype(int)
    columns = ((between.x_um - section.labels_origin_um) / section.labels_mpp).astype(int)
    assert (section.labels[rows, columns] == 0).all()


def test_planted_number_of_positive_cells() -> None:
    """Within Poisson limits, summed over seeds, at a low and a high value."""
    for planted in (0.1, 1.0):
        made = [render(seed, cells=CellsSettings(positive_cells_per_fiber=planted)) for seed in range(3)]
        expected = planted * sum(len(one.fibers) for one in made)
        found = sum(int((one.cells.positive & one.cells.nucleus).sum()) for one in made)
        low, high = stats.poisson.interval(0.999, expected)
        assert low <= found <= high


def test_lymphocytes_do_not_cover_one_another(section: Section) -> None:
    cells = section.cells[section.cells.kind == "lymphocyte"]
    points, radius = cells[["x_um", "y_um"]].to_numpy(), cells.nucleus_radius_um.to_numpy()
    near = cKDTree(points).query_pairs(9, output_type="ndarray")
    distance = np.hypot(*(points[near[:, 0]] - points[near[:, 1]]).T)
    assert len(near) > 10
    assert (distance >= radius[near].sum(1) + 0.29).all()


def brown(section: Section, cells: pd.DataFrame) -> np.ndarray:
    """Blue against red OD near every cell: DAB absorbs blue, haematoxylin red."""
    od = -np.log10(np.maximum(section.pixels, 1) / 243)
    around = []
    for x, y in cells[["x_um", "y_um"]].to_numpy() / section.mpp:
        near = od[int(y) - 8 : int(y) + 9, int(x) - 8 : int(x) + 9]
        around.append((near[..., 2] - near[..., 0]).max())
    return np.array(around)


def test_positive_cells_are_brown(section: Section) -> None:
    lone = section.cells[section.cells.kind == "lymphocyte"]
    far = lone[~lone.positive & (lone.dab_od == 0)]
    distance, _ = cKDTree(lone.loc[lone.positive, ["x_um", "y_um"]]).query(far[["x_um", "y_um"]])
    far = far[(distance > 15) & (far.place != "invading")]
    assert len(far) > 5
    positive = brown(section, lone[lone.positive])
    assert np.quantile(positive, 0.05) > np.quantile(brown(section, far), 0.95)


@pytest.mark.parametrize("compartment", ["nucleus", "membrane", "cytoplasm", "cell"])
def test_dab_is_in_its_compartment(compartment: str) -> None:
    made = render(
        7,
        cells=CellsSettings(compartment=compartment, positive_cells_per_fiber=1, touching=0, unevenness=0),
        staining=StainingSettings(noise=0, blur_um=0.1, precipitate_per_mm2=0),
    )
    cells = made.cells[made.cells.positive & made.cells.nucleus]
    dab = -np.log10(np.maximum(made.pixels, 1) / 243) @ np.linalg.pinv(
        np.array([[0.651, 0.701, 0.290], [0.269, 0.568, 0.778]])
    )
    rows, columns = (cells[axis].to_numpy() / made.mpp for axis in ("y_um", "x_um"))
    center = dab[rows.astype(int), columns.astype(int), 1].mean()
    reach = (cells.nucleus_radius_um.to_numpy() + 0.8) / made.mpp
    turn = np.linspace(0, 6, 12)[:, None]
    around = (rows + reach * np.sin(turn)).astype(int), (columns + reach * np.cos(turn)).astype(int)
    rim = dab[*around, 1].mean()
    both = center > 0.3 and rim > 0.3
    assert {"nucleus": center > 2 * rim, "cell": both}.get(compartment, rim > 2 * center)


@pytest.mark.parametrize("look", ["pale", "similar", "hue", "dark"])
def test_contrast_of_the_endomysium(look: str) -> None:
    made = render(4, staining=StainingSettings(endomysium=look, noise=0))
    fibers = np.repeat(np.repeat(made.labels > 0, 2, 0), 2, 1)
    gaps = ~fibers & (made.pixels.min(2) < 235) & (made.pixels.min(2) > 150)
    gray = made.pixels.mean(2)
    contrast = float(np.median(gray[gaps]) - np.median(gray[fibers]))
    assert {"pale": contrast > 5, "dark": contrast < -5}.get(look, abs(contrast) < 12)


def test_positive_fibers_are_brown() -> None:
    made = render(2, staining=StainingSettings(positive_fibers=0.3))
    step = made.pixels[1::2, 1::2].astype(float)
    tint = np.array([(step[made.labels == fiber] @ [1, 0, -1]).mean() for fiber in made.fibers.label])
    assert tint[made.fibers.positive].min() > np.median(tint[~made.fibers.positive])


def test_defocus_softens_part_of_the_slide() -> None:
    sharp, soft = (
        render(6, staining=StainingSettings(defocus_um=defocus, noise=0)) for defocus in (0.0, 2.0)
    )
    change = (
        np.abs(np.diff(sharp.pixels.astype(int), axis=1)).sum()
        / np.abs(np.diff(soft.pixels.astype(int), axis=1)).sum()
    )
    assert change > 1.1
    pd.testing.assert_frame_equal(sharp.cells, soft.cells)


def test_tears_are_glass_without_fibers() -> None:
    whole, torn = (render(1, layout=SMALL.layout.model_copy(update={"tears": n})) for n in (0, 3))
    assert torn.fibers.area_um2.sum() < 0.97 * whole.fibers.area_um2.sum()


def test_a_rim_without_room_is_refused() -> None:
    with pytest.raises(ValidationError, match="rim_um"):
        RenderSettings(size_um=(300, 300), layout=LayoutSettings(rim_um=150))


@given(st.integers(0, 2**32), st.integers(8, 60))
@settings(max_examples=25, deadline=None)
def test_cells_of_the_plane_neither_overlap_nor_leave_gaps(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    sites, weights = rng.uniform(0, 10, (number, 2)), rng.uniform(0, 0.5, number)
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = 5 + 40 * np.column_stack([np.cos(angle), np.sin(angle)])
    cells, index = divide_plane(np.vstack([sites, ring]), np.append(weights, np.zeros(16)))
    assert shapely.union_all(cells).area == pytest.approx(shapely.area(cells).sum())
    spots = rng.uniform(1, 9, (50, 2))
    power = ((spots[:, None] - sites) ** 2).sum(2) - weights
    for spot, nearest in zip(spots, power.argmin(1), strict=True):
        holder = index[shapely.dwithin(cells, shapely.Point(spot), 1e-9)]
        assert nearest in holder


# Truth in a field


def test_more_than_half_counts_and_exactly_half_does_not() -> None:
    labels = np.array([[1, 1, 2, 2, 2], [1, 1, 3, 3, 0]], np.int32)
    truth = Truth(labels, 0.0, 0.0, 1.0, table())
    # Columns 0 to 2: all of 1, one third of 2, half of 3.
    assert truth_in_field(truth, Field(1, "rectangle", 1.5, 1.0, 3.0, 2.0)) == Count(1, 0)
    # Columns 1 to 3: half of 1, two thirds of 2, all of 3.
    assert truth_in_field(truth, Field(1, "rectangle", 2.5, 1.0, 3.0, 2.0)) == Count(2, 0)


@pytest.mark.parametrize(
    ("x_um", "counted"), [(9.9, 0), (10.0, 0), (10.1, 1), (20.0, 1), (29.9, 1), (30.0, 0)]
)
def test_a_cell_counts_when_more_than_half_of_its_disc_is_inside(x_um: float, counted: int) -> None:
    truth = Truth(np.zeros((4, 4), np.int32), 0.0, 0.0, 10.0, table((x_um, 20.0, 3.0, 1)))
    assert truth_in_field(truth, Field(1, "square", 20.0, 20.0, 20.0, 20.0)).positive_cells == counted


def test_a_round_field_counts_by_area_not_by_center() -> None:
    """The disc whose center lies 9 um from that of a field 20 um wide is less than half inside."""
    field = Field(1, "circle", 20.0, 20.0, 20.0, 20.0)
    for x_um, counted in ((11.0, 0), (13.0, 1)):
        truth = Truth(np.zeros((4, 4), np.int32), 0.0, 0.0, 10.0, table((x_um, 20.0, 6.0, 1)))
        assert truth_in_field(truth, field).positive_cells == counted


def test_negative_uncertain_and_hollow_cells_do_not_count() -> None:
    cells = table((5, 5, 2, 1), (5, 5, 2, 0), (5, 5, 2, -1), (5, 5, 2, 1)).assign(
        nucleus=[True, True, True, False]
    )
    truth = Truth(np.ones((10, 10), np.int32), 0.0, 0.0, 1.0, cells)
    field = Field(1, "square", 5, 5, 10, 10)
    assert truth_in_field(truth, field) == Count(1, 1)
    assert truth_in_field(truth, field, count_without_nucleus=True) == Count(1, 2)
    assert true_ratio(truth) == 1
    assert true_ratio(truth, count_without_nucleus=True) == 2


def test_what_nobody_can_tell_counts_neither_way() -> None:
    labels = np.repeat([[1, 2]], 2, axis=1).repeat(2, axis=0).astype(np.int32)
    uncertain = labels == 2
    truth = Truth(labels, 0.0, 0.0, 5.0, table((15, 5, 1, 1), (5, 5, 1, 1)), uncertain)
    assert truth_in_field(truth, Field(1, "square", 10, 5, 20, 20)) == Count(1, 1)
    assert true_ratio(truth) == 1
    assert find_uncertain(truth, [15, 5, 99], [5, 5, 5]).tolist() == [True, False, True]


def test_ratio_without_fibers_is_not_a_number() -> None:
    assert np.isnan(true_ratio(Truth(np.zeros((2, 2), np.int32), 0.0, 0.0, 1.0, table())))


@given(st.integers(0, 1000), st.floats(20, 200), st.floats(0, 300), st.floats(0, 300))
@settings(max_examples=30, deadline=None)
def test_an_object_counts_at_most_once_in_a_partition(seed: int, cut: float, x: float, y: float) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 30, (30, 30)).astype(np.int32).repeat(4, 0).repeat(4, 1)
    cells = pd.DataFrame({"x_um": [x], "y_um": [y], "nucleus_radius_um": 3.0, "positive": 1})
    truth = Truth(labels, 0.0, 0.0, 2.0, cells)
    left = truth_in_field(truth, Field(1, "rectangle", cut / 2, 150, cut, 400))
    right = truth_in_field(truth, Field(2, "rectangle", cut + 200, 150, 400, 400))
    assert left.fibers + right.fibers <= len(np.setdiff1d(labels, [0]))
    assert left.positive_cells + right.positive_cells <= 1


def test_the_whole_slide_as_a_field_is_the_whole_truth(section: Section) -> None:
    truth = tell_truth(section)
    count = truth_in_field(truth, Field(1, "rectangle", 350, 300, 800, 700))
    assert count.fibers == len(section.fibers)
    assert count.positive_cells / count.fibers == true_ratio(truth)


# Files


def test_truth_comes_back(section: Section, tmp_path: Path) -> None:
    truth = tell_truth(section)
    write_truth(truth, tmp_path / "CD19")
    back = read_truth(tmp_path / "CD19")
    np.testing.assert_array_equal(back.labels, truth.labels)
    assert (back.x_um, back.y_um, back.mpp) == (truth.x_um, truth.y_um, truth.mpp)
    field = Field(1, "circle", 350, 300, 400, 400)
    assert truth_in_field(back, field) == truth_in_field(truth, field)
    assert back.cells.columns[:4].tolist() == ["x_um", "y_um", "nucleus_radius_um", "positive"]


def test_labels_that_do_not_tell_their_place(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "A_fibers.tif", np.ones((3, 4), np.int32), compression="zlib", metadata=None)
    tifffile.imwrite(tmp_path / "A_ignore.tif", np.eye(3, 4, dtype=np.uint8), metadata=None)
    table((1, 2, 3, -1)).to_csv(tmp_path / "A_cells.csv", index=False)
    with pytest.raises(TruthError, match="pixel size"):
        read_truth(tmp_path / "A")
    truth = read_truth(tmp_path / "A", slide_mpp=0.4)
    # Pixel 0 is slide pixel 2, whose center lies at 1 um.
    assert truth.x_um + truth.mpp / 2 == pytest.approx(2.5 * 0.4)
    assert truth.mpp == pytest.approx(1.6)
    assert truth.uncertain is not None
    assert truth.uncertain.sum() == 3
    with pytest.raises(TruthError, match="missing"):
        read_truth(tmp_path / "B")


def test_openslide_opens_the_slide(section: Section, tmp_path: Path) -> None:
    path = tmp_path / "µ 切片.svs"
    write_section(section, path)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == 0.5
        assert float(slide.properties["openslide.objective-power"]) == 20
        assert slide.dimensions == (1400, 1200)
        assert slide.level_count == 3
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    assert np.abs(pixels.astype(int) - section.pixels).mean() < 3


# Studies


def test_a_plan_has_the_planted_correlation_and_difference() -> None:
    plan = StudyPlan(patients=(19, 10))
    planned = plan_study(np.random.default_rng(0), plan)
    assert planned.columns.tolist() == ["patient", "group", "marker", "planted"]
    wide = planned.pivot_table("planted", index="patient", columns="marker")
    assert stats.spearmanr(wide["BAFF-R"], wide["CD19"]).statistic == pytest.approx(0.8, abs=0.05)
    means = planned.groupby(["marker", "group"]).planted.mean()
    for name, marker in plan.markers.items():
        np.testing.assert_allclose(means[name].to_numpy(), marker.mean, rtol=0.3)


def test_a_plan_of_one_marker() -> None:
    plan = StudyPlan(patients=(1, 1), markers={"Ki67": MarkerPlan(mean=(0.2, 0.3), sd=(0.1, 0.1))})
    assert plan_study(np.random.default_rng(0), plan).marker.tolist() == ["Ki67", "Ki67"]


def test_variation_stays_within_bounds_and_is_seeded() -> None:
    varied = [vary_section(np.random.default_rng(seed), SMALL) for seed in (0, 0, 1)]
    assert varied[0] == varied[1] != varied[2]
    assert varied[0].size_um == SMALL.size_um


def test_a_study_is_the_same_with_any_number_of_workers(tmp_path: Path) -> None:
    tiny = RenderSettings(size_um=(250, 250), mpp=1.0, layout=LayoutSettings(rim_um=20, fascicle_um=250))
    markers = {name: MarkerPlan(mean=(0.5, 0.5), sd=(0.2, 0.2)) for name in ("BAFF-R", "CD19")}
    plan = StudyPlan(patients=(1, 1), markers=markers, render=tiny)
    seen: list[tuple[int, int]] = []
    study = write_study(tmp_path / "one", plan, 4, lambda done, total: seen.append((done, total)))
    write_study(tmp_path / "two", plan, 4, workers=2)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 2 + 4 * 3
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    rows = pd.read_csv(study)
    assert rows.columns.tolist() == ["patient", "group", "marker", "slide"]
    assert all((study.parent / slide).is_file() for slide in rows.slide)
    truth = pd.read_csv(study.parent / "truth.csv")
    one = truth.iloc[0]
    assert true_ratio(read_truth(study.parent / "truth" / one.section)) == pytest.approx(one.cells_per_fiber)
