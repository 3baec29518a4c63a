"""Review: what matters most first, that is, what would change a section's ratio most if it were otherwise."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoquant.edits import Change, Cut, Merger

Floats = npt.NDArray[np.float64]
FIELD_QUEUE = ("field", "fibers", "positive_cells", "cells_per_fiber", "influence", "why")
OBJECT_QUEUE = ("field", "object", "kind", "x_um", "y_um", "effect", "doubt", "weight", "why")
_UNSEEN = 0.5  # whether a nucleus lies above or below the plane, the section cannot tell


def rank_fields(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rank a section's fields by their influence on its ratio.

    Parameters
    ----------
    rows : iterable of mapping
        Rows of the section's fields, as in measured.json or `RevisedField.row`.

    Returns
    -------
    DataFrame
        Columns `FIELD_QUEUE`. `influence`: ratio of the section less its ratio without the field; largest
        magnitude first. Fields that are not used, for want of a fiber say, come before all others and have
        no influence; excluded and failed ones are left out.

    Examples
    --------
    >>> rows = [{"field": 1, "fibers": 10, "positive_cells": 1, "status": "ok"},
    ...         {"field": 2, "fibers": 10, "positive_cells": 1, "status": "ok"},
    ...         {"field": 3, "fibers": 10, "positive_cells": 7, "status": "ok"}]
    >>> rank_fields(rows)[["field", "influence"]].round(2).values.tolist()
    [[3.0, 0.2], [1.0, -0.1], [2.0, -0.1]]
    """
    table = pd.DataFrame(
        [
            {name: row.get(name) for name in ("field", "fibers", "positive_cells", "status", "reason")}
            for row in rows
            if row["status"] in ("ok", "no_fibers")
        ],
        columns=["field", "fibers", "positive_cells", "status", "reason"],
    )
    used = table["status"].eq("ok").to_numpy()
    fibers, cells = (table[name].to_numpy(float) for name in ("fibers", "positive_cells"))
    ratio = np.divide(cells, fibers, out=np.full(len(table), np.nan), where=used)
    n, total = int(used.sum()), float(np.nansum(ratio))
    influence = total / n - (total - ratio) / (n - 1) if n > 1 else np.full(len(table), np.nan)
    why = np.where(used, "influence on the section's ratio", "has no fiber and is not used")
    table = table.assign(cells_per_fiber=ratio, influence=influence, why=_join(why, table["reason"], used))
    order = np.lexsort((table["field"], -np.nan_to_num(np.abs(influence)), used))
    return table.iloc[order][list(FIELD_QUEUE)].reset_index(drop=True)


def rank_objects(
    rows: Iterable[Mapping[str, Any]], objects: pd.DataFrame, judged: Collection[str] = ()
) -> pd.DataFrame:
    """Rank the objects of a section that may be counted wrongly.

    What an object adds to its count is 0 or 1. `doubt` is how far that is from what is to be expected: for
    a cell, the probability that it is positive (`confidence`) times that it counts; for a fiber, that it
    counts. An object cut by the field's edge counts with probability 1/2 where half of it is inside, and
    surely at 0 and 1. `effect` is the change of the section's ratio if the object were counted otherwise,
    larger in fields with few fibers and in sections with few fields. `weight`, their product, orders the
    queue.

    Parameters
    ----------
    rows : iterable of mapping
        Rows of the section's fields; fields whose status is not `ok` have no queue.
    objects : DataFrame
        Objects of the section, as stored or revised.
    judged : collection of str, optional
        Objects that the reviewer has dealt with; see `list_judged`.

    Returns
    -------
    DataFrame
        Columns `OBJECT_QUEUE`, the largest weight first; only objects with a doubt.
    """
    parts = [_rank_field(row, objects, number) for row, number in _list_used(rows)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(OBJECT_QUEUE))
    table = table[table["weight"].gt(0) & ~table["object"].isin(list(judged))]
    order = ["weight", "field", "object"]
    return table.sort_values(order, ascending=[False, True, True], ignore_index=True)[list(OBJECT_QUEUE)]


def list_judged(edits: Sequence[Change]) -> frozenset[str]:
    """Objects that a reviewer has dealt with.

    Parameters
    ----------
    edits : sequence of Change
        Edits that stand.

    Examples
    --------
    >>> from histoquant.edits import make_change
    >>> sorted(list_judged([make_change("accept", "1c2"), make_change("merge", "1f3", parts=["1f5"])]))
    ['1c2', '1f3', '1f5']
    """
    names = {edit.object for edit in edits if edit.object}
    for edit in edits:
        if isinstance(edit.after, Cut):
            names.add(edit.after.part)
        elif isinstance(edit.after, Merger):
            names |= set(edit.after.parts)
    return frozenset(names)


def _list_used(rows: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], int]]:
    """Fields that enter the section's ratio, and their number."""
    used = [row for row in rows if row["status"] == "ok"]
    return [(row, len(used)) for row in used]


def _rank_field(row: Mapping[str, Any], objects: pd.DataFrame, fields: int) -> pd.DataFrame:
    own = objects[objects["field"].eq(row["field"]) & objects["fraction_in_field"].gt(0)]
    fibers, cells = float(row["fibers"]), float(row["positive_cells"])
    fraction = own["fraction_in_field"].to_numpy(float)
    half = 0.5 - np.abs(fraction - 0.5)
    inside = np.where(fraction > 0.5, 1 - half, half)
    fiber = own["kind"].eq("fiber").to_numpy()
    positive, counted = (own[name].to_numpy(bool) for name in ("positive", "counted"))
    # A call without a confidence is a person's.
    sure = own["confidence"].fillna(1.0).to_numpy(float)
    called = np.where(positive, sure, 1 - sure)
    unseen = ~fiber & ~own["nucleus"].astype("boolean").fillna(True).to_numpy(bool)
    expected = inside * np.where(fiber, 1.0, called) * np.where(unseen, _UNSEEN, 1.0)
    doubt = np.abs((counted & (fiber | positive)) - expected)
    # A fiber more or less changes the denominator; the last one cannot be taken away.
    other = np.maximum(np.where(counted, fibers - 1, fibers + 1), 1.0)
    effect = np.where(fiber, np.abs(cells / fibers - cells / other), 1 / fibers) / fields
    reasons = {
        "cut by the field's edge": (fraction < 1) & (fiber | positive),
        "call near the threshold": ~fiber & (sure < 0.9),
        "no nucleus in the plane": unseen & positive,
    }
    columns = [np.where(given, text, "") for text, given in reasons.items()]
    why = ["; ".join(filter(None, texts)) for texts in zip(*columns, strict=True)]
    table = own[["field", "object", "kind", "x_um", "y_um"]]
    return table.assign(effect=effect, doubt=doubt, weight=effect * doubt, why=why)


def _join(texts: npt.NDArray[Any], reasons: pd.Series[Any], used: npt.NDArray[np.bool_]) -> list[str]:
    """What is noted of a field that is used, behind why it is in the queue."""
    return [
        f"{text}; {reason}" if reason and own else str(text)
        for text, reason, own in zip(texts, reasons, used, strict=True)
    ]
