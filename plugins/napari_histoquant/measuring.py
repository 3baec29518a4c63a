# This module touches files: it writes the study table and has the library write the run's folder.
"""A section measured from the screen, as `histoquant run` does it, field by field until it is stopped."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histoquant.batch import check_request, plan_work
from histoquant.errors import HistoquantError, ResultsError, StorageError
from histoquant.executors import SerialExecutor
from histoquant.prepare import Prepared
from histoquant.results import RunFolder, open_run, write_bytes
from histoquant.runs import execute_plan
from histoquant.study import Study, read_study
from napari_histoquant.drawing import STUDY, Drawn

COLUMNS = ("patient", "group", "marker", "slide", "mpp", "kind", "annotations")


class Stopped(HistoquantError):
    """The measurement was stopped by its user."""


@dataclass(frozen=True)
class Result:
    """What came out for the section.

    Attributes
    ----------
    row : dict
        Its row of sections.csv.
    folder : Path
        Its folder.
    report : Path
        The run's report.
    """

    row: dict[str, Any]
    folder: Path
    report: Path


class Measurement:
    """A measurement under way; `run` works in a thread, the rest may be called from any other.

    Parameters
    ----------
    drawn : Drawn
        The section and its fields.
    """

    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn
        self._executor = _Watched(len(drawn.prepared.tasks))

    @property
    def progress(self) -> tuple[int, int]:
        """Steps done and of all: one to prepare, one for each field."""
        return self._executor.done, self._executor.total

    def stop(self) -> None:
        """Stop after the field that is under way."""
        self._executor.stopped = True

    def run(self) -> Result:
        """Measure; the run's folder is that of `histoquant run` with the same table, protocol and seed.

        Returns
        -------
        Result

        Raises
        ------
        Stopped
            `stop` was called; the folder is as it was before.
        HistoquantError
            The section cannot be measured, or the folder cannot be used; results of others stay.
        """
        request = self.drawn.request
        out, table = request.run, request.run / STUDY
        before = _keep(table, out / "run.json")
        with open_run(out) as folder:
            try:
                write_bytes(table, list_section(table, self.drawn))
                study = read_study(table, request.protocol.markers)
                check_request(study, request.protocol, (self.drawn.section.id,))
                result = self._measure(study, folder)
            except BaseException:
                _restore(before)
                raise
        if result.row["status"] == "failed":
            raise ResultsError(f"could not be measured: {result.row['reason']}", self.drawn.section.id)
        return result

    def run_until_stopped(self) -> Result | None:
        """As `run`, but a stop is no error: None."""
        with suppress(Stopped):
            return self.run()
        return None

    def _measure(self, study: Study, folder: RunFolder) -> Result:
        request, name = self.drawn.request, self.drawn.section.id
        plan = plan_work(study, folder, request.protocol, request.seed, (name,))
        how = (request.protocol, request.seed, self._executor, lambda done, total: None)
        sections, page = execute_plan(plan, study, folder, *how)
        self._executor.done = self._executor.total
        row = {str(key): value for key, value in sections[sections["section"].eq(name)].iloc[0].items()}
        return Result(row, folder.section(self.drawn.section.folder), page)


class _Watched(SerialExecutor):
    """Counts the tasks done and begins none after it was stopped."""

    def __init__(self, fields: int) -> None:
        self.done, self.total, self.stopped = 0, fields + 1, False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.stopped:
            raise Stopped("stopped; the results are as they were before")
        future = super().submit(fn, *args, **kwargs)
        self.done += 1
        if future.exception() is None and isinstance(future.result(), Prepared):
            self.total = 1 + len(future.result().tasks)
        return future


def list_section(table: Path, drawn: Drawn) -> bytes:
    """The study table with the section in it, in the place of an older row of its patient and marker.

    Raises
    ------
    ResultsError
        The table that is there cannot be read.
    """
    (source,) = drawn.section.sources
    request = drawn.request
    annotations = "" if source.annotations is None else str(source.annotations.absolute())
    values = (
        *(request.patient, request.group, request.marker, str(source.path)),
        repr(source.mpp),
        "",
        annotations,
    )
    rows = [row for row in _read_rows(table) if (row[0], row[2]) != (request.patient, request.marker)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *sorted([*rows, list(values)])])
    return text.getvalue().encode()


def describe_result(result: Result) -> str:
    """Say in words what came out."""
    row = result.row
    text = (
        f"{row['cells_per_fiber']:.3f} positive cells per fiber, mean of {row['fields']} fields "
        f"({row['positive_cells']} cells, {row['fibers']} fibers)"
    )
    if row["ci_low"] == row["ci_low"]:
        text += f"; 95 % interval {row['ci_low']:.3f} to {row['ci_high']:.3f}"
    return f"{text}; {row['reason']}" if row["reason"] else text


def _read_rows(table: Path) -> list[list[str]]:
    if not table.exists():
        return []
    try:
        with table.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file))
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot be read ({error})", table, "mend it or choose another folder") from error
    if tuple(header) != COLUMNS:
        raise ResultsError("is the table of another study", table, "choose another folder for the results")
    return rows


def _keep(*paths: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def _restore(before: dict[Path, bytes | None]) -> None:
    with suppress(OSError, StorageError):
        for path, data in before.items():
            if data is None:
                path.unlink(missing_ok=True)
            elif not path.is_file() or path.read_bytes() != data:
                write_bytes(path, data)
