"""Fibers: segmenters by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from histoquant.classical import segment_classically
from histoquant.errors import ProtocolError
from histoquant.geometry import frame_mask
from histoquant.network import hash_model, segment_with_network
from histoquant.protocol import FiberSettings
from histoquant.stains import Stains, crop_stains

Labels = npt.NDArray[np.int32]
ENTRY_POINTS = "histoquant.segmenters"


class Segmenter(Protocol):
    """Anything that finds fibers in stains.

    Called with `Stains`, it returns int32 labels of the same shape, 0 where there is no fiber. A
    segmenter is pure and deterministic: the same stains give the same labels.
    """

    def __call__(self, stains: Stains) -> Labels:
        """Label the fibers of a region."""
        ...


def get_segmenter(settings: FiberSettings) -> Segmenter:
    """Find a segmenter by the name in the settings.

    `network` and `classical` are built in. Others are entry points of the group
    `histoquant.segmenters`: a callable that takes `FiberSettings` and returns a `Segmenter`.

    Parameters
    ----------
    settings : FiberSettings
        Name of the method, and its limits.

    Returns
    -------
    Segmenter

    Raises
    ------
    ProtocolError
        No such segmenter, or it cannot be loaded; the message lists those that are there.
    """
    if settings.method == "network":
        model = Path(settings.model) if settings.model else None
        return partial(segment_with_network, min_area_um2=settings.min_area_um2, model=model)
    if settings.method == "classical":
        return partial(segment_classically, min_area_um2=settings.min_area_um2)
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if settings.method not in found:
        names = ", ".join(sorted({"network", "classical", *found}))
        raise ProtocolError(f"no segmenter {settings.method!r}", "fibers.method", f"choose one of: {names}")
    try:
        make: Callable[[FiberSettings], Segmenter] = found[settings.method].load()
        return make(settings)
    except Exception as error:
        raise ProtocolError(
            f"segmenter {settings.method!r} cannot be loaded ({error})",
            "fibers.method",
            "reinstall the package that brings it, or choose network",
        ) from error


def cross_check_fibers(
    fibers: Labels, stains: Stains, inside: npt.NDArray[np.bool_], settings: FiberSettings
) -> str:
    """Count the fibers around a field by the classical method too, and say where the two disagree.

    Two methods that fail for different reasons seldom fail alike: a field in which they differ is one to
    look at, whichever is right.

    Parameters
    ----------
    fibers : ndarray of int32, shape of `stains.dab`
        Labels to be checked.
    stains : Stains
        Densities on the same grid.
    inside : ndarray of bool, same shape
        The field; its bounding box is looked at.
    settings : FiberSettings
        Least area, and the difference that is told.

    Returns
    -------
    str
        Empty where they agree, where there is nothing to check, and where the classical method made `fibers`.
    """
    if settings.cross_check == 0 or settings.method == "classical" or not inside.any():
        return ""
    box = frame_mask(inside)
    least_px = settings.min_area_um2 / stains.mpp**2
    other = int(segment_classically(crop_stains(stains, box), settings.min_area_um2).max(initial=0))
    own = int((np.bincount(fibers[box].ravel(), minlength=1)[1:] >= least_px).sum())
    if abs(own - other) <= settings.cross_check * max(own, other):
        return ""
    return f"another method finds {other} fibers around this field, not {own}: look at the outlines"


def identify_segmenter(settings: FiberSettings) -> str:
    """Name a segmenter so that what it measured can be told from what another did.

    Parameters
    ----------
    settings : FiberSettings
        Name of the method, and its model.

    Returns
    -------
    str
        The method; of the network also the SHA-256 of its model.

    Raises
    ------
    ProtocolError
        As `get_segmenter`, or the model cannot be read.
    """
    get_segmenter(settings)
    if settings.method != "network":
        return settings.method
    return f"network {hash_model(Path(settings.model) if settings.model else None)}"
