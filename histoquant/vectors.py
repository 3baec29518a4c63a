# This module touches files: it reads a run's fields again and keeps what other stain vectors make of them.
"""Other stain vectors tried on a finished run: its cells are measured again, nothing is segmented."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from histoquant import results
from histoquant.errors import HistoquantError
from histoquant.executors import attempt
from histoquant.measure import measure_cells
from histoquant.objects import select_countable
from histoquant.prepare import FieldTask, choose_stains, read_field, restore_task, sample_tissue
from histoquant.protocol import MarkerSettings, Protocol, StainSettings, Vector
from histoquant.publish import read_run
from histoquant.reviewed import find_source, open_section
from histoquant.sensitivity import RECALLED_COLUMNS, VECTORS, VECTORS_COLUMNS
from histoquant.slide import open_slide
from histoquant.stains import DEFAULT_VECTORS, angle_between
from histoquant.tables import SECTION_COLUMNS

Pair = tuple[Vector, Vector]
Progress = Callable[[int, int], None]
ESTIMATED = "estimated"
_TYPES = {"field": "int64", "label": "int64", "positive": "bool", "countable": "bool", "dab_od": "float64"}
_Key = TypeVar("_Key", bound=Hashable)


class Estimate(NamedTuple):
    """Stain vectors of a slide or an image, and where they come from: `estimated`, or why not."""

    vectors: Pair
    source: str


@dataclass(frozen=True)
class _Section:
    """A measured section whose fields are read again."""

    folder: Path
    batch: str
    marker: MarkerSettings
    tasks: tuple[FieldTask, ...]


def try_run(path: Path, executor: Executor, progress: Progress) -> tuple[pd.DataFrame, dict[str, str]]:
    """Measure the cells of a run again by default, slide and batch vectors, and keep how they are called.

    Every field is read once more for each pair of vectors, and measured at the places of the stored label
    maps. Nothing is segmented: what only other vectors would show stays unfound. Slide vectors are those
    that `stain.vectors = "auto"` takes; batch vectors are the median of them over the batch. Controls are
    left out.

    Parameters
    ----------
    path : Path
        The run's folder, held by the caller (`histoquant.results.open_run`). It gets `vectors.csv`, and
        `sections/ID/vectors.parquet` for every section.
    executor : Executor
        Where the work is done.
    progress : callable
        Called with the number of tasks done and of all.

    Returns
    -------
    table : DataFrame
        vectors.csv, columns `VECTORS_COLUMNS`: the sections that were read again.
    troubles : dict of str to str
        The others, with the reason.

    Raises
    ------
    ResultsError
        The folder is no finished run's.
    StorageError
        The disk is full or the folder is gone.
    """
    _, protocol = read_run(path)
    sections, troubles = _open_sections(path, protocol)
    try:
        rows = _try_sections(sections, protocol, executor, troubles, progress)
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    table = pd.DataFrame(rows, columns=list(VECTORS_COLUMNS))
    results.write_table(path / "vectors.csv", table)
    return table, troubles


def _try_sections(
    sections: Mapping[str, _Section],
    protocol: Protocol,
    executor: Executor,
    troubles: dict[str, str],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Rows of vectors.csv, each section's calls written as soon as all its fields are done."""
    note = _count(progress, len(sections) + sum(len(one.tasks) for one in sections.values()))
    waiting = {
        name: executor.submit(attempt, estimate_images, one.tasks[0].path, one.tasks)
        for name, one in sections.items()
    }
    estimates = dict(_take(waiting, troubles, note))
    pooled = {
        batch: pool_vectors(
            one for name, own in estimates.items() if sections[name].batch == batch for one in own
        )
        for batch in {one.batch for one in sections.values()}
    }
    jobs = {
        name: _submit(executor, sections[name], own, pooled[sections[name].batch], protocol)
        for name, own in estimates.items()
    }
    rows = []
    for name, futures in jobs.items():
        failed: dict[int, str] = {}
        parts = [part for _, part in _take(futures, failed, note)]
        if failed:
            troubles[name] = "; ".join(f"field {number}: {reason}" for number, reason in failed.items())
            continue
        file = sections[name].folder / "vectors.parquet"
        results.write_bytes(file, results.encode_objects(pd.concat(parts, ignore_index=True)))
        rows.append(_describe(name, sections[name].batch, estimates[name], pooled[sections[name].batch]))
    return rows


def estimate_images(tasks: Sequence[FieldTask]) -> tuple[Estimate, ...]:
    """Estimate the stain vectors of a section as a run with `stain.vectors = "auto"` does.

    Parameters
    ----------
    tasks : sequence of FieldTask
        Its fields; those of a slide share one estimate, camera images have each their own.

    Returns
    -------
    tuple of Estimate
        One per field.

    Raises
    ------
    SlideError
        An image cannot be read.
    """
    found = []
    for task in tasks if tasks[0].kind == "field" else tasks[:1]:
        with open_slide(task.path, task.mpp, task.kind) as slide:
            if task.kind == "field":
                sample = slide.read(0, 0, slide.width_px * task.mpp, slide.height_px * task.mpp).pixels
            else:
                sample = sample_tissue(slide, [one.field for one in tasks])
        _, vectors, how = choose_stains(StainSettings(white=task.white, vectors="auto"), sample, sample)
        found.append(Estimate(vectors, how["vectors_source"]))
    return tuple(found) if len(found) == len(tasks) else tuple(found * len(tasks))


