import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoquant.errors import HistoquantError, ProtocolError
from histoquant.geometry import Patch
from histoquant.stains import (
    DEFAULT_VECTORS,
    Stains,
    Vector,
    angle_between,
    correct_spill,
    estimate_vectors,
    estimate_white,
    measure_spill,
    predict_edge_dab,
    separate_stains,
)

WHITE: Vector = (242.0, 240.0, 238.0)
UNIT = np.array([np.array(v) / np.linalg.norm(v) for v in DEFAULT_VECTORS])


def render(haematoxylin, dab, white=WHITE):
    """Beer-Lambert: pixels of known densities, rounded to whole intensities."""
    density = np.multiply.outer(haematoxylin, UNIT[0]) + np.multiply.outer(dab, UNIT[1])
    return np.rint(np.clip(np.array(white) * 10**-density, 0, 255)).astype(np.uint8)


def flat(haematoxylin, dab, side=4):
    return render(np.full((side, side), haematoxylin), np.full((side, side), dab))


@given(st.floats(0, 0.6), st.floats(0, 0.6))
def test_separation_inverts_beer_lambert(haematoxylin, dab):
    stains = separate_stains(Patch(flat(haematoxylin, dab), 0.0, 0.0, 0.5), WHITE)
    assert stains.haematoxylin == pytest.approx(haematoxylin, abs=0.03)
    assert stains.dab == pytest.approx(dab, abs=0.03)
    assert stains.residual == pytest.approx(0.0, abs=0.03)


def test_vectors_need_not_be_unit_length():
    doubled = tuple(tuple(2 * value for value in vector) for vector in DEFAULT_VECTORS)
    patch = Patch(flat(0.3, 0.4), 0.0, 0.0, 0.5)
    np.testing.assert_allclose(
        separate_stains(patch, WHITE, doubled).dab, separate_stains(patch, WHITE).dab, atol=1e-6
    )


def test_place_and_pixel_size_are_exact():
    stains = separate_stains(Patch(np.full((99, 201, 3), 200, np.uint8), 12.5, 7.25, 0.2477), WHITE)
    assert (stains.x_um, stains.y_um, stains.mpp) == (12.5, 7.25, 0.5)
    assert stains.dab.shape == (49, 100)
    assert stains.dab.dtype == np.float32


def test_scale_stays_exact_where_the_size_does_not_divide():
    pixels = np.full((20, 1003, 3), 240, np.uint8)
    pixels[:, 800:] = 60
    stains = separate_stains(Patch(pixels, 0.0, 0.0, 0.2477), WHITE)
    edge = np.flatnonzero(stains.haematoxylin[2] > 0.2)[0] * 0.5
    assert edge == pytest.approx(800 * 0.2477, abs=0.5)


def test_coarser_patch_comes_to_the_working_resolution():
    stains = separate_stains(Patch(flat(0.2, 0.5, side=6), 0.0, 0.0, 1.0), WHITE, working_mpp=0.5)
    assert stains.dab.shape == (12, 12)
    assert stains.dab == pytest.approx(0.5, abs=0.02)


def test_density_is_taken_before_down_sampling():
    pixels = np.full((2, 2, 3), 242, np.uint8)
    pixels[0, 0] = 24
    stains = separate_stains(Patch(pixels, 0.0, 0.0, 0.25), (242.0, 242.0, 242.0))
    density = np.array([stains.haematoxylin, stains.dab, stains.residual]).ravel()
    third = np.cross(UNIT[0], UNIT[1])
    red, green, blue = density @ np.vstack([UNIT, third / np.linalg.norm(third)])
    assert [red, green, blue] == pytest.approx([np.log10(242 / 24) / 4] * 3, abs=1e-4)


def test_negative_values_are_kept():
    stains = separate_stains(Patch(np.full((2, 2, 3), 255, np.uint8), 0.0, 0.0, 0.5), WHITE)
    assert stains.haematoxylin.max() < 0


def test_black_is_finite():
    stains = separate_stains(Patch(np.zeros((2, 2, 3), np.uint8), 0.0, 0.0, 0.5), WHITE)
    assert np.isfinite(stains.dab).all()


def test_pixels_are_not_changed():
    pixels = flat(0.3, 0.3)
    before = pixels.copy()
    separate_stains(Patch(pixels, 0.0, 0.0, 0.25), WHITE)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize(
    "vectors",
    [
        ((0.0, 0.0, 0.0), DEFAULT_VECTORS[1]),
        (DEFAULT_VECTORS[0], DEFAULT_VECTORS[0]),
        ((-1.0, 0.1, 0.1), DEFAULT_VECTORS[1]),
        ((float("nan"), 0.1, 0.1), DEFAULT_VECTORS[1]),
    ],
)
def test_degenerate_vectors_are_refused(vectors):
    with pytest.raises(ProtocolError, match="vectors"):
        separate_stains(Patch(flat(0.1, 0.1), 0.0, 0.0, 0.5), WHITE, vectors)


def test_white_of_zero_is_refused():
    with pytest.raises(ProtocolError, match="white point"):
        separate_stains(Patch(flat(0.1, 0.1), 0.0, 0.0, 0.5), (0.0, 240.0, 240.0))


