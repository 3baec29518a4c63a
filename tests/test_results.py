import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from histoquant import results
from histoquant.errors import ResultsError, StorageError
from histoquant.results import (
    RunFolder,
    encode_json,
    encode_labels,
    encode_objects,
    list_orphans,
    list_reviewers,
    open_run,
    read_json,
    read_record,
    read_table,
    write_bytes,
    write_json,
    write_section,
    write_table,
)

HOLD = """
import sys
from pathlib import Path
from histoquant.results import open_run
with open_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def list_names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def fail(code: int) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return refuse


# Files whole or not at all


def test_writes_a_file_but_no_folder_above(tmp_path: Path) -> None:
    """A run's folder that was lost must not come back empty."""
    path = tmp_path / "张三 µ.bin"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert list_names(tmp_path) == ["张三 µ.bin"]
    with pytest.raises(StorageError, match="cannot be written"):
        write_bytes(tmp_path / "lost" / "a.bin", b"x")


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_bytes(tmp_path / "a.csv", b"old")
    owner: Any = Path if step == "replace" else os
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fail(errno.EIO))
        with pytest.raises(
            StorageError, match=r"a\.csv: cannot be written \(Input/output error\); free space"
        ):
            write_bytes(tmp_path / "a.csv", b"new")
    assert (tmp_path / "a.csv").read_bytes() == b"old"
    assert list_names(tmp_path) == ["a.csv"]


