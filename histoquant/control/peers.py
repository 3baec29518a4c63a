"""Peers: a slide against the other slides of its batch, where no limit for all slides can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from histoquant.protocol import PeerSettings

_NAN = float("nan")


class Peer(NamedTuple):
    """What a slide is compared by: its batch, its marker, and the medians of its measures."""

    batch: str
    marker: str
    values: Mapping[str, float]


def compare_peers(slides: Sequence[Peer], settings: PeerSettings) -> list[tuple[str, ...]]:
    """Say of each slide how its staining differs from that of the others of its batch.

    Haematoxylin is compared among all slides of a batch, brown background among those of one marker; each
    with the median of the others, so that one bad slide does not hide itself.

    Parameters
    ----------
    slides : sequence of Peer
        Of a study; slides without a batch are one.
    settings : PeerSettings
        Limits.

    Returns
    -------
    list of tuple of str
        Sentences for each slide, in order.

    Examples
    --------
    >>> dark, usual = ({"haematoxylin_strong_od": od} for od in (1.1, 0.5))
    >>> slides = [Peer("b1", "CD19", dark), *5 * [Peer("b1", "CD19", usual)]]
    >>> compare_peers(slides, PeerSettings())[0]
    ('haematoxylin of nuclei is 2.2 times that of 5 other slides of its batch (limit 1.5): look at both',)
    """
    return [
        (
            *_tell_ratio(slide, _gather(slides, at, "haematoxylin_strong_od", False), settings),
            *_tell_background(slide, _gather(slides, at, "dab_background_od", True), settings),
        )
        for at, slide in enumerate(slides)
    ]


def _gather(slides: Sequence[Peer], own: int, measure: str, by_marker: bool) -> list[float]:
    """Values of the others of a batch."""
    batch, marker = slides[own].batch, slides[own].marker
    values = (
        other.values.get(measure, _NAN)
        for at, other in enumerate(slides)
        if at != own and other.batch == batch and (other.marker == marker or not by_marker)
    )
    return [value for value in values if np.isfinite(value)]


def _tell_ratio(slide: Peer, others: list[float], settings: PeerSettings) -> tuple[str, ...]:
    value, limit = slide.values.get("haematoxylin_strong_od", _NAN), settings.max_haematoxylin_ratio
    usual = float(np.median(others)) if len(others) >= settings.least else _NAN
    if not (usual > 0 and value > 0) or 1 / limit <= value / usual <= limit:
        return ()
    return (
        f"haematoxylin of nuclei is {value / usual:.1f} times that of {len(others)} other slides of its "
        f"batch (limit {limit if value > usual else 1 / limit:.2g}): look at both",
    )


def _tell_background(slide: Peer, others: list[float], settings: PeerSettings) -> tuple[str, ...]:
    more = slide.values.get("dab_background_od", _NAN)
    more -= float(np.median(others)) if len(others) >= settings.least else _NAN
    if not more > settings.max_background_od:
        return ()
    return (
        f"brown background is {more:.2f} OD above that of {len(others)} other slides of its batch and marker "
        f"(limit {settings.max_background_od:g}): look at both",
    )
