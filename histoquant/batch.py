"""A study measured in batch: sections and fields go to workers, one owner keeps the folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from histoquant import __version__, results
from histoquant.errors import HistoquantError, ResultsError, StorageError, StudyError, WorkerError
from histoquant.executors import attempt
from histoquant.fibers import identify_segmenter
from histoquant.pipeline import FieldTask, Measured, Prepared, describe_field, measure_field, prepare_section
from histoquant.protocol import MarkerSettings, Protocol, hash_measurement
from histoquant.results import RunFolder
from histoquant.study import Section, Study, count_images, fingerprint_file
from histoquant.turns import is_compiling

COMPILING = "compiling loops, once on this machine"
_LOOK_S = 0.5
Record = dict[str, Any]
Progress = Callable[[int, int], None]
"""Called with the number of sections done and of all."""
Tell = Callable[[str], None]
"""Called with what is waited for, where that takes long."""


@dataclass(frozen=True)
class Work:
    """One section to measure, and the key under which its result is stored.

    Attributes
    ----------
    section : Section
        Of the study.
    key : str
        Digest of all that bears on the result.
    inputs : dict of str to str
        Fingerprints by path.
    segmenter : str
        What finds the fibers.
    trouble : str
        Why the section cannot be measured now; empty if nothing is known to be wrong.
    """

    section: Section
    key: str
    inputs: dict[str, str]
    segmenter: str
    trouble: str


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    Attributes
    ----------
    works : tuple of Work
        Sections to measure.
    unavailable : dict of str to str
        Sections that have a stored result but cannot be measured now, with the reason.
    outdated : int
        Sections to measure whose stored result comes from other settings, seed, input or version.
    """

    works: tuple[Work, ...]
    unavailable: dict[str, str]
    outdated: int = 0


@dataclass
class _Job:
    """A section under way."""

    work: Work
    started: float
    fields_asked: int = 0
    left: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    problem: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    objects: dict[int, pd.DataFrame] = field(default_factory=dict)
    features: dict[int, list[dict[str, Any]]] = field(default_factory=dict)


def check_request(study: Study, protocol: Protocol, only: Sequence[str] = ()) -> None:
    """Refuse what cannot be run, before anything is begun.

    Raises
    ------
    StudyError
        A section named in `only` is not in the study.
    ProtocolError
        The segmenter or its model cannot be loaded.
    """
    known = sorted(section.id for section in study.sections)
    for name in set(only) - set(known):
        raise StudyError(f"has no section {name}", study.path, f"name one of {', '.join(known[:5])} …")
    identify_segmenter(protocol.fibers)


def plan_work(
    study: Study, folder: RunFolder, protocol: Protocol, seed: int, only: Sequence[str] = ()
) -> Plan:
    """Find the sections that must be measured: those not stored under the same key.

    A section that failed, or in which a field failed, is measured again. A stored result whose slide
    cannot be read now is left as it is.

    Parameters
    ----------
    study : Study
        Its sections.
    folder : RunFolder
        Where results are stored.
    protocol, seed
        Part of the key, as are the program's version and the inputs' fingerprints.
    only : sequence of str, optional
        IDs of the sections to look at; all if empty.

    Returns
    -------
    Plan

    Raises
    ------
    ResultsError
        A section that a reviewer has edited would be measured again.
    """
    segmenter = identify_segmenter(protocol.fibers)
    works, edited, unavailable, outdated = [], [], {}, 0
    for section in study.sections:
        if only and section.id not in only:
            continue
        work = _key_section(section, protocol, seed, segmenter)
        place = folder.section(section.folder)
        record = results.read_record(place)
        if _is_current(record, work.key):
            continue
        if work.trouble and record is not None and record["status"] != "failed":
            unavailable[section.id] = f"{work.trouble}; its stored result is kept until this is mended"
            continue
        if reviewers := results.list_reviewers(place):
            if record is not None and record["key"] == work.key:
                continue  # what failed in it stays failed: edits refer to what was measured
            edited.append(f"{section.id} by {', '.join(reviewers)}")
        works.append(work)
        outdated += record is not None and record["status"] != "failed" and record["key"] != work.key
    if edited:
        raise ResultsError(
            f"holds edits that another protocol, seed, input or version would orphan: {'; '.join(edited)}",
            folder.path,
            "choose another --out, name other sections by --only, or --fresh to move the old folder aside",
        )
    return Plan(tuple(works), unavailable, outdated)


