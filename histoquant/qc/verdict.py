"""The verdict on a slide, by the measures of its fields and by what the draw of fields left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from histoquant.protocol import QcSettings
from histoquant.qc.judge import Finding, judge_quality

Verdict = Literal["pass", "look", "repeat"]
Values = Mapping[str, float]


def decide(fields: Sequence[Values], settings: QcSettings) -> tuple[Verdict, tuple[str, ...]]:
    """Decide on a slide by the measures of its fields.

    Parameters
    ----------
    fields : sequence of mapping
        Measures of each field.
    settings : QcSettings
        Limits, and the share of fields that calls for a repeat.

    Returns
    -------
    verdict : {"pass", "look", "repeat"}
        `repeat` if a fault of scan or stain is in at least `repeat_share` of the fields; `look` if
        any limit is passed in any field.
    reasons : tuple of str
        One per limit passed: in how many fields, and the worst of them.

    Examples
    --------
    >>> decide([{"blur_um": 1.5}, {"blur_um": 0.7}, {"blur_um": 0.7}], QcSettings())
    ('look', ('1 of 3 fields: blurred by 1.50 um (limit 1.25): focus and scan again',))
    """
    found: dict[tuple[str, float], list[Finding]] = {}
    for values in fields:
        for finding in judge_quality(values, settings):
            found.setdefault((finding.measure, finding.limit), []).append(finding)
    reasons = []
    repeat = False
    for findings in found.values():
        worst = max(findings, key=lambda finding: abs(finding.value - finding.limit))
        reasons.append(f"{len(findings)} of {len(fields)} fields: {worst.text}")
        repeat |= worst.grave and len(findings) >= settings.repeat_share * len(fields)
    return "repeat" if repeat else "look" if reasons else "pass", tuple(reasons)


def judge_artefacts(receipt: Mapping[str, Any], settings: QcSettings) -> tuple[bool, tuple[str, ...]]:
    """Judge what the draw of fields left out.

    Parameters
    ----------
    receipt : mapping
        Of the draw.
    settings : QcSettings
        The share of tissue beyond which a slide is to be repeated.

    Returns
    -------
    spoilt : bool
        Whether artefacts cover more than that.
    reasons : tuple of str
        A sentence per kind of artefact.

    Examples
    --------
    >>> judge_artefacts({"artefacts": {"share": 0.4, "found": []}}, QcSettings())
    (True, ('artefacts cover 40% of the tissue (limit 30%): mount, stain or scan again',))
    """
    left_out = receipt.get("artefacts", {"share": 0.0, "found": []})
    reasons = tuple(str(one["text"]) for one in left_out["found"])
    share, limit = float(left_out["share"]), settings.artefacts.max_share
    if share <= limit:
        return False, reasons
    said = f"artefacts cover {share:.0%} of the tissue (limit {limit:.0%}): mount, stain or scan again"
    return True, (said, *reasons)
