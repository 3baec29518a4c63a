# This module touches files: it keeps the history of a laboratory's controls in one SQLite file.
"""History: measures of every slide checked, in one file that two may write and that outlives a crash."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from histoquant.errors import HistoryError

# Step n brings a file of version n - 1 to version n; a step that was released never changes.
_STEPS = (
    """CREATE TABLE observations (
        id INTEGER PRIMARY KEY, added TEXT NOT NULL, slide TEXT NOT NULL, batch TEXT NOT NULL,
        marker TEXT NOT NULL, control TEXT NOT NULL, measure TEXT NOT NULL, value REAL NOT NULL,
        UNIQUE (slide, measure))""",
    "ALTER TABLE observations ADD COLUMN section TEXT NOT NULL DEFAULT ''",
)
VERSION = len(_STEPS)
_WAIT_S = 30.0
_COLUMNS = ("added", "slide", "batch", "marker", "control", "measure", "value", "section")


class Observation(NamedTuple):
    """A measure of a slide: when it was added (UTC), the slide's fingerprint, batch, marker, control."""

    added: str
    slide: str
    batch: str
    marker: str
    control: str
    measure: str
    value: float
    section: str


def add_observations(path: Path, observations: Sequence[Observation]) -> int:
    """Add to the history, all or nothing; the same slide again replaces its values and keeps its place.

    Parameters
    ----------
    path : Path
        The file; made if absent, brought to this version if older, after a copy beside it.
    observations : sequence of Observation
        What to add.

    Returns
    -------
    int
        How many were new.

    Raises
    ------
    HistoryError
        The file is no history, newer than this program, cannot be written, or stays in use by another.
    """
    marks = ", ".join("?" for _ in _COLUMNS)
    statement = (
        f"INSERT INTO observations ({', '.join(_COLUMNS)}) VALUES ({marks}) "
        "ON CONFLICT (slide, measure) DO UPDATE SET value = excluded.value, batch = excluded.batch, "
        "marker = excluded.marker, control = excluded.control, section = excluded.section"
    )
    with _open(path) as connection, _transaction(connection):
        before = _count(connection)
        connection.executemany(statement, observations)
        return _count(connection) - before


def read_history(path: Path) -> pd.DataFrame:
    """Read the history.

    Parameters
    ----------
    path : Path
        The file; made if absent.

    Returns
    -------
    DataFrame
        Fields of `Observation`, in the order added.

    Raises
    ------
    HistoryError
        As `add_observations`.
    """
    with _open(path) as connection, _transaction(connection):
        rows = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM observations ORDER BY id").fetchall()
    return pd.DataFrame(rows, columns=list(_COLUMNS))


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a file of this version."""
    try:
        # Transactions are begun by hand: sqlite3's own would not lock before the first write.
        with closing(sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            _migrate(connection, path)
            yield connection
    except sqlite3.Error as error:
        raise HistoryError(
            f"cannot be used ({error})",
            path,
            "name a history made by histoquant, in a folder you may write to",
        ) from error


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and nobody else writes meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a file to this version; an older one is copied first."""
    if _read_version(connection) == VERSION:
        return
    with _transaction(connection):
        version = _read_version(connection)  # another process may have been faster
        if version > VERSION:
            raise HistoryError(
                f"has version {version}", path, f"update histoquant: it knows version {VERSION}"
            )
        if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise HistoryError("is another program's database", path, "name another file with --history")
        if 0 < version < VERSION:
            _back_up(path, version)
        for step in _STEPS[version:]:
            connection.execute(step)
        connection.execute(f"PRAGMA user_version = {VERSION}")


def _back_up(path: Path, version: int) -> None:
    """Copy the file as it was, by a connection of its own; a copy of that version is never overwritten."""
    target = path.with_name(f"{path.name}.version{version}")
    if target.exists():
        return
    aside = path.with_name(f".{target.name}.part")
    with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(aside)) as new:
        old.backup(new)
    aside.replace(target)


def _read_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM observations").fetchone()[0])
