# This module touches files: it keeps the trails of reviewers.
"""Trails: the edits of a reviewer, a line each, that are never changed and outlive a crash."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from histoquant.edits import Change, Edit, History, format_line, parse_line, replay
from histoquant.errors import EditError, ResultsError, StorageError
from histoquant.results import EDITS, hold_lock, read_record
from histoquant.study import encode_name

_KEY_LENGTH = 12
_FIX = "restore the file from a copy"


class Trail:
    """A reviewer's trail of one section, held by this process; see `open_trail`."""

    def __init__(self, path: Path, reviewer: str, measured: str, history: History, whole: bool) -> None:
        self._path, self._reviewer, self._measured = path, reviewer, measured
        self._history, self._whole = history, whole

    @property
    def history(self) -> History:
        """All lines so far, those of earlier sittings included."""
        return self._history

    def append(self, change: Change) -> Edit:
        """Append a change; when this returns, it is on the disk.

        Parameters
        ----------
        change : Change
            See `histoquant.edits.make_change`.

        Returns
        -------
        Edit

        Raises
        ------
        EditError
            An undo or redo that does not fit; nothing is written.
        StorageError
            The disk is full or the folder is gone; the edit is not kept.
        """
        edit = Edit(
            **dict(change),
            number=len(self._history.lines) + 1,
            time=datetime.now(UTC),
            reviewer=self._reviewer,
            measured=self._measured,
        )
        lines = (*self._history.lines, edit)
        replay(lines)
        # A torn line stays as it is; what follows begins on a line of its own.
        data = ("" if self._whole else "\n") + format_line(edit) + "\n"
        self._whole = False
        try:
            _append_bytes(self._path, data.encode())
        except OSError as error:
            raise StorageError(
                f"cannot be written ({error.strerror}); the edit is not kept",
                self._path,
                "free space or mend the folder, then edit again",
            ) from error
        self._whole = True
        self._history = History(lines, self._history.notes)
        return edit


@contextmanager
def open_trail(folder: Path, reviewer: str) -> Iterator[Trail]:
    """Hold a reviewer's trail of a section, to append to it.

    Parameters
    ----------
    folder : Path
        Folder of a measured section, `sections/<ID>`.
    reviewer : str
        A name; every name has a file of its own.

    Yields
    ------
    Trail

    Raises
    ------
    ResultsError
        The section is not measured, the folder is read-only, or another window holds the trail.
    EditError
        The name is empty or too long, or the trail is damaged or of another measurement.
    """
    path, measured = _locate(folder, reviewer), _read_key(folder)
    taken = ResultsError(f"the trail of {reviewer} is open in another window", folder, "close that one first")
    with hold_lock(path.with_name(f".{path.stem}.lock"), taken):
        data = _read_bytes(path)
        history = _parse(data, path, reviewer, measured)
        yield Trail(path, reviewer, measured, history, not data or data.endswith(b"\n"))


def read_trail(folder: Path, reviewer: str) -> History:
    """Read a reviewer's trail of a section; empty if there is none.

    A line that a crash tore is left out and noted. Lines are numbered, so that a line lost otherwise is an
    error.

    Parameters
    ----------
    folder, reviewer
        As for `open_trail`.

    Returns
    -------
    History

    Raises
    ------
    ResultsError
        The section is not measured, or the file cannot be read.
    EditError
        The trail is damaged, of another measurement, or of another reviewer.
    """
    path = _locate(folder, reviewer)
    return _parse(_read_bytes(path), path, reviewer, _read_key(folder))


def check_name(reviewer: str, where: Path) -> None:
    """Refuse what can be no reviewer's or reader's name.

    Raises
    ------
    EditError
        It is empty, too long, or has spaces around it or characters that cannot be seen.
    """
    name = reviewer.strip()
    if not name or len(name) > 200 or name != reviewer or not name.isprintable():
        raise EditError(f"{reviewer!r} is no reviewer's name", where, "give a name of 1 to 200 characters")


def _locate(folder: Path, reviewer: str) -> Path:
    check_name(reviewer, folder)
    return folder / EDITS / f"{encode_name(reviewer)}.jsonl"


def _read_key(folder: Path) -> str:
    record = read_record(folder)
    if record is None:
        raise ResultsError("holds no measured section", folder, "give a section of a finished run")
    return str(record["key"])[:_KEY_LENGTH]


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ResultsError(f"cannot be read ({error.strerror})", path, "mend the folder") from error


def _append_bytes(path: Path, data: bytes) -> None:
    fresh = not path.exists()
    with path.open("ab", buffering=0) as file:
        if file.write(data) != len(data):
            raise OSError(0, "only a part was written")
        os.fsync(file.fileno())
    if fresh and os.name == "posix":
        # The name of a new file is kept by its folder.
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _parse(data: bytes, path: Path, reviewer: str, measured: str) -> History:
    lines: list[Edit] = []
    notes: list[str] = []
    rows = data.split(b"\n")
    for row, raw in enumerate(rows, start=1):
        if not raw.strip():
            continue
        where = f"{path}, line {row}"
        try:
            edit = parse_line(raw.decode(), where)
        except ValueError:
            notes.append(
                f"{where}: is torn and was left out: an edit was being written when the program ended"
            )
            continue
        _check(edit, len(lines) + 1, reviewer, measured, where)
        lines.append(edit)
    replay(lines)
    return History(tuple(lines), tuple(notes))


def _check(edit: Edit, number: int, reviewer: str, measured: str, where: str) -> None:
    if edit.number != number:
        raise EditError(f"has edit {edit.number}, where edit {number} must follow", where, _FIX)
    if edit.reviewer != reviewer:
        raise EditError(f"is an edit of {edit.reviewer}, not of {reviewer}", where, _FIX)
    if edit.measured != measured:
        raise EditError(
            "is an edit of another measurement of the section", where, "edits hold for what was on the screen"
        )
