"""Tiles decoded directly: OpenSlide's pixels, only the tiles needed, and nothing grey out of damage."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
import tifffile

from histoquant import backends
from histoquant.backends import open_backend
from histoquant.errors import SlideError
from histoquant.slide import open_slide

DATA = Path(__file__).parents[1].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
TILE = 64


def make_rgb(rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 250, (rows // 16 + 2, columns // 16 + 2, 3)).astype(np.uint8)
    return cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)


def write_pyramid(path, rgb, description="Aperio Image Library v12|MPP = 0.25", levels=2, **options):
    """An Aperio slide, or with another description a plain TIFF, of tiles of 64 px."""
    options = {"tile": (TILE, TILE), "photometric": "rgb", "metadata": None, **copy.deepcopy(options)}
    is_aperio = description.startswith("Aperio")
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            size = rgb.shape[1] // 3**level, rgb.shape[0] // 3**level
            small = rgb if level == 0 else cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
            tiff.write(small, description=description, subfiletype=int(level > 0), **options)
            if level == 0 and is_aperio:
                tiff.write(rgb[::8, ::8].copy(), photometric="rgb", description=description, metadata=None)
    return path


def damage(path, numbers, page=0, part=slice(20, None)):
    """Overwrite part of some tiles by zeros."""
    with tifffile.TiffFile(path) as tiff:
        offsets, counts = tiff.pages[page].dataoffsets, tiff.pages[page].databytecounts
    data = bytearray(path.read_bytes())
    for number in numbers:
        places = range(offsets[number], offsets[number] + counts[number])[part]
        data[places.start : places.stop] = bytes(len(places))
    path.write_bytes(data)


def check_boxes(backend, count=25):
    """Whole levels and random boxes come out as the reader of record has them, errors included."""

    def attempt(read, *arguments):
        try:
            return read(*arguments)
        except Exception as error:
            return str(error)

    rng = np.random.default_rng(0)
    for number in range(count):
        level = number % len(backend.levels)
        width, height = backend.levels[level].width_px, backend.levels[level].height_px
        box = (0, 0, min(width, 1000), min(height, 1000))
        if number >= len(backend.levels):
            w, h = (int(rng.integers(1, min(300, side) + 1)) for side in (width, height))
            box = (int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h)
        found = attempt(backend.read_level, level, *box)
        assert np.array_equal(found, attempt(backend._read_record, level, box)), (level, box)


@needs_data
@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("slides/cmu-1-small-region.svs", 1),
        ("slides/tcga-cr-7395-01a-01-ts1.svs", 2),
        ("slides/odd/corrupt_tile.svs", 3),
        ("slides/odd/ome_jpeg.ome.tif", 3),
        ("slides/odd/opens_then_fails.svs", 0),
        ("slides/odd/implausible_mpp.tiff", 0),
        ("ihc/os2/OS-2-ndpi.ome.tif", 1),
        ("ihc/os2/OS-2-vsi.ome.tif", 1),
    ],
)
def test_real_files_read_as_the_reader_of_record_reads_them(name, levels):
    backend = open_backend(DATA / name)
    check_boxes(backend)
    assert backend._tiles._trusted == dict.fromkeys(range(levels), True)
    backend.close()


@needs_data
@pytest.mark.parametrize("name", ["fluorescence_dapi.ndpi", "odd/tiny_dicom.dcm"])
def test_other_scanners_are_left_to_openslide(name):
    backend = open_backend(DATA / "slides" / name)
    assert backend._tiles is None
    backend.close()


@pytest.mark.parametrize("description", ["Aperio Image Library v12|MPP = 0.25", "plain"])
@pytest.mark.parametrize(
    "options",
    [
        {"compression": "jpeg", "compressionargs": {"outcolorspace": "YCBCR"}, "subsampling": (2, 2)},
        {"compression": "jpeg", "compressionargs": {"outcolorspace": "YCBCR"}, "subsampling": (2, 1)},
        {"compression": "jpeg", "compressionargs": {"outcolorspace": "YCBCR"}, "subsampling": (1, 1)},
        {"compression": "jpeg", "compressionargs": {"outcolorspace": "RGB"}},
        {"compression": 33005, "compressionargs": {"level": 40}},
    ],
    ids=["ycbcr-420", "ycbcr-422", "ycbcr-444", "rgb", "jpeg2000"],
)
def test_written_slides_read_as_the_reader_of_record_reads_them(tmp_path, description, options):
    path = write_pyramid(tmp_path / "a.svs", make_rgb(500, 700), description, **options)
    backend = open_backend(path)
    check_boxes(backend)
    assert backend._tiles._trusted == {0: True, 1: True}
    backend.close()


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_other_compressions_are_left_to_openslide(tmp_path, compression):
    backend = open_backend(write_pyramid(tmp_path / "a.svs", make_rgb(200, 300), compression=compression))
    check_boxes(backend)
    assert backend._tiles._trusted == {}
    backend.close()


def test_only_the_tiles_of_a_region_are_read(tmp_path):
    path = write_pyramid(tmp_path / "a.svs", make_rgb(500, 700), compression="jpeg")
    with open_slide(path) as slide:
        whole = slide.read(16 * 3, 16 * 2, 16 * 2, 16 * 3).pixels
    touched = {row * 11 + column for row in (2, 3, 4) for column in (3, 4)}
    damage(path, set(range(88)) - touched)
    with open_slide(path) as slide:
        assert (slide.read(16 * 3, 16 * 2, 16 * 2, 16 * 3).pixels == whole).all()
        with pytest.raises(SlideError, match="cannot read 129 x 192 px"):
            slide.read(16 * 3, 16 * 2, 16 * 2 + 0.25, 16 * 3)


@pytest.mark.parametrize("part", [slice(2, 12), slice(300, None), slice(0, None)])
@pytest.mark.parametrize("name", ["a.svs", "a.ome.tif", "strips.tif"])
def test_damage_is_an_error_and_never_grey(tmp_path, name, part):
    path, rgb = tmp_path / name, make_rgb(500, 700)
    if name == "a.svs":
        write_pyramid(path, rgb, compression="jpeg")
    elif name == "a.ome.tif":
        tifffile.imwrite(path, rgb, photometric="rgb", tile=(TILE, TILE), compression="jpeg", ome=True)
    else:
        tifffile.imwrite(path, rgb, photometric="rgb", rowsperstrip=TILE, compression="jpeg", metadata=None)
    below = 1 if name == "strips.tif" else 11
    with open_slide(path, mpp=0.25) as slide:
        good = slide.read(0, 0, 16, 16).pixels
    damage(path, [below], part=part)
    with open_slide(path, mpp=0.25) as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match="cannot read") as caught:
                slide.read(0, 16, 16, 40)
            assert caught.value.where == str(path)
            assert (slide.read(0, 0, 16, 16).pixels == good).all()


def test_damage_met_first_does_not_make_the_rest_slow(tmp_path):
    path = write_pyramid(tmp_path / "a.svs", make_rgb(500, 700), compression="jpeg")
    damage(path, [0])
    backend = open_backend(path)
    with pytest.raises(Exception, match="JPEG"):
        backend.read_level(0, 0, 0, 10, 10)
    assert backend._tiles._trusted == {}
    check_boxes(backend)
    assert backend._tiles._trusted == {0: True, 1: True}
    backend.close()


def test_a_file_is_checked_once_until_it_changes(tmp_path, monkeypatch):
    path = write_pyramid(tmp_path / "a.svs", make_rgb(500, 700), compression="jpeg")
    asked, kind = [], backends._OpenSlideBackend
    read_record = kind._read_record
    monkeypatch.setattr(kind, "_read_record", lambda *args: asked.append(args) or read_record(*args))
    for checks in (1, 1, 2):
        if checks == 2:
            damage(path, [80])
        backend = open_backend(path)
        backend.read_level(0, 30, 30, 100, 100)
        backend.close()
        assert len(asked) == checks


def test_a_decoder_that_gives_other_pixels_is_not_used(tmp_path, monkeypatch):
    """As one would that guesses the colours otherwise than OpenSlide."""
    path = write_pyramid(tmp_path / "a.svs", make_rgb(500, 700), compression="jpeg")
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda data, _, **rest: decode(data, "BGR", **rest))
    backend = open_backend(path)
    check_boxes(backend)
    assert backend._tiles._trusted == {0: False, 1: False}
    backend.close()


def test_a_tile_that_is_absent_is_for_openslide(tmp_path):
    path = write_pyramid(tmp_path / "a.svs", make_rgb(500, 700), compression="jpeg")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        counts = list(tiff.pages[0].databytecounts)
        tiff.pages[0].tags["TileByteCounts"].overwrite([*counts[:12], 0, *counts[13:]])
    backend = open_backend(path)
    check_boxes(backend)
    backend.close()


def test_offsets_and_lengths_beyond_the_file_are_errors(tmp_path):
    path = write_pyramid(tmp_path / "a.svs", make_rgb(500, 700), compression="jpeg")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tags = tiff.pages[0].tags
        counts, offsets = list(tags["TileByteCounts"].value), list(tags["TileOffsets"].value)
        tags["TileOffsets"].overwrite([offsets[0], 2**32 - 9, *offsets[2:]])
        tags["TileByteCounts"].overwrite([*counts[:5], 2**31 - 1, *counts[6:]], dtype="I")
    with open_slide(path) as slide:
        assert slide.read(0, 0, 16, 16).pixels.shape == (64, 64, 3)
        for column in (1, 5):
            with pytest.raises(SlideError, match="cannot read"):
                slide.read(16 * column, 0, 16, 16)


def test_a_tile_of_other_size_than_declared_is_an_error(tmp_path):
    """The pixels would lie in the wrong place; and a small file could ask for much memory."""
    path = tmp_path / "a.ome.tif"
    tiles = [cv2.imencode(".jpg", make_rgb(side, side))[1].tobytes() for side in (64, 64, 32, 1000)]
    options = {"shape": (128, 128, 3), "dtype": np.uint8, "tile": (TILE, TILE), "photometric": "YCBCR"}
    tifffile.imwrite(path, iter(tiles), compression="jpeg", ome=True, **options)
    with open_slide(path, mpp=0.25) as slide:
        assert slide.read(0, 0, 32, 16).pixels.shape == (64, 128, 3)
        for x in (0, 16):
            with pytest.raises(SlideError, match=r"cannot read 64 x 64 px at \(.*, 64\)"):
                slide.read(x, 16, 16, 16)


def test_threads_share_a_reader(tmp_path):
    path = write_pyramid(tmp_path / "a.svs", make_rgb(500, 700), compression="jpeg")
    with open_slide(path) as slide, ThreadPoolExecutor(4) as pool:
        whole = slide.overview(0.25).pixels
        places = [(x, y) for x in range(0, 150, 7) for y in range(0, 100, 9)]
        parts = pool.map(lambda place: slide.read(*place, 20, 20).pixels, places)
        for (x, y), part in zip(places, parts, strict=True):
            assert (part == whole[4 * y : 4 * y + 80, 4 * x : 4 * x + 80]).all()
