# This module touches files: it keeps the run's folder.
"""Results: a run's folder, in which every file appears whole or not at all."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import tifffile
from filelock import FileLock, Timeout

from histoquant.errors import ResultsError, StorageError
from histoquant.sensitivity import RECALLED_COLUMNS, VECTORS_COLUMNS
from histoquant.study import encode_name

RECORD = "measured.json"
EVENTS = "events.jsonl"
EDITS = "edits"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
TEXT_COLUMNS = (
    "patient",
    "group",
    "marker",
    "section",
    "batch",
    "control",
    "shape",
    "status",
    "reason",
    "analysis",
    "marker_2",
    "group_2",
    "estimate_name",
    "method",
    "note",
    # of comparisons, and of stain vectors that were tried
    *("level", "quantity", "measure", "slide_source", "slide_vectors", "batch_vectors"),
)


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, held by this process.

    Attributes
    ----------
    path : Path
        The folder of the contract.
    moved_to : Path or None
        Where an older result was moved.
    """

    path: Path
    moved_to: Path | None = None

    def section(self, folder: str) -> Path:
        """Folder of one section."""
        return self.path / "sections" / folder


class StoredLabels(NamedTuple):
    """A stored label map.

    Attributes
    ----------
    labels : ndarray of int32, shape (rows, columns)
        0 is background.
    x_um, y_um, mpp : float
        Upper left corner and pixel size, um.
    """

    labels: npt.NDArray[np.int32]
    x_um: float
    y_um: float
    mpp: float


@contextmanager
def open_run(path: Path, fresh: bool = False) -> Iterator[RunFolder]:
    """Hold a run's folder: made if absent, refused if another run holds it.

    Parameters
    ----------
    path : Path
        The folder.
    fresh : bool, optional
        Move an existing folder to `<path>.<UTC time>` first.

    Yields
    ------
    RunFolder

    Raises
    ------
    ResultsError
        The folder cannot be made or written, or another run holds it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(f"cannot be made ({error.strerror})", path, "choose another --out") from error
    with _hold(path):
        used = any(child.name != _LOCK for child in path.iterdir())
        if not (fresh and used):
            yield RunFolder(path)
            return
    # Only now: Windows does not move a folder in which a file is open.
    try:
        aside = path.with_name(f"{path.name}.{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        path.rename(aside)
        path.mkdir()
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot be moved aside ({error})", path, "choose another --out") from error
    with _hold(path):
        yield RunFolder(path, aside)


def log_event(folder: RunFolder, event: str, **details: object) -> None:
    """Add a line to the run's log, `events.jsonl`: what happened, when (UTC), and to what.

    Parameters
    ----------
    folder : RunFolder
        Of the run.
    event : str
        `run_started`, `compiling_loops`, `section_started`, `field_measured`, `field_failed`,
        `section_stored`, `run_stopped` or `run_finished`.
    **details
        Plain values.

    Raises
    ------
    StorageError
        The disk is full or the folder is gone.
    """
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **details}
    path = folder.path / EVENTS
    try:
        # In one go, so that a run that is killed leaves no half line.
        with path.open("ab", buffering=0) as file:
            file.write(encode_text(json.dumps(line, ensure_ascii=False)) + b"\n")
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror})", path, "make room, then run again"
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: aside, to the disk, then renamed.

    Raises
    ------
    StorageError
        The disk is full or the folder is gone.
    """
    aside = path.with_name(f".{path.name[:40]}.{os.getpid()}")
    try:
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror})", path, "free space or mend the folder, then run again"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON; nan becomes null."""
    write_bytes(path, encode_json(value))


def encode_json(value: Any) -> bytes:
    """Encode plain values as JSON; nan becomes null."""
    return encode_text(json.dumps(_plain(value), ensure_ascii=False, indent=1, allow_nan=False))


def encode_text(text: str) -> bytes:
    r"""Encode text as UTF-8; other bytes of a path are escaped as JSON reads them back.

    Examples
    --------
    >>> encode_text("\udcd5"), encode_text("µ") == "µ".encode()
    (b'\\udcd5', True)
    """
    return text.encode(errors="backslashreplace")


