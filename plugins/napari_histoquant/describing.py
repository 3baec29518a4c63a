"""What the widget Review says: counts beside the machine's, the object, the queue, the last edit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from histoquant.edits import History

_COUNTS = {"fibers": "fibers", "positive_cells": "positive cells", "cells_per_fiber": "cells per fiber"}


def describe_counts(
    field: int, rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any], reviewed: Mapping[str, Any]
) -> str:
    """Tabulate the counts of field and section, the machine's beside the reviewer's, as HTML.

    Parameters
    ----------
    field : int
        Number of the field; 0 without one.
    rows : sequence of mapping
        The field's row as the machine has it, and with the edits; empty without a field.
    machine, reviewed : mapping
        Summaries of the section.
    """
    columns = [*rows, machine, reviewed]
    names = ["machine", "yours"] * (len(columns) // 2)
    over = (f"<th colspan=2>field {field}</th>" if rows else "") + "<th colspan=2>section</th>"
    lines = [f"<tr><th></th>{over}</tr>", "<tr><th></th>" + "".join(f"<th>{n}</th>" for n in names) + "</tr>"]
    for key, name in _COUNTS.items():
        cells = [_format(column.get(key)) for column in columns]
        changed = [i % 2 == 1 and cells[i] != cells[i - 1] for i in range(len(cells))]
        shown = [
            f"<td align=right>{'<b>' if new else ''}{cell}{'</b>' if new else ''}</td>"
            for cell, new in zip(cells, changed, strict=True)
        ]
        lines.append(f"<tr><td>{name.replace(' ', '&nbsp;')}</td>{''.join(shown)}</tr>")
    notes = [f"field {field}: {rows[1]['reason']}"] if rows and rows[1].get("reason") else []
    low, high = reviewed["ci_low"], reviewed["ci_high"]
    notes += [f"95 % interval of the section: {low:.3f} to {high:.3f}"] if low == low else []
    return f"<table cellspacing=6>{''.join(lines)}</table>{'<br>'.join(map(escape, notes))}"


def describe_object(row: Mapping[str, Any] | None) -> str:
    """Say what an object is and why it does or does not count.

    Examples
    --------
    >>> describe_object(None)
    'No object is chosen: click one, or take the next of the queue.'
    """
    if row is None:
        return "No object is chosen: click one, or take the next of the queue."
    name = row["object"]
    parts = [f"{name}: {'counts' if row['counted'] else 'does not count'}"]
    if row["kind"] == "cell":
        called = "positive" if row["positive"] else "negative"
        parts = [f"{name}: {called} cell, {'counts' if row['counted'] else 'does not count'}"]
        parts.append(f"DAB {row['dab_od']:.2f} OD")
        if row["confidence"] == row["confidence"]:
            parts.append(f"confidence {row['confidence']:.2f}")
    else:
        parts.append(f"{row['area_um2']:.0f} µm²")
    parts.append(f"{100 * row['fraction_in_field']:.0f} % inside")
    return "; ".join([*parts, *([str(row["reason"])] if row["reason"] else [])])


def describe_last(history: History, signed: bool) -> str:
    """Say how many edits stand, and which was the last.

    Examples
    --------
    >>> describe_last(History(), False)
    'No edit yet.'
    """
    done = history.done
    if not done:
        return "No edit yet."
    last = done[-1]
    what = " ".join(filter(None, [last.action, last.object or (f"field {last.field}" if last.field else "")]))
    text = f"{len(done)} edits kept, the last: {what}."
    return f"{text} Signed {last.time:%Y-%m-%d %H:%M} UTC." if signed else text


def list_queue(fields: pd.DataFrame, objects: pd.DataFrame) -> Iterator[tuple[str, int | str]]:
    """Entries of the queue and what they lead to: a field's number or an object's ID.

    Parameters
    ----------
    fields, objects : DataFrame
        See `histoquant.review`.
    """
    for row in fields.to_dict("records"):
        influence = row["influence"]
        shown = "" if influence != influence else f" ({influence:+.4f})"
        yield f"field {row['field']}{shown}: {row['why']}", int(row["field"])
    for row in objects.to_dict("records"):
        yield f"{row['object']} {row['kind']} (±{row['effect']:.4f}): {row['why']}", str(row["object"])


def _format(value: Any) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
