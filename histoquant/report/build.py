"""Build the page: what a run found, what went wrong, how it was measured and what it does not mean."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from markupsafe import Markup

from histoquant.pictures import STYLES
from histoquant.report import formats, plots, settings, views
from histoquant.report.article import load_page
from histoquant.report.cards import make_cards
from histoquant.report.sensitivity import (
    tabulate_sensitivity,
    tabulate_thresholds,
    tabulate_vectors,
)
from histoquant.report.sentences import tell_results
from histoquant.report.table import Table

MAX_PICTURE_BYTES = 3_500_000
"""Encoded pictures that a page may hold; beyond, it links to the fields' pictures without showing them."""
MAX_SCATTERS = 6
"""Pairs of markers plotted."""

_SIGNATURES = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"RIFF": "webp"}


@dataclass(frozen=True)
class RunTables:
    """What the report shows: the tables of a run's folder as they are there, and its small pictures.

    Attributes
    ----------
    title : str
        Heading of the page.
    run : mapping
        Contents of run.json: histoquant (version), python, libraries, seed, protocol, started, finished,
        sections ({section: {"status", "reason"}}). What is absent is left out of the page.
    fields, sections, patients, statistics : DataFrame
        Tables with the columns of fields.csv, sections.csv, patients.csv and statistics.csv; may be empty.
    overviews : mapping of section to bytes
        Encoded small picture (WebP, JPEG or PNG) of a section with its fields, about 15 kB.
    thumbnails : mapping of (section, field) to bytes
        Encoded small picture of a field, about 2 kB.
    links : mapping of (section, field) to str
        Path of the full overlay picture relative to the page, with `/`, as on disk: the page quotes it.
    rules : DataFrame or None
        Counting rules compared: columns rule, fibers, positive_cells, cells_per_fiber and, where it is
        per section, section; otherwise totals over the study. The rule `half_area` is the reference.
    sizes : DataFrame or None
        Counted fibers, whole ones: group, area_um2, min_feret_um.
    sensitivity, thresholds : DataFrame or None
        Results by other thresholds, and what negative controls say of them; see `histoquant.sensitivity`.
    vectors : tuple of two DataFrame or None
        Results by other stain vectors, and which these were; see `histoquant.vectors`.
    reviewer : str or None
        Whose edits the tables include.
    notes : tuple of str
        Remarks shown below the results.
    validations : mapping of str to DataFrame
        agreement.csv of every comparison with another count, by the path of its page relative to this one,
        as a link has it.
    readings : mapping of str to DataFrame
        The same of every comparison of two blinded readers.
    """

    title: str
    run: Mapping[str, Any]
    fields: pd.DataFrame
    sections: pd.DataFrame
    patients: pd.DataFrame
    statistics: pd.DataFrame
    overviews: Mapping[str, bytes] = field(default_factory=dict)
    thumbnails: Mapping[tuple[str, int], bytes] = field(default_factory=dict)
    links: Mapping[tuple[str, int], str] = field(default_factory=dict)
    rules: pd.DataFrame | None = None
    sizes: pd.DataFrame | None = None
    sensitivity: pd.DataFrame | None = None
    thresholds: pd.DataFrame | None = None
    vectors: tuple[pd.DataFrame, pd.DataFrame] | None = None
    reviewer: str | None = None
    notes: tuple[str, ...] = ()
    validations: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    readings: Mapping[str, pd.DataFrame] = field(default_factory=dict)


def build_report(run: RunTables) -> str:
    """Write the report of a run as one self-contained HTML page.

    The page asks for nothing outside itself, needs no script, and forbids both by its own content
    security policy; full overlay pictures are files it links to.

    Parameters
    ----------
    run : RunTables
        Tables and pictures of the run.

    Returns
    -------
    str
        HTML; the same tables give the same text.
    """
    page, style = load_page("page.html.j2")
    return page.render(style=style, run=run, **_head(run), **_results(run), **_details(run)) + "\n"


def _head(run: RunTables) -> dict[str, Any]:
    facts = {
        "histoquant": run.run.get("histoquant"),
        "begun": settings.format_time(run.run.get("started")),
        "finished": settings.format_time(run.run.get("finished")),
        "seed": run.run.get("seed"),
        "protocol hash": str(run.run.get("protocol_hash") or "")[:12],
        "reviewer": run.reviewer,
    }
    return {
        "facts": {name: str(value) for name, value in facts.items() if not formats.is_absent(value)},
        "state": views.tell_state(run.run, run.sections),
        "problems": views.tabulate_problems(run.run, run.sections),
    }