def read_json(path: Path) -> Any:
    """Read JSON; None if the file is absent or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as the contract has it: UTF-8, `.` decimal, empty where not available.

    A text that a spreadsheet would run as a formula begins with an apostrophe in the file.
    """
    safe = table.rename(columns=_defuse)
    texts = [name for name in safe.columns if safe[name].dtype == object or str(safe[name].dtype) == "str"]
    safe = safe.assign(**{name: safe[name].map(_defuse) for name in texts})
    write_bytes(path, encode_text(safe.to_csv(index=False, lineterminator="\n")))


def _defuse(value: Any) -> Any:
    """A name that begins like a formula, `=HYPERLINK(...)` say, behind an apostrophe; numbers stay."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def read_table(path: Path, columns: Collection[str] = ()) -> pd.DataFrame:
    """Read a table of the run's folder; names stay text, whatever they look like.

    Parameters
    ----------
    path : Path
        The file.
    columns : collection of str, optional
        Columns that it must have, all but `TEXT_COLUMNS` of numbers.

    Returns
    -------
    DataFrame

    Raises
    ------
    ResultsError
        The table is absent or damaged, lacks a column, or holds a text where a number belongs.
    """
    try:
        names = list(pd.read_csv(path, nrows=0).columns)
        if missing := sorted(set(columns) - set(names)):
            raise ValueError(f"it has no column {missing[0]}")
        # What follows the reason in sections.csv are the study table's own columns.
        own = names.index("reason") + 1 if "reason" in names else len(names)
        text = {name: str for index, name in enumerate(names) if name in TEXT_COLUMNS or index >= own}
        table = pd.read_csv(
            path,
            dtype=text,
            keep_default_na=False,
            na_values={name: [""] for name in names if name not in text},
        )
        for name in set(columns) - set(text):
            if (wrong := pd.to_numeric(table[name], errors="coerce").isna() & table[name].notna()).any():
                at = int(wrong.to_numpy().argmax())
                raise ValueError(f"row {at + 2} has {table[name].iloc[at]!r} as {name}")
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot be read ({error})", path, "run `histoquant run` again") from error
    for name in text:
        table[name] = table[name].str.replace(r"^'(?=[=+\-@\t\r])", "", regex=True)
    return table


def encode_labels(labels: npt.NDArray[np.int32], x_um: float, y_um: float, mpp: float) -> bytes:
    """Encode a label map as TIFF whose description says where it lies.

    Parameters
    ----------
    labels : ndarray of int32, shape (rows, columns)
        Labels at the working resolution.
    x_um, y_um, mpp : float
        Upper left corner and pixel size.

    Returns
    -------
    bytes
    """
    about = json.dumps({"origin_x_um": x_um, "origin_y_um": y_um, "mpp": mpp})
    file = io.BytesIO()
    how = {"compression": "zlib", "compressionargs": {"level": 1}}
    tifffile.imwrite(file, np.asarray(labels, np.int32), description=about, metadata=None, **how)
    return file.getvalue()


def read_labels(path: Path) -> StoredLabels:
    """Read a label map and where it lies.

    Raises
    ------
    ResultsError
        It is absent or damaged, or does not say where it lies.
    """
    try:
        with tifffile.TiffFile(path) as file:
            labels = file.pages[0].asarray().astype(np.int32)
            about = json.loads(file.pages[0].description)
        return StoredLabels(labels, *(float(about[key]) for key in ("origin_x_um", "origin_y_um", "mpp")))
    except (OSError, ValueError, KeyError, TypeError, tifffile.TiffFileError) as error:
        raise ResultsError(f"cannot be read ({error})", path, "run `histoquant run` again") from error


def read_objects(path: Path) -> pd.DataFrame:
    """Read a section's object table.

    Raises
    ------
    ResultsError
        It is absent or damaged.
    """
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot be read ({error})", path, "run `histoquant run` again") from error


def read_vectors(path: Path, sections: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Read what `histoquant vectors` has kept in a run's folder.

    Parameters
    ----------
    path : Path
        The run's folder.
    sections : DataFrame
        sections.csv.

    Returns
    -------
    vectors : DataFrame
        vectors.csv, columns `VECTORS_COLUMNS`.
    recalled : DataFrame
        section and `RECALLED_COLUMNS`.
        None instead of both unless they stand for every section that counts, in its batch: a section that is
        measured anew loses its file.

    Raises
    ------
    ResultsError
        A file is damaged.
    """
    if not (path / "vectors.csv").is_file():
        return None
    tried = read_table(path / "vectors.csv", VECTORS_COLUMNS)
    used = sections[sections["control"].eq("") & sections["status"].isin(["ok", "incomplete"])]
    names, batches = used["section"], used["batch"]
    files = {name: path / "sections" / encode_name(name) / "vectors.parquet" for name in names}
    same = set(zip(names, batches, strict=True)) == set(zip(tried["section"], tried["batch"], strict=True))
    if not files or not same or not all(file.is_file() for file in files.values()):
        return None
    parts = [read_objects(file).assign(section=name) for name, file in files.items()]
    return tried, pd.concat(parts, ignore_index=True)[["section", *RECALLED_COLUMNS]]


