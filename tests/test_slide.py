"""Slides and field images: real files with literal values, and tiny ones made here."""

import gc
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from slide_files import make_rgb, write_aperio, write_ome, write_png

from histoquant import slide as slide_module
from histoquant.errors import SlideError
from histoquant.slide import describe_slide, open_slide

DATA = Path(__file__).parents[1].parent / "shared" / "data"
SLIDES = DATA / "slides"
needs_data = pytest.mark.skipif(not SLIDES.is_dir(), reason="../shared/data/slides is absent")

# Real files.


@needs_data
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cmu-1-small-region.svs", ("slide", "aperio", [2220, 2967], 0.499, 20.0, 1, None)),
        (
            "tcga-cr-7395-01a-01-ts1.svs",
            ("slide", "aperio", [4443, 3567], None, None, 2, "sRGB IEC61966-2.1"),
        ),
        ("fluorescence_dapi.ndpi", ("slide", "hamamatsu", [3968, 4864], 0.2281750559, 40.0, 7, None)),
        ("odd/corrupt_tile.svs", ("slide", "aperio", [2048, 2048], 0.25, 40.0, 3, None)),
        ("odd/implausible_mpp.tiff", ("slide", "generic-tiff", [300, 250], None, None, 4, "sRGB built-in")),
        ("odd/opens_then_fails.svs", ("slide", "aperio", [16, 16], 0.499, 20.0, 1, None)),
        ("odd/tiny_dicom.dcm", ("slide", "dicom", [16, 16], 0.499, 20.0, 1, "uRGB")),
        ("odd/ome_jpeg.ome.tif", ("slide", "ome-tiff", [2048, 2048], 0.25, None, 3, None)),
        ("odd/ome_strip.ome.tif", ("field", "ome-tiff", [2048, 2048], 0.25, None, 1, None)),
        ("../ihc/os2/OS-2-ndpi.ome.tif", ("field", "ome-tiff", [2202, 2202], 0.2270998218, None, 1, None)),
        ("../ihc/os2/OS-2-vsi.ome.tif", ("field", "ome-tiff", [1445, 1445], 0.3460546211, None, 1, None)),
        ("../muscle/hdab/01_CD19.png", ("field", "png", [1002, 1002], None, None, 1, None)),
        ("../muscle/he/01.tif", ("field", "tiff", [1002, 1002], None, None, 1, None)),
    ],
)
def test_real_file_is_described(name, expected):
    with open_slide(SLIDES / name) as slide:
        found = describe_slide(slide)
    keys = ("kind", "format", "size_px", "mpp", "objective_power")
    values = (*(found[key] for key in keys), len(found["levels"]), found["icc_profile"])
    if values[3] is not None:
        assert values[3] == pytest.approx(expected[3], rel=1e-9)
        values = (*values[:3], expected[3], *values[4:])
    assert values == expected
    assert json.dumps(found)


@needs_data
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("tcga-cr-7395-01a-01-ts1.svs", "The file does not tell its pixel size."),
        (
            "odd/implausible_mpp.tiff",
            "The file's pixel size of 352.8 um/px is not plausible and is not used.",
        ),
        (
            "odd/opens_then_fails.svs",
            "Cannot read 1 x 1 px at (8, 8) of level 0 (bogus marker length).",
        ),
        ("../muscle/hdab/02_BAFF.png", "The file does not tell its pixel size."),
    ],
)
def test_real_file_has_one_problem(name, problem):
    with open_slide(SLIDES / name) as slide:
        assert describe_slide(slide)["problems"] == [problem]


@needs_data
@pytest.mark.parametrize(
    "name", ["cmu-1-small-region.svs", "fluorescence_dapi.ndpi", "odd/ome_jpeg.ome.tif", "odd/tiny_dicom.dcm"]
)
def test_real_file_without_problem(name):
    with open_slide(SLIDES / name) as slide:
        assert slide.problems == ()


