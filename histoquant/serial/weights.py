"""By how much the ground of windows bears positive cells, by its distance to fibers.

Cells of any marker lie between fibers, and more of them in wide spaces than in narrow ones. Two markers that
have nothing else in common are together for that reason. How dense the positive cells of a marker are at
each distance from the nearest fiber is taken from all windows; pairs are then expected of that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from histoquant.serial.spaces import EDGES_UM, FINE_UM
from histoquant.serial.windows import PIXEL_UM, Window

Floats = npt.NDArray[np.float64]

_CLASSES = len(EDGES_UM) + 1
_FINE = round(PIXEL_UM / FINE_UM)


def weigh_ground(windows: Sequence[Window]) -> list[tuple[Floats, Floats]]:
    """Tell how dense the positive cells of either marker are where a window's ground lies as it does.

    Parameters
    ----------
    windows : sequence of Window
        All windows of two markers; how densities go by distance to fibers is taken from all of them.

    Returns
    -------
    list of pair of ndarray of float, shape of the window's mask
        By window and marker: density by that of all ground, 0 outside; 1 in windows whose fibers are not
        known.
    """
    shares = [_share_ground(window) for window in windows]
    rates = [_find_rates(windows, shares, marker) for marker in (0, 1)]
    found = []
    for window, share in zip(windows, shares, strict=True):
        even = window.mask.astype(float)
        one, two = (
            even if share is None else np.tensordot(rate, share[marker], 1)
            for marker, rate in enumerate(rates)
        )
        found.append((one, two))
    return found


def _share_ground(window: Window) -> tuple[Floats, Floats] | None:
    """Share of every pixel of the mask that is in each class, of either section: (classes, rows, columns)."""
    if window.spaces is None:
        return None
    rows, columns = window.mask.shape
    one, two = (
        np.array(
            [
                (classes == number).reshape(rows, _FINE, columns, _FINE).mean((1, 3)) * window.mask
                for number in range(_CLASSES)
            ]
        )
        for classes in window.spaces
    )
    return one, two


def _find_rates(
    windows: Sequence[Window], shares: Sequence[tuple[Floats, Floats] | None], marker: int
) -> Floats:
    """Density of positive cells in each class by that in all."""
    cells, area = np.zeros(_CLASSES), np.zeros(_CLASSES)
    for window, share in zip(windows, shares, strict=True):
        if share is None or window.spaces is None:
            continue
        points = window.positive[marker]
        column, row = np.floor(points / FINE_UM).astype(int).T
        cells += np.bincount(window.spaces[marker][row, column], minlength=_CLASSES)
        area += share[marker].sum((1, 2))
    if not cells.sum():
        return np.ones(_CLASSES)
    rates = np.divide(cells, area, out=np.zeros(_CLASSES), where=area > 0)
    return np.asarray(rates * area.sum() / cells.sum())
