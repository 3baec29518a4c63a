"""The batch: what a task's failure becomes, and what is measured again."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from histoquant import batch, results
from histoquant.batch import SerialExecutor, make_executor, measure_sections, plan_work
from histoquant.errors import HistoquantError, ResultsError, StudyError, WorkerError
from histoquant.protocol import Protocol
from histoquant.results import RunFolder
from histoquant.study import Section, Source, Study


def make_study(folder: Path, *names: str) -> Study:
    sections = []
    for name in names:
        (folder / f"{name}.svs").write_bytes(name.encode())
        source = Source(folder / f"{name}.svs", 2)
        sections.append(Section(f"{name}-CD19", name, "", "CD19", "", "", "", (source,)))
    return Study(folder / "STUDY.csv", tuple(sections), "utf-8", ",", ())


def store(folder: RunFolder, section: Section, key: str, status: str = "measured", field: str = "ok") -> None:
    record = {"key": key, "status": status, "reason": "", "fields_asked": 1, "fields": [{"status": field}]}
    results.write_section(folder.section(section.folder), {}, record)


def test_serial_executor_holds_results_and_errors() -> None:
    with SerialExecutor() as executor:
        assert executor.submit(divmod, 7, 2).result() == (3, 1)
        assert isinstance(executor.submit(divmod, 7, 0).exception(), ZeroDivisionError)


def test_two_workers_are_processes() -> None:
    import os

    with make_executor(2) as executor:
        assert executor.submit(os.getpid).result() != os.getpid()


def test_a_dead_worker_says_what_to_do() -> None:
    future: Future[None] = Future()
    future.set_exception(BrokenProcessPool("killed"))
    with pytest.raises(WorkerError, match="fewer --workers"):
        batch._take(future)


def test_the_unexpected_becomes_a_reason() -> None:
    with SerialExecutor() as executor, pytest.raises(HistoquantError, match="unexpected ZeroDivisionError"):
        batch._take(executor.submit(lambda: 1 / 0))


def test_only_what_is_not_stored_is_measured(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, "A", "B", "C", "D"), RunFolder(tmp_path / "out")
    works = {work.section.id: work for work in plan_work(study, folder, Protocol(), 0)}
    assert list(works) == ["A-CD19", "B-CD19", "C-CD19", "D-CD19"]
    sections = {section.id: section for section in study.sections}
    store(folder, sections["A-CD19"], works["A-CD19"].key)
    store(folder, sections["B-CD19"], "of another seed")
    store(folder, sections["C-CD19"], works["C-CD19"].key, status="failed")
    store(folder, sections["D-CD19"], works["D-CD19"].key, field="failed")
    again = [work.section.id for work in plan_work(study, folder, Protocol(), 0)]
    assert again == ["B-CD19", "C-CD19", "D-CD19"]


def test_seed_input_and_settings_are_in_the_key_and_the_place_of_the_study_is_not(tmp_path: Path) -> None:
    def key(folder: Path, protocol: Protocol, seed: int) -> str:
        return plan_work(make_study(folder, "A"), RunFolder(tmp_path / "out"), protocol, seed)[0].key

    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    first = key(here, Protocol(), 0)
    assert key(there, Protocol(), 0) == first
    assert key(here, Protocol(), 1) != first
    assert key(here, Protocol(working_mpp=0.6), 0) != first
    study = make_study(here, "A")
    study.sections[0].sources[0].path.write_bytes(b"other pixels")
    assert plan_work(study, RunFolder(tmp_path / "out"), Protocol(), 0)[0].key != first


def test_an_unknown_section_and_an_edited_one_are_refused(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, "A"), RunFolder(tmp_path / "out")
    with pytest.raises(StudyError, match="has no section B-CD19"):
        plan_work(study, folder, Protocol(), 0, ["B-CD19"])
    edits = folder.section("A-CD19") / "edits"
    edits.mkdir(parents=True)
    (edits / "Li.jsonl").write_text("{}")
    with pytest.raises(ResultsError, match="A-CD19 by Li"):
        plan_work(study, folder, Protocol(), 0)


def test_a_section_that_cannot_be_opened_is_stored_as_failed(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, "A", "B"), RunFolder(tmp_path / "out")
    seen: list[tuple[int, int]] = []
    with SerialExecutor() as executor:
        works = plan_work(study, folder, Protocol(), 0)
        measure_sections(works, folder, Protocol(), 0, executor, lambda *done: seen.append(done))
    assert seen == [(0, 2), (1, 2), (2, 2)]
    record = results.read_record(folder.section("A-CD19"))
    assert record is not None and record["status"] == "failed" and "A.svs" in record["reason"]