@needs_data
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("odd/truncated.svs", "svs slide that cannot be opened; it is truncated or damaged"),
        ("odd/unopenable.tiff", "cannot be opened as a slide or an image"),
        ("odd/not_a_tiff.svs", "is not a slide or image format"),
        ("../muscle/hdab/01_fibers.png", "is not one RGB image of 8 bits"),
        ("../muscle/geometry/S11_fibers.tif", "is not one RGB image of 8 bits"),
        ("../muscle/fluorescence/human.tif", r"is not one RGB image of 8 bits \(CYX"),
        ("../README.md", "is not a slide or image format"),
    ],
)
def test_real_file_that_does_not_open(name, what):
    with pytest.raises(SlideError, match=what) as caught:
        open_slide(SLIDES / name)
    assert caught.value.where == str(SLIDES / name)
    assert caught.value.fix


@needs_data
def test_pixels_of_real_files():
    with open_slide(SLIDES / "cmu-1-small-region.svs") as slide:
        patch = slide.read(499.0, 499.0, 49.9, 24.95)
        page = tifffile.imread(slide.path, key=0)
    assert (patch.x_um, patch.y_um, patch.mpp) == (499.0, 499.0, 0.499)
    assert patch.pixels.shape == (50, 100, 3)
    assert (patch.pixels == page[1000:1050, 1000:1100]).all()
    with open_slide(SLIDES / "odd/tiny_dicom.dcm") as slide:
        assert slide.overview(0.1).pixels.mean() == pytest.approx(236.3, abs=0.05)


@needs_data
def test_damaged_tile_is_named_and_the_slide_stays_usable():
    with open_slide(SLIDES / "odd/corrupt_tile.svs") as slide:
        good = slide.read(0, 0, 40, 40)
        for _ in range(2):
            with pytest.raises(
                SlideError, match=r"cannot read 40 x 40 px at \(280, 280\) of level 0"
            ) as caught:
                slide.read(70, 70, 10, 10)
            assert caught.value.where == str(slide.path)
            assert (slide.read(0, 0, 40, 40).pixels == good.pixels).all()


@needs_data
def test_slide_that_opens_then_fails():
    with open_slide(SLIDES / "odd/opens_then_fails.svs") as slide, pytest.raises(SlideError, match="16 x 16"):
        slide.overview(1.0)


@needs_data
def test_ome_levels_agree_between_readers():
    """The tiled pyramid through tifffile is what OpenSlide decodes of its level 0."""
    import openslide

    path = SLIDES / "odd/ome_jpeg.ome.tif"
    with open_slide(path) as slide, openslide.OpenSlide(path) as other:
        assert [level.downsample for level in slide.levels] == [1.0, 2.0, 4.0]
        ours = slide.read(100, 100, 75, 50).pixels
        theirs = np.asarray(other.read_region((400, 400), 0, (300, 200)))[..., :3]
    assert (ours == theirs).all()


# Files made here.


def test_aperio_pyramid_reads_as_tifffile_does(tmp_path):
    rgb = make_rgb(600, 900)
    with open_slide(write_aperio(tmp_path / "a.svs", rgb)) as slide:
        assert (slide.kind, slide.format, slide.mpp, slide.objective_power) == ("slide", "aperio", 0.25, 40.0)
        assert [(one.width_px, one.height_px) for one in slide.levels] == [(900, 600), (225, 150), (56, 37)]
        patch = slide.read(25, 50, 100, 75)
        assert (patch.pixels == rgb[200:500, 100:500]).all()
        assert (patch.x_um, patch.y_um, patch.mpp) == (25.0, 50.0, 0.25)
        assert [array.shape for array in slide.pyramid()] == [(600, 900, 3), (150, 225, 3), (37, 56, 3)]


def test_a_closed_slide_is_closed_twice_in_peace_and_read_no_more(tmp_path):
    slide = open_slide(write_aperio(tmp_path / "a.svs", make_rgb(600, 900)))
    slide.read(25, 50, 100, 75)
    slide.close()
    slide.close()
    with pytest.raises(SlideError, match="the slide is closed"):
        slide.read(25, 50, 100, 75)


