"""What one pass over the pixels gives is what lookup, averaging and unmixing one after the other give."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histoquant import densities
from histoquant.densities import unmix_pixels

TABLES = np.stack([np.log10(w / np.maximum(np.arange(256), 1)) for w in (242, 240, 238)]).astype(np.float32)
UNMIX = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)


def draw(rows, columns, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3)).astype(np.uint8)


def unmix_in_steps(pixels, scale):
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    looked_up = [cv2.LUT(pixels[..., c].copy(), TABLES[c]) for c in range(3)]
    red, green, blue = (cv2.resize(c, None, fx=scale, fy=scale, interpolation=how) for c in looked_up)
    return [red * a + green * b + blue * c for a, b, c in UNMIX.T]


def assert_same(pixels, scale):
    for found, expected in zip(
        unmix_pixels(pixels, TABLES, UNMIX, scale), unmix_in_steps(pixels, scale), strict=True
    ):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


SIDES = st.integers(3, 40)
SCALES = st.sampled_from([0.5, 0.5054, 0.8, 1 / 3, 0.4416, 0.99, 1.0, 2.0, 1.7])


@given(
    SIDES, SIDES, st.sampled_from([0.5, 0.5054, 0.8, 1 / 3, 0.4416, 0.99, 1.0, 2.0, 1.7]), st.integers(0, 99)
)
def test_usual_scales(rows, columns, scale, seed):
    assert_same(draw(rows, columns, seed), scale)


@given(SIDES, SIDES, st.floats(0.2, 1.1))
def test_every_scale(rows, columns, scale):
    assert_same(draw(rows, columns), scale)


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (2, 8), (4, 6), (130, 14)])
def test_halves_of_even_sides(rows, columns):
    assert_same(draw(rows, columns), 0.5)


@pytest.mark.parametrize("rows", [2, 63, 64, 65, 97, 98, 131, 163])
def test_results_do_not_depend_on_the_bands_they_are_computed_in(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = draw(rows, 9)
    banded = unmix_pixels(pixels, TABLES, UNMIX, 0.5)
    monkeypatch.setattr(densities, "_cut_bands", lambda whole, _: [whole])
    for part, whole in zip(banded, unmix_pixels(pixels, TABLES, UNMIX, 0.5), strict=True):
        np.testing.assert_array_equal(part, whole)


@pytest.mark.parametrize("scale", [0.5, 0.5054])
def test_a_part_of_an_image_is_taken_as_a_copy_of_it(scale):
    part = draw(30, 40)[2:24, 4:30]
    for one, other in zip(
        unmix_pixels(part, TABLES, UNMIX, scale), unmix_pixels(part.copy(), TABLES, UNMIX, scale), strict=True
    ):
        np.testing.assert_array_equal(one, other)
