"""Trails: nothing that was acknowledged is lost, whatever ends the program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histoquant import trails
from histoquant.edits import make_change
from histoquant.errors import EditError, ResultsError, StorageError
from histoquant.results import list_reviewers, write_json
from histoquant.trails import open_trail, read_trail

ACCEPT, REJECT = make_change("accept", "1c1"), make_change("reject", "1c2")
WRITER = """
import sys
from pathlib import Path
from histoquant.edits import make_change
from histoquant.trails import open_trail
with open_trail(Path(sys.argv[1]), "Li") as trail:
    while True:
        edit = trail.append(make_change("accept", "1c1", "x" * 2000))
        print(edit.number, flush=True)
"""


@pytest.fixture
def section(tmp_path: Path) -> Path:
    folder = tmp_path / "张三 µ-CD19"
    folder.mkdir()
    write_json(folder / "measured.json", {"key": "0123456789abcdef"})
    return folder


def find_file(section: Path, reviewer: str = "Li") -> Path:
    return section / "edits" / f"{reviewer}.jsonl"


def test_edits_are_there_on_reopening(section: Path) -> None:
    with open_trail(section, "Li") as trail:
        first = trail.append(ACCEPT)
        assert first.number == 1
        assert first.measured == "0123456789ab"
    with open_trail(section, "Li") as trail:
        assert trail.history.lines == (first,)
        second = trail.append(REJECT)
    assert read_trail(section, "Li").lines == (first, second)
    assert find_file(section).read_bytes().count(b"\n") == 2


def test_reviewers_stay_apart(section: Path) -> None:
    with open_trail(section, "Li") as li, open_trail(section, "王 / b") as wang:
        li.append(ACCEPT)
        wang.append(REJECT)
        wang.append(ACCEPT)
    assert [edit.action for edit in read_trail(section, "Li").done] == ["accept"]
    assert [edit.action for edit in read_trail(section, "王 / b").done] == ["reject", "accept"]
    assert list_reviewers(section) == ("Li", "王 %2F b")
    assert read_trail(section, "nobody").lines == ()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(1, 400))
def test_a_torn_last_line_is_left_out_and_said(section: Path, cut: int) -> None:
    find_file(section).unlink(missing_ok=True)
    with open_trail(section, "Li") as trail:
        trail.append(ACCEPT)
        trail.append(REJECT)
    whole = find_file(section).read_bytes()
    first, second, _ = whole.split(b"\n")
    kept = second[: len(second) - 1 - cut % (len(second) - 1)]
    find_file(section).write_bytes(first + b"\n" + kept)
    history = read_trail(section, "Li")
    assert len(history.lines) == 1
    assert [note.partition(": ")[2][:7] for note in history.notes] == ["is torn"]
    with open_trail(section, "Li") as trail:
        trail.append(REJECT)
    again = find_file(section).read_bytes()
    assert again.startswith(first + b"\n" + kept + b"\n"), "nothing is ever taken away"
    assert [edit.number for edit in read_trail(section, "Li").lines] == [1, 2]
    assert "line 2: is torn" in read_trail(section, "Li").notes[0]


def test_a_line_that_lacks_its_end_only_is_whole(section: Path) -> None:
    with open_trail(section, "Li") as trail:
        trail.append(ACCEPT)
    find_file(section).write_bytes(find_file(section).read_bytes()[:-1])
    with open_trail(section, "Li") as trail:
        trail.append(REJECT)
    history = read_trail(section, "Li")
    assert (len(history.lines), history.notes) == (2, ())


def test_blocks_of_zeros_that_a_power_cut_leaves_are_torn(section: Path) -> None:
    with open_trail(section, "Li") as trail:
        trail.append(ACCEPT)
    with find_file(section).open("ab") as file:
        file.write(b"\0" * 100)
    assert len(read_trail(section, "Li").notes) == 1


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_while_appending_loses_the_last_edit_at_most(section: Path) -> None:
    for _ in range(3):
        before = len(read_trail(section, "Li").lines)
        command = [sys.executable, "-c", WRITER, str(section)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(25):
                said = process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().splitlines(keepends=True)
        acknowledged = int([line for line in [said, *rest] if line.endswith("\n")][-1])
        found = read_trail(section, "Li")
        assert acknowledged >= before + 25
        assert len(found.lines) - acknowledged in (0, 1)
    with open_trail(section, "Li") as trail:
        trail.append(REJECT)


def test_a_missing_line_is_an_error(section: Path) -> None:
    with open_trail(section, "Li") as trail:
        for _ in range(3):
            trail.append(ACCEPT)
    first, _, third, _ = find_file(section).read_bytes().split(b"\n")
    find_file(section).write_bytes(first + b"\n" + third + b"\n")
    with pytest.raises(EditError, match="line 2: has edit 3, where edit 2 must follow; restore"):
        read_trail(section, "Li")


def test_edits_of_another_person_or_measurement_are_refused(section: Path) -> None:
    with open_trail(section, "Li") as trail:
        trail.append(ACCEPT)
    find_file(section).rename(find_file(section, "Wang"))
    with pytest.raises(EditError, match="is an edit of Li, not of Wang"):
        read_trail(section, "Wang")
    find_file(section, "Wang").rename(find_file(section))
    write_json(section / "measured.json", {"key": "another"})
    with pytest.raises(EditError, match="another measurement of the section"):
        read_trail(section, "Li")


def test_a_line_of_a_newer_version_is_named(section: Path) -> None:
    with open_trail(section, "Li") as trail:
        trail.append(ACCEPT)
    line = json.loads(find_file(section).read_text(encoding="utf-8"))
    find_file(section).write_text(json.dumps({**line, "action": "recolor"}))
    with pytest.raises(EditError, match=r"Li\.jsonl, line 1: .*update histoquant"):
        read_trail(section, "Li")


def test_an_undo_that_does_not_fit_is_not_written(section: Path) -> None:
    with open_trail(section, "Li") as trail:
        trail.append(ACCEPT)
        with pytest.raises(EditError, match="cannot undo edit 7"):
            trail.append(make_change("undo", edit=7))
        trail.append(make_change("undo", edit=1))
        assert trail.history.done == ()
    assert len(read_trail(section, "Li").lines) == 2


def test_a_trail_is_open_once(section: Path) -> None:
    with open_trail(section, "Li"), pytest.raises(ResultsError, match="open in another window"):
        open_trail(section, "Li").__enter__()
    with open_trail(section, "Li") as trail:
        trail.append(ACCEPT)


@pytest.mark.parametrize("name", ["", " ", " Li", "Li\n", "x" * 201])
def test_no_name_is_no_reviewer(section: Path, name: str) -> None:
    with pytest.raises(EditError, match="is no reviewer's name"):
        read_trail(section, name)


def test_a_section_that_was_not_measured_has_no_trail(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="holds no measured section"), open_trail(tmp_path, "Li"):
        pass


def test_a_folder_that_cannot_be_written_is_said(section: Path) -> None:
    (section / "edits").write_text("a file where the folder must be")
    with pytest.raises(ResultsError, match="is not writable"), open_trail(section, "Li"):
        pass
    (section / "edits").unlink()
    find_file(section).mkdir(parents=True)
    with pytest.raises(ResultsError, match="cannot be read"):
        read_trail(section, "Li")


def test_a_full_disk_keeps_no_half_edit(section: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = trails._append_bytes

    def fill(path: Path, data: bytes) -> None:
        write(path, data[:20])
        raise OSError(28, "No space left on device")

    with open_trail(section, "Li") as trail:
        trail.append(ACCEPT)
        monkeypatch.setattr(trails, "_append_bytes", fill)
        with pytest.raises(StorageError, match="the edit is not kept"):
            trail.append(REJECT)
        assert len(trail.history.lines) == 1
        monkeypatch.setattr(trails, "_append_bytes", write)
        trail.append(REJECT)
    assert [edit.action for edit in read_trail(section, "Li").done] == ["accept", "reject"]
