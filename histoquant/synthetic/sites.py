"""Point patterns of two markers whose cells gather in sites, a planted share of them in common."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from histoquant.protocol import Positive, Settings, Share
from histoquant.synthetic.settings import Amount

Floats = npt.NDArray[np.float64]


class SitesSettings(Settings):
    """Sites of one biopsy."""

    overlap: Share = 0.0
    """Share of each marker's sites that hold both."""
    sites_per_mm2: Positive = 12.0
    """Sites of each marker."""
    site_um: Positive = 40.0
    """Standard deviation of cells about a site, by axis."""
    cells: Annotated[float, Field(gt=0)] = 8.0
    """Mean positive cells of a marker in a site."""
    others_per_mm2: Amount = 600.0
    """Cells that are positive for neither."""
    error_um: Amount = 0.0
    """Standard deviation of the shift of the second section as a whole, by axis."""


def scatter_sites(
    rng: np.random.Generator, width_um: float, settings: SitesSettings
) -> tuple[Floats, Floats, Floats, Floats]:
    """Scatter cells over a square in which a field lies; sites around it reach into it.

    Parameters
    ----------
    rng : Generator
        Source of randomness.
    width_um : float
        Side of the square.
    settings : SitesSettings
        Densities, and the planted overlap.

    Returns
    -------
    first, second : ndarray of float, shape (n, 2)
        Positive cells of either marker, um from the square's corner.
    first_others, second_others : ndarray of float, shape (n, 2)
        Other cells of either section.
    """
    rim = 4 * settings.site_um
    side = width_um + 2 * rim
    expected = settings.sites_per_mm2 * side**2 / 1e6

    def scatter(number: float) -> Floats:
        return rng.uniform(-rim, width_um + rim, (rng.poisson(number), 2))

    common = scatter(settings.overlap * expected)
    shift = rng.normal(0, settings.error_um, 2) if settings.error_um else np.zeros(2)
    positive = []
    for moved in (np.zeros(2), shift):
        sites = np.vstack([common, scatter((1 - settings.overlap) * expected)])
        about = np.repeat(sites, rng.poisson(settings.cells, len(sites)), axis=0)
        positive.append(_crop(about + rng.normal(0, settings.site_um, about.shape) + moved, width_um))
    others = [_crop(scatter(settings.others_per_mm2 * side**2 / 1e6), width_um) for _ in range(2)]
    return positive[0], positive[1], others[0], others[1]


def _crop(points: Floats, width_um: float) -> Floats:
    return points[((points >= 0) & (points < width_um)).all(1)]
