"""The protocol of a run, as a table and in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, get_args

from pydantic import BaseModel

from histoquant.protocol import Protocol
from histoquant.report.formats import format_count, format_setting, is_absent
from histoquant.report.table import Column, Table, make_table


def format_time(value: Any) -> str:
    """Write an ISO time to the minute.

    Examples
    --------
    >>> format_time("2026-03-01T09:05:59.123+00:00"), format_time("yesterday"), format_time(None)
    ('2026-03-01 09:05 UTC', 'yesterday', '')
    """
    if is_absent(value):
        return ""
    try:
        return f"{datetime.fromisoformat(str(value)):%Y-%m-%d %H:%M %Z}".strip()
    except ValueError:
        return str(value)


def read_setting(run: Mapping[str, Any], block: str, key: str, default: Any) -> Any:
    """Read a setting of the protocol in run.json, or the default where it is absent.

    Examples
    --------
    >>> read_setting({"protocol": {"fields": {"count": 3}}}, "fields", "count", 10)
    3
    >>> read_setting({}, "fields", "count", 10)
    10
    """
    return ((run.get("protocol") or {}).get(block) or {}).get(key, default)


_CELLS = defaultdict(
    str,
    histoquant="Precipitate, pigment, folds and DAB-positive fibers are not cells.",
    qupath="Cells were found after QuPath’s method, for comparison: DAB is the mean of the compartment, "
    "its surroundings not taken off, and only size is refused.",
)
"""What each method of finding cells means for a positive one."""


def read_measure(run: Mapping[str, Any]) -> dict[str, str]:
    """Read from the protocol what the page's text on the measurement names."""
    shape = str(read_setting(run, "fields", "shape", "circle"))
    width_um = float(read_setting(run, "fields", "width_um", 550.0))
    area_mm2 = width_um**2 * (0.7853981633974483 if shape == "circle" else 1.0) / 1e6
    return {
        "count": format_count(read_setting(run, "fields", "count", 10)),
        "shape": shape,
        "width": f"{width_um:g} µm",
        "area": f"{area_mm2:.3g} mm²",
        "margin": f"{float(read_setting(run, 'fields', 'margin_um', 150.0)):g} µm",
        "inset": f"{float(read_setting(run, 'fields', 'inset_um', 60.0)):g} µm",
        "tissue": f"{100 * float(read_setting(run, 'fields', 'min_tissue_fraction', 0.7)):g} %",
        "draws": format_count(read_setting(run, "statistics", "draws", 10_000)),
        "cells": _CELLS[str(read_setting(run, "cells", "method", "histoquant"))],
    }


def tabulate_protocol(protocol: Mapping[str, Any]) -> Table | None:
    """Tabulate every setting with its meaning; None without settings.

    Parameters
    ----------
    protocol : mapping
        The protocol as in run.json.

    Returns
    -------
    Table or None
    """
    if not protocol:
        return None
    columns = (Column("Setting", False), Column("Value", False), Column("Meaning", False))
    return make_table("Protocol: every setting of this run.", columns, _list_settings(protocol, Protocol, ""))


def _list_settings(
    values: Mapping[str, Any], model: type[BaseModel] | None, prefix: str
) -> Iterator[tuple[str, str, str]]:
    """List key, value and meaning; a key that this version does not know has no meaning to show."""
    for key, value in values.items():
        known = model.model_fields.get(key) if model else None
        if not isinstance(value, Mapping):
            meaning = (known.description or "") if known else ""
            yield prefix + key, format_setting(value), meaning.replace("`", "")
        elif known and isinstance(known.annotation, type) and issubclass(known.annotation, BaseModel):
            yield from _list_settings(value, known.annotation, f"{prefix}{key}.")
        else:
            inner = get_args(known.annotation)[-1] if known and get_args(known.annotation) else None
            for name, part in value.items():
                nested = part if isinstance(part, Mapping) else {"": part}
                yield from _list_settings(nested, inner, f"{prefix}{key}.{name}.")