def measure_sections(
    works: Sequence[Work],
    folder: RunFolder,
    protocol: Protocol,
    seed: int,
    executor: Executor,
    progress: Progress,
    in_flight: int = 3,
    tell: Tell | None = None,
) -> None:
    """Measure sections and store each as soon as it is finished.

    Parameters
    ----------
    works : sequence of Work
        See `plan_work`.
    folder : RunFolder
        Where results go; only this process writes.
    protocol, seed
        Of the run.
    executor : Executor
        Anything with the interface of `concurrent.futures`.
    progress : callable
        See `Progress`.
    in_flight : int, optional
        Sections under way at once, which bounds memory.
    tell : callable, optional
        See `Tell`.

    Raises
    ------
    StorageError
        The disk is full or the folder is lost; finished sections stay.
    WorkerError
        The executor broke; finished sections stay.
    """
    try:
        _measure_all(deque(works), folder, protocol, seed, executor, progress, in_flight, tell)
    except BrokenExecutor as error:
        with suppress(StorageError):
            results.log_event(folder, "run_stopped", reason=str(error))
        fix = "finished sections stay: run again to go on, with fewer --workers if memory ran out"
        raise WorkerError(str(error) or "a worker process died", fix=fix) from error
    except BaseException as error:
        with suppress(StorageError):  # the first trouble is the one to tell
            results.log_event(folder, "run_stopped", reason=str(error) or type(error).__name__)
        executor.shutdown(wait=False, cancel_futures=True)
        raise


def _measure_all(
    waiting: deque[Work],
    folder: RunFolder,
    protocol: Protocol,
    seed: int,
    executor: Executor,
    progress: Progress,
    in_flight: int,
    tell: Tell | None,
) -> None:
    total = len(waiting)
    under_way: dict[Future[Any], tuple[_Job, FieldTask | None]] = {}
    jobs = finished = 0
    starting = True
    progress(0, total)
    while waiting or under_way:
        while waiting and jobs < in_flight:
            job = _Job(waiting.popleft(), time.monotonic())
            jobs += 1
            section = job.work.section
            results.log_event(folder, "section_started", section=section.id)
            # A file that is known to be absent is not waited for.
            path = None if job.work.trouble or not section.sources else section.sources[0].path
            under_way[executor.submit(attempt, prepare_section, path, section, protocol, seed)] = (job, None)
        if starting:
            _tell_of_compiling(under_way, folder, tell)
            starting = False
        done, _ = wait(under_way, return_when=FIRST_COMPLETED)
        for future in done:
            job, task = under_way.pop(future)
            if task is None:
                marker = protocol.markers.get(job.work.section.marker, MarkerSettings())
                for new in _accept_prepared(future, job, protocol):
                    under_way[executor.submit(attempt, measure_field, new.path, new, marker, protocol)] = (
                        job,
                        new,
                    )
            else:
                row = _accept_field(future, job, task)
                event = "field_failed" if row["status"] == "failed" else "field_measured"
                told = {name: row[name] for name in ("field", "status", "reason")}
                results.log_event(folder, event, section=job.work.section.id, **told)
            if job.left == 0:
                _store_section(job, folder, protocol, seed)
                jobs -= 1
                finished += 1
                progress(finished, total)


def _tell_of_compiling(under_way: Iterable[Future[Any]], folder: RunFolder, tell: Tell | None) -> None:
    """Until a task is done, look whether loops are compiled, and say so once."""
    seen = 0
    while not wait(under_way, _LOOK_S, FIRST_COMPLETED).done:
        seen = seen + 1 if is_compiling() else 0
        if seen > 1:  # once may be another run that looks
            results.log_event(folder, "compiling_loops")
            if tell is not None:
                tell(COMPILING)
            return