def pool_vectors(estimates: Iterable[Estimate]) -> Pair:
    """Pool estimated vectors: the median of every channel, at unit length; the default ones if there is none.

    Examples
    --------
    >>> one = Estimate(((0.6, 0.8, 0.0), (0.0, 0.6, 0.8)), "estimated")
    >>> pool_vectors([one, one, Estimate(DEFAULT_VECTORS, "default, since ...")])
    ((0.6, 0.8, 0.0), (0.0, 0.6, 0.8))
    """
    known = [one.vectors for one in estimates if one.source == ESTIMATED]
    if not known:
        return DEFAULT_VECTORS
    middle = np.median(np.asarray(known, float), axis=0)
    first, second = (middle / np.linalg.norm(middle, axis=1, keepdims=True)).tolist()
    return (first[0], first[1], first[2]), (second[0], second[1], second[2])


def recall_field(
    folder: Path, task: FieldTask, marker: MarkerSettings, protocol: Protocol, tried: Mapping[str, Pair]
) -> pd.DataFrame:
    """Measure the stored cells of a field by other stain vectors.

    Parameters
    ----------
    folder : Path
        Of the section, `sections/ID`.
    task : FieldTask
        The field, with the vectors of the run.
    marker : MarkerSettings
        What makes a cell positive.
    protocol : Protocol
        Of the run.
    tried : mapping of str to pair of vectors
        By name; those that are the run's own are passed over.

    Returns
    -------
    DataFrame
        Columns `RECALLED_COLUMNS`.

    Raises
    ------
    HistoquantError
        The label maps or the pixels cannot be read.
    """
    number = task.field.number
    fibers = results.read_labels(folder / f"fields/{number}_fibers.tif").labels
    cells = results.read_labels(folder / f"fields/{number}_cells.tif").labels
    parts = [pd.DataFrame(columns=list(RECALLED_COLUMNS)).astype(_TYPES)]
    known: dict[Pair, pd.DataFrame] = {}
    for name, vectors in tried.items():
        if vectors == task.vectors:
            continue
        if vectors not in known:
            _, _, stains = read_field(replace(task, vectors=vectors), marker, protocol)
            table = measure_cells(cells, fibers, stains, marker, protocol.cells)
            known[vectors] = table.assign(field=number, countable=select_countable(table, marker))
        parts.append(known[vectors].assign(vectors=name)[list(RECALLED_COLUMNS)])
    return pd.concat(parts, ignore_index=True).astype(_TYPES)


def _open_sections(path: Path, protocol: Protocol) -> tuple[dict[str, _Section], dict[str, str]]:
    """Sections that count, with their fields as tasks; and those whose image is not there any more."""
    table = results.read_table(path / "sections.csv", SECTION_COLUMNS)
    own = table[table["control"].eq("") & table["status"].isin(["ok", "incomplete"])]
    sections, troubles = {}, {}
    for name, batch in zip(own["section"], own["batch"], strict=True):
        try:
            stored = open_section(path, name)
            source = find_source(stored)
            receipt = results.read_json(stored.folder / "receipt.json") or {}
            tasks = tuple(
                restore_task(source, receipt, row, protocol)
                for row in stored.record["fields"]
                if row["status"] == "ok"
            )
        except HistoquantError as error:
            troubles[name] = str(error)
            continue
        sections[name] = _Section(stored.folder, batch, stored.marker, tasks)
    return sections, troubles


def _submit(
    executor: Executor, section: _Section, estimates: Sequence[Estimate], pooled: Pair, protocol: Protocol
) -> dict[int, Future[Any]]:
    return {
        task.field.number: executor.submit(
            attempt,
            recall_field,
            task.path,
            *(section.folder, task, section.marker, protocol),
            dict(zip(VECTORS, (DEFAULT_VECTORS, estimate.vectors, pooled), strict=True)),
        )
        for task, estimate in zip(section.tasks, estimates, strict=True)
    }


def _take(
    futures: Mapping[_Key, Future[Any]], troubles: dict[_Key, str], note: Callable[[], None]
) -> Iterator[tuple[_Key, Any]]:
    """What was done; what went wrong is put into `troubles`."""
    for name, future in futures.items():
        try:
            yield name, future.result()
        except HistoquantError as error:
            troubles[name] = str(error)
        note()


def _count(progress: Progress, total: int) -> Callable[[], None]:
    """A function that tells one more task done each time it is called."""
    done = iter(range(1, total + 1))
    progress(0, total)
    return lambda: progress(next(done, total), total)


def _describe(name: str, batch: str, estimates: Sequence[Estimate], pooled: Pair) -> dict[str, Any]:
    own = pool_vectors(estimates)
    failed = [one.source for one in estimates if one.source != ESTIMATED]
    row: dict[str, Any] = {"section": name, "batch": batch, "slide_source": (failed or [ESTIMATED])[0]}
    for which, pair in (("slide", own), ("batch", pooled)):
        for stain, vector, usual in zip(("haematoxylin", "dab"), pair, DEFAULT_VECTORS, strict=True):
            row[f"{which}_{stain}_deg"] = round(angle_between(vector, usual), 2)
        row[f"{which}_vectors"] = str([[round(value, 4) for value in vector] for vector in pair])
    return row
