"""Slides and field images: real files with literal values, and tiny ones made here."""

import gc
import json
import pickle
import struct
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from histoquant import slide as slide_module
from histoquant.errors import ScaleError, SlideError
from histoquant.slide import describe_slide, list_field_images, open_slide, require_mpp

DATA = Path(__file__).parents[1].parent / "shared" / "data"
SLIDES = DATA / "slides"
needs_data = pytest.mark.skipif(not SLIDES.is_dir(), reason="../shared/data/slides is absent")


def make_rgb(rows, columns, seed=0):
    """Smooth colours, so that JPEG keeps them, and a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 250, (rows // 16 + 2, columns // 16 + 2, 3)).astype(np.uint8)
    return cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)


def write_aperio(path, rgb, mpp=0.25, power=40, factors=(4, 16), compression=None):
    """A pyramid that OpenSlide takes for Aperio's."""
    about = f"Aperio Image Library v12\r\n{rgb.shape[1]}x{rgb.shape[0]} (256x256)"
    about += f"|AppMag = {power}" if power else ""
    about += f"|MPP = {mpp}" if mpp else ""
    options = {"tile": (256, 256), "photometric": "rgb", "compression": compression, "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(rgb, description=about, **options)
        tiff.write(rgb[::16, ::16].copy(), photometric="rgb", description=about, metadata=None)
        for factor in factors:
            size = rgb.shape[1] // factor, rgb.shape[0] // factor
            tiff.write(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), description=about, **options)
    return path


def write_ome(path, rgb, levels=2, **metadata):
    options = {"photometric": "rgb", "tile": (128, 128), "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(rgb, subifds=levels - 1, metadata={"axes": "YXS", **metadata}, **options)
        for index in range(1, levels):
            small = cv2.resize(rgb, None, fx=0.5**index, fy=0.5**index, interpolation=cv2.INTER_AREA)
            tiff.write(small, subfiletype=1, **options)
    return path


def write_png(path, rgb, **options):
    Image.fromarray(rgb).save(path, **options)
    return path


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
        assert (lazy[1].compute(scheduler="sync") == expected).all()


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


@pytest.mark.parametrize(
    ("kind_of_file", "options"),
    [
        ("strips", {"rowsperstrip": 1}),
        ("tiles", {"tile": (64, 64), "compression": "zlib"}),
        ("planes", {"planarconfig": "separate"}),
        ("big", {"bigtiff": True}),
        ("lzw", {"compression": "lzw", "predictor": True}),
    ],
)
def test_single_level_tiff_is_a_field(tmp_path, kind_of_file, options):
    rgb = make_rgb(200, 300)
    data = np.moveaxis(rgb, 2, 0) if kind_of_file == "planes" else rgb
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, data, photometric="rgb", metadata=None, **options)
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.kind, slide.format, len(slide.levels)) == ("field", "tiff", 1)
        assert (slide.read(50, 25, 50, 50).pixels == rgb[50:150, 100:200]).all()
    with open_slide(path, mpp=0.5, kind="slide") as slide:
        assert slide.kind == "slide"


def test_single_level_slide_of_a_scanner_is_a_slide_unless_told(tmp_path):
    path = write_aperio(tmp_path / "a.svs", make_rgb(300, 300), factors=())
    with open_slide(path) as slide, open_slide(path, kind="field") as field:
        assert (slide.kind, field.kind) == ("slide", "field")


@pytest.mark.parametrize(
    ("unit", "per_unit", "expected"),
    [
        ("centimeter", 40_000, 0.25),
        ("inch", 50_800, 0.5),
        ("inch", 72, None),
        ("none", 4, None),
        ("centimeter", 0, None),
    ],
)
def test_resolution_tags(tmp_path, unit, per_unit, expected):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        make_rgb(32, 32),
        photometric="rgb",
        resolution=(per_unit, per_unit),
        resolutionunit=unit,
        metadata=None,
    )
    with open_slide(path) as slide:
        assert slide.mpp == (None if expected is None else pytest.approx(expected))
        assert bool(slide.problems) == (expected is None)


def test_imagej_unit(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        make_rgb(32, 32),
        imagej=True,
        photometric="rgb",
        resolution=(2, 2),
        metadata={"unit": "um", "axes": "YXS"},
    )
    with open_slide(path) as slide:
        assert slide.mpp == 0.5


