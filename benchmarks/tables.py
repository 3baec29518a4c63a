"""Tables of the pages in docs, and what is kept of a long benchmark."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pandas as pd

T = TypeVar("T")


def keep(path: Path, make: Callable[[], T]) -> T:
    """What was measured before, or measure it and keep it, so that a benchmark that was stopped goes on."""
    if path.is_file():
        found: T = pickle.loads(path.read_bytes())
        return found
    result = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    aside.write_bytes(pickle.dumps(result))
    aside.replace(path)
    return result


def format_table(table: pd.DataFrame, decimals: int = 3) -> str:
    """A Markdown table; the index is left out.

    Examples
    --------
    >>> print(format_table(pd.DataFrame({"a_b": [0.12345]})))
    | a b |
    | --- |
    | 0.123 |
    """
    names = [str(name).replace("_", " ") for name in table.columns]
    cells = [[_format_cell(value, decimals) for value in row] for row in table.to_numpy(object).tolist()]
    rows = [names, ["---"] * len(names), *cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _format_cell(value: object, decimals: int) -> str:
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


def format_share(value: float) -> str:
    """A signed percentage; a dash for what there is none of.

    Examples
    --------
    >>> format_share(-0.0123), format_share(float("nan"))
    ('-1.2%', '-')
    """
    return "-" if value != value else f"{value:+.1%}"
