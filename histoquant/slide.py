# This module touches files: it opens slides and field images and reads their pixels.
"""Slides and field images: what they are, and their pixels in micrometres at any resolution."""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import cv2
import numpy as np

from histoquant.backends import Backend, Level, Rgb, open_backend
from histoquant.errors import ScaleError, SlideError
from histoquant.geometry import PLAUSIBLE_MPP, Patch
from histoquant.lazy import LazyArray

Kind = Literal["slide", "field"]

FIELD_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

_GIVE_MPP = "give --mpp, or the column mpp of the study table"
_BAND_PIXELS = 64_000_000
_SAME_SCALE = 1.01


@dataclass(frozen=True)
class Slide:
    """An open slide or field image; use it in a `with` block.

    It holds file handles and cannot be pickled: send `path` to another process and open it there.

    Attributes
    ----------
    path : Path
        The file.
    kind : {"slide", "field"}
        Whole slide, or an image of one field.
    format : str
        Scanner's format as OpenSlide names it, or `ome-tiff`, `tiff`, `png`, `jpeg`.
    width_px, height_px : int
        Size of level 0.
    mpp : float or None
        Pixel size of level 0, um/px, given or from metadata; None if neither is plausible.
    objective_power : float or None
        Magnification of the objective, for information only.
    levels : tuple of Level
        From fine to coarse.
    problems : tuple of str
        What a reader should know, one sentence each.
    icc_profile : str or None
        Description of the colour profile, which is not applied.
    bounds_px : tuple of int
        Upper left corner of the scanned area, level-0 pixels; positions count from the slide's corner.
    """

    path: Path
    kind: Kind
    format: str
    width_px: int
    height_px: int
    mpp: float | None
    objective_power: float | None
    levels: tuple[Level, ...]
    problems: tuple[str, ...]
    icc_profile: str | None
    bounds_px: tuple[int, int]
    _backend: Backend = field(repr=False, compare=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._backend.close()

    def read(
        self, x_um: float, y_um: float, width_um: float, height_um: float, mpp: float | None = None
    ) -> Patch:
        """Read a region.

        Parameters
        ----------
        x_um, y_um, width_um, height_um : float
            The region; it is clipped to the slide and snapped to pixels of the level read.
        mpp : float, optional
            Pixel size wanted, um/px: taken by INTER_AREA from the coarsest level that is not coarser.
            None, or finer than level 0, gives the pixels of level 0 untouched; so does, for any level, a
            size within 1 % of its own.

        Returns
        -------
        Patch
            With the exact place and pixel size of what was read.

        Raises
        ------
        ScaleError
            The slide's pixel size is unknown.
        SlideError
            The region is empty or outside the slide, or its pixels cannot be read.
        """
        base = require_mpp(self)
        if not (min(width_um, height_um) > 0 and math.isfinite(x_um + y_um + width_um + height_um)):
            raise SlideError(
                f"region of {width_um} x {height_um} um at ({x_um}, {y_um}) is empty",
                self.path,
                "give a positive size",
            )
        index = _choose_level(self.levels, 1.0 if mpp is None else mpp / base)
        level = self.levels[index]
        pixel_um = base * level.downsample
        left, right = _snap(x_um, width_um, pixel_um, level.width_px)
        top, bottom = _snap(y_um, height_um, pixel_um, level.height_px)
        if right <= left or bottom <= top:
            raise SlideError(
                f"region at ({x_um:g}, {y_um:g}) um lies outside the slide",
                self.path,
                f"the slide is {self.width_px * base:.1f} x {self.height_px * base:.1f} um",
            )
        result_mpp = mpp if mpp is not None and mpp >= pixel_um * _SAME_SCALE else pixel_um
        box = left, top, right, bottom
        pixels = _read_shrunk(partial(self._read_level, index), box, result_mpp / pixel_um)
        return Patch(pixels, left * pixel_um, top * pixel_um, result_mpp)

    def overview(self, mpp: float) -> Patch:
        """The whole slide at a pixel size.

        Parameters
        ----------
        mpp : float
            Pixel size wanted, um/px.

        Returns
        -------
        Patch

        Raises
        ------
        ScaleError, SlideError
            As `read`.
        """
        base = require_mpp(self)
        return self.read(0.0, 0.0, self.width_px * base, self.height_px * base, mpp)

    def pyramid(self) -> list[LazyArray]:
        """The levels as lazy arrays, read tile by tile until the slide is closed.

        Returns
        -------
        list of LazyArray of uint8, shape (rows, columns, 3)
            From fine to coarse. The file is closed when neither they nor the slide are in use.
        """
        weakref.finalize(self, self._backend.close)
        return [
            LazyArray((level.height_px, level.width_px, 3), np.uint8, partial(self._read_level, index))
            for index, level in enumerate(self.levels)
        ]

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> Rgb:
        try:
            return self._backend.read_level(level, x, y, width, height)
        except Exception as error:  # codecs raise anything on a damaged file
            raise SlideError(
                f"cannot read {width} x {height} px at ({x}, {y}) of level {level} ({error})",
                self.path,
                "the file is damaged there; copy or export it again",
            ) from error


def open_slide(path: str | Path, mpp: float | None = None, kind: Kind | None = None) -> Slide:
    """Open a slide or a field image.

    Parameters
    ----------
    path : str or Path
        What OpenSlide reads, an OME-TIFF, or a field image (PNG, JPEG, TIFF).
    mpp : float, optional
        Pixel size, um/px; goes before the file's own.
    kind : {"slide", "field"}, optional
        By default PNG, JPEG and single-level TIFF without a scanner's own metadata are fields.

    Returns
    -------
    Slide

    Raises
    ------
    ScaleError
        `mpp` is not between 0.1 and 1.1.
    SlideError
        The file is missing, a folder, damaged, too large, or no RGB image.
    """
    path = Path(path)
    if mpp is not None and not PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]:
        raise ScaleError(f"pixel size {mpp:g} um/px is not plausible", path, "give one from 0.1 to 1.1 um/px")
    backend = open_backend(path)
    about, base = backend.about, backend.levels[0]
    own_mpp, problems = _judge_scale(about.mpp_xy, mpp)
    if own_mpp is None and mpp is None and about.objective_power is not None:
        problems += (
            f"An objective power of {about.objective_power:g} does not tell the pixel size; {_GIVE_MPP}.",
        )
    return Slide(
        path=path,
        kind=kind or ("field" if about.is_field else "slide"),
        format=about.format,
        width_px=base.width_px,
        height_px=base.height_px,
        mpp=own_mpp if mpp is None else float(mpp),
        objective_power=about.objective_power,
        levels=backend.levels,
        problems=problems,
        icc_profile=about.icc_profile,
        bounds_px=about.bounds_px,
        _backend=backend,
    )