def test_field_images_without_scale(tmp_path):
    rgb = make_rgb(40, 50)
    plain = write_png(tmp_path / "plain.png", rgb)
    screen = write_png(tmp_path / "screen.png", rgb, dpi=(72, 72))
    camera = write_png(tmp_path / "camera.png", rgb, dpi=(50_800, 50_800))
    photo = write_png(tmp_path / "photo.jpg", rgb, quality=95)
    for path, mpp, problem in [
        (plain, None, "does not tell"),
        (screen, None, "352.7 um/px is not plausible"),
        (camera, 0.5, None),
        (photo, None, "does not tell"),
    ]:
        with open_slide(path) as slide:
            assert slide.kind == "field"
            assert slide.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-3))
            assert [problem in one for one in slide.problems] == ([True] if problem else [])
            if mpp is None:
                for call in (lambda s: require_mpp(s), lambda s: s.read(0, 0, 1, 1), lambda s: s.overview(8)):
                    with pytest.raises(ScaleError, match="give --mpp, or the column mpp") as caught:
                        call(slide)
                    assert caught.value.where == str(path)
        with open_slide(path, mpp=0.4) as slide:
            assert slide.mpp == require_mpp(slide) == 0.4


def test_given_size_goes_first_and_says_so(tmp_path):
    path = write_aperio(tmp_path / "a.svs", make_rgb(300, 300))
    with open_slide(path, mpp=0.5) as slide:
        assert slide.mpp == 0.5
        assert slide.problems == ("The given pixel size of 0.5 um/px is used; the file says 0.25.",)
    with open_slide(path, mpp=0.251) as slide:
        assert slide.problems == ()


@pytest.mark.parametrize("mpp", [0, -1, 0.05, 1.2, 352.8, float("nan"), float("inf")])
def test_implausible_given_size(tmp_path, mpp):
    with pytest.raises(ScaleError, match=r"is not plausible; give one from 0\.1 to 1\.1"):
        open_slide(tmp_path / "none.png", mpp=mpp)


def test_pixels_that_are_not_square(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        make_rgb(32, 32),
        photometric="rgb",
        resolution=(40_000, 20_000),
        resolutionunit="centimeter",
        metadata=None,
    )
    with open_slide(path) as slide:
        assert slide.mpp is None
        assert slide.problems == ("The file's pixels are not square (0.25 x 0.5 um).",)


def test_power_is_no_pixel_size(tmp_path):
    with open_slide(write_aperio(tmp_path / "a.svs", make_rgb(300, 300), mpp=None)) as slide:
        assert slide.mpp is None
        assert slide.objective_power == 40.0
        assert slide.problems[1].startswith("An objective power of 40 does not tell the pixel size")


ALPHA = np.array([[0, 128, 255]], np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_transparency_is_white(tmp_path, suffix):
    rgba = np.dstack([np.full((1, 3, 3), (10, 20, 30), np.uint8), ALPHA])
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        write_png(path, rgba)
    else:
        tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"], metadata=None)
    with open_slide(path, mpp=0.5) as slide:
        pixels = slide.overview(0.5).pixels
    assert pixels.tolist() == [[[255, 255, 255], [132, 137, 142], [10, 20, 30]]]


def test_premultiplied_transparency(tmp_path):
    rgba = np.dstack([np.array([[[0, 0, 0], [5, 10, 15], [10, 20, 30]]], np.uint8), ALPHA])
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.overview(0.5).pixels.tolist() == [[[255, 255, 255], [132, 137, 142], [10, 20, 30]]]


def test_palette(tmp_path):
    rgb = np.zeros((8, 8, 3), np.uint8)
    rgb[:4] = (200, 100, 50)
    Image.fromarray(rgb).quantize(4).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp=0.5) as slide:
        assert (slide.overview(0.5).pixels == rgb).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_profile_is_named_and_not_applied(tmp_path, suffix):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    rgb = np.full((16, 16, 3), 90, np.uint8)
    path = write_png(tmp_path / f"a{suffix}", rgb, icc_profile=profile.tobytes())
    with open_slide(path, mpp=0.5) as slide:
        assert slide.icc_profile == "sRGB built-in"
        assert (slide.overview(0.5).pixels == 90).all()


def test_profile_that_is_broken(tmp_path):
    path = write_png(tmp_path / "a.png", make_rgb(8, 8), icc_profile=b"nonsense")
    with open_slide(path) as slide:
        assert slide.icc_profile == "unreadable profile"


@pytest.mark.parametrize("name", ["µm 切片.png", "µm 切片.tif", "µm 切片.jpg", "µm 切片.svs"])
def test_any_letters_in_the_path(tmp_path, name):
    folder = tmp_path / "Größe 患者 1"
    folder.mkdir()
    path, rgb = folder / name, make_rgb(300, 300)
    if name.endswith("svs"):
        write_aperio(path, rgb)
    else:
        write_png(path, rgb)
    with open_slide(str(path), mpp=0.25) as slide:
        assert slide.overview(0.25).pixels.shape == rgb.shape


