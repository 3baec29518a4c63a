"""Judge a field: its measures against the protocol's limits, each failure a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from histoquant.protocol import QcSettings
from histoquant.qc.compression import estimate_jpeg_quality
from histoquant.qc.focus import measure_focus
from histoquant.qc.holes import measure_holes
from histoquant.qc.staining import (
    measure_angles,
    measure_clipping,
    measure_negative_share,
    measure_strength,
    measure_unevenness,
)
from histoquant.stains import Stains, Vector

_LEAST_TISSUE_OD = 0.03


class Rule(NamedTuple):
    """A limit: the measure, the key of the protocol's section `qc`, and what to say beyond it.

    `grave` failures call for a new scan or stain; the others for a look or another setting.
    """

    measure: str
    key: str
    text: str
    grave: bool = False


class Finding(NamedTuple):
    """A measure beyond its limit, and the sentence that says so."""

    measure: str
    value: float
    limit: float
    text: str
    grave: bool


RULES = (
    Rule("blur_um", "max_blur_um", "blurred by {value:.2f} um (limit {limit:g}): focus and scan again", True),
    Rule(
        "blurred_share",
        "max_blurred_share",
        "{value:.0%} is out of focus (limit {limit:.0%}): scan again with more focus points",
    ),
    Rule(
        "jpeg_quality",
        "min_jpeg_quality",
        "compressed to JPEG quality {value:.0f} (limit {limit:g}): export or scan again at 80 or more",
        True,
    ),
    Rule(
        "clipped_share",
        "max_clipped_share",
        "{value:.1%} of the pixels are black or full (limit {limit:.1%}): scan again with another exposure",
        True,
    ),
    Rule(
        "unevenness",
        "max_unevenness",
        "light falls by {value:.0%} across it (limit {limit:.0%}): correct the shading of the microscope",
        True,
    ),
    Rule(
        "haematoxylin_strong_od",
        "max_haematoxylin_od",
        "haematoxylin of {value:.2f} OD in nuclei (limit {limit:g}): stain again, shorter",
        True,
    ),
    Rule(
        "haematoxylin_strong_od",
        "min_haematoxylin_od",
        "haematoxylin of {value:.2f} OD in nuclei (least {limit:g}): stain again, longer",
        True,
    ),
    Rule(
        "dab_background_od",
        "max_dab_background_od",
        "brown background of {value:.2f} OD (limit {limit:g}): block or wash better, and stain again",
        True,
    ),
    Rule(
        "hole_share",
        "max_hole_share",
        "{value:.1%} of the tissue is small holes (limit {limit:.1%}): frozen too slowly; look at it",
    ),
    Rule(
        "haematoxylin_angle_deg",
        "max_haematoxylin_angle_deg",
        "haematoxylin is {value:.0f} degrees off the vector used (limit {limit:g}): set stain.vectors",
    ),
    Rule(
        "dab_angle_deg",
        "max_dab_angle_deg",
        "DAB is {value:.0f} degrees off the vector used (limit {limit:g}): set stain.vectors",
    ),
    Rule(
        "negative_share",
        "max_negative_share",
        "a stain is negative in {value:.0%} of it (limit {limit:.0%}): set stain.vectors or stain.white",
    ),
)


def measure_field_quality(
    pixels: npt.NDArray[np.uint8],
    mpp: float,
    stains: Stains,
    inside: npt.NDArray[np.bool_],
    vectors: tuple[Vector, Vector],
    settings: QcSettings,
) -> dict[str, float]:
    """Measure the quality of a field.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (rows, columns, 3)
        The field's box as read.
    mpp : float
        Their size, um/px.
    stains : Stains
        Densities of the box, as separated by `vectors`.
    inside : ndarray of bool, shape of `stains.dab`
        The field.
    vectors : tuple of two vectors
        Those of haematoxylin and DAB.
    settings : QcSettings
        For the blur that makes a part out of focus.

    Returns
    -------
    dict of str to float
        By measure, NaN where there is nothing to measure it on: those of `RULES`, and `dab_strong_od` and
        `haematoxylin_background_od`, which have no limit.
    """
    density = stains.haematoxylin + stains.dab
    strength = measure_strength(stains, inside & (density > _LEAST_TISSUE_OD))
    angles = measure_angles(stains, vectors)
    blur_um, blurred_share = measure_focus(density, stains.mpp, settings.max_blur_um)
    return {
        "blur_um": blur_um,
        "blurred_share": blurred_share,
        "jpeg_quality": estimate_jpeg_quality(pixels),
        "clipped_share": measure_clipping(pixels, step=2),
        "unevenness": measure_unevenness(pixels, mpp),
        "haematoxylin_background_od": strength.haematoxylin_background,
        "haematoxylin_strong_od": strength.haematoxylin_strong,
        "dab_background_od": strength.dab_background,
        "dab_strong_od": strength.dab_strong,
        "hole_share": measure_holes(density, stains.mpp, inside),
        "haematoxylin_angle_deg": angles[0],
        "dab_angle_deg": angles[1],
        "negative_share": measure_negative_share(stains, inside),
    }


def judge_quality(values: Mapping[str, float], settings: QcSettings) -> list[Finding]:
    """List what is beyond its limit, in the order of `RULES`; what could not be measured is not judged.

    Parameters
    ----------
    values : mapping of str to float
        By measure.
    settings : QcSettings
        Limits.

    Returns
    -------
    list of Finding

    Examples
    --------
    >>> [finding.text for finding in judge_quality({"blur_um": 1.5}, QcSettings())]
    ['blurred by 1.50 um (limit 1.25): focus and scan again']
    """
    findings = []
    for rule in RULES:
        value, limit = values.get(rule.measure, float("nan")), float(getattr(settings, rule.key))
        beyond = value < limit if rule.key.startswith("min_") else value > limit
        if beyond:
            text = rule.text.format(value=value, limit=limit)
            findings.append(Finding(rule.measure, float(value), limit, text, rule.grave))
    return findings
