"""Lanes and bands of one blot: from pixels to volumes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage
from scipy.signal import find_peaks, peak_widths
from skimage.restoration import ellipsoid_kernel, rolling_ball

from histoquant.blot.wedge import Wedge, apply_wedge
from histoquant.protocol import Settings

FloatImage = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Gray = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_SMOOTH_PX = 2.0
# A lane must stand out from its neighbours by this share of itself, and by this many noise SD.
_RISE = 0.25
_NOISE_SD = 6.0
_LEAST_OD = 0.01
# A gap this near to a whole number of spacings holds lanes without a visible band.
_GRID = 0.25
# A band ends where its profile has fallen to this share of its peak, and half as much again beyond.
_END_SHARE = 0.03
_MARGIN_SHARE = 0.5
_GROUND_ROWS = 15
# Grain makes rows this near alike; a parabola must beat the line by this F to be taken: by the F
# distribution P is 0.008 with 30 rows of ground, 0.003 with 80, 0.002 with 200.
_GRAIN_ROWS = 2
_BULGE_F = 10.0
# No Gaussian reaches further, in half-widths at half height: 2.65 SD (its 3 %) and the margin.
_REACH_WIDTHS = 3.4
# Share of a band's pixels above half its height that is clipped.
_CLIPPED = 0.01
# Its width at 90 % of its height to that at 50 %: 0.39 of a Gaussian, more where the top is cut off.
_FLAT = 0.46
_SECOND = 0.3


class BlotSettings(Settings):
    """How a blot is read."""

    bright: bool = False
    """Bands are bright on dark and values are proportional to light (CCD), not dark as on film."""
    background: Literal["linear", "rolling"] = "linear"
    """Background: a line from above to below each band, or a rolling ball over the whole image."""
    ball_px: Annotated[float, Field(ge=0)] = 0.0
    """Radius of the rolling ball; 0: the distance of the lanes."""
    linear_od: Annotated[float, Field(gt=0, le=5)] = 1.5
    """Peak density above the background beyond which film is not linear; not for bright bands."""


class _Rows(NamedTuple):
    """Rows of a band, whether it is seen, and whether there is another in its lane."""

    top: int
    bottom: int
    seen: bool = True
    other: bool = False


class Lane(NamedTuple):
    """Columns of a lane, and rows of its band (both -1: to be found), in px; the ends are outside."""

    left: int
    right: int
    top: int = -1
    bottom: int = -1


def measure_density(image: Gray, bright: bool = False, wedge: Wedge | None = None) -> FloatImage:
    """Turn pixels into what is proportional to the amount of protein.

    Parameters
    ----------
    image : ndarray of uint8 or uint16, shape (rows, columns)
        A scan that is linear in light.
    bright : bool, optional
        Bands are bright.
    wedge : Wedge, optional
        What density each value stands for.

    Returns
    -------
    ndarray of float32, same shape
        Optical density: by the wedge, or log10(white / value), white being the 99.5th percentile; of bright
        bands the share of the full scale.

    Examples
    --------
    >>> measure_density(np.array([[200, 20]], np.uint8)).round(2)
    array([[0., 1.]], dtype=float32)
    """
    if wedge is not None:
        return apply_wedge(image, wedge)
    if bright:
        return np.asarray(image / np.float32(np.iinfo(image.dtype).max), np.float32)
    white = max(float(np.percentile(image, 99.5, method="lower" if image.size > 200 else "higher")), 1.0)
    return np.asarray(np.log10(white / np.maximum(image, 1)), np.float32)


def find_lanes(density: FloatImage, number: int | None = None) -> list[Lane]:
    """Find the lanes by the darkest place of every column.

    The darkest place, not the sum: bands of tilted or smiling blots lie at different heights. Lanes end
    half way to their neighbours. Where lanes are missing from an even row, they are put in: their band is
    too faint to see, which is a result too.

    Parameters
    ----------
    density : ndarray of float32, shape (rows, columns)
        See `measure_density`.
    number : int, optional
        How many there are, where it is known.

    Returns
    -------
    list of Lane
        From left to right, without rows; `number` of them only if so many can be found.
    """
    flat = cv2.GaussianBlur(_level(density), (0, 0), _SMOOTH_PX)
    profile = ndimage.gaussian_filter1d(flat.max(axis=0).astype(float), max(_SMOOTH_PX, flat.shape[1] / 300))
    # What lies below the ground is noise alone; bands lie above it.
    below = flat[flat < 0]
    noise = 1.4826 * float(np.median(-below)) if below.size else 0.0
    least = max(_NOISE_SD * noise, _LEAST_OD)
    tops, about = find_peaks(profile, height=least, prominence=max(least / 2, _LEAST_OD / 2))
    strong = about["prominences"] >= _RISE * profile[tops]
    tops, rise = tops[strong], about["prominences"][strong]
    if number is not None and len(tops) > number:
        tops = np.sort(tops[np.argsort(rise)[::-1][:number]])
    # Half way between the flanks: the top of a saturated band is flat.
    _, _, left, right = peak_widths(profile, tops, rel_height=0.5)
    centers = _fill_gaps((left + right) / 2, number)
    return _cut_lanes(centers, density.shape[1])


def _level(density: FloatImage) -> FloatImage:
    """Density above a straight line in every column, through the paler rows of its upper and lower third."""
    third = max(density.shape[0] // 3, 1)
    wide = cv2.blur(density, (15, 1))
    ends = [np.percentile(part, 20, axis=0) for part in (wide[:third], wide[-third:])]
    rows = np.arange(density.shape[0])[:, None]
    share = (rows - third / 2) / max(density.shape[0] - third, 1)
    return np.asarray(density - (ends[0] + share * (ends[1] - ends[0])), np.float32)


def _fill_gaps(centers: Floats, number: int | None) -> Floats:
    """Centers with those put in that an even row lacks."""
    if len(centers) < 3 or (number is not None and len(centers) >= number):
        return centers
    step = float(np.median(np.diff(centers)))
    filled = [centers[:1]]
    for left, right in pairwise(centers):
        times = round((right - left) / step)
        even = times > 1 and abs((right - left) / step - times) < _GRID
        filled.append(np.linspace(left, right, times + 1)[1:] if even else np.array([right]))
    found = np.concatenate(filled)
    return found if number is None or len(found) <= number else centers


def _cut_lanes(centers: Floats, columns: int) -> list[Lane]:
    if not len(centers):
        return []
    between = (centers[1:] + centers[:-1]) / 2
    half = float(np.median(np.diff(centers))) / 2 if len(centers) > 1 else columns / 2
    edges = np.concatenate([[centers[0] - half], between, [centers[-1] + half]])
    edges = np.clip(np.rint(edges), 0, columns).astype(int)
    return [Lane(int(a), int(b)) for a, b in pairwise(edges)]


def measure_bands(
    image: Gray, lanes: Sequence[Lane], settings: BlotSettings, wedge: Wedge | None = None
) -> list[dict[str, Any]]:
    """Measure the strongest band of every lane, or the one between the rows given.

    Parameters
    ----------
    image : ndarray of uint8 or uint16, shape (rows, columns)
        The scan.
    lanes : sequence of Lane
        Where to look.
    settings : BlotSettings
        Background, and what is flagged.
    wedge : Wedge, optional
        What density each value stands for; what is darker than its steps is taken as clipped.

    Returns
    -------
    list of dict
        left_px, right_px, top_px, bottom_px; volume (sum of density above the background: OD x px, or share
        of full scale x px), peak and background (same unit, without px); saturated (a volume that is a lower
        bound), nonlinear (film), reason.
    """
    density = measure_density(image, settings.bright, wedge)
    ground = None
    if settings.background == "rolling":
        ground = _roll_ball(density, lanes, settings)
    limit = _find_clipping(image, settings.bright)
    clipped = (image >= limit) if settings.bright else (image <= limit)
    if wedge is not None:
        clipped |= image < wedge.darkest
        settings = settings.model_copy(update={"linear_od": np.inf})  # the curve has made it linear
    # Of a given band nothing is looked for.
    rows = [
        _Rows(lane.top, lane.bottom) if lane.top >= 0 else _find_band(density[:, lane.left : lane.right])
        for lane in lanes
    ]
    seen = [(one.top, one.bottom) for one in rows if one.seen]
    usual = np.median(seen or [(0, len(density))], axis=0).astype(int)
    return [
        _measure_band(
            density,
            ground,
            clipped,
            lane,
            one if one.seen else one._replace(top=usual[0], bottom=usual[1]),
            settings,
        )
        for lane, one in zip(lanes, rows, strict=True)
    ]


def _roll_ball(density: FloatImage, lanes: Sequence[Lane], settings: BlotSettings) -> FloatImage:
    """Background at a quarter of the resolution, a ball of the lanes' distance rolled below the density."""
    widths = [lane.right - lane.left for lane in lanes]
    radius = settings.ball_px or float(np.median(widths or [density.shape[1] / 10]))
    small = cv2.resize(density, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 1.0)
    # On a slope a ball does not touch the ground below its middle.
    plane = _fit_plane(np.asarray(small, np.float32))
    small = np.asarray(small - plane, np.float32)
    side = 2 * max(2.0, radius / 4)
    rolled = rolling_ball(small, kernel=ellipsoid_kernel((side, side), 0.1 * max(float(np.ptp(small)), 1e-3)))
    # A ball rests on the deepest noise: what is left over outside bands is put back.
    rest = small - rolled
    free = rest <= np.median(rest)
    back = rolled + np.float32(np.median(rest[free])) + plane
    size = density.shape[::-1]
    return np.asarray(cv2.resize(back.astype(np.float32), size, interpolation=cv2.INTER_LINEAR), np.float32)


