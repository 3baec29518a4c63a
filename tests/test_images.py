"""Field images and odd files: what they are taken for, their scale, damage, and folders of them."""

import pickle
import struct
import threading
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from slide_files import make_rgb, write_aperio, write_png

from histoquant.errors import ScaleError, SlideError
from histoquant.slide import list_field_images, open_slide, require_mpp


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
        assert (np.asarray(full) == rgb).all()


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