def test_jpeg_tiles_decode_equally_in_openslide_and_tifffile(tmp_path):
    path = write_aperio(tmp_path / "a.svs", make_rgb(600, 900), compression="jpeg")
    with open_slide(path) as slide:
        assert (slide.overview(0.25).pixels == tifffile.imread(path, key=0)).all()


@pytest.mark.parametrize("mpp", [0.5, 0.4, 0.7, 0.95])
def test_other_resolution_is_the_area_average_of_level_0(tmp_path, mpp):
    rgb = make_rgb(600, 900)
    with open_slide(write_aperio(tmp_path / "a.svs", rgb)) as slide:
        patch = slide.read(10, 20, 90, 60, mpp)
    full = rgb[80:320, 40:400]
    scale = 0.25 / mpp
    expected = cv2.resize(full, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    assert (patch.pixels == expected).all()
    assert patch.mpp == mpp
    assert (patch.x_um, patch.y_um) == (10.0, 20.0)


@pytest.mark.parametrize(
    ("mpp", "shape", "result"), [(1.0, (150, 225), 1.0), (2.0, (75, 112), 2.0), (1.005, (150, 225), 1.0)]
)
def test_coarse_reads_use_the_coarse_level(tmp_path, mpp, shape, result):
    path = write_aperio(tmp_path / "a.svs", make_rgb(600, 900))
    with open_slide(path) as slide:
        asked = []
        backend = slide._backend
        real = backend.read_level
        backend.read_level = lambda level, *box: asked.append(level) or real(level, *box)
        patch = slide.overview(mpp)
    assert asked == [1]
    assert patch.pixels.shape[:2] == shape
    assert patch.mpp == result


def test_finer_than_level_0_gives_level_0(tmp_path):
    rgb = make_rgb(64, 64)
    with open_slide(write_png(tmp_path / "a.png", rgb), mpp=0.5) as slide:
        patch = slide.overview(0.2)
    assert (patch.pixels == rgb).all()
    assert patch.mpp == 0.5


def test_large_reads_go_in_bands(tmp_path, monkeypatch):
    rgb = make_rgb(500, 400)
    with open_slide(write_png(tmp_path / "a.png", rgb), mpp=0.5) as slide:
        whole = {mpp: slide.overview(mpp).pixels for mpp in (2.0, 2.25)}
        monkeypatch.setattr(slide_module, "_BAND_PIXELS", 10_000)
        assert (slide.overview(2.0).pixels == whole[2.0]).all()
        patch = slide.overview(2.25)
    assert patch.mpp == 2.25
    assert patch.pixels.shape == whole[2.25].shape
    assert np.abs(patch.pixels.astype(int) - whole[2.25]).mean() < 2


@settings(deadline=None, max_examples=60)
@given(
    st.floats(-30, 60),
    st.floats(-30, 60),
    # A region narrower than a pixel takes the whole pixel, so that its edge is further away.
    st.floats(0.5, 80),
    st.floats(0.5, 80),
    st.sampled_from([None, 0.5, 1.3]),
)
def test_any_region_is_clipped_and_placed(x, y, width, height, mpp):
    rgb = _SHARED["rgb"]
    slide = _SHARED["slide"]
    try:
        patch = slide.read(x, y, width, height, mpp)
    except SlideError as error:
        assert "outside" in str(error)
        assert x + width < 0.5 or y + height < 0.5 or x > 49.5 or y > 39.5
        return
    left, top = round(patch.x_um / 0.5), round(patch.y_um / 0.5)
    assert 0 <= left < 100
    assert 0 <= top < 80
    assert abs(max(x, 0) - patch.x_um) <= 0.5 + 1e-9
    if mpp in (None, 0.5):
        rows, columns = patch.pixels.shape[:2]
        assert (patch.pixels == rgb[top : top + rows, left : left + columns]).all()
        assert patch.x_um + columns * 0.5 <= 50 + 1e-9
        assert abs(min(x + width, 50) - (patch.x_um + columns * 0.5)) <= 0.5 + 1e-9


_SHARED = {}


@pytest.fixture(autouse=True, scope="module")
def shared_slide(tmp_path_factory):
    _SHARED["rgb"] = make_rgb(80, 100)
    path = write_png(tmp_path_factory.mktemp("shared") / "a.png", _SHARED["rgb"])
    _SHARED["slide"] = open_slide(path, mpp=0.5)
    yield
    _SHARED.clear()


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 5), (0, 0, 5, -1), (0, 0, float("nan"), 5), (float("inf"), 0, 5, 5)]
)
def test_empty_region(box):
    with pytest.raises(SlideError, match="is empty"):
        _SHARED["slide"].read(*box)