def _fit_plane(small: FloatImage) -> FloatImage:
    """The plane through the paler half of an image whose bands run from side to side."""
    y, x = (part.astype(float) for part in np.indices(small.shape))
    all_places = np.stack([np.ones(small.size), y.ravel(), x.ravel()], axis=1)
    lifted = _level(small)
    pale = (lifted <= np.median(lifted)).ravel()
    weights = np.linalg.lstsq(all_places[pale], small.ravel()[pale].astype(float), rcond=None)[0]
    return np.asarray((all_places @ weights).reshape(small.shape), np.float32)


def _find_clipping(image: Gray, bright: bool) -> int:
    """The value at which the scan is clipped: the end of the scale, or one that many pixels end at."""
    full = int(np.iinfo(image.dtype).max)
    extreme = int(image.max()) if bright else int(image.min())
    same = int((image == extreme).sum())
    near = int((np.abs(image.astype(np.int64) - extreme) <= full // 100).sum())
    end = full if bright else 0
    return extreme if extreme == end or same > max(20, 0.5 * near) else (end if bright else -1)


def _measure_band(
    density: FloatImage,
    ground: FloatImage | None,
    clipped: npt.NDArray[np.bool_],
    lane: Lane,
    rows: _Rows,
    settings: BlotSettings,
) -> dict[str, Any]:
    top, bottom, seen, other = int(rows.top), int(rows.bottom), rows.seen, rows.other
    columns = np.s_[:, lane.left : lane.right]
    strip = density[columns] - (ground[columns] if ground is not None else 0)
    body = strip[top:bottom]
    # As many rows as the band has, so that grain in the ground weighs no more than grain in the band.
    reach = _GROUND_ROWS if other else max(_GROUND_ROWS, bottom - top)
    line = np.zeros(bottom - top) if ground is not None else _draw_line(strip, top, bottom, reach)
    above = body - line[:, None].astype(np.float32)
    peak = float(cv2.GaussianBlur(above, (0, 0), 1.0).max(initial=0))
    core = above > peak / 2
    cut = clipped[columns][top:bottom]
    pixels = max(int(core.sum()), 1)
    flat = _is_flat(above, peak)
    saturated = bool(seen and ((cut & core).sum() > _CLIPPED * pixels or flat))
    nonlinear = not settings.bright and peak > settings.linear_od
    below = float((line if ground is None else ground[columns][top:bottom]).mean()) if bottom > top else 0.0
    reasons = {
        "no band to be seen": not seen,
        "saturated: the true volume is larger": saturated,
        f"peak above {settings.linear_od:g} OD, where film is not linear": nonlinear,
        "another band in the lane": other,
    }
    return {
        "left_px": lane.left,
        "right_px": lane.right,
        "top_px": top,
        "bottom_px": bottom,
        "volume": float(above.sum(dtype=np.float64)),
        "peak": peak,
        "background": below,
        "saturated": saturated,
        "nonlinear": nonlinear,
        "reason": "; ".join(text for text, holds in reasons.items() if holds),
    }


def _find_band(strip: FloatImage) -> _Rows:
    """Rows of the strongest band of a lane, found again where the ground around it proves to bulge."""
    found = _search_band(strip)
    if not found.seen or found.other or found.top <= 0 or found.bottom >= len(strip):
        return found
    rows = np.r_[: found.top, found.bottom : len(strip)]
    fit = _fit_ground(rows, strip[rows].mean(axis=1, dtype=float))
    if len(fit) < 3:
        return found
    bulge = np.polyval(fit, np.arange(len(strip)))
    again = _search_band(np.asarray(strip - bulge[:, None], np.float32))
    return again if again.seen else found


def _search_band(strip: FloatImage) -> _Rows:
    """Rows of the strongest band above a straight line from one end of the lane to the other."""
    profile = ndimage.gaussian_filter1d(strip.mean(axis=1).astype(float), _SMOOTH_PX)
    half, last = (_GROUND_ROWS - 1) / 2, len(profile) - 1
    ends = [float(profile[:_GROUND_ROWS].mean()), float(profile[-_GROUND_ROWS:].mean())]
    # A straight line through the middles of both ends, and beyond them.
    slope = (ends[1] - ends[0]) / max(last - 2 * half, 1)
    lifted = profile - (ends[0] + slope * (np.arange(len(profile)) - half))
    at = int(np.argmax(lifted))
    height = float(lifted[at])
    noise = float(np.std(strip - cv2.GaussianBlur(strip, (0, 0), 2.0))) / np.sqrt(max(strip.shape[1], 1))
    seen = height > max(_NOISE_SD * noise, _LEAST_OD / 4)
    end = max(_END_SHARE * height, 2 * noise)
    below = lifted < end
    top = at - int(np.argmax(below[at::-1])) if below[: at + 1].any() else 0
    bottom = at + int(np.argmax(below[at:])) if below[at:].any() else len(lifted)
    more = round(_MARGIN_SHARE * (bottom - top) / 2)
    # A ground that bulges stays above that share far from the band.
    half_up, half_down = _find_half(lifted, at)
    first, end_row = at - round(_REACH_WIDTHS * half_up), at + round(_REACH_WIDTHS * half_down) + 1
    others = find_peaks(lifted, height=_SECOND * height, prominence=_SECOND * height)[0]
    other = bool(seen and ((others < top) | (others >= bottom)).any())
    return _Rows(max(top - more, first, 0), min(bottom + more, end_row, len(lifted)), bool(seen), other)


def _find_half(profile: Floats, at: int) -> tuple[float, float]:
    """Rows from a peak up and down to half its height."""
    low = profile < profile[at] / 2
    up = int(np.argmax(low[at::-1])) if low[: at + 1].any() else at
    down = int(np.argmax(low[at:])) if low[at:].any() else len(profile) - 1 - at
    return float(up), float(down)


def _draw_line(strip: FloatImage, top: int, bottom: int, reach: int) -> Floats:
    """Background of the rows of a band by `reach` rows above and below: a line, a parabola if it bulges."""
    rows = np.r_[max(top - reach, 0) : top, bottom : min(bottom + reach, len(strip))]
    if not rows.size:
        return np.full(bottom - top, float(np.percentile(strip, 5)))
    ground = strip[rows].mean(axis=1, dtype=float)
    if top <= 0 or bottom >= len(strip):  # one side cannot tell a slope
        return np.full(bottom - top, ground.mean())
    return np.asarray(np.polyval(_fit_ground(rows - top, ground), np.arange(bottom - top)), float)


def _fit_ground(rows: npt.NDArray[np.int64], ground: Floats) -> Floats:
    """Coefficients of a line through the ground, of a parabola where that fits clearly better."""
    fits = [np.polyfit(rows, ground, degree) for degree in (1, 2)]
    left = [float(np.sum((ground - np.polyval(fit, rows)) ** 2)) for fit in fits]
    free = max(len(rows) / _GRAIN_ROWS - 3, 1)
    bulges = (left[0] - left[1]) * free > _BULGE_F * left[1]
    return np.asarray(fits[1 if bulges else 0], float)


def _is_flat(above: FloatImage, peak: float) -> bool:
    """Whether the column of the band's middle is cut off at its top."""
    smooth = cv2.GaussianBlur(above, (0, 0), 1.0)
    middle = smooth[:, smooth.shape[1] // 3 : -(smooth.shape[1] // 3) or None].mean(axis=1)
    most = float(middle.max(initial=0))
    if most <= 0 or most < peak / 2:
        return False
    fine = np.interp(np.arange(0, len(middle), 0.05), np.arange(len(middle)), middle)
    return bool((fine > 0.9 * most).sum() > _FLAT * (fine > 0.5 * most).sum())
