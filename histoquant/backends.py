# This module touches files: it opens slides and images by what is in them.
"""Readers of slide and image files, behind one small protocol: levels and their pixels."""

from __future__ import annotations

import io
import logging
import math
import threading
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import openslide
import simplejpeg
import tifffile
from PIL import ImageCms, JpegImagePlugin, PngImagePlugin

from histoquant.errors import SlideError
from histoquant.tiles import Box, TileReader

Rgb = npt.NDArray[np.uint8]

MAX_IMAGE_PIXELS = 500_000_000
"""Largest image, strip or tile decoded in one piece."""

_UM_PER_UNIT = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3}
_UM_PER_TIFF_UNIT = {2: 25_400.0, 3: 10_000.0}
# Formats whose levels are nothing but tiles side by side.
_PLAIN_TILES = ("aperio", "generic-tiff")
_SCANNER_FLAGS = {"svs", "ndpi", "ndtiff", "scn", "bif", "philips", "qpi", "avs"}

# Without a handler tifffile's notes about damaged files would land on stderr; users may add their own.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Level:
    """One resolution of a slide: its size in pixels and how much coarser than level 0 it is."""

    width_px: int
    height_px: int
    downsample: float


@dataclass(frozen=True)
class About:
    """What a backend knows besides pixels."""

    format: str
    is_field: bool
    mpp_xy: tuple[float, float] | None = None
    objective_power: float | None = None
    icc_profile: str | None = None
    bounds_px: tuple[int, int] = (0, 0)


class Backend(Protocol):
    """Pixels of one file, level by level."""

    about: About
    levels: tuple[Level, ...]

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Rgb:
        """RGB of a box inside a level, in that level's pixels; any exception if it cannot be read."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def _blend_on_white(pixels: Rgb, premultiplied: bool = False) -> Rgb:
    """RGB of an RGB or RGBA image, transparent parts white."""
    if pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels)
    rgb, alpha = pixels[..., :3], pixels[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB), np.uint8)
    share = alpha.astype(np.float32) / 255
    light = rgb.astype(np.float32) * (1.0 if premultiplied else share) + 255 * (1 - share)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def _name_profile(profile: bytes | None) -> str | None:
    """Description of an ICC profile."""
    if not profile:
        return None
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except (ImageCms.PyCMSError, OSError):
        return "unreadable profile"


def open_backend(path: Path) -> Backend:
    """The reader for a file, by what is in it."""
    if path.is_dir():
        raise SlideError(
            "is a folder, not a slide", path, "name a file in it; a DICOM slide is any one of its .dcm files"
        )
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise SlideError(f"cannot be opened ({error.strerror})", path, "check the path") from error
    if not start:
        raise SlideError("is empty", path, "copy the file again")
    try:
        # First, since some slide formats begin with a JPEG.
        vendor = openslide.OpenSlide.detect_format(path)
        if vendor not in (None, "generic-tiff"):
            return _OpenSlideBackend(path)
        if start == b"\x89PNG\r\n\x1a\n" or start.startswith(b"\xff\xd8\xff"):
            return _decode_image(path, start)
        if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _open_tiff(path, vendor)
    except SlideError:
        raise
    except Exception as error:  # codecs raise anything on a damaged file
        raise SlideError(
            f"cannot be opened as a slide or an image ({error})", path, "copy or export the file again"
        ) from error
    raise SlideError(
        "is not a slide or image format that can be read", path, "it may be damaged; copy or export it again"
    )


def _open_tiff(path: Path, vendor: str | None) -> Backend:
    """OpenSlide for pyramids it understands, tifffile for OME-TIFF and single levels."""
    with tifffile.TiffFile(path) as tiff:
        flags = set(tiff.flags)
        if flags & _SCANNER_FLAGS:
            raise SlideError(
                f"is a {'/'.join(sorted(flags & _SCANNER_FLAGS))} slide that cannot be opened",
                path,
                "it is truncated or damaged; copy it again",
            )
    if vendor is not None and "ome" not in flags:
        try:
            backend = _OpenSlideBackend(path)
        except openslide.OpenSlideError:
            return _TiffBackend(path)
        if len(backend.levels) > 1:
            return backend
        backend.close()
    return _TiffBackend(path)


class _OpenSlideBackend:
    """Whatever OpenSlide reads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: Any = openslide.OpenSlide(path)
        self._lock = threading.Lock()
        handle = self._handle
        self.levels = tuple(
            Level(width, height, float(downsample))
            for (width, height), downsample in zip(
                handle.level_dimensions, handle.level_downsamples, strict=True
            )
        )
        has = handle.properties.get
        x, y = _to_float(has("openslide.mpp-x")), _to_float(has("openslide.mpp-y"))
        profile = handle.color_profile
        self.about = About(
            format=handle.properties["openslide.vendor"],
            is_field=False,
            mpp_xy=(x, y) if x and y else None,
            objective_power=_to_float(has("openslide.objective-power")),
            icc_profile=None if profile is None else _name_profile(profile.tobytes()),
            bounds_px=(int(has("openslide.bounds-x", 0)), int(has("openslide.bounds-y", 0))),
        )
        self._closed = False
        self._tiles = _open_tiles(path, self.levels) if self.about.format in _PLAIN_TILES else None

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Rgb:
        box = x, y, width, height
        pixels = self._read_tiles(level, box)
        return self._read_record(level, box) if pixels is None else pixels

    def _read_tiles(self, level: int, box: Box) -> Rgb | None:
        # Elsewhere OpenSlide places pixels between those of the level.
        if self._tiles is None or not (level == 0 or box[:2] == (0, 0)):
            return None
        try:
            return self._tiles.read(level, box, partial(self._read_record, level))
        except Exception:  # whether a tile is damaged is for OpenSlide to say
            return None

    def _read_record(self, level: int, box: Box) -> Rgb:
        x, y, width, height = box
        downsample = self.levels[level].downsample
        origin = round(x * downsample), round(y * downsample)
        with self._lock:
            if self._closed:
                raise ValueError("the slide is closed")
            if self._handle is None:
                self._handle = openslide.OpenSlide(self._path)
            handle = self._handle
        try:
            return _blend_on_white(np.asarray(handle.read_region(origin, level, (width, height))))
        except openslide.OpenSlideError:
            # After an error every call on the handle fails. Other threads may still be in it, so that
            # it is dropped here and closes itself with its last user.
            self._handle = None
            raise

    def close(self) -> None:
        handle, self._handle = self._handle, None
        self._closed = True
        if handle is not None:  # OpenSlide's own may be closed once only
            handle.close()
        if self._tiles is not None:
            self._tiles.close()


