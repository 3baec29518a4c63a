"""Stains: optical density of haematoxylin and DAB at the working resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.densities import unmix_pixels
from histoquant.errors import HistoquantError, ProtocolError
from histoquant.geometry import Patch
from histoquant.ranks import find_median

FloatImage = npt.NDArray[np.float32]
Vector = tuple[float, float, float]
WhiteSource = Literal["glass", "brightest"]

DEFAULT_VECTORS: tuple[Vector, Vector] = ((0.651, 0.701, 0.290), (0.269, 0.568, 0.778))
"""Optical density (red, green, blue) of haematoxylin and of DAB; Ruifrok & Johnston 2001."""

_MIN_ANGLE_DEG = 10.0
_DARK_OD = 0.25
_RATIO_STEP = 0.005
_MIN_NUCLEI_UM2 = 500.0


@dataclass(frozen=True)
class Stains:
    """Stain densities of a region.

    Attributes
    ----------
    haematoxylin, dab, residual : ndarray of float32, shape (rows, columns)
        Optical density; negative values are kept.
    x_um, y_um : float
        Upper left corner of the region, micrometres from the slide's upper left corner.
    mpp : float
        Pixel size, um/px.
    vectors : tuple of two vectors
        Optical density of haematoxylin and DAB by which they were separated.
    """

    haematoxylin: FloatImage
    dab: FloatImage
    residual: FloatImage
    x_um: float
    y_um: float
    mpp: float
    vectors: tuple[Vector, Vector] = DEFAULT_VECTORS


def separate_stains(
    patch: Patch,
    white: Vector,
    vectors: tuple[Vector, Vector] = DEFAULT_VECTORS,
    working_mpp: float = 0.5,
) -> Stains:
    """Separate haematoxylin and DAB, then bring them to the working resolution.

    Optical density is log10(white / intensity), taken at full resolution because the density of a
    mean is not the mean of densities; a pixel of intensity 0 is taken as 1. Area averaging and
    unmixing are both linear, so unmixing afterwards gives the same and costs less.

    Parameters
    ----------
    patch : Patch
        RGB pixels at any resolution.
    white : tuple of float
        Intensity of empty glass per channel.
    vectors : tuple of two vectors, optional
        Optical density of haematoxylin and DAB; of any length, they are made unit vectors.
    working_mpp : float, optional
        Pixel size of the result, um/px. A coarser patch is interpolated to it.

    Returns
    -------
    Stains
        Pixel size exactly `working_mpp`, same upper left corner. The last row or column may reach
        half a pixel beyond the patch, or leave less than half a pixel out.

    Raises
    ------
    ProtocolError
        White is not above 0, or the vectors are zero, negative or nearly parallel.

    References
    ----------
    Ruifrok AC, Johnston DA. Quantification of histochemical staining by color deconvolution.
    Anal Quant Cytol Histol 2001;23:291-299.
    """
    unmix = np.linalg.inv(_stain_matrix(vectors)).astype(np.float32)
    tables = np.stack(_density_tables(white))
    h, d, r = unmix_pixels(patch.pixels, tables, unmix, patch.mpp / working_mpp)
    return Stains(h, d, r, patch.x_um, patch.y_um, working_mpp, vectors)


def crop_stains(stains: Stains, box: tuple[slice, slice]) -> Stains:
    """Stains of a part of a region.

    Parameters
    ----------
    stains : Stains
        Of the region.
    box : tuple of slice
        Rows and columns, whose starts are no less than 0.

    Returns
    -------
    Stains
        Views of the same densities.

    Examples
    --------
    >>> image = np.zeros((4, 6), np.float32)
    >>> part = crop_stains(Stains(image, image, image, 10.0, 20.0, 0.5), np.s_[1:4, 2:4])
    >>> part.dab.shape, part.x_um, part.y_um
    ((3, 2), 11.0, 20.5)
    """
    return replace(
        stains,
        haematoxylin=stains.haematoxylin[box],
        dab=stains.dab[box],
        residual=stains.residual[box],
        x_um=stains.x_um + box[1].start * stains.mpp,
        y_um=stains.y_um + box[0].start * stains.mpp,
    )


def sum_density(stains: Stains) -> FloatImage:
    """Sum the optical density over red, green and blue: the stains put together again.

    Parameters
    ----------
    stains : Stains
        Of `separate_stains`; exact as long as no stain was changed.

    Returns
    -------
    ndarray of float32, shape of `stains.dab`
    """
    h, d, r = _stain_matrix(stains.vectors).sum(axis=1).astype(np.float32)
    total = h * stains.haematoxylin + d * stains.dab + r * stains.residual
    return np.asarray(total, np.float32)


def correct_spill(stains: Stains, shares: tuple[float, float] = (0.07, 0.6)) -> Stains:
    """Take haematoxylin that shows as DAB out of DAB, where the vectors do not fit the slide.

    Most nuclei hold no DAB, so that the commonest ratio of DAB to haematoxylin in them, both above the
    region's median, is what the vectors are wrong by. Edges of nuclei alone give a little
    (`predict_edge_dab`); only what goes beyond is taken off. Not for markers of the nucleus.

    Parameters
    ----------
    stains : Stains
        A region with its nuclei resolved.
    shares : tuple of float, optional
        Ratio up to which nothing is done (0.07 is 2 degrees), and the largest that is looked for.

    Returns
    -------
    Stains
        `dab` changed; the same object where there is nothing to do.

    Examples
    --------
    >>> blue = np.zeros((200, 200), np.float32)
    >>> blue[:60, :60] = 0.5
    >>> spilt = Stains(blue, 0.36 * blue, blue, 0.0, 0.0, 0.5)
    >>> round(float(spilt.dab.max()), 2), round(float(correct_spill(spilt).dab.max()), 2)
    (0.18, 0.03)
    """
    spill = measure_spill(stains, shares[1])
    excess = float(np.sign(spill)) * max(abs(spill) - shares[0], 0.0)
    if excess == 0:
        return stains
    ground = np.float32(find_median(stains.haematoxylin[::4, ::4]))
    spilt = stains.haematoxylin - ground
    np.multiply(spilt, np.float32(excess), out=spilt)
    return replace(stains, dab=np.subtract(stains.dab, spilt, out=spilt))


def measure_spill(stains: Stains, limit: float = 0.6) -> float:
    """Measure how much DAB the haematoxylin of nuclei shows: the commonest ratio of the two.

    Parameters
    ----------
    stains : Stains
        A region with its nuclei resolved.
    limit : float, optional
        Largest ratio looked for.

    Returns
    -------
    float
        0 where there are too few nuclei to say.
    """
    blue, brown = (image[::2, ::2].ravel() for image in (stains.haematoxylin, stains.dab))
    blue = blue - find_median(blue)
    dark = np.flatnonzero(blue > _DARK_OD)
    ratios = (brown[dark] - find_median(brown)) / blue[dark]
    counts, edges = np.histogram(ratios, np.linspace(-limit, limit, round(2 * limit / _RATIO_STEP) + 1))
    if counts.sum() * stains.mpp**2 * 4 < _MIN_NUCLEI_UM2:
        return 0.0
    smooth = cv2.GaussianBlur(counts.astype(np.float32)[None], (0, 0), 4)[0]
    best = int(np.argmax(smooth))
    return float(edges[best] + edges[best + 1]) / 2


def predict_edge_dab(
    haematoxylin: npt.NDArray[np.float64], ground_od: float = 0.08
) -> npt.NDArray[np.float64]:
    """Predict the DAB that the edge of a nucleus shows though it holds none.

    Optics and pixels mix light, not density: half nucleus, half bright ground has a density that is no
    mixture of both densities, but browner than either.

    Parameters
    ----------
    haematoxylin : ndarray of float
        Optical density of nuclei.
    ground_od : float, optional
        Haematoxylin of their surroundings.

    Returns
    -------
    ndarray of float, same shape
        DAB where the mixture is brownest.

    References
    ----------
    Haub P, Meckel T. A model based survey of colour deconvolution in diagnostic brightfield microscopy.
    Sci Rep 2015;5:12096 (mixture in a pixel breaks the law of Lambert and Beer).

    Examples
    --------
    >>> predict_edge_dab(np.array([0.3, 0.6, 1.0, 1.5])).round(3)
    array([0.002, 0.012, 0.038, 0.087])
    """
    unit = _stain_matrix(DEFAULT_VECTORS)
    levels = np.linspace(0, 2.5, 51)
    share = np.linspace(0, 1, 41)[:, None, None]
    light = share * 10 ** (-levels[:, None] * unit[0]) + (1 - share) * 10 ** (-ground_od * unit[0])
    brownest = (-np.log10(light) @ np.linalg.inv(unit))[..., 1].max(axis=0)
    return np.asarray(np.interp(haematoxylin, levels, brownest), float)


def _density_tables(white: Vector) -> list[FloatImage]:
    if not all(np.isfinite(value) and value > 0 for value in white):
        raise ProtocolError(f"white point {white} is not above 0", "stain.white", "give three intensities")
    intensity = np.maximum(np.arange(256), 1)
    return [np.log10(value / intensity).astype(np.float32) for value in white]


def _stain_matrix(vectors: tuple[Vector, Vector]) -> npt.NDArray[np.float64]:
    """Unit rows: haematoxylin, DAB, and what is orthogonal to both."""
    where, fix = "stain.vectors", "give two different optical density vectors (red, green, blue)"
    pair = np.asarray(vectors, float)
    lengths = np.linalg.norm(pair, axis=1)
    if not np.isfinite(pair).all() or (lengths < 1e-6).any() or (pair < -0.2 * lengths[:, None]).any():
        raise ProtocolError("stain vectors are zero, negative or not numbers", where, fix)
    first, second = pair / lengths[:, None]
    if angle_between(vectors[0], vectors[1]) < _MIN_ANGLE_DEG:
        raise ProtocolError("the two stain vectors are nearly parallel", where, fix)
    third = np.cross(first, second)
    return np.stack([first, second, third / np.linalg.norm(third)])


def angle_between(first: Vector, second: Vector) -> float:
    """Angle between two stain vectors, degrees.

    Examples
    --------
    >>> round(angle_between((1.0, 0.0, 0.0), (1.0, 1.0, 0.0)), 6)
    45.0
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def estimate_white(pixels: npt.NDArray[np.uint8], min_share: float = 0.003) -> tuple[Vector, WhiteSource]:
    """Estimate the intensity of empty glass from an overview.

    Glass is the brightest colourless peak of the histogram. Pure white is left out where other
    glass is there, since formats fill places never scanned with it.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (rows, columns, 3)
        RGB overview of a slide, or a field image.
    min_share : float, optional
        Least share of the pixels that makes a peak.

    Returns
    -------
    white : tuple of float
        Intensity per channel.
    source : {"glass", "brightest"}
        `brightest`: no glass was seen, and the brightest 0.5 % per channel stand in; densities are
        then relative to the palest tissue.

    Raises
    ------
    HistoquantError
        The image is empty or black.
    """
    if pixels.size == 0 or int(pixels.max()) == 0:
        raise HistoquantError("the overview is empty or black", fix="give stain.white in the protocol")
    flat = np.asarray(cv2.blur(pixels, (3, 3)), np.uint8).reshape(-1, 3)
    filled = cv2.dilate((pixels == 255).all(axis=2).astype(np.uint8), np.ones((3, 3), np.uint8)).ravel() > 0
    for candidates in (flat[~filled], flat):
        glass = _find_glass(candidates, max(int(min_share * len(flat)), 20))
        if glass is not None:
            return glass, "glass"
    red, green, blue = (max(float(np.percentile(flat[:, c], 99.5)), 1.0) for c in range(3))
    return (red, green, blue), "brightest"