def encode_objects(objects: pd.DataFrame) -> bytes:
    """Encode an object table as parquet."""
    file = io.BytesIO()
    objects.to_parquet(file, index=False)
    return file.getvalue()


def read_record(folder: Path) -> dict[str, Any] | None:
    """Record of a finished section; None if the section was never finished."""
    record = read_json(folder / RECORD)
    return record if isinstance(record, dict) and "key" in record else None


def write_section(folder: Path, files: Mapping[str, bytes], record: Mapping[str, Any]) -> None:
    """Write a section's files aside, then put them in the place of older ones, the record last.

    A section without record was not finished; what was there stays until all that is new is written.

    Parameters
    ----------
    folder : Path
        The section's folder; a reviewer's edits in it stay.
    files : mapping of str to bytes
        Contents by path within the folder.
    record : mapping
        Plain values: key, status, reason, field rows.

    Raises
    ------
    StorageError
        The disk is full or the folder is gone.
    """
    aside = folder.with_name(f".{folder.name}.new")
    try:
        # Not with parents: a run's folder that has gone must not come back empty.
        folder.parent.mkdir(exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        for place in {aside, *((aside / name).parent for name in files), folder}:
            place.mkdir(parents=place.parent != folder.parent, exist_ok=True)
        for name, data in files.items():
            write_bytes(aside / name, data)
        write_json(aside / RECORD, record)
        _replace_contents(folder, aside)
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror})", folder, "free space or mend the folder, then run again"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _replace_contents(folder: Path, aside: Path) -> None:
    """Put new files in the place of old ones; edits stay, the record goes first and comes last."""
    (folder / RECORD).unlink(missing_ok=True)
    for stale in folder.iterdir():
        if stale.is_dir() and stale.name != EDITS:
            shutil.rmtree(stale)
        elif not stale.is_dir():
            stale.unlink()
    for fresh in sorted(aside.iterdir(), key=lambda path: path.name == RECORD):
        fresh.rename(folder / fresh.name)


def list_reviewers(folder: Path) -> tuple[str, ...]:
    """Reviewers who have edited a section."""
    return tuple(sorted(path.stem for path in (folder / EDITS).glob("*.jsonl")))


def locate_review(path: Path, reviewer: str) -> Path:
    """Folder of a run's tables with a reviewer's edits."""
    return path / "reviewed" / encode_name(reviewer)


def list_orphans(folder: RunFolder, known: Collection[str]) -> tuple[str, ...]:
    """Folders of sections that hold edits but belong to no section of the study any more."""
    places = {path.parents[1].name for path in folder.path.glob(f"sections/*/{EDITS}/*.jsonl")}
    return tuple(sorted(places - set(known)))


_LOCK = ".lock"


def _hold(path: Path) -> AbstractContextManager[None]:
    taken = ResultsError("is in use by another run", path, "wait for it to end, or choose another --out")
    return hold_lock(path / _LOCK, taken, "choose another --out")


@contextmanager
def hold_lock(
    path: Path, taken: ResultsError, fix: str = "ask for the right to write there"
) -> Iterator[None]:
    """Hold a lock until the end of the block; its folder is made where it is missing.

    Parameters
    ----------
    path : Path
        File of the lock.
    taken : ResultsError
        What to raise if another program holds it.
    fix : str, optional
        What to do if the folder cannot be written.

    Raises
    ------
    ResultsError
        `taken`, or the folder is not writable.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise taken from error
    except OSError as error:
        raise ResultsError(f"is not writable ({error.strerror})", path.parent, fix) from error
    try:
        yield
    finally:
        lock.release()


def _plain(value: Any) -> Any:
    """Values that JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