def _open_tiles(path: Path, levels: tuple[Level, ...]) -> TileReader | None:
    """Direct access to the tiles of OpenSlide's levels; a level is known by its size."""
    try:
        with tifffile.TiffFile(path) as tiff:
            tiled = [page for page in tiff.pages if page.is_tiled]
            sizes = [(page.imagewidth, page.imagelength) for page in tiled]
            wanted = [(level.width_px, level.height_px) for level in levels]
            pages = [tiled[sizes.index(size)] if sizes.count(size) == 1 else None for size in wanted]
            return TileReader(path, pages)
    except Exception:  # OpenSlide reads it without
        return None


class _TiffBackend:
    """First image of a TIFF or OME-TIFF, and its coarser levels."""

    def __init__(self, path: Path) -> None:
        import zarr  # slow to import, and few slides need it

        self._tiff = tifffile.TiffFile(path)
        self._stores: list[Any] = []
        self._tiles: TileReader | None = None
        try:
            series = self._tiff.series[0]
            self._page = series.keyframe
            _check_rgb(path, series, self._page)
            self._planar = series.axes == "SYX"
            self._stores = [series.aszarr(level=index, fillvalue=255) for index in range(len(series.levels))]
            self._arrays: list[Any] = [zarr.open(store, mode="r") for store in self._stores]
            self.levels = _make_levels([self._size_of(array) for array in self._arrays])
            self._tiles = TileReader(
                path, [one.keyframe if len(one.pages) == 1 else None for one in series.levels]
            )
            self.about = About(
                format="ome-tiff" if self._tiff.is_ome else "tiff",
                is_field=len(self.levels) == 1,
                mpp_xy=_find_tiff_scale(self._tiff),
                icc_profile=_name_profile(self._page.iccprofile),
            )
            self.read_level(0, 0, 0, 1, 1)  # an unknown compression shows here, not in the middle of a run
        except BaseException:
            self.close()
            raise

    def _size_of(self, array: Any) -> tuple[int, int]:
        rows, columns = array.shape[1:] if self._planar else array.shape[:2]
        return columns, rows

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Rgb:
        box = x, y, width, height
        # A damaged tile raises here; tifffile would take it for grey.
        read_record = partial(self._read_record, level)
        pixels = None if self._tiles is None else self._tiles.read(level, box, read_record)
        return read_record(box) if pixels is None else pixels

    def _read_record(self, level: int, box: Box) -> Rgb:
        x, y, width, height = box
        array, window = self._arrays[level], np.s_[y : y + height, x : x + width]
        pixels = np.moveaxis(array[:, *window], 0, 2) if self._planar else array[window]
        return _blend_on_white(np.asarray(pixels), premultiplied=1 in self._page.extrasamples)

    def close(self) -> None:
        for store in self._stores:
            store.close()
        if self._tiles is not None:
            self._tiles.close()
        self._tiff.close()