def _find_glass(flat: npt.NDArray[np.uint8], min_pixels: int) -> Vector | None:
    colourless = flat[(flat.max(axis=1, initial=0) - flat.min(axis=1, initial=255)) <= 20]
    level = colourless[:, 1].astype(int)
    near = np.convolve(np.bincount(level, minlength=256), np.ones(7), mode="same")
    peaks = [
        i for i in range(180, 256) if near[i] >= min_pixels and near[i] == near[max(i - 6, 0) : i + 7].max()
    ]
    if not peaks:
        return None
    above = level[level >= peaks[-1]]
    # Nothing is brighter than glass and glass is even; the peak of pale tissue has a slope above it.
    if above.size and (above <= peaks[-1] + 3).mean() < 0.75:
        return None
    red, green, blue = colourless[np.abs(level - peaks[-1]) <= 3].mean(axis=0, dtype=float)
    return float(red), float(green), float(blue)


def estimate_vectors(
    pixels: npt.NDArray[np.uint8], white: Vector, min_od: float = 0.15, tail: float = 1.0
) -> tuple[Vector, Vector]:
    """Estimate the stain vectors of haematoxylin and DAB.

    The two principal directions of stained pixels span a plane; its extreme angles are the stains.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (rows, columns, 3)
        RGB of stained tissue, fine enough to resolve nuclei.
    white : tuple of float
        Intensity of empty glass per channel.
    min_od : float, optional
        Length of the optical density vector below which a pixel is unstained.
    tail : float, optional
        Percentage of the angles beyond which a pixel is an outlier.

    Returns
    -------
    haematoxylin, dab : tuple of float
        Unit vectors.

    Raises
    ------
    HistoquantError
        Too little stain, or only one stain, to say; or what was found is more than 20 degrees away
        from haematoxylin or DAB.

    References
    ----------
    Macenko M et al. A method for normalizing histology slides for quantitative analysis.
    IEEE ISBI 2009:1107-1110.
    """
    tables = _density_tables(white)
    density = np.stack([tables[c][pixels[..., c].ravel()] for c in range(3)], axis=1).astype(float)
    density = density[np.linalg.norm(density, axis=1) > min_od]
    fix = "use the default vectors or give them in the protocol"
    if len(density) < 1000:
        raise HistoquantError("too little stain to estimate stain vectors", "stain.vectors", fix)
    plane = np.linalg.eigh(np.cov(density.T))[1][:, 1:]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    angles = np.arctan2(density @ plane[:, 0], density @ plane[:, 1])
    ends = np.percentile(angles, [tail, 100 - tail])
    found = [plane[:, 0] * np.sin(end) + plane[:, 1] * np.cos(end) for end in ends]
    haematoxylin, dab = sorted((_as_vector(v) for v in found), key=lambda v: v[2] - v[0])
    apart = angle_between(haematoxylin, dab) >= _MIN_ANGLE_DEG
    usual = all(
        angle_between(got, known) <= 20
        for got, known in zip((haematoxylin, dab), DEFAULT_VECTORS, strict=True)
    )
    if not (apart and usual):
        raise HistoquantError("haematoxylin and DAB cannot be told apart", "stain.vectors", fix)
    return haematoxylin, dab


def _as_vector(values: npt.NDArray[np.float64]) -> Vector:
    red, green, blue = values / np.linalg.norm(values)
    return float(red), float(green), float(blue)
