"""The batch: what a task's failure becomes, and what is measured again."""

from __future__ import annotations

import json
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from threading import Timer

import pytest

from histoquant import batch, results
from histoquant.batch import check_request, measure_sections, plan_work
from histoquant.errors import (
    HistoquantError,
    ProtocolError,
    ResultsError,
    StorageError,
    StudyError,
    WorkerError,
)
from histoquant.executors import SerialExecutor
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


def hold(path: Path) -> RunFolder:
    path.mkdir(exist_ok=True)
    return RunFolder(path)


def store(folder: RunFolder, section: Section, key: str, status: str = "measured", field: str = "ok") -> None:
    record = {"key": key, "status": status, "reason": "", "fields_asked": 1, "fields": [{"status": field}]}
    results.write_section(folder.section(section.folder), {}, record)


def test_a_dead_worker_says_what_to_do(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, "A"), hold(tmp_path / "out")
    works = plan_work(study, folder, Protocol(), 0).works
    future: Future[None] = Future()
    future.set_exception(BrokenProcessPool("killed"))

    class Broken(SerialExecutor):
        def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
            return future

    with pytest.raises(WorkerError, match="fewer --workers"):
        measure_sections(works, folder, Protocol(), 0, Broken(), lambda *done: None)


def test_the_unexpected_becomes_a_reason() -> None:
    with SerialExecutor() as executor, pytest.raises(HistoquantError, match="unexpected ZeroDivisionError"):
        batch._take(executor.submit(lambda: 1 / 0))


def test_only_what_is_not_stored_is_measured(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, "A", "B", "C", "D"), hold(tmp_path / "out")
    works = {work.section.id: work for work in plan_work(study, folder, Protocol(), 0).works}
    assert list(works) == ["A-CD19", "B-CD19", "C-CD19", "D-CD19"]
    sections = {section.id: section for section in study.sections}
    store(folder, sections["A-CD19"], works["A-CD19"].key)
    store(folder, sections["B-CD19"], "of another seed")
    store(folder, sections["C-CD19"], works["C-CD19"].key, status="failed")
    store(folder, sections["D-CD19"], works["D-CD19"].key, field="failed")
    again = [work.section.id for work in plan_work(study, folder, Protocol(), 0).works]
    assert again == ["B-CD19", "C-CD19", "D-CD19"]


def test_seed_input_and_settings_are_in_the_key_and_the_place_of_the_study_is_not(tmp_path: Path) -> None:
    def key(folder: Path, protocol: Protocol, seed: int) -> str:
        return plan_work(make_study(folder, "A"), hold(tmp_path / "out"), protocol, seed).works[0].key

    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    first = key(here, Protocol(), 0)
    assert key(there, Protocol(), 0) == first
    assert key(here, Protocol(), 1) != first
    assert key(here, Protocol(working_mpp=0.6), 0) != first
    study = make_study(here, "A")
    study.sections[0].sources[0].path.write_bytes(b"other pixels")
    assert plan_work(study, hold(tmp_path / "out"), Protocol(), 0).works[0].key != first


def test_an_unknown_section_and_an_edited_one_are_refused(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, "A"), hold(tmp_path / "out")
    with pytest.raises(StudyError, match="has no section B-CD19"):
        check_request(study, Protocol(), ["B-CD19"])
    with pytest.raises(ProtocolError, match="no segmenter"):
        check_request(study, Protocol.model_validate({"fibers": {"method": "magic"}}))
    edits = folder.section("A-CD19") / "edits"
    edits.mkdir(parents=True)
    (edits / "Li.jsonl").write_text("{}")
    with pytest.raises(ResultsError, match=r"version would orphan: A-CD19 by Li; .*--only"):
        plan_work(study, folder, Protocol(), 0)


def test_a_section_that_cannot_be_opened_is_stored_as_failed(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, "A", "B"), hold(tmp_path / "out")
    seen: list[tuple[int, int]] = []
    with SerialExecutor() as executor:
        works = plan_work(study, folder, Protocol(), 0).works
        measure_sections(works, folder, Protocol(), 0, executor, lambda *done: seen.append(done))
    assert seen == [(0, 2), (1, 2), (2, 2)]
    record = results.read_record(folder.section("A-CD19"))
    assert record is not None and record["status"] == "failed" and "A.svs" in record["reason"]


def test_a_stored_section_whose_slide_is_gone_is_kept(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, "A"), hold(tmp_path / "out")
    key = plan_work(study, folder, Protocol(), 0).works[0].key
    store(folder, study.sections[0], key)
    study.sections[0].sources[0].path.unlink()
    plan = plan_work(study, folder, Protocol(), 0)
    assert plan.works == () and "stored result is kept" in plan.unavailable["A-CD19"]
    record = results.read_record(folder.section("A-CD19"))
    assert record is not None and record["status"] == "measured"


def test_a_lost_folder_does_not_come_back_empty(tmp_path: Path) -> None:
    study, folder = make_study(tmp_path, "A"), RunFolder(tmp_path / "gone")
    works = plan_work(study, folder, Protocol(), 0).works
    with SerialExecutor() as executor, pytest.raises(StorageError, match="cannot be written"):
        measure_sections(works, folder, Protocol(), 0, executor, lambda *done: None)
    assert not folder.path.exists()


def test_who_waits_for_loops_to_be_compiled_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, folder = make_study(tmp_path, "A", "B"), hold(tmp_path / "out")
    works = plan_work(study, folder, Protocol(), 0).works
    compiling = iter([False, True, True, True, False])
    monkeypatch.setattr(batch, "_LOOK_S", 0.01)
    monkeypatch.setattr(batch, "is_compiling", lambda: next(compiling))
    told: list[str] = []

    class Slow(SerialExecutor):
        def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
            future: Future[None] = Future()
            Timer(0.2, lambda: future.set_exception(HistoquantError("no slide"))).start()
            return future

    measure_sections(works, folder, Protocol(), 0, Slow(), lambda *done: None, tell=told.append)
    assert told == ["compiling loops, once on this machine"]
    events = [json.loads(line)["event"] for line in (folder.path / results.EVENTS).read_text().splitlines()]
    assert events.count("compiling_loops") == 1 and next(compiling)