def test_a_write_that_is_stopped_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", stop)
        with pytest.raises(KeyboardInterrupt):
            write_bytes(tmp_path / "a.csv", b"new")
    assert list_names(tmp_path) == []


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "a.csv", b"new")


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("张" * 80)
    write_bytes(path, b"x")
    assert list_names(tmp_path) == [path.name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        trouble = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        trouble = str(error)
    if trouble:
        reason = f"a small disk cannot be mounted here: {trouble}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_what_was_finished(small_disk: Path) -> None:
    first, second = small_disk / "sections" / "P1", small_disk / "sections" / "P2"
    write_section(first, {"a.bin": b"x" * 60_000}, {"key": "1", "status": "measured"})
    with pytest.raises(StorageError, match="cannot be written") as caught:
        write_section(second, {"b.bin": b"x" * 60_000, "c.bin": b"x" * 300_000}, {"key": "2"})
    assert "No space left" in str(caught.value)
    assert "c.bin" in caught.value.where
    assert read_record(first) == {"key": "1", "status": "measured"}
    assert read_record(second) is None
    assert list_names(small_disk / "sections") == ["P1/a.bin", "P1/measured.json"]
    write_section(second, {"b.bin": b"x" * 60_000}, {"key": "2"})
    assert read_record(second) == {"key": "2"}


def test_a_full_disk_keeps_the_old_table(small_disk: Path) -> None:
    write_table(small_disk / "fields.csv", pd.DataFrame({"a": [1]}))
    with pytest.raises(StorageError):
        write_table(small_disk / "fields.csv", pd.DataFrame({"a": ["x" * 400_000]}))
    assert (small_disk / "fields.csv").read_bytes() == b"a\n1\n"


# The run's folder


def test_a_run_holds_its_folder(tmp_path: Path) -> None:
    with open_run(tmp_path / "deep" / "out") as folder:
        assert folder.path.is_dir()
        assert folder.section("P1-CD19") == tmp_path / "deep" / "out" / "sections" / "P1-CD19"
        with pytest.raises(ResultsError, match="is in use by another run; wait"), open_run(folder.path):
            pass
    with open_run(tmp_path / "deep" / "out"):
        pass


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder `out`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("fresh", [False, True])
def test_another_process_holds_the_folder(tmp_path: Path, holder: subprocess.Popen[str], fresh: bool) -> None:
    (tmp_path / "out" / "run.json").touch()
    with pytest.raises(ResultsError, match="is in use by another run"), open_run(tmp_path / "out", fresh):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    holder.communicate("")
    with open_run(tmp_path / "out"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_run_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with open_run(tmp_path / "out"):
        pass


def test_fresh_moves_the_old_folder_aside(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_run(out, fresh=True) as folder:
        write_bytes(folder.path / "fields.csv", b"old")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with open_run(out, fresh=True) as folder:
        assert not (folder.path / "fields.csv").exists()
        with pytest.raises(ResultsError, match="in use"), open_run(out):
            pass
    [aside] = tmp_path.glob("out.*")
    assert (aside / "fields.csv").read_bytes() == b"old"
    assert len(aside.name) == len("out.20260101T000000Z")


def test_without_fresh_everything_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_bytes(tmp_path / "out" / "fields.csv", b"old")
    with open_run(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "fields.csv").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    write_bytes(tmp_path / "out" / "fields.csv", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail(errno.EACCES))
        with (
            pytest.raises(ResultsError, match=r"cannot be moved aside .*; choose another --out"),
            open_run(tmp_path / "out", fresh=True),
        ):
            pass
    assert (tmp_path / "out" / "fields.csv").read_bytes() == b"old"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(ResultsError, match=r"cannot be made .*; choose another --out"), open_run(path):
            pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(ResultsError, match=r"is not writable .*; choose another --out"), open_run(tmp_path):
        pass


# JSON


def test_json_keeps_names_and_knows_no_nan(tmp_path: Path) -> None:
    value = {
        "张三": (np.float64("nan"), float("inf"), np.int64(3), np.bool_(True), None, "µ"),
        1: {"deep": [np.float32(0.5)]},
    }
    assert "张三".encode() in encode_json(value)
    expected = {"张三": [None, None, 3, True, None, "µ"], "1": {"deep": [0.5]}}
    assert json.loads(encode_json(value)) == expected
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == expected


def test_json_absent_or_damaged_is_none(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_bytes(b'{"a": ')
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "half.json", tmp_path / "bytes.json", tmp_path / "no.json", tmp_path):
        assert read_json(path) is None


# Tables


def test_a_table_is_written_as_the_contract_has_it(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"patient": ["张三", "µ, 2"], "n": pd.array([1, None], "Int64"), "ratio": [0.5, float("nan")]}
    )
    write_table(tmp_path / "a.csv", table)
    assert (tmp_path / "a.csv").read_bytes() == '张三,1,0.5\n"µ, 2",,\n'.join(
        ["patient,n,ratio\n", ""]
    ).encode()


def test_names_stay_text_and_numbers_may_be_absent(tmp_path: Path) -> None:
    names = ["001", "NA", "张三", "nan", "1e5", ""]
    numbers = [1.0, float("nan"), 0.5, 2.0, 3.0, 4.0]
    text = ["patient", "group", "batch", "marker_2", "group_2", "note", "reason", "age", "study_fields"]
    table = pd.DataFrame(dict.fromkeys(text[:-3], names))
    table.insert(3, "cells_per_fiber", numbers)
    table = table.assign(reason=names, age=names, study_fields=names)
    write_table(tmp_path / "a.csv", table)
    back = read_table(tmp_path / "a.csv")
    assert list(back.columns) == list(table.columns)
    for column in text:
        assert back[column].tolist() == names
    np.testing.assert_array_equal(back["cells_per_fiber"], numbers)


def test_a_name_that_is_a_formula_is_no_formula_in_the_file(tmp_path: Path) -> None:
    names = ['=HYPERLINK("http://x")', "@SUM(1)", "-cmd|' /C calc'!A0", "+1 555", "-5", "张三", "'=x"]
    frame = pd.DataFrame({"patient": names, "dab_od": -0.25, "reason": "", "=1+1": "-3.5"})
    write_table(tmp_path / "a.csv", frame)
    for line in (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines():
        first = line.lstrip('"')[:1]
        assert first not in tuple("=+@") and (first != "-" or line.startswith("-5,"))
        assert ",=" not in line and ',"=' not in line
    again = read_table(tmp_path / "a.csv")
    assert again["patient"].tolist()[:6] == names[:6]
    assert again["dab_od"].tolist() == [-0.25] * 7


def test_an_empty_table_keeps_its_columns(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", pd.DataFrame(columns=["patient", "CD19"]))
    assert read_table(tmp_path / "a.csv").columns.tolist() == ["patient", "CD19"]


def test_a_column_without_values_is_a_column_of_numbers(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", pd.DataFrame({"patient": ["P1"], "CD19": [float("nan")]}))
    assert read_table(tmp_path / "a.csv")["CD19"].isna().tolist() == [True]
    assert read_table(tmp_path / "a.csv")["CD19"].dtype == float


@pytest.mark.parametrize("data", [None, b"", b"a,b\n1,2,3,4\n1\n\xff", b'a,b\n1,"2'])
def test_a_table_absent_or_damaged(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(ResultsError, match=r"a\.csv: cannot be read .*; run `histoquant run` again"):
        read_table(tmp_path / "a.csv")


def test_a_text_where_a_number_belongs_is_named(tmp_path: Path) -> None:
    """As a spreadsheet of another language writes it back."""
    (tmp_path / "a.csv").write_text('patient,fibers,cells_per_fiber\nP1,3,\nP2,4,"0,31"\n')
    with pytest.raises(ResultsError, match="row 3 has '0,31' as cells_per_fiber"):
        read_table(tmp_path / "a.csv", ["patient", "fibers", "cells_per_fiber"])


# What a section holds


def test_a_label_map_says_where_it_lies() -> None:
    labels = np.array([[0, 1, 2], [70_000, 0, 0]], np.int32)
    data = encode_labels(labels, 12.5, 0.1, 0.4998)
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        assert json.loads(tiff.pages[0].tags["ImageDescription"].value) == {
            "origin_x_um": 12.5,
            "origin_y_um": 0.1,
            "mpp": 0.4998,
        }
        back = tiff.asarray()
    assert back.dtype == np.int32
    np.testing.assert_array_equal(back, labels)
    assert data == encode_labels(labels, 12.5, 0.1, 0.4998)


def test_objects_come_back() -> None:
    objects = pd.DataFrame({"kind": ["fiber", "cell"], "dab_od": [0.1, np.nan], "positive": [False, True]})
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(encode_objects(objects))), objects)


def test_a_section_measured_again_keeps_the_edits_alone(tmp_path: Path) -> None:
    folder = tmp_path / "P1-CD19"
    files = ["objects.parquet", "overlays/1.jpg", "fields/1_fibers.tif", "fields/10_fibers.tif"]
    write_section(folder, dict.fromkeys(files, b"old"), {"key": "1"})
    (folder / "edits").mkdir()
    write_bytes(folder / "edits" / "王.jsonl", b"{}")
    write_section(folder, {"fields/1_fibers.tif": b"new"}, {"key": "2"})
    assert list_names(folder) == ["edits/王.jsonl", "fields/1_fibers.tif", "measured.json"]
    assert (folder / "fields" / "1_fibers.tif").read_bytes() == b"new"
    assert read_record(folder) == {"key": "2"}


def test_the_old_result_stays_until_all_of_the_new_is_written(tmp_path: Path, small_disk: Path) -> None:
    folder = small_disk / "sections" / "P1"
    write_section(folder, {"a.bin": b"old"}, {"key": "1"})
    with pytest.raises(StorageError, match="No space left"):
        write_section(folder, {"a.bin": b"new", "b.bin": b"x" * 300_000}, {"key": "2"})
    assert read_record(folder) == {"key": "1"} and (folder / "a.bin").read_bytes() == b"old"
    assert list_names(small_disk) == ["sections/P1/a.bin", "sections/P1/measured.json"]


def test_the_record_goes_first_and_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sections" / "P1"
    folder.parent.mkdir()
    write_section(folder, {"a.bin": b"old"}, {"key": "1"})
    seen: list[tuple[str, bool]] = []
    rename = Path.rename

    def watch(path: Path, target: Path) -> Path:
        seen.append((path.name, read_record(folder) is not None))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", watch)
        write_section(folder, {"a.bin": b"1", "z.bin": b"2"}, {"key": "2"})
    assert seen == [("a.bin", False), ("z.bin", False), ("measured.json", False)]
    assert read_record(folder) == {"key": "2"}


def test_a_section_half_replaced_has_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sections" / "P1"
    folder.parent.mkdir()
    write_section(folder, {"a.bin": b"old"}, {"key": "1"})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail(errno.EIO))
        with pytest.raises(StorageError, match="mend the folder"):
            write_section(folder, {"a.bin": b"new"}, {"key": "2"})
    assert read_record(folder) is None


def test_edits_of_no_section_are_named(tmp_path: Path) -> None:
    edits = tmp_path / "sections" / "P1-CD19" / "edits"
    edits.mkdir(parents=True)
    (edits / "Li.jsonl").write_text("{}")
    assert list_orphans(RunFolder(tmp_path), ["P1-CD19"]) == ()
    assert list_orphans(RunFolder(tmp_path), ["P1-CD19-1"]) == ("P1-CD19",)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"status": "ok"}'])
def test_a_section_without_a_whole_record_was_not_finished(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "measured.json").write_text(text, encoding="utf-8")
    assert read_record(tmp_path) is None


def test_lists_the_reviewers(tmp_path: Path) -> None:
    assert list_reviewers(tmp_path) == ()
    (tmp_path / "edits").mkdir()
    for name in ("b.jsonl", "a b.jsonl", "notes.txt"):
        write_bytes(tmp_path / "edits" / name, b"")
    assert list_reviewers(tmp_path) == ("a b", "b")


def test_labels_come_back_from_where_they_were(tmp_path: Path) -> None:
    labels = np.arange(12, dtype=np.int32).reshape(3, 4)
    results.write_bytes(tmp_path / "1_fibers.tif", results.encode_labels(labels, 10.25, -3.5, 0.5))
    stored = results.read_labels(tmp_path / "1_fibers.tif")
    np.testing.assert_array_equal(stored.labels, labels)
    assert stored[1:] == (10.25, -3.5, 0.5)


def test_torn_labels_and_objects_are_refused(tmp_path: Path) -> None:
    for read in (results.read_labels, results.read_objects):
        with pytest.raises(ResultsError, match="cannot be read"):
            read(tmp_path / "absent")
        (tmp_path / "torn").write_bytes(b"torn")
        with pytest.raises(ResultsError, match="cannot be read"):
            read(tmp_path / "torn")
    tifffile.imwrite(tmp_path / "placeless.tif", np.zeros((2, 2), np.int32))
    with pytest.raises(ResultsError, match="cannot be read"):
        results.read_labels(tmp_path / "placeless.tif")


def test_events_are_lines_and_a_lost_folder_is_said(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for name in ("张三-CD19", "two\nlines"):
        results.log_event(folder, "section_started", section=name)
    lines = (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["section"] for line in lines] == ["张三-CD19", "two\nlines"]
    with pytest.raises(StorageError, match=r"events\.jsonl"):
        results.log_event(RunFolder(tmp_path / "lost"), "run_started")
