"""Tissue: sections on glass of any colour, gaps, holes, dust, and images without glass."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histoquant.geometry import Patch
from histoquant.protocol import TissueSettings
from histoquant.slide import open_slide
from histoquant.tissue import estimate_glass, find_tissue

DATA = Path(__file__).parents[1].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
WHITES = [(250, 250, 250), (242, 241, 239), (200, 225, 250), (230, 215, 200), (203, 200, 198)]


def make_section(white, od=0.08, mpp=8.0, seed=0, size_um=2400, rim_um=400, noise=1.5):
    """Muscle of 60 um fibers with pale gaps and nuclei, in a rim of glass; and where it is."""
    rng = np.random.default_rng(seed)
    size, rim = round(size_um / mpp), round(rim_um / mpp)
    where = np.zeros((size, size), bool)
    where[rim : size - rim, rim : size - rim] = True
    y, x = (np.mgrid[:size, :size] + 0.5) * mpp
    gap = (x % 60 < 8) | (y % 60 < 8)
    density = np.where(gap, od / 3, od) * where
    nuclei = cv2.resize((rng.random((size_um // 8,) * 2) < 0.03).astype(np.float32), (size, size))
    density = density + 2 * od * np.clip(nuclei, 0, 1) * where
    tint = np.array([0.9, 1.2, 0.9])
    pixels = np.array(white) * 10 ** -(density[..., None] * tint) + rng.normal(0, noise, (size, size, 3))
    return Patch(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), 0.0, 0.0, mpp), where


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("white", WHITES)
def test_glass_alone_is_no_tissue(white):
    rng = np.random.default_rng(1)
    pixels = np.clip(rng.normal(white, 2.0, (150, 150, 3)), 0, 255).astype(np.uint8)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
    shaded = (pixels * np.linspace(1, 0.96, 150)[:, None, None]).astype(np.uint8)
    for image in (pixels, jpeg, shaded, np.full_like(pixels, white)):
        assert not find_tissue(Patch(image, 0.0, 0.0, 8.0), TissueSettings()).any()


@pytest.mark.parametrize("white", WHITES)
@pytest.mark.parametrize("od", [0.05, 0.08, 0.3])
def test_section_is_found_on_any_glass(white, od):
    patch, where = make_section(white, od)
    before = patch.pixels.copy()
    mask = find_tissue(patch, TissueSettings())
    assert mask.dtype == bool
    assert overlap(mask, where) > 0.96
    assert np.abs(estimate_glass(patch, 10_000.0) - white).max() <= 1
    assert (patch.pixels == before).all()


@pytest.mark.parametrize("mpp", [2.0, 4.0, 16.0, 32.0])
def test_size_of_overview_pixels_matters_little(mpp):
    patch, where = make_section((242, 241, 239), mpp=mpp)
    assert overlap(find_tissue(patch, TissueSettings()), where) > 0.93


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(200, 250), st.floats(200, 250), st.floats(200, 250))
def test_any_seed_any_glass(seed, red, green, blue):
    patch, where = make_section((red, green, blue), seed=seed)
    assert overlap(find_tissue(patch, TissueSettings()), where) > 0.96


@pytest.mark.parametrize(("width_um", "belongs"), [(16, True), (24, True), (120, False)])
def test_gap_between_fibers_belongs_a_tear_does_not(width_um, belongs):
    patch, _ = make_section((240, 238, 236))
    pixels = patch.pixels.copy()
    start, width = 150, width_um // 8
    pixels[:, start : start + width] = (240, 238, 236)
    mask = find_tissue(Patch(pixels, 0.0, 0.0, 8.0), TissueSettings())
    middle = mask[60:240, start + width // 2]
    assert middle.all() if belongs else not middle.any()


@pytest.mark.parametrize(("radius_um", "filled"), [(45, True), (150, False)])
def test_small_holes_are_filled_large_ones_stay(radius_um, filled):
    patch, _ = make_section((240, 238, 236), od=0.2)
    pixels = patch.pixels.copy()
    cv2.circle(pixels, (150, 150), round(radius_um / 8), (240, 238, 236), -1)
    mask = find_tissue(Patch(pixels, 0.0, 0.0, 8.0), TissueSettings())
    assert mask[150, 150] == filled
    assert mask[100, 100]


def test_dust_is_no_tissue():
    rng = np.random.default_rng(3)
    pixels = np.clip(rng.normal(240, 1, (200, 200, 3)), 0, 255).astype(np.uint8)
    for y, x in rng.integers(0, 200, (150, 2)):
        pixels[y, x] = 150  # specks of 8 um
    pixels[100:108, 100:108] = 60  # a crumb of 64 um
    patch = Patch(pixels, 0.0, 0.0, 8.0)
    assert not find_tissue(patch, TissueSettings()).any()
    assert find_tissue(patch, TissueSettings(min_area_um2=1000)).any()


@pytest.mark.parametrize("white", WHITES[:3])
def test_section_that_fills_the_image_is_all_tissue(white):
    patch, _ = make_section(white, size_um=800, rim_um=0)
    assert estimate_glass(patch, 10_000.0) is None
    assert find_tissue(patch, TissueSettings()).all()


@pytest.mark.parametrize("filler", [0, 255])
def test_areas_not_scanned_are_neither_glass_nor_tissue(filler):
    patch, where = make_section((215, 214, 210))
    pixels = patch.pixels.copy()
    pixels[:40], where[:40] = filler, False
    mask = find_tissue(Patch(pixels, 0.0, 0.0, 8.0), TissueSettings())
    assert overlap(mask, where) > 0.96
    nothing = Patch(np.full((50, 50, 3), filler, np.uint8), 0.0, 0.0, 8.0)
    assert not find_tissue(nothing, TissueSettings()).any()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 40)])
def test_tiny_overviews(size):
    pixels = np.full((*size, 3), 240, np.uint8)
    assert find_tissue(Patch(pixels, 0.0, 0.0, 8.0), TissueSettings()).shape == size


@needs_data
@pytest.mark.parametrize(
    ("name", "mpp", "share"),
    [
        # Shares checked by eye on the outline over the picture.
        ("slides/cmu-1-small-region.svs", None, 0.417),
        ("slides/tcga-cr-7395-01a-01-ts1.svs", 0.5, 0.647),
        ("slides/odd/corrupt_tile.svs", None, 0.0),
        ("slides/odd/ome_jpeg.ome.tif", None, 0.0),
        ("muscle/hdab/01_CD19.png", 0.4, 1.0),
        ("muscle/hdab/02_BAFF.png", 0.4, 1.0),
        ("muscle/hdab/02_CD19_HARD.png", 0.4, 1.0),
        ("ihc/os2/OS-2-ndpi.ome.tif", None, 0.891),
    ],
)
def test_real_slides(name, mpp, share):
    with open_slide(DATA / name, mpp=mpp) as slide:
        mask = find_tissue(slide.overview(8.0), TissueSettings())
    assert mask.mean() == pytest.approx(share, abs=0.02)