def _key_section(section: Section, protocol: Protocol, seed: int, segmenter: str) -> Work:
    inputs: dict[str, str] = {}
    trouble = section.problem
    for path in [p for s in section.sources for p in (s.path, s.annotations) if p is not None]:
        # Absolute, so that a program started elsewhere finds the slide again.
        place = str(path.absolute())
        try:
            inputs[place] = fingerprint_file(path)
        except OSError as error:
            inputs[place] = "unreadable"
            trouble = trouble or f"{path}: cannot be read ({error.strerror}); check the path"
    # Where the files lie is no part of the key: a study may be moved.
    said = [[s.path.name, s.mpp, s.kind, s.annotations is not None] for s in section.sources]
    settings = hash_measurement(protocol, section.marker)
    parts = [__version__, settings, segmenter, seed, section.id, section.problem, said, list(inputs.values())]
    if section.placed is not None:
        parts.append(section.placed["fields"])
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return Work(section, key, inputs, segmenter, trouble)


def _is_current(record: Mapping[str, Any] | None, key: str) -> bool:
    if record is None or record["key"] != key or record["status"] == "failed":
        return False
    return all(row["status"] != "failed" for row in record["fields"])


def _accept_prepared(future: Future[Any], job: _Job, protocol: Protocol) -> tuple[FieldTask, ...]:
    job.fields_asked = count_images(job.work.section) or protocol.fields.count
    try:
        prepared: Prepared = _take(future)
    except HistoquantError as error:
        job.problem = str(error)
        return ()
    job.fields_asked = prepared.fields_asked
    job.left = len(prepared.tasks)
    job.rows.extend(prepared.failed)
    job.files["receipt.json"] = results.encode_json(prepared.receipt)
    if prepared.overview is not None:
        job.files["overview.webp"] = prepared.overview
    return prepared.tasks


def _accept_field(future: Future[Any], job: _Job, task: FieldTask) -> Record:
    job.left -= 1
    try:
        measured: Measured = _take(future)
    except HistoquantError as error:
        row = {"status": "failed", "reason": str(error), "tissue_fraction": task.tissue_fraction}
        job.rows.append({**describe_field(task.field), **row})
        return job.rows[-1]
    job.rows.append(measured.row)
    job.objects[task.field.number] = measured.objects
    job.features[task.field.number] = measured.features
    job.files.update(measured.files)
    return measured.row


def _take(future: Future[Any]) -> Any:
    """The result of a task; whatever went wrong on its way becomes its reason, so that others go on."""
    try:
        return future.result()
    except (HistoquantError, BrokenExecutor):
        raise
    except Exception as error:
        raise HistoquantError(f"unexpected {type(error).__name__}: {error}") from error


def _store_section(job: _Job, folder: RunFolder, protocol: Protocol, seed: int) -> None:
    section = job.work.section
    record = {
        "key": job.work.key,
        "version": __version__,
        "measurement_hash": hash_measurement(protocol, section.marker),
        "segmenter": job.work.segmenter,
        "seed": seed,
        "status": "failed" if job.problem else "measured",
        "reason": job.problem,
        "fields_asked": job.fields_asked,
        "fields": sorted(job.rows, key=lambda row: row["field"]),
        "inputs": job.work.inputs,
        "seconds": round(time.monotonic() - job.started, 3),
    }
    files = dict(job.files)
    if job.objects:
        # In the order of the fields, whichever worker was first.
        objects = pd.concat([job.objects[number] for number in sorted(job.objects)], ignore_index=True)
        features = [feature for number in sorted(job.features) for feature in job.features[number]]
        collection = {"type": "FeatureCollection", "features": features}
        files["objects.parquet"] = results.encode_objects(objects)
        files["objects.geojson"] = results.encode_text(json.dumps(collection, ensure_ascii=False))
    results.write_section(folder.section(section.folder), files, record)
    told = {name: record[name] for name in ("status", "reason", "seconds")}
    results.log_event(folder, "section_stored", section=section.id, **told)
