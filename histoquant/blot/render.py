"""Blots rendered with known volumes, to test what is measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage

from histoquant.protocol import Settings

Floats = npt.NDArray[np.float64]


class BlotRendering(Settings):
    """What a rendered blot looks like."""

    spacing_px: Annotated[float, Field(gt=10)] = 90.0
    """Distance of lanes."""
    height_px: Annotated[int, Field(ge=40)] = 160
    """Height of the strip."""
    noise: Annotated[float, Field(ge=0)] = 0.02
    """SD of the film's grain, relative to transmitted light."""
    tilt_deg: float = 0.0
    """The strip is turned by this."""
    smile_px: float = 0.0
    """Bands of the outer lanes lie this much lower than the middle ones."""
    gradient_od: float = 0.05
    """Background rises by this from left to right and from top to bottom."""
    bulge_od: float = 0.0
    """Background is higher by this in the middle of the strip than at its upper and lower edge (cosine)."""
    film_od: Annotated[float, Field(gt=0)] = 10.0
    """Density at which film saturates; 10: it does not."""
    scan_od: Annotated[float, Field(gt=0)] = 3.0
    """Density at which the scanner is clipped."""


class Rendered(NamedTuple):
    """Pixels; of every lane the true volume (OD x px), its center, and what share film or scanner took."""

    image: npt.NDArray[np.uint16]
    volumes: Floats
    centers_px: Floats
    lost: Floats


def render_blot(rng: np.random.Generator, peaks_od: Sequence[float], settings: BlotRendering) -> Rendered:
    """Render one strip with a band per lane.

    Parameters
    ----------
    rng : numpy.random.Generator
        Shapes and noise.
    peaks_od : sequence of float
        Peak density of every band; 0: none.
    settings : BlotRendering
        Faults.

    Returns
    -------
    Rendered
        Volumes are those of the density before film, scanner and noise.
    """
    n = len(peaks_od)
    rows, columns = settings.height_px, round((n + 1) * settings.spacing_px)
    y, x = np.indices((rows, columns), float)
    centers = (np.arange(n) + 1.0) * settings.spacing_px + rng.normal(0, 0.03 * settings.spacing_px, n)
    off = (np.arange(n) - (n - 1) / 2) / max((n - 1) / 2, 1)
    slope = np.tan(np.deg2rad(settings.tilt_deg))
    bands = np.zeros((n, rows, columns))
    for i, peak in enumerate(peaks_od):
        half = settings.spacing_px * rng.uniform(0.28, 0.36)
        tall = rng.uniform(5.0, 8.0)
        middle = rows / 2 + settings.smile_px * (off[i] ** 2 - 0.5) + slope * (x - columns / 2)
        flank = np.exp(-(((x - centers[i]) / half) ** 6))
        bands[i] = peak * flank * np.exp(-0.5 * ((y - middle) / tall) ** 2)
    pure = bands.sum(axis=0)
    ground = 0.15 + settings.gradient_od * (x / columns + y / rows)
    ground = ground + settings.bulge_od * np.sin(np.pi * y / rows)
    film, image = _expose(rng, pure + ground, settings)
    seen = np.minimum(film, settings.scan_od) - ground
    volumes = bands.sum(axis=(1, 2))
    kept = np.array([(seen * band / np.maximum(pure, 1e-12)).sum() for band in bands])
    return Rendered(image, volumes, centers, 1 - kept / np.maximum(volumes, 1e-12))


def render_wedge(rng: np.random.Generator, od: Sequence[float], settings: BlotRendering) -> Floats:
    """Render a step wedge on the same film with the same scanner.

    Parameters
    ----------
    rng : numpy.random.Generator
        Noise.
    od : sequence of float
        Density of every step, before film and scanner.
    settings : BlotRendering
        Film, scanner and noise.

    Returns
    -------
    ndarray of float64, shape (steps,)
        Mean pixel value of every step, of 40 x 40 px.
    """
    return np.array([_expose(rng, np.full((40, 40), step), settings)[1].mean() for step in od])


def _expose(
    rng: np.random.Generator, od: Floats, settings: BlotRendering
) -> tuple[Floats, npt.NDArray[np.uint16]]:
    """Density on the film, and the pixels of its scan."""
    limit = settings.film_od
    film = limit * (1 - np.exp(-((od / limit) ** 4))) ** 0.25 if limit < 10 else od
    light = 10**-film * (1 + settings.noise * ndimage.gaussian_filter(rng.normal(0, 2.0, film.shape), 0.7))
    pixels = np.clip(np.rint(60_000 * light), round(60_000 * 10**-settings.scan_od), 65_535)
    return film, pixels.astype(np.uint16)
