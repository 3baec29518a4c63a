"""A planned run, carried out: measure, store, publish, with every step in the run's log."""

from __future__ import annotations

from concurrent.futures import Executor
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from histoquant import __version__
from histoquant.batch import Plan, Progress, Tell, measure_sections
from histoquant.errors import StorageError
from histoquant.protocol import Protocol
from histoquant.publish import publish_report, publish_tables, write_run
from histoquant.results import RunFolder, log_event
from histoquant.study import Study


class Outcome(NamedTuple):
    """What a run left behind.

    Attributes
    ----------
    sections : DataFrame
        sections.csv.
    report : Path
        Its report.
    """

    sections: pd.DataFrame
    report: Path


def execute_plan(
    plan: Plan,
    study: Study,
    folder: RunFolder,
    protocol: Protocol,
    seed: int,
    executor: Executor,
    progress: Progress,
    in_flight: int = 3,
    tell: Tell | None = None,
) -> Outcome:
    """Measure what is planned, then write tables, statistics, run.json and report from what is stored.

    Parameters
    ----------
    plan : Plan
        See `histoquant.batch.plan_work`.
    study : Study
        All its sections.
    folder : RunFolder
        Held by the caller.
    protocol, seed
        Of the run.
    executor : Executor
        Where the work is done; shut down when the measuring is over.
    progress : callable
        Called with the number of sections done and of all.
    in_flight : int, optional
        Sections under way at once.
    tell : callable, optional
        Called with what is waited for, where that takes long.

    Returns
    -------
    Outcome

    Raises
    ------
    StorageError
        The disk is full or the folder is lost; finished sections stay.
    WorkerError
        The executor broke; finished sections stay.
    """
    out, started = folder.path, datetime.now(UTC)
    waiting = [work.section.id for work in plan.works]
    write_run(out, study, protocol, seed, (started, None), plan.unavailable, waiting)
    log_event(folder, "run_started", version=__version__, seed=seed, sections=len(waiting))
    with executor:
        measure_sections(plan.works, folder, protocol, seed, executor, progress, in_flight, tell)
    sections = publish_tables(out, study, protocol, seed, plan.unavailable)
    if lost := sorted(set(waiting) - set(sections["section"])):
        raise StorageError(f"has lost {', '.join(lost)}", out, "mend the folder, then run again")
    write_run(out, study, protocol, seed, (started, datetime.now(UTC)), plan.unavailable)
    log_event(folder, "run_finished", statuses=sections["status"].value_counts().to_dict())
    return Outcome(sections, publish_report(out))