@pytest.mark.parametrize("level", [200, 225, 243])
def test_white_is_the_glass(level):
    rng = np.random.default_rng(1)
    glass = rng.normal([level, level - 2, level - 4], 1.5, (100, 100, 3))
    tissue = render(rng.normal(0.15, 0.03, (60, 60)), np.zeros((60, 60)), (level, level - 2, level - 4))
    glass[20:80, 20:80] = tissue
    white, source = estimate_white(np.rint(glass).astype(np.uint8))
    assert source == "glass"
    assert white == pytest.approx((level, level - 2, level - 4), abs=1.0)


def test_white_looks_past_padding():
    rng = np.random.default_rng(1)
    pixels = rng.normal(238, 1.0, (100, 100, 3)).astype(np.uint8)
    pixels[:, :70] = 255
    white, source = estimate_white(pixels)
    assert source == "glass"
    assert white == pytest.approx((237.5,) * 3, abs=1.0)


def test_white_of_an_all_white_image():
    assert estimate_white(np.full((50, 50, 3), 255, np.uint8)) == ((255.0, 255.0, 255.0), "glass")


def test_white_without_glass_says_so():
    rng = np.random.default_rng(1)
    tissue = render(np.abs(rng.normal(0.25, 0.08, (80, 80))), np.zeros((80, 80)))
    white, source = estimate_white(tissue)
    assert source == "brightest"
    assert all(150 < value <= 242 for value in white)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_white_of_nothing_is_refused(pixels):
    with pytest.raises(HistoquantError, match="empty or black"):
        estimate_white(pixels)


def test_vectors_are_found():
    rng = np.random.default_rng(1)
    haematoxylin, dab = rng.uniform(0.2, 0.8, 4000), np.zeros(4000)
    dab[2000:], haematoxylin[2000:] = haematoxylin[2000:], 0
    found = estimate_vectors(render(haematoxylin, dab)[None], WHITE)
    assert all(angle_between(*pair) < 3 for pair in zip(found, DEFAULT_VECTORS, strict=True))


def test_vectors_of_one_stain_are_refused():
    haematoxylin = np.random.default_rng(1).uniform(0.2, 0.8, 4000)
    with pytest.raises(HistoquantError, match="cannot be told apart"):
        estimate_vectors(render(haematoxylin, np.zeros(4000))[None], WHITE)


def test_vectors_of_glass_are_refused():
    with pytest.raises(HistoquantError, match="too little stain"):
        estimate_vectors(np.full((50, 50, 3), 240, np.uint8), WHITE)


def make_nuclei(share: float, positive: int, compartment: str = "ring") -> Stains:
    """Rows of nuclei of 6 um whose haematoxylin shows as DAB by `share`; the first ones hold DAB."""
    blue, brown = np.full((2, 320, 320), 0.05, np.float32)
    for number, (row, column) in enumerate(np.ndindex(8, 8)):
        place = np.s_[40 * row + 12 : 40 * row + 24, 40 * column + 12 : 40 * column + 24]
        blue[place] = 0.6
        if number < positive:
            ring = np.s_[40 * row + 9 : 40 * row + 12, 40 * column + 9 : 40 * column + 27]
            brown[place if compartment == "nucleus" else ring] = 0.5
    return Stains(blue, brown + share * (blue - 0.05), np.zeros_like(blue), 0.0, 0.0, 0.5)


@pytest.mark.parametrize("share", [-0.3, -0.15, 0.15, 0.3, 0.45])
@pytest.mark.parametrize("positive", [0, 20, 60])
def test_spill_of_haematoxylin_is_measured_and_taken_off(share, positive):
    stains = make_nuclei(share, positive)
    assert measure_spill(stains) == pytest.approx(share, abs=0.01)
    dab = correct_spill(stains).dab
    middle = np.array([dab[40 * i + 18, 40 * i + 18] for i in range(8)])
    # What up to 2 degrees would give is left.
    assert np.abs(middle - 0.05).max() <= 0.07 * 0.55 + 0.01
    rings = make_nuclei(0.0, positive).dab > 0.4
    np.testing.assert_allclose(dab[rings], 0.5, atol=0.01)


def test_spill_of_right_vectors_changes_nothing():
    stains = make_nuclei(0.05, 20)
    assert correct_spill(stains) is stains


def test_spill_needs_nuclei():
    stains = make_nuclei(0.4, 0)
    few = Stains(*(i[:80, :80] for i in (stains.haematoxylin, stains.dab, stains.residual)), 0.0, 0.0, 0.5)
    assert measure_spill(few) == 0
    assert correct_spill(few) is few


def test_edge_of_a_nucleus_looks_brown_as_light_mixes():
    light = [0.5 * 10 ** (-1.0 * v) + 0.5 * 10 ** (-0.08 * v) for v in DEFAULT_VECTORS[0]]
    pixel = np.full((4, 4, 3), np.round(255 * np.array(light)), np.uint8)
    dab = separate_stains(Patch(pixel, 0.0, 0.0, 0.5), (255.0, 255.0, 255.0)).dab.mean()
    assert 0.02 < dab <= predict_edge_dab(np.array([1.0]))[0] + 0.003
    assert predict_edge_dab(np.array([0.08]))[0] == pytest.approx(0, abs=1e-3)