def write_png_header(path, width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)


@pytest.mark.parametrize("side", [23_000, 60_000])
def test_pixel_bomb_is_refused_before_decoding(tmp_path, side):
    write_png_header(tmp_path / "bomb.png", side, side)
    with pytest.raises(SlideError, match=f"holds {side} x {side} px in one piece, more than 500 million"):
        open_slide(tmp_path / "bomb.png")


def test_tiff_in_one_enormous_piece_is_refused(tmp_path):
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, make_rgb(16, 16), photometric="rgb", metadata=None, compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tag = tiff.pages[0].tags[name]
            tag.overwrite(40_000, dtype="I")
    with pytest.raises(SlideError, match="holds 40000 x 40000 px in one piece"):
        open_slide(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_truncated_image(tmp_path, suffix):
    path = write_png(tmp_path / f"a{suffix}", make_rgb(300, 300))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SlideError, match="cannot be opened") as caught:
        open_slide(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("part", [slice(700, 720), slice(2000, 4000), slice(3000, -2)])
def test_damaged_image_is_an_error_and_never_grey(tmp_path, suffix, part):
    path = write_png(tmp_path / f"a{suffix}", make_rgb(300, 300))
    data = bytearray(path.read_bytes())
    places = range(len(data))[part]
    data[places.start : places.stop] = b"\xa5" * len(places)
    path.write_bytes(data)
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    assert caught.value.where == str(path)


def test_damage_within_a_tiff_shows_when_it_is_read(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, make_rgb(256, 256), photometric="rgb", tile=(64, 64), compression="zlib", metadata=None
    )
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[5]
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = bytes(40)
    path.write_bytes(data)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.read(0, 0, 32, 32).pixels.shape == (64, 64, 3)
        with pytest.raises(SlideError, match=r"cannot read 128 x 128 px at \(0, 0\) of level 0"):
            slide.read(0, 0, 64, 64)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((32, 32), np.uint8), "YX"),
        (np.zeros((32, 32, 3), np.uint16), "uint16"),
        (np.zeros((2, 32, 32, 3), np.uint8), "QYXS"),
    ],
)
def test_tiff_that_is_not_rgb(tmp_path, array, found):
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb" if array.ndim > 2 else "minisblack")
    with pytest.raises(SlideError, match=rf"is not one RGB image of 8 bits \({found}|uint16\)"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["L", "CMYK", "I;16"])
def test_image_that_is_not_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (8, 8)).save(path)
    with pytest.raises(SlideError, match="is not one RGB image of 8 bits"):
        open_slide(path)


def test_nothing_to_open(tmp_path):
    (tmp_path / "empty.svs").touch()
    (tmp_path / "text.svs").write_text("a slide")
    for name, what in [
        ("none.svs", "cannot be opened"),
        ("", "is a folder, not a slide"),
        ("empty.svs", "is empty"),
        ("text.svs", "is not a slide or image format"),
    ]:
        with pytest.raises(SlideError, match=what) as caught:
            open_slide(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)
        assert caught.value.fix


def test_errors_survive_pickling():
    error = SlideError("what", "where", "fix")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_threads_share_a_slide(tmp_path):
    rgb = make_rgb(600, 600)
    with open_slide(write_aperio(tmp_path / "a.svs", rgb)) as slide:
        wrong = []

        def work(seed):
            rng = np.random.default_rng(seed)
            for _ in range(20):
                x, y = rng.integers(0, 500, 2)
                if (slide.read(x / 4, y / 4, 20, 20).pixels != rgb[y : y + 80, x : x + 80]).any():
                    wrong.append((x, y))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        full = slide.pyramid()[0]
        assert (full.compute() == rgb).all()


def test_field_images_in_natural_order(tmp_path):
    for name in [
        "field 10.png",
        "field 2.JPG",
        "Field 1.tif",
        "field 2b.ome.tiff",
        "notes.txt",
        ".hidden.png",
    ]:
        (tmp_path / name).touch()
    (tmp_path / "more.png").mkdir()
    names = [path.name for path in list_field_images(tmp_path)]
    assert names == ["Field 1.tif", "field 2.JPG", "field 2b.ome.tiff", "field 10.png"]


def test_folder_without_field_images(tmp_path):
    with pytest.raises(SlideError, match="holds no field image"):
        list_field_images(tmp_path)
    with pytest.raises(SlideError, match="cannot be listed"):
        list_field_images(tmp_path / "none")
