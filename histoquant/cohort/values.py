"""Cells of tables that people make: numbers, yes or no, dates; what is neither is named with its row."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from histoquant.errors import StudyError
from histoquant.sheets import Line

T = TypeVar("T")

MISSING = frozenset(
    {
        "",
        "na",
        "n/a",
        "n.a.",
        "nan",
        "null",
        ".",
        "?",
        "unknown",
        "-",
        "–",
        "—",
        "/",
        "未知",
        "缺失",
        "未查",
        "不详",
    }
)
YES = frozenset({"yes", "y", "true", "1", "+", "是", "有", "阳性", "positive"})
NO = frozenset({"no", "n", "false", "0", "-", "否", "无", "阴性", "negative"})
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d+,\d{1,2}")
_DATE = re.compile(r"(\d{4})[-/.年](\d{1,2})[-/.月](\d{1,2})日?")
_MOST_LEVELS = 12


def clean(text: str) -> str:
    """Bring a cell to one form: letters of usual width, in lower case, without spaces around.

    Examples
    --------
    >>> clean(" １２．５ "), clean("Yes")
    ('12.5', 'yes')
    """
    return unicodedata.normalize("NFKC", text).replace("−", "-").strip().lower()


def parse_number(text: str) -> float | None:
    """Read a number, with a decimal point or a comma before one or two decimals; None if it is missing.

    Raises
    ------
    ValueError
        It is something else.

    Examples
    --------
    >>> parse_number("12.5"), parse_number("12,5"), parse_number("n/a")
    (12.5, 12.5, None)
    """
    value = clean(text)
    if value in MISSING:
        return None
    if _NUMBER.fullmatch(value):
        return float(value)
    if _COMMA.fullmatch(value):
        return float(value.replace(",", "."))
    raise ValueError("is no number; write it plainly, such as 1234.5, or leave the cell empty")


def parse_flag(text: str) -> bool | None:
    """Read yes or no; None if it is missing.

    Raises
    ------
    ValueError
        It is something else.

    Examples
    --------
    >>> parse_flag("Yes"), parse_flag("否"), parse_flag("")
    (True, False, None)
    """
    value = clean(text)
    if value in MISSING:
        return None
    if value in YES:
        return True
    if value in NO:
        return False
    raise ValueError("is neither yes nor no; write yes, no, or leave the cell empty")


def parse_date(text: str) -> date | None:
    """Read a date that begins with the year; None if it is missing.

    Raises
    ------
    ValueError
        It is something else: 01/02/2020 may be January or February.

    Examples
    --------
    >>> parse_date("2019-03-05"), parse_date("2019年3月5日")
    (datetime.date(2019, 3, 5), datetime.date(2019, 3, 5))
    """
    value = clean(text)
    if value in MISSING:
        return None
    found = _DATE.fullmatch(value)
    try:
        if found:
            return date(*(int(part) for part in found.groups()))
    except ValueError:
        pass
    raise ValueError("is no date; write year-month-day, such as 2019-03-05")


def read_column(
    rows: Sequence[Line], name: str, parse: Callable[[str], T | None], path: object
) -> list[T | None]:
    """Read a column by one of the functions above.

    Parameters
    ----------
    rows : sequence of Line
        Of the file.
    name : str
        Column; where a row lacks it, it is missing.
    parse : callable
        Reads a cell.
    path : Path
        For messages.

    Returns
    -------
    list
        None where it is missing.

    Raises
    ------
    StudyError
        A cell is something else; row and column are named.
    """
    values = []
    for line, cells in rows:
        text = cells.get(name, "")
        try:
            values.append(parse(text))
        except ValueError as error:
            what, _, fix = str(error).partition("; ")
            raise StudyError(f"{text!r} {what}", f"{path}, row {line}, column {name}", fix) from error
    return values


def infer_column(rows: Sequence[Line], name: str, path: object) -> pd.Series[Any] | None:
    """Read a column as what it holds: yes or no, numbers, or a few different texts.

    Parameters
    ----------
    rows, name, path
        As for `read_column`.

    Returns
    -------
    Series or None
        Of dtype boolean, float or object; None where it is neither: more than 12 different texts.

    Raises
    ------
    StudyError
        Most cells are numbers, and one is not.

    Examples
    --------
    >>> infer_column([(2, {"ILD": "yes"}), (3, {"ILD": ""})], "ILD", "a.csv").tolist()
    [True, <NA>]
    """
    texts = [clean(cells.get(name, "")) for _, cells in rows]
    # Among plus signs a minus is a finding, elsewhere an empty cell.
    signed = any(text and set(text) <= {"+"} for text in texts)
    absent = MISSING - {"-"} if signed else MISSING
    known = [text for text in texts if text not in absent]
    if signed and set(known) <= {"+", "-"}:
        values = [None if text in absent else text == "+" for text in texts]
        return pd.Series(values, dtype="boolean")
    if known and all(text in YES | NO for text in known):
        return pd.Series(read_column(rows, name, parse_flag, path), dtype="boolean")
    numeric = sum(bool(_NUMBER.fullmatch(text) or _COMMA.fullmatch(text)) for text in known)
    if 2 * numeric >= len(known):
        numbers = read_column(rows, name, parse_number, path)
        return pd.Series([np.nan if value is None else value for value in numbers], dtype=np.float64)
    if len(set(known)) > _MOST_LEVELS:
        return None
    # The first spelling stands for those that differ in case or width only.
    spelling: dict[str, str] = {}
    for text, (_, cells) in zip(texts, rows, strict=True):
        spelling.setdefault(text, cells.get(name, "").strip())
    return pd.Series([None if text in absent else spelling[text] for text in texts], dtype=object)