def _results(run: RunTables) -> dict[str, Any]:
    confidence = settings.read_setting(run.run, "statistics", "confidence", 0.95)
    correlations, comparisons, others = views.split_statistics(run.statistics)
    return {
        "sentences": tell_results(correlations, comparisons, confidence),
        "comparisons": views.tabulate_comparisons(comparisons, confidence),
        "correlations": views.tabulate_correlations(correlations, confidence),
        "others": views.tabulate_others(others),
        "figures": _draw_figures(run, correlations),
        "patients": views.tabulate_patients(run.patients),
        "sections": views.tabulate_sections(run.sections, run.fields, confidence),
        "sizes": _draw_sizes(run.sizes) if run.sizes is not None and len(run.sizes) else None,
        "validations": views.tabulate_validations(run.validations, confidence),
        "readings": views.tabulate_validations(run.readings, confidence, readers=True),
        "sensitivity": _tabulate_choices(run),
        "rules": views.tabulate_rules(run.rules) if run.rules is not None else [],
        "confidence": f"{100 * confidence:g} %",
    }


def _draw_figures(run: RunTables, correlations: pd.DataFrame) -> list[dict[str, Any]]:
    """The main pair first, the groups next, then the other pairs."""
    markers = [name for name in run.patients.columns if name not in ("patient", "group")]
    markers = [name for name in markers if run.patients[name].notna().any()]
    figures: list[dict[str, Any]] = []
    for row in correlations.head(MAX_SCATTERS).to_dict("records"):
        pair = str(row["marker"]), str(row["marker_2"])
        if set(pair) <= set(markers) and run.patients[list(pair)].notna().all(axis=1).sum() > 1:
            svg = Markup(plots.plot_scatter(run.patients, *pair, width_in=3.0 if figures else 3.9))
            figures.append({"svg": svg, "caption": views.caption_scatter(row)})
    if markers:
        caption = (
            "Positive cells per fiber of every patient, by group. Dark line: median; box: quartiles, drawn "
            "from five patients on."
        )
        groups = {"svg": Markup(plots.plot_groups(run.patients, markers)), "caption": caption}
        figures.insert(1 if figures else 0, groups)
    return figures


def _draw_sizes(sizes: pd.DataFrame) -> dict[str, Any]:
    return {"svg": Markup(plots.plot_sizes(sizes)), "caption": views.caption_sizes(sizes)}


def _tabulate_choices(run: RunTables) -> list[Table]:
    tables = [
        tabulate_sensitivity(run.sensitivity) if run.sensitivity is not None else None,
        tabulate_vectors(*run.vectors) if run.vectors is not None else None,
        tabulate_thresholds(run.thresholds) if run.thresholds is not None else None,
    ]
    return [table for table in tables if table is not None]


def _details(run: RunTables) -> dict[str, Any]:
    room = MAX_PICTURE_BYTES - sum(map(len, run.overviews.values()))
    shown = run.thumbnails if sum(map(len, run.thumbnails.values())) <= room else {}
    overviews = run.overviews if room >= 0 else {}
    return {
        "cards": make_cards(
            run.sections,
            run.fields,
            {section: encode_data(data) for section, data in overviews.items()},
            {key: encode_data(data) for key, data in shown.items()},
            run.links,
        ),
        "pictures_left_out": len(shown) < len(run.thumbnails),
        "protocol": settings.tabulate_protocol(run.run.get("protocol") or {}),
        "measure": settings.read_measure(run.run),
        "versions": {
            name: number
            for name, number in {"Python": run.run.get("python"), **(run.run.get("libraries") or {})}.items()
            if number
        },
        "legend": [
            {**style._asdict(), "css": "rgb({},{},{})".format(*style.color)} for style in STYLES.values()
        ],
    }


def encode_data(picture: bytes) -> str:
    """Write an encoded picture as a data URI.

    Parameters
    ----------
    picture : bytes
        JPEG, PNG or WebP.

    Returns
    -------
    str

    Examples
    --------
    >>> encode_data(b"\\xff\\xd8\\xff")
    'data:image/jpeg;base64,/9j/'
    """
    kind = next((kind for head, kind in _SIGNATURES.items() if picture.startswith(head)), "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"
