"""Check of a study: every slide looked at, its controls added to the history and judged by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from histoquant import __version__
from histoquant.control.charts import CHARTED, COLUMNS, is_rejected, judge_history
from histoquant.control.history import Observation, add_observations, read_history
from histoquant.control.page import build_page
from histoquant.control.peers import Peer, compare_peers
from histoquant.control.survey import SlideCheck, check_section
from histoquant.protocol import PeerSettings, Protocol
from histoquant.results import write_bytes, write_json, write_table
from histoquant.study import Section, Study, fingerprint_file

_DECIMALS = 6


@dataclass(frozen=True)
class StudyCheck:
    """A study looked at.

    Attributes
    ----------
    slides : tuple of SlideCheck
        Every section.
    series : DataFrame
        The history, judged; empty without one.
    broken : DataFrame
        Rows of it, controls of this study, that break a rule, warnings included.
    """

    slides: tuple[SlideCheck, ...]
    series: pd.DataFrame
    broken: pd.DataFrame

    @property
    def fails(self) -> bool:
        """Whether a slide is to be repeated, or a control breaks a rule that rejects."""
        repeat = any(slide.verdict == "repeat" for slide in self.slides)
        return repeat or bool(self.broken["rules"].map(is_rejected).any())


def check_study(
    study: Study,
    protocol: Protocol,
    seed: int,
    history: Path | None = None,
    note: Callable[[int, int], None] = lambda done, total: None,
) -> StudyCheck:
    """Look at every section of a study, add its controls to the history, and judge them.

    Parameters
    ----------
    study : Study
        Its sections.
    protocol : Protocol
        Settings.
    seed : int
        The run's seed.
    history : Path, optional
        SQLite file; without one nothing is kept and no rule is applied.
    note : callable, optional
        Told how many of how many sections are done.

    Returns
    -------
    StudyCheck

    Raises
    ------
    HistoryError
        The history cannot be used; this is found before any slide is looked at.
    """
    if history is not None:
        read_history(history)
    slides = []
    for done, section in enumerate(study.sections, start=1):
        slides.append(check_section(section, protocol, seed))
        note(done, len(study.sections))
    slides = look_at_peers(slides, protocol.qc.peers)
    if history is None:
        empty = pd.DataFrame(columns=[*COLUMNS, "rules"])
        return StudyCheck(tuple(slides), empty, empty)
    own = _observe(slides)
    add_observations(history, own)
    series = judge_history(read_history(history), protocol.qc.baseline)
    ours = series["slide"].isin({one.slide for one in own})
    return StudyCheck(tuple(slides), series, series[ours & series["rules"].ne("")])


def look_at_peers(slides: Sequence[SlideCheck], settings: PeerSettings) -> list[SlideCheck]:
    """Add what sets a slide apart from its batch to its reasons; one that passed is then to be looked at."""
    peers = [Peer(slide.section.batch, slide.section.marker, slide.values) for slide in slides]
    return [
        replace(
            slide,
            verdict="look" if apart and slide.verdict == "pass" else slide.verdict,
            reasons=(*slide.reasons, *apart),
        )
        for slide, apart in zip(slides, compare_peers(peers, settings), strict=True)
    ]


def publish_check(check: StudyCheck, folder: Path, protocol: Protocol) -> Path:
    """Write qc.csv, qc.json and qc.html.

    Parameters
    ----------
    check : StudyCheck
        What was found.
    folder : Path
        Where to.
    protocol : Protocol
        Kept in qc.json.

    Returns
    -------
    Path
        Of the page.
    """
    write_table(folder / "qc.csv", tabulate_check(check.slides))
    about = {
        "histoquant": __version__,
        "limits": protocol.qc.model_dump(mode="json"),
        "slides": [
            {
                "section": slide.section.id,
                "verdict": slide.verdict,
                "reasons": slide.reasons,
                "fields": slide.fields,
            }
            for slide in check.slides
        ],
        "rules": check.broken.replace({np.nan: None}).to_dict("records"),
        "fails": check.fails,
    }
    write_json(folder / "qc.json", about)
    facts = {"histoquant": __version__, "checked": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}
    page = folder / "qc.html"
    write_bytes(page, build_page(check.slides, check.series, check.broken, facts).encode())
    return page


def tabulate_check(slides: Sequence[SlideCheck]) -> pd.DataFrame:
    """Tabulate a row per slide: what identifies it, verdict, medians of the measures, reason."""
    rows = [
        {
            **{name: getattr(slide.section, name) for name in ("patient", "group", "marker")},
            "section": slide.section.id,
            "batch": slide.section.batch,
            "control": slide.section.control,
            "verdict": slide.verdict,
            "fields": len(slide.fields),
            **{name: round(value, _DECIMALS) for name, value in slide.values.items()},
            "reason": "; ".join(slide.reasons),
        }
        for slide in slides
    ]
    table = pd.DataFrame(rows)
    return table[[*(name for name in table if name != "reason"), "reason"]]


def _observe(slides: Sequence[SlideCheck]) -> list[Observation]:
    """What the history keeps: measures of control slides."""
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return [
        Observation(now, key, section.batch, section.marker, section.control, name, value, section.id)
        for slide in slides
        if slide.section.control
        for section, key in [(slide.section, _identify(slide.section))]
        for name in CHARTED
        for value in [slide.values.get(name, float("nan"))]
        if np.isfinite(value)
    ]


def _identify(section: Section) -> str:
    """Fingerprint of a section's first file, so that a slide checked twice is one control."""
    path = section.sources[0].path
    return f"{section.id} {fingerprint_file(path) if path.is_file() else path.name}"