@pytest.mark.parametrize("box", [(50, 0, 5, 5), (0, 40, 5, 5), (-9, 0, 8, 5), (0, -9, 5, 8), (1e9, 0, 1, 1)])
def test_region_outside(box):
    with pytest.raises(SlideError, match=r"lies outside the slide; the slide is 50\.0 x 40\.0 um"):
        _SHARED["slide"].read(*box)


def test_reading_is_the_readers_own_copy():
    patch = _SHARED["slide"].read(0, 0, 5, 5)
    patch.pixels[:] = 0
    assert (_SHARED["slide"].read(0, 0, 5, 5).pixels == _SHARED["rgb"][:10, :10]).all()


def test_a_lazy_level_outlives_its_slide_and_closes_the_file_in_the_end(tmp_path):
    path = tmp_path / "plain.tif"
    rgb = make_rgb(40, 60)
    tifffile.imwrite(path, rgb)
    slide = open_slide(path, 0.5)
    closed = []
    backend_close = slide._backend.close
    object.__setattr__(slide._backend, "close", lambda: (closed.append(1), backend_close()))
    (level,) = slide.pyramid()
    del slide
    np.testing.assert_array_equal(np.asarray(level), rgb)
    assert closed == []
    del level
    gc.collect()
    assert closed == [1]


def test_ome_pyramid(tmp_path):
    rgb = make_rgb(300, 400)
    sizes = {
        "PhysicalSizeX": 500.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 500.0,
        "PhysicalSizeYUnit": "nm",
    }
    with open_slide(write_ome(tmp_path / "a.ome.tif", rgb, **sizes)) as slide:
        assert (slide.kind, slide.format, slide.mpp) == ("slide", "ome-tiff", 0.5)
        assert [level.downsample for level in slide.levels] == [1.0, 2.0]
        assert (slide.read(50, 25, 100, 50).pixels == rgb[50:150, 100:300]).all()
        lazy = slide.pyramid()
        assert lazy[1].dtype == np.uint8
        expected = cv2.resize(rgb, (200, 150), interpolation=cv2.INTER_AREA)
        assert (np.asarray(lazy[1]) == expected).all()


@pytest.mark.parametrize("unit", ["pixel", "furlong"])
def test_ome_size_in_a_strange_unit_is_not_guessed(tmp_path, unit):
    path = write_ome(tmp_path / "a.ome.tif", make_rgb(128, 128), 1, PhysicalSizeX=0.5, PhysicalSizeY=0.5)
    tifffile.tiffcomment(path, tifffile.tiffcomment(path).replace('XUnit="µm"', f'XUnit="{unit}"').encode())
    if f'XUnit="{unit}"' not in tifffile.tiffcomment(path):
        text = tifffile.tiffcomment(path).replace(
            "PhysicalSizeX=", f'PhysicalSizeXUnit="{unit}" PhysicalSizeX='
        )
        tifffile.tiffcomment(path, text.encode())
    with open_slide(path) as slide:
        assert slide.mpp is None