class _ArrayBackend:
    """An image in memory."""

    def __init__(self, pixels: Rgb, about: About) -> None:
        self._pixels, self.about = pixels, about
        self.levels = _make_levels([(pixels.shape[1], pixels.shape[0])])

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Rgb:
        return self._pixels[y : y + height, x : x + width].copy()

    def close(self) -> None:
        pass


def _make_levels(sizes: list[tuple[int, int]]) -> tuple[Level, ...]:
    width, height = sizes[0]
    return tuple(Level(w, h, (width / w + height / h) / 2) for w, h in sizes)


def _check_rgb(path: Path, series: Any, page: Any) -> None:
    """Raise unless a TIFF series is one RGB image of 8 bits that can be decoded piece by piece."""
    jpeg = {6, 7, 34892, 33007}
    colours = page.photometric == 2 or (page.photometric == 6 and page.compression in jpeg)
    single = series.axes in ("YXS", "SYX") and page.samplesperpixel in (3, 4)
    if not (colours and single and series.dtype == np.uint8):
        _refuse_colours(path, f"{series.axes} {series.shape} {series.dtype}")
    rows, columns = page.chunks[:2]
    if rows * columns > MAX_IMAGE_PIXELS:
        _refuse_size(path, columns, rows)


def _refuse_colours(path: Path, found: str) -> NoReturn:
    raise SlideError(f"is not one RGB image of 8 bits ({found})", path, "export it as 8-bit RGB")


def _refuse_size(path: Path, width: int, height: int) -> NoReturn:
    raise SlideError(
        f"holds {width} x {height} px in one piece, more than {MAX_IMAGE_PIXELS / 1e6:.0f} million",
        path,
        "export it as a tiled TIFF",
    )


def _refuse_damage(path: Path) -> None:
    """Raise if a JPEG is damaged: Pillow would fill the rest with grey and say nothing."""
    data = path.read_bytes()
    try:
        simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return  # a rare form, which only Pillow reads
    try:
        simplejpeg.decode_jpeg(data, "GRAY", strict=True)
    except ValueError as error:
        raise SlideError(
            f"cannot be opened: it is damaged ({error})", path, "copy or export it again"
        ) from error


def _find_tiff_scale(tiff: Any) -> tuple[float, float] | None:
    """Pixel size by OME metadata, else ImageJ's, else the resolution tags, um/px."""
    if tiff.is_ome:
        scale = _find_ome_scale(tiff.ome_metadata)
        if scale is not None:
            return scale
    tags = tiff.pages[0].tags
    if "XResolution" not in tags or "YResolution" not in tags:
        return None
    unit_um = _UM_PER_TIFF_UNIT.get(int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 2)
    if tiff.is_imagej and unit_um is None:
        unit = str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
        unit_um = _UM_PER_UNIT.get(unit)
    counts = [tags[name].value for name in ("XResolution", "YResolution")]
    if unit_um is None or any(0 in count for count in counts):
        return None
    x, y = (unit_um * count[1] / count[0] for count in counts)
    return x, y


def _find_ome_scale(text: str) -> tuple[float, float] | None:
    """PhysicalSizeX and Y of the first image, um/px."""
    pixels = ElementTree.fromstring(text).find("{*}Image/{*}Pixels")
    if pixels is None:
        return None
    sizes = []
    for axis in "XY":
        size = _to_float(pixels.get(f"PhysicalSize{axis}"))
        unit_um = _UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if size is None or unit_um is None:
            return None
        sizes.append(size * unit_um)
    return sizes[0], sizes[1]


def _to_float(text: object) -> float | None:
    """A positive finite number, or None."""
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _decode_image(path: Path, start: bytes) -> _ArrayBackend:
    """A PNG or JPEG, decoded whole after a look at its size."""
    name = "png" if start.startswith(b"\x89PNG") else "jpeg"
    # The classes themselves: Image.open would warn or stop at a size of its own.
    plugin = PngImagePlugin.PngImageFile if name == "png" else JpegImagePlugin.JpegImageFile
    with path.open("rb") as file, plugin(file) as image:
        if image.width * image.height > MAX_IMAGE_PIXELS:
            _refuse_size(path, image.width, image.height)
        if image.mode not in ("RGB", "RGBA", "P", "PA"):
            _refuse_colours(path, f"mode {image.mode}")
        if name == "jpeg":
            _refuse_damage(path)
        dpi = image.info.get("dpi")
        clear = image.mode != "RGB" and ("A" in image.mode or "transparency" in image.info)
        pixels = _blend_on_white(np.asarray(image.convert("RGBA" if clear else "RGB")))
        return _ArrayBackend(
            pixels,
            About(
                format=name,
                is_field=True,
                mpp_xy=(25_400 / dpi[0], 25_400 / dpi[1]) if dpi and all(one > 0 for one in dpi) else None,
                icc_profile=_name_profile(image.info.get("icc_profile")),
            ),
        )
