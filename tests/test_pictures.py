import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.color import rgb2lab

from histoquant import pictures
from histoquant.errors import HistoquantError
from histoquant.geometry import Field, Patch

PINK = 230
SIDE = 200


def make_patch(side: int = SIDE, mpp: float = 1.0) -> Patch:
    return Patch(np.full((side, side, 3), PINK, np.uint8), 1000.0, 2000.0, mpp)


def make_field(shape: str = "square", width: float = 100.0) -> Field:
    return Field(1, shape, 1100.0, 2100.0, width, width)


def make_labels(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    labels = np.zeros((SIDE, SIDE), np.int32)
    for label, (top, bottom, left, right) in enumerate(boxes, 1):
        labels[top:bottom, left:right] = label
    return labels


def make_objects(*rows: tuple[str, int, float, float, bool, bool, bool]) -> pd.DataFrame:
    columns = ["kind", "label", "x_um", "y_um", "counted", "straddling", "positive"]
    return pd.DataFrame(rows, columns=columns)


NOTHING = np.zeros((SIDE, SIDE), np.int32)


def count_color(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((picture == color).all(axis=-1).sum())


def draw_fiber(counted: bool, straddling: bool) -> np.ndarray:
    fibers = make_labels((80, 120, 80, 120))
    objects = make_objects(("fiber", 1, 1100.0, 2100.0, counted, straddling, False))
    return pictures.draw_overlay(make_patch(), fibers, NOTHING, objects, make_field())


@pytest.mark.parametrize(
    ("counted", "straddling", "style"),
    [
        (True, False, "fiber"),
        (True, True, "straddling_in"),
        (False, True, "straddling_out"),
        (False, False, "outside"),
    ],
)
def test_each_state_of_a_fiber_has_its_color(counted, straddling, style):
    picture = draw_fiber(counted, straddling)
    colors = {name: count_color(picture, entry.color) for name, entry in pictures.STYLES.items()}
    assert colors.pop(style) > 100
    assert set(colors.values()) == {0}


def test_states_differ_in_line_as_well_as_in_color():
    states = [pictures.STYLES[name] for name in ("fiber", "straddling_in", "straddling_out", "outside")]
    assert len({(style.width, style.line) for style in states}) == len(states)
    assert len({style.color for style in states}) == len(states)


# Machado, Oliveira and Fernandes (2009), severity 1: red, green and blue as those see them who lack a cone.
SIGHT = {
    "all cones": np.eye(3),
    "no red cone": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "no green cone": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "no blue cone": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("sight", SIGHT)
def test_everybody_tells_the_colors_apart(sight):
    shown = [*(style.color for style in pictures.STYLES.values()), pictures.VERMILLION, pictures.YELLOW]
    light = (np.array(shown) / 255) ** 2.2 @ np.array(SIGHT[sight]).T
    seen = rgb2lab(np.clip(light, 0, 1) ** (1 / 2.2))
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[np.triu_indices(len(shown), 1)]
    assert distances.min() > 15  # of lightness and chroma; 2 are just seen side by side


def test_broken_lines_have_less_ink_than_solid_ones_of_the_same_width():
    solid = count_color(draw_fiber(True, True), pictures.BLUE)
    dashed = count_color(draw_fiber(False, True), pictures.PURPLE)
    assert 0.3 * solid < dashed < 0.8 * solid


def test_outline_is_the_inner_border_of_the_label():
    picture = draw_fiber(True, False)
    green = (picture == pictures.GREEN).all(axis=-1)
    rows, columns = np.nonzero(green)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (80, 119, 80, 119)
    assert not green[83:117, 83:117].any()


def test_counted_positive_cell_has_a_filled_dot_and_one_not_counted_a_hollow_one():
    cells = make_labels((90, 110, 90, 110), (10, 30, 10, 30))
    objects = make_objects(
        ("cell", 1, 1100.0, 2100.0, True, False, True), ("cell", 2, 1020.0, 2020.0, False, False, True)
    )
    picture = pictures.draw_overlay(make_patch(), NOTHING, cells, objects, make_field())
    assert tuple(picture[100, 100]) == pictures.YELLOW
    assert tuple(picture[20, 20]) not in (pictures.YELLOW, pictures.BLACK)
    assert picture[17:24, 17:24].min() < 60


def test_positive_fiber_has_a_diamond():
    fibers = make_labels((60, 140, 60, 140))
    plain = make_objects(("fiber", 1, 1100.0, 2100.0, True, False, False))
    positive = plain.assign(positive=True)
    draw = [
        pictures.draw_overlay(make_patch(), fibers, NOTHING, table, make_field())
        for table in (plain, positive)
    ]
    assert (draw[0] != draw[1])[85:115, 85:115].any()
    assert count_color(draw[1], pictures.YELLOW) > 5


def test_label_without_a_row_is_drawn_as_not_counted():
    fibers = make_labels((80, 120, 80, 120))
    picture = pictures.draw_overlay(make_patch(), fibers, NOTHING, make_objects(), make_field())
    assert count_color(picture, pictures.GREY) > 50


@pytest.mark.parametrize("shape", ["circle", "square"])
def test_outside_is_paler_inside_is_untouched_and_the_edge_is_drawn(shape):
    picture = pictures.draw_overlay(make_patch(), NOTHING, NOTHING, make_objects(), make_field(shape))
    assert (picture[90:110, 90:110] == PINK).all()
    assert (picture[:30, :30] > PINK).all()
    assert picture[100, 48:53].min() == 0


def test_image_of_another_resolution_is_brought_to_the_grid_of_the_labels():
    fibers = make_labels((80, 120, 80, 120))
    objects = make_objects(("fiber", 1, 1100.0, 2100.0, True, False, False))
    fine = pictures.draw_overlay(make_patch(2 * SIDE, 0.5), fibers, NOTHING, objects, make_field())
    np.testing.assert_array_equal(
        fine, pictures.draw_overlay(make_patch(), fibers, NOTHING, objects, make_field())
    )


def test_labels_on_two_grids_are_an_error():
    with pytest.raises(HistoquantError, match=r"field 1: labels .* differ in shape"):
        pictures.draw_overlay(make_patch(), NOTHING, NOTHING[:100], make_objects(), make_field())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from(["circle", "square"]))
def test_any_labels_give_the_same_picture_twice_and_leave_arguments_alone(seed, shape):
    rng = np.random.default_rng(seed)
    fibers, cells = (rng.integers(0, 5, (40, 60)).astype(np.int32) for _ in range(2))
    rows = [
        (kind, label, *rng.uniform(0, 70, 2), *(rng.random(3) < 0.5))
        for kind in ("fiber", "cell")
        for label in rng.permutation(6)[: rng.integers(0, 6)] + 1
    ]
    patch = Patch(rng.integers(0, 256, (40, 60, 3)).astype(np.uint8), 0.0, 0.0, 1.0)
    before = patch.pixels.copy(), fibers.copy(), cells.copy()
    field = Field(1, shape, 30.0, 20.0, 30.0, 30.0)
    first, second = (
        pictures.draw_overlay(patch, fibers, cells, make_objects(*rows), field) for _ in range(2)
    )
    assert first.shape == (40, 60, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    for old, new in zip(before, (patch.pixels, fibers, cells), strict=True):
        np.testing.assert_array_equal(old, new)


def test_field_thumbnail_shows_counted_positive_cells_only():
    yes = make_objects(("cell", 1, 1100.0, 2100.0, True, False, True))
    picture = pictures.draw_field_thumbnail(make_patch(), yes, make_field("circle"), 50)
    assert picture.shape == (50, 50, 3)
    assert tuple(picture[25, 25]) == pictures.YELLOW
    assert (picture[1, 1] == 255).all()
    for change in ({"counted": False}, {"positive": False}, {"kind": "fiber"}):
        other = pictures.draw_field_thumbnail(make_patch(), yes.assign(**change), make_field("circle"), 50)
        assert (other[25, 25] == PINK).all()


def test_fields_thumbnail_outlines_tissue_and_cuts_glass_away():
    tissue = np.zeros((SIDE, SIDE), bool)
    tissue[50:150, 50:150] = True
    picture = pictures.draw_fields_thumbnail(make_patch(), [], tissue, 216)
    assert picture.shape == (216, 216, 3)
    blue = (picture[..., 2].astype(int) - picture[..., 0]) > 60
    rows, columns = np.nonzero(blue)
    assert 5 <= rows.min() <= 12
    assert 204 <= rows.max() <= 211
    assert 5 <= columns.min() <= 12


def test_fields_thumbnail_draws_and_numbers_fields():
    tissue = np.ones((SIDE, SIDE), bool)
    fields = [make_field("circle", 60.0), Field(12, "rectangle", 1030.0, 2160.0, 40.0, 30.0)]
    empty, drawn = (pictures.draw_fields_thumbnail(make_patch(), some, tissue) for some in ([], fields))
    changed = (empty != drawn).any(axis=-1)
    side = changed.shape[0]
    center = slice(int(0.47 * side), int(0.53 * side))
    assert changed[center, center].any()
    assert not changed[: side // 5].any()


def test_fields_thumbnail_without_tissue_shows_the_whole_slide():
    picture = pictures.draw_fields_thumbnail(make_patch(), [], np.zeros((SIDE, SIDE), bool), 100)
    assert picture.shape == (100, 100, 3)
    assert (picture[:50] == PINK).all()


def test_tissue_on_a_coarser_grid_gives_nearly_the_same_outline():
    tissue = np.zeros((SIDE, SIDE), bool)
    tissue[40:160, 40:160] = True
    fine, coarse = (
        pictures.draw_fields_thumbnail(make_patch(), [], mask, 120) for mask in (tissue, tissue[::4, ::4])
    )
    assert fine.shape == coarse.shape
    assert ((fine != coarse).any(axis=-1)).mean() < 0.15


@pytest.mark.parametrize(("fits_um", "length"), [(99.0, 50.0), (100.0, 100.0), (2500.0, 2000.0), (0.7, 0.5)])
def test_scale_bar_has_a_round_length(fits_um, length):
    assert pictures._round_length(fits_um) == pytest.approx(length)


@pytest.mark.parametrize("encode", [pictures.encode_jpeg, pictures.encode_webp])
def test_encoded_pictures_keep_their_channels(encode):
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[..., 0] = 200
    back = cv2.imdecode(np.frombuffer(encode(picture), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(back.astype(int) - picture).max() < 12
    assert encode(picture) == encode(picture)


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
        lambda shape: arrays(np.int32, shape, elements=st.integers(0, 3))
    ),
    st.integers(1, 2),
)
@settings(deadline=None)
def test_lines_are_painted_along_every_border(labels: np.ndarray, line_px: int) -> None:
    """Pixel by pixel: what is painted is within the line's width of a corner where labels meet."""
    picture = np.full((*labels.shape, 3), PINK, np.uint8)
    objects = make_objects(("fiber", 1, 0, 0, True, False, False), ("fiber", 2, 0, 0, True, True, False))
    pictures._paint_outlines(picture, labels, objects, "fiber", line_px)
    rows, columns = labels.shape
    expected = np.full_like(picture, PINK)
    for (row, column), label in np.ndenumerate(labels):
        style = pictures.STYLES[{1: "fiber", 2: "straddling_in"}.get(label, "outside")]
        width = style.width * line_px
        corners = [
            labels[y : y + 2, x : x + 2]
            for y in range(max(row - width, 0), min(row + width, rows))
            for x in range(max(column - width, 0), min(column + width, columns))
        ]
        meets = any(np.ptp(corner) > 0 for corner in corners)
        inked = style.line == "solid" or (row + 2 * column) % 12 < 4
        if label and meets and inked:
            expected[row, column] = style.color
    np.testing.assert_array_equal(picture, expected)