def require_mpp(slide: Slide) -> float:
    """Pixel size of level 0.

    Parameters
    ----------
    slide : Slide
        An open slide.

    Returns
    -------
    float
        um/px.

    Raises
    ------
    ScaleError
        It is neither given nor plausible in the file; the message says how to give one.
    """
    if slide.mpp is None:
        problem = slide.problems[0] if slide.problems else "The pixel size is unknown."
        raise ScaleError(problem.rstrip("."), slide.path, _GIVE_MPP)
    return slide.mpp


def describe_slide(slide: Slide) -> dict[str, object]:
    """What a slide is, for a person to read.

    Parameters
    ----------
    slide : Slide
        An open slide.

    Returns
    -------
    dict
        Plain values by name: path, kind, format, sizes, pixel size, power, levels, profile, problems;
        the problems include a place in the middle that cannot be read.
    """
    problems = list(slide.problems)
    last = slide.levels[-1]
    try:
        slide._read_level(len(slide.levels) - 1, last.width_px // 2, last.height_px // 2, 1, 1)
    except SlideError as error:
        problems.append(f"{error.what}.".capitalize())
    size_mm = None
    if slide.mpp is not None:
        size_mm = [round(pixels * slide.mpp / 1000, 3) for pixels in (slide.width_px, slide.height_px)]
    return {
        "path": str(slide.path),
        "kind": slide.kind,
        "format": slide.format,
        "size_px": [slide.width_px, slide.height_px],
        "size_mm": size_mm,
        "mpp": slide.mpp,
        "objective_power": slide.objective_power,
        "levels": [[one.width_px, one.height_px, round(one.downsample, 4)] for one in slide.levels],
        "icc_profile": slide.icc_profile,
        "bounds_px": list(slide.bounds_px),
        "problems": problems,
    }


def list_field_images(folder: str | Path) -> tuple[Path, ...]:
    """Field images of a folder, 2 before 10.

    Parameters
    ----------
    folder : str or Path
        Folder of PNG, JPEG and TIFF files; hidden files and others are left out.

    Returns
    -------
    tuple of Path

    Raises
    ------
    SlideError
        The folder cannot be listed or holds no image.
    """
    folder = Path(folder)
    try:
        files = [path for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise SlideError(f"cannot be listed ({error.strerror})", folder, "check the path") from error
    images = [p for p in files if p.suffix.lower() in FIELD_SUFFIXES and not p.name.startswith(".")]
    if not images:
        raise SlideError(
            "holds no field image", folder, f"put {', '.join(FIELD_SUFFIXES)} files directly into it"
        )
    return tuple(sorted(images, key=lambda path: (_natural_key(path.name), path.name)))


def _natural_key(name: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(index % 2 == 0, 0 if index % 2 == 0 else int(part), part) for index, part in enumerate(parts)]


def _judge_scale(
    mpp_xy: tuple[float, float] | None, given: float | None
) -> tuple[float | None, tuple[str, ...]]:
    """The file's pixel size if it can be believed, and what is wrong with it."""
    if mpp_xy is None:
        return None, () if given else ("The file does not tell its pixel size.",)
    x, y = mpp_xy
    if not all(PLAUSIBLE_MPP[0] <= one <= PLAUSIBLE_MPP[1] for one in mpp_xy):
        return None, (f"The file's pixel size of {max(x, y):.4g} um/px is not plausible and is not used.",)
    if abs(x / y - 1) > 0.01:
        return None, (f"The file's pixels are not square ({x:.4g} x {y:.4g} um).",)
    own = x if x == y else (x + y) / 2
    if given and abs(given / own - 1) > 0.01:
        return own, (f"The given pixel size of {given:g} um/px is used; the file says {own:.4g}.",)
    return own, ()


def _choose_level(levels: tuple[Level, ...], factor: float) -> int:
    """The coarsest level that is not coarser than wanted."""
    fine = [i for i, level in enumerate(levels) if level.downsample <= factor * _SAME_SCALE]
    return max(fine, key=lambda i: levels[i].downsample, default=0)


def _snap(start_um: float, length_um: float, pixel_um: float, size_px: int) -> tuple[int, int]:
    """First and last + 1 pixel of an interval, clipped; at least one pixel if it touches the slide."""
    if start_um + length_um <= 0:
        return 0, 0
    first = round(start_um / pixel_um)
    last = max(round((start_um + length_um) / pixel_um), first + 1)
    return max(first, 0), min(last, size_px)


def _read_shrunk(
    read: Callable[[int, int, int, int], Rgb], box: tuple[int, int, int, int], factor: float
) -> Rgb:
    """Pixels of a box, area-averaged by a factor; large ones in bands, by the factor's whole part first."""
    left, top, right, bottom = box
    width, height, whole = right - left, bottom - top, int(factor)
    if whole < 2 or width * height <= _BAND_PIXELS:
        return _shrink(read(left, top, width, height), factor)
    step = whole * max(1, _BAND_PIXELS // (width * whole))
    bands = [
        _shrink(read(left, y, width, min(step, bottom - y)), float(whole)) for y in range(top, bottom, step)
    ]
    return _shrink(np.concatenate(bands), factor / whole)


def _shrink(pixels: Rgb, factor: float) -> Rgb:
    """Average over squares of `factor` pixels; the last row and column average what there is."""
    if factor == 1.0:
        return pixels
    if min(pixels.shape[:2]) < factor:  # cv2 would round to no pixel at all
        size = tuple(max(1, round(n / factor)) for n in pixels.shape[1::-1])
        return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    # With scales instead of a size, cv2 keeps the factor exact in both directions.
    small = cv2.resize(pixels, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)
