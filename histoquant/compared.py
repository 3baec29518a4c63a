# This module touches files: it reads the comparisons in a run's folder.
"""Comparisons of a run with other counts, as its report shows them: those of the counts that it has now."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

import pandas as pd

from histoquant.results import read_table
from histoquant.study import encode_name

_AGREEMENT_COLUMNS = ("marker", "level", "quantity", "measure", "n", "estimate", "ci_low", "ci_high")
_COUNTS = ["section", "field", "fibers", "positive_cells"]


class Comparisons(NamedTuple):
    """What was compared.

    Attributes
    ----------
    validations, readings : dict of str to DataFrame
        agreement.csv of comparisons of the run, or of a reviewer, with other counts, and of two blinded
        readers; by the link to their page.
    notes : list of str
        A sentence on each comparison that is left out, since its counts are not those of the tables.
    """

    validations: dict[str, pd.DataFrame]
    readings: dict[str, pd.DataFrame]
    notes: list[str]


def read_comparisons(path: Path, fields: pd.DataFrame, reviewer: str | None = None) -> Comparisons:
    """Read the comparisons in a run's folder.

    A section that is measured again may have other fields and other counts: what an earlier comparison
    said of it does not hold for them.

    Parameters
    ----------
    path : Path
        The run's folder.
    fields : DataFrame
        fields.csv of the run, or of the reviewer.
    reviewer : str or None, optional
        Read the comparisons of this reviewer with others instead.

    Returns
    -------
    Comparisons

    Raises
    ------
    ResultsError
        A table of a comparison is damaged.
    """
    if reviewer is None:
        pages, up = _list_pages(path / "validation"), ""
    else:
        pages = _list_pages(path / "readers", encode_name(f"{reviewer} against -")[:-1])
        up = "../../"
    current = [page for page in pages if _is_current(page, fields)]
    notes = [
        f"The comparison {unquote(page.name)} is not shown: it was made with counts that have changed since. "
        "Compare again."
        for page in pages
        if page not in current
    ]
    blinded = _list_pages(path / "readers", "blinded ") if reviewer is None else []
    return Comparisons(_read(current, up), _read(blinded, up), notes)


def _list_pages(place: Path, start: str = "") -> list[Path]:
    """Folders of comparisons whose names begin so."""
    return [
        page.parent for page in sorted(place.glob("*/validation.html")) if page.parent.name.startswith(start)
    ]


def _read(pages: list[Path], up: str) -> dict[str, pd.DataFrame]:
    return {
        f"{up}{page.parent.name}/{quote(page.name)}/validation.html": read_table(
            page / "agreement.csv", _AGREEMENT_COLUMNS
        )
        for page in pages
    }


def _is_current(page: Path, fields: pd.DataFrame) -> bool:
    """Whether the counts that were compared are those of fields.csv."""
    return _list_counts(read_table(page / "fields.csv", _COUNTS)) <= _list_counts(fields)


def _list_counts(fields: pd.DataFrame) -> set[tuple[object, ...]]:
    """Section, field and counts of every field; -1 where there is none."""
    return set(fields[_COUNTS].fillna(-1).itertuples(index=False, name=None))
