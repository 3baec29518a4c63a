# This module touches files: it reads tables.
"""Tables that people make: CSV of any usual encoding and delimiter, read as text, row by row."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from histoquant.errors import StudyError

Line = tuple[int, dict[str, str]]
"""Line of the file, the header being 1, and its cells by column."""


def read_rows(
    path: Path, name: str, required: Sequence[str], optional: Sequence[str]
) -> tuple[str, str, list[Line]]:
    """Read a table that a person made: utf-8, utf-8-sig or GB18030; comma, semicolon or tab.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        What it is, for messages.
    required, optional : sequence of str
        Columns that must and may be there, in lower case; their spelling in the file may differ in case.

    Returns
    -------
    encoding, delimiter : str
        What was taken.
    rows : list of (int, dict)
        Stripped text of every row that is not empty; other columns are kept.

    Raises
    ------
    StudyError
        The table is missing, empty or unreadable, or lacks a column.
    """
    text, encoding = _read_text(path, name, required)
    delimiter, rows = _parse_rows(text, path, required, optional)
    return encoding, delimiter, rows


def _read_text(path: Path, name: str, required: Sequence[str]) -> tuple[str, str]:
    try:
        if path.is_dir():
            raise StudyError("is a folder", path, f"give the {name}, a CSV file")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise StudyError("does not exist", path, f"check the path of the {name}") from error
    except OSError as error:
        raise StudyError(f"cannot be read ({error.strerror})", path, "check its permissions") from error
    for encoding in ["utf-8-sig"] if data.startswith(b"\xef\xbb\xbf") else ["utf-8", "gb18030"]:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not text.strip():
            raise StudyError("is empty", path, f"give a table with the columns {', '.join(required)}")
        if "\0" not in text:
            return text, encoding
    raise StudyError("is neither UTF-8 nor GB18030 text", path, "save it as CSV UTF-8")


def _parse_rows(
    text: str, path: Path, required: Sequence[str], optional: Sequence[str]
) -> tuple[str, list[Line]]:
    """Rows with the delimiter whose header has most of the known columns."""
    known = {*required, *optional}

    def count_columns(delimiter: str) -> int:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
        return len({cell.strip().lower() for cell in header} & known)

    try:
        delimiter = max(",;\t", key=count_columns)
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header = [cell.strip() for cell in next(lines)]
        names = [cell.lower() if cell.lower() in known else cell for cell in header]
        _check_header(names, path, required)
        rows = []
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            if any(cell.strip() for cell in cells[len(names) :]):
                raise StudyError(
                    f"has {len(cells)} cells for {len(names)} columns",
                    f"{path}, row {lines.line_num}",
                    "quote cells that hold the delimiter",
                )
            values = [cell.strip() for cell in cells] + [""] * (len(names) - len(cells))
            rows.append(
                (lines.line_num, {k: _normalise(k, v) for k, v in zip(names, values, strict=False) if k})
            )
    except csv.Error as error:
        raise StudyError(f"is not a CSV table ({error})", path, "save it as CSV") from error
    return delimiter, rows


def _normalise(column: str, value: str) -> str:
    """One spelling of accented names; a path stays as the disk has it."""
    return value if column in ("slide", "annotations") else unicodedata.normalize("NFC", value)


def _check_header(names: Sequence[str], path: Path, required: Sequence[str]) -> None:
    missing = [name for name in required if name not in names]
    if missing:
        found = ", ".join(name for name in names if name) or "nothing"
        raise StudyError(
            f"has no column {', '.join(missing)}", f"{path}, row 1", f"add it; the header has {found}"
        )
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise StudyError(f"has the column {twice[0]} twice", f"{path}, row 1", "remove or rename one")
