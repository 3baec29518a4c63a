"""What of a slide's tissue no field should lie on, with a sentence for each kind of artefact."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from histoquant.errors import SlideError
from histoquant.protocol import QcSettings
from histoquant.qc.artefacts import OVERVIEW_MPP, Artefact, find_artefacts, fit_mask, lay_probes, spread_blur
from histoquant.qc.focus import measure_blur
from histoquant.slide import Slide

Mask = npt.NDArray[np.bool_]

_PROBE_UM = 128.0
_PROBE_MPP = 0.5
_DENSITY = -np.log10(np.arange(256, dtype=np.float32).clip(1) / np.float32(255))

_TEXTS = {
    "pen": ("under pen or as dark", "min_pen_od", "{limit:g} OD"),
    "fold": ("folded", "max_fold_ratio", "{limit:g} times the usual density"),
    "bubble": ("in bubbles", "min_rim_od", "rim of {limit:g} OD"),
    "edge": ("browner at the tissue's edge", "max_edge_od", "{limit:g} OD"),
    "blur": ("out of focus", "max_blur_um", "{limit:g} um"),
}


class Avoided(NamedTuple):
    """Artefacts of a slide.

    Attributes
    ----------
    mask : ndarray of bool, shape of the tissue
        Where no field may lie.
    found : tuple of dict
        Of each kind that was found: kind, mm2 and share of tissue, text.
    share : float
        Of all tissue, every kind together.
    notes : tuple of str
        Sentences for the receipt and the report.
    """

    mask: Mask
    found: tuple[dict[str, Any], ...]
    share: float
    notes: tuple[str, ...]


def avoid_artefacts(slide: Slide, tissue: Mask, mpp: float, settings: QcSettings) -> Avoided:
    """Find folds, pen marks, bubbles, brown edges and parts out of focus.

    A slide of which most is out of focus is left as it is, since no part of it is better: its fields are
    flagged one by one.

    Parameters
    ----------
    slide : Slide
        Open.
    tissue : ndarray of bool, shape (rows, columns)
        Of the whole slide.
    mpp : float
        Pixel size of `tissue`, um/px.
    settings : QcSettings
        Limits.

    Returns
    -------
    Avoided
        Nothing, if the protocol says so or the slide cannot be read at this resolution; that is noted.
    """
    nothing = np.zeros_like(tissue)
    if not settings.artefacts.avoid or not tissue.any():
        return Avoided(nothing, (), 0.0, ())
    try:
        overview = slide.overview(OVERVIEW_MPP)
    except SlideError as error:
        return Avoided(nothing, (), 0.0, (f"Artefacts were not looked for: {error}",))
    found = find_artefacts(overview, tissue, settings.artefacts)
    parts = [Artefact(kind, fit_mask(mask, tissue.shape) & tissue) for kind, mask in found]
    blurred, notes = _find_blurred(slide, tissue, mpp, settings)
    parts.append(blurred)
    told = tuple(_tell(part, tissue, mpp, settings) for part in parts if part.mask.any())
    mask = np.asarray(np.any([part.mask for part in parts], axis=0), bool)
    return Avoided(mask, told, float(mask.sum() / tissue.sum()), (*(one["text"] for one in told), *notes))


def _find_blurred(
    slide: Slide, tissue: Mask, mpp: float, settings: QcSettings
) -> tuple[Artefact, tuple[str, ...]]:
    places, spacing_um = lay_probes(tissue, mpp)
    blurs = [_measure_probe(slide, x_um, y_um) for x_um, y_um in places]
    known = [blur for blur in blurs if np.isfinite(blur)]
    blurred = [blur > settings.max_blur_um for blur in known]
    if known and np.mean(blurred) > settings.max_blurred_share:
        text = f"{np.mean(blurred):.0%} of the tissue is out of focus: focus and scan again."
        return Artefact("blur", np.zeros_like(tissue)), (text,)
    mask = spread_blur(tissue, mpp, places, blurs, spacing_um, settings.max_blur_um)
    return Artefact("blur", mask), ()


def _measure_probe(slide: Slide, x_um: float, y_um: float) -> float:
    """Blur of a small square; NaN where it cannot be read: the field that lies there says so."""
    reach = _PROBE_UM / 2
    try:
        patch = slide.read(x_um - reach, y_um - reach, _PROBE_UM, _PROBE_UM, _PROBE_MPP)
    except SlideError:
        return float("nan")
    red, green, blue = cv2.split(cv2.LUT(patch.pixels, _DENSITY))
    density = np.asarray((red + green + blue) / np.sqrt(3), np.float32)
    return measure_blur(density, patch.mpp)


def _tell(part: Artefact, tissue: Mask, mpp: float, settings: QcSettings) -> dict[str, Any]:
    what, key, limit = _TEXTS[part.kind]
    mm2, share = float(part.mask.sum()) * mpp**2 / 1e6, float(part.mask.sum() / tissue.sum())
    source = settings if part.kind == "blur" else settings.artefacts
    said = limit.format(limit=getattr(source, key))
    text = f"{mm2:.2f} mm2 of tissue ({share:.1%}) is {what} (limit {said}): no field was drawn there."
    return {"kind": part.kind, "mm2": round(mm2, 6), "share": round(share, 6), "text": text}
