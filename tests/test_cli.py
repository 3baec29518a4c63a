"""The command line with right and wrong input; in a process of its own where that shows more."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import call, invoke

from histoquant import bias

TABLES = ("fields.csv", "sections.csv", "patients.csv", "statistics.csv")
SHARED = Path(__file__).parents[1].parent / "shared" / "data"


def run(folder: Path, out: Path, table: str = "STUDY.csv", *more: object) -> subprocess.CompletedProcess[str]:
    """In this process, with several workers in another."""
    words = ("run", folder / table, "--out", out, "--protocol", folder / "PROTOCOL.toml", *more)
    return call(*words) if "--workers" in more else invoke(*words, "--workers", 1)


def read_tables(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in TABLES}


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def measured(small_run: Path) -> Path:
    """A run for reading."""
    return small_run


def test_run_leaves_the_folder_of_the_contract(measured: Path) -> None:
    expected = {"run.json", "report.html", "sections", *TABLES}
    assert expected <= {path.name for path in measured.iterdir()}
    section = measured / "sections" / "P01-CD19"
    for name in (
        "receipt.json",
        "objects.parquet",
        "objects.geojson",
        "fields/1_fibers.tif",
        "overlays/2.jpg",
    ):
        assert (section / name).is_file(), name
    about = json.loads((measured / "run.json").read_text(encoding="utf-8"))
    assert {entry["status"] for entry in about["sections"].values()} == {"ok"}
    assert about["protocol"]["fields"]["width_um"] == 200
    fields = pd.read_csv(measured / "fields.csv")
    assert fields["section"].tolist() == sorted(fields["section"]) and len(fields) == 8


def test_counts_of_a_field_are_those_of_its_objects(measured: Path) -> None:
    fields = pd.read_csv(measured / "fields.csv").query("section == 'P02-BAFF-R'")
    objects = pd.read_parquet(measured / "sections" / "P02-BAFF-R" / "objects.parquet")
    counted = objects[objects["fraction_in_field"] > 0.5]
    for row in fields.to_dict("records"):
        own = counted[counted["field"] == row["field"]]
        assert (own["kind"] == "fiber").sum() == row["fibers"]
        cells = own[(own["kind"] == "cell") & own["positive"].astype(bool) & own["nucleus"].eq(True)]
        assert len(cells) == row["positive_cells"]


def test_workers_and_order_change_no_byte(small_study: Path, measured: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(small_study / "STUDY.csv")
    rows.iloc[::-1].to_csv(small_study / "REVERSED.csv", index=False)
    done = run(small_study, tmp_path / "out", "REVERSED.csv", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert read_tables(tmp_path / "out") == read_tables(measured)


def test_second_run_measures_nothing_again(small_study: Path, measured: Path, tmp_path: Path) -> None:
    out = shutil.copytree(measured, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in out.glob("sections/*/measured.json")}
    done = run(small_study, out)
    assert done.returncode == 0 and "0 sections measured, 4 kept, 0 failed" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_seed_is_measured_again_and_only_keeps_the_others(
    small_study: Path, measured: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(measured, out)
    done = run(small_study, out, "STUDY.csv", "--seed", 5, "--only", "P01-CD19")
    assert done.returncode == 0 and "1 sections measured" in done.stdout
    old, new = (pd.read_csv(folder / "fields.csv").set_index("section") for folder in (measured, out))
    assert not new.loc["P01-CD19"].equals(old.loc["P01-CD19"])
    assert new.drop("P01-CD19").equals(old.drop("P01-CD19"))


def test_only_leaves_the_rest_pending(small_study: Path, tmp_path: Path) -> None:
    done = run(small_study, tmp_path / "out", "STUDY.csv", "--only", "P02-CD19")
    assert done.returncode == 0, done.stderr
    sections = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["sections"]
    assert sections["P02-CD19"]["status"] == "ok" and sections["P01-CD19"]["status"] == "pending"


def test_killed_run_goes_on_and_ends_the_same(small_study: Path, measured: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["run", small_study / "STUDY.csv", "--out", out, "--protocol", small_study / "PROTOCOL.toml"]
    command = [sys.executable, "-m", "histoquant", *map(str, words), "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while not list(out.glob("sections/*/measured.json")) and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(list(out.glob("sections/*/measured.json")))
    assert 1 <= finished < 4 and not (out / "report.html").exists()
    done = run(small_study, out)
    assert done.returncode == 0 and f"{4 - finished} sections measured, {finished} kept" in done.stdout
    assert read_tables(out) == read_tables(measured)


def test_edited_section_is_not_measured_again(small_study: Path, measured: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(measured, out)
    edits = out / "sections" / "P01-CD19" / "edits"
    edits.mkdir()
    (edits / "Li.jsonl").write_text("{}\n")
    assert run(small_study, out).returncode == 0
    record = out / "sections" / "P01-CD19" / "measured.json"
    stored = json.loads(record.read_text(encoding="utf-8"))
    stored["fields"][0] |= {"status": "failed", "reason": "share lost"}
    record.write_text(json.dumps(stored), encoding="utf-8")
    assert run(small_study, out).returncode == 1, "what failed under the same key stays, for the edits' sake"
    refused = run(small_study, out, "STUDY.csv", "--seed", 1)
    assert refused.returncode == 2 and "Li" in refused.stderr and "P01-CD19" in refused.stderr
    moved = run(small_study, out, "STUDY.csv", "--seed", 1, "--fresh", "--only", "P01-CD19")
    assert moved.returncode == 0, moved.stderr
    assert len(list(tmp_path.glob("out.*/sections/P01-CD19/edits/Li.jsonl"))) == 1


def test_stats_and_report_work_again_from_stored_tables(measured: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(measured, out)
    for name in ("patients.csv", "statistics.csv", "report.html"):
        (out / name).unlink()
    assert invoke("stats", out).returncode == 0
    assert invoke("report", out).returncode == 0
    assert read_tables(out) == read_tables(measured)
    assert "P01" in (out / "report.html").read_text(encoding="utf-8")
    assert invoke("report", tmp_path).returncode == 2
    pd.read_csv(out / "sections.csv").drop(columns="control").to_csv(out / "sections.csv", index=False)
    wrong = invoke("stats", out)
    assert wrong.returncode == 2 and "no column control" in wrong.stderr


def test_fresh_with_a_wrong_name_moves_nothing(small_study: Path, measured: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(measured, out)
    assert run(small_study, out, "STUDY.csv", "--fresh", "--only", "TYPO").returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert read_tables(out) == read_tables(measured)


def test_a_slide_that_is_gone_costs_no_stored_result(
    small_study: Path, measured: Path, tmp_path: Path
) -> None:
    study, out = tmp_path / "study", tmp_path / "out"
    shutil.copytree(small_study, study)
    shutil.copytree(measured, out)
    slide = study / "slides" / "P01-CD19.svs"
    slide.rename(tmp_path / "aside.svs")
    done = run(study, out)
    assert done.returncode == 1 and "stored result is kept" in done.stderr
    assert pd.read_csv(out / "patients.csv").set_index("patient")["CD19"].isna().to_dict() == {
        "P01": True,
        "P02": False,
    }
    (tmp_path / "aside.svs").rename(slide)
    done = run(study, out)
    assert done.returncode == 0 and "0 sections measured" in done.stdout
    assert read_tables(out) == read_tables(measured)


def test_an_interrupted_run_says_that_what_is_finished_is_kept(small_study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["run", small_study / "STUDY.csv", "--out", out, "--protocol", small_study / "PROTOCOL.toml"]
    command = [sys.executable, "-m", "histoquant", *map(str, words), "--workers", "1"]
    # A shell's background jobs ignore Ctrl-C, and so would what they start.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=heed)
    limit = time.monotonic() + 120
    while not list(out.glob("sections/*/measured.json")) and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130 and "run again to go on" in stderr and "Traceback" not in stderr
    assert invoke("report", out).returncode == 2, "a run that has not finished has no report"


def list_children(pid: int) -> list[int]:
    found = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for part in found for child in part]


def list_workers(pid: int) -> list[int]:
    """Worker processes of a run: children of the one that forks them."""
    servers = [
        child for child in list_children(pid) if b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return [worker for server in servers for worker in list_children(server)]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="workers are found by /proc")
def test_killed_workers_change_no_byte(small_study: Path, measured: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["run", small_study / "STUDY.csv", "--out", out, "--protocol", small_study / "PROTOCOL.toml"]
    command = [sys.executable, "-m", "histoquant", *map(str, words), "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killed: set[int] = set()
    while process.poll() is None and len(killed) < 4:
        # Each once, so that no task loses all its attempts.
        with suppress(OSError):
            for child in sorted(set(list_workers(process.pid)) - killed)[:1]:
                time.sleep(0.2 if len(killed) < 2 else 1.5)
                os.kill(child, signal.SIGKILL)
                killed.add(child)
        time.sleep(0.05)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert len(killed) >= 2
    assert read_tables(out) == read_tables(measured)


def test_fields_that_take_too_long_fail_with_that_reason(small_study: Path, tmp_path: Path) -> None:
    done = run(small_study, tmp_path / "out", "STUDY.csv", "--only", "P01-CD19", "--timeout", 0.01)
    assert done.returncode == 1 and "P01-CD19: failed: took longer than 0.01 s" in done.stderr
    assert run(small_study, tmp_path / "out", "STUDY.csv", "--timeout", 0).returncode == 2


def test_room_for_few_fields_is_incomplete(small_study: Path, tmp_path: Path) -> None:
    slide = small_study / "slides" / "P01-CD19.svs"
    write_rows(tmp_path / "STUDY.csv", [{"patient": "P01", "group": "", "marker": "CD19", "slide": slide}])
    (tmp_path / "PROTOCOL.toml").write_text("[fields]\ncount = 40\nwidth_um = 300\nmargin_um = 20\n")
    done = run(tmp_path, tmp_path / "out")
    assert done.returncode == 1 and "P01-CD19: incomplete" in done.stderr
    row = pd.read_csv(tmp_path / "out" / "sections.csv").iloc[0]
    assert row["fields_asked"] == 40 and 1 <= row["fields"] < 10 and row["cells_per_fiber"] > 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient,group,marker\nP,a,CD19\n", "no column slide"),
        ("patient,group,marker,slide\nP,a,CD19,x.svs\nP,a,CD19,x.svs\n", "repeats row 2"),
        ("patient,group,marker,slide\nP,a,CD19,x.svs\nP,b,BAFF,y.svs\n", "patient P is in group b"),
        ("", "is empty"),
    ],
)
def test_wrong_table_ends_with_2_and_begins_nothing(text: str, said: str, tmp_path: Path) -> None:
    table = tmp_path / "STUDY.csv"
    table.write_text(text)
    done = invoke("run", table, "--out", tmp_path / "out")
    assert done.returncode == 2 and said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_folder_whose_name_is_no_utf8_is_taken(tmp_path: Path) -> None:
    """As an archive packed under a Chinese Windows leaves it."""
    folder = tmp_path / os.fsdecode("张".encode("gb18030"))
    folder.mkdir()
    (folder / "STUDY.csv").write_text("patient,group,marker,slide\nP1,A,CD19,gone.svs\n")
    done = invoke("run", folder / "STUDY.csv", "--out", folder / "out", "--workers", 1)
    assert done.returncode == 1 and "gone.svs does not exist" in done.stderr
    run = json.loads((folder / "out" / "run.json").read_text(encoding="utf-8"))
    assert Path(run["study"]["path"]) == folder / "STUDY.csv"
    assert invoke("report", folder / "out").returncode == 0
    assert "gone.svs" in (folder / "out" / "report.html").read_text(encoding="utf-8")


def test_other_wrong_input_ends_with_2(small_study: Path, tmp_path: Path) -> None:
    table, blocked = small_study / "STUDY.csv", tmp_path / "file"
    blocked.write_text("")
    cases = [
        ("run", tmp_path / "missing.csv", "--out", tmp_path / "out"),
        ("run", tmp_path, "--out", tmp_path / "out"),
        ("run", table, "--out", blocked / "inside"),
        ("run", table, "--out", tmp_path / "out", "--seed", -1),
        ("run", table, "--out", tmp_path / "out", "--seed", "x"),
        ("run", table, "--out", tmp_path / "out", "--workers", 0),
        ("run", table, "--out", tmp_path / "out", "--fields", 0),
        ("run", table, "--out", tmp_path / "out", "--only", "nobody"),
        ("run", table, "--out", tmp_path / "out", "--protocol", tmp_path / "missing.toml"),
        ("run", table),
        ("nonsense",),
        ("info", tmp_path / "missing.svs"),
    ]
    for words in cases:
        done = invoke(*words)
        assert done.returncode == 2, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr and done.stderr.startswith("histoquant: ")


def test_wrong_input_ends_a_process_with_2_and_one_line(tmp_path: Path) -> None:
    done = call("info", tmp_path / "missing µ.svs")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("histoquant: ") and len(done.stderr.strip().splitlines()) == 1


def test_bad_sections_fail_with_their_reason_and_the_others_are_measured(
    small_study: Path, tmp_path: Path
) -> None:
    good = small_study / "slides" / "P01-CD19.svs"
    glass = np.full((1500, 1500, 3), 242, np.uint8)
    cv2.imwrite(str(tmp_path / "glass.png"), glass)
    broken = bytearray(good.read_bytes())
    (tmp_path / "truncated.svs").write_bytes(broken[: len(broken) // 3])
    rows = [
        {"patient": "A", "marker": "CD19", "slide": good},
        {"patient": "B", "marker": "CD19", "slide": "missing.svs"},
        {"patient": "C", "marker": "CD99", "slide": good},
        {"patient": "D", "marker": "CD19", "slide": good, "mpp": "0"},
        {"patient": "E", "marker": "CD19", "slide": good, "mpp": "-0.5"},
        {"patient": "F", "marker": "CD19", "slide": good, "mpp": "half"},
        {"patient": "G", "marker": "CD19", "slide": "glass.png", "kind": "slide", "mpp": "0.5"},
        {"patient": "H", "marker": "CD19", "slide": "truncated.svs"},
        {"patient": "I", "marker": "CD19", "slide": "glass.png"},
    ]
    write_rows(tmp_path / "STUDY.csv", [{"group": "g", **row} for row in rows])
    shutil.copy(small_study / "PROTOCOL.toml", tmp_path)
    done = run(tmp_path, tmp_path / "out")
    assert done.returncode == 1, done.stderr
    table = pd.read_csv(tmp_path / "out" / "sections.csv").set_index("patient")
    assert table["status"].to_dict() == {"A": "ok"} | dict.fromkeys("BCDEFGHI", "failed")
    said = {"B": "row 3, column slide", "C": "unknown marker CD99", "D": "row 5, column mpp", "F": "half"}
    said |= {"G": "no tissue", "H": "truncated", "I": "column mpp"}
    for patient, words in said.items():
        assert words in table["reason"][patient]
        assert words in done.stderr
    assert done.stderr.count("unknown marker CD99") == 1, "each trouble is told once"
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.index("unknown marker CD99") < page.index(">Results</h2>")


def test_destroyed_tile_fails_its_field_only(small_study: Path, tmp_path: Path) -> None:
    """A field over a tile that cannot be decoded fails; no replacement is drawn."""
    import tifffile

    slide = tmp_path / "slide.svs"
    shutil.copy(small_study / "slides" / "P01-CD19.svs", slide)
    write_rows(tmp_path / "STUDY.csv", [{"patient": "A", "group": "", "marker": "CD19", "slide": slide.name}])
    shutil.copy(small_study / "PROTOCOL.toml", tmp_path)
    assert run(tmp_path, tmp_path / "whole").returncode == 0
    before = pd.read_csv(tmp_path / "whole" / "fields.csv")
    x, y = (float(before[name][0]) / 0.5 for name in ("center_x_um", "center_y_um"))
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages[0]
        across = -(-page.imagewidth // page.tilewidth)
        tile = int(y // page.tilelength) * across + int(x // page.tilewidth)
        offset, length = page.dataoffsets[tile], page.databytecounts[tile]
    with slide.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * length)
    done = run(tmp_path, tmp_path / "out")
    assert done.returncode == 1
    fields = pd.read_csv(tmp_path / "out" / "fields.csv")
    assert fields["status"].tolist().count("failed") >= 1 and fields["status"][0] == "failed"
    assert fields["center_x_um"].tolist() == before["center_x_um"].tolist()
    assert pd.read_csv(tmp_path / "out" / "sections.csv")["status"][0] in ("incomplete", "failed")


def test_full_disk_ends_with_3_and_the_run_resumes(small_study: Path, measured: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(path.stat().st_size for path in measured.glob("sections/P01-BAFF-R/**/*")) + 600_000
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=False)
    if mounted.returncode:
        if os.environ.get("CI"):
            pytest.fail("a small disk cannot be mounted")
        pytest.skip("mounting a small disk needs root")
    try:
        done = run(small_study, disk / "out")
        assert done.returncode == 3, done.stderr
        assert "No space left" in done.stderr and "Traceback" not in done.stderr
        finished = len(list(disk.glob("out/sections/*/measured.json")))
        assert 1 <= finished < 4
        shutil.copytree(disk / "out", tmp_path / "out")
    finally:
        subprocess.run(["umount", disk], check=True)
    again = run(small_study, tmp_path / "out")
    assert again.returncode == 0 and f"{finished} kept" in again.stdout
    assert read_tables(tmp_path / "out") == read_tables(measured)


def test_folder_of_camera_images_is_one_section(small_study: Path, tmp_path: Path) -> None:
    import openslide

    folder = tmp_path / "camera µ"
    folder.mkdir()
    with openslide.OpenSlide(small_study / "slides" / "P01-CD19.svs") as slide:
        for number, x in enumerate((300, 700), start=1):
            slide.read_region((x, 400), 0, (600, 500)).convert("RGB").save(folder / f"{number}.png")
    rows = [{"patient": "张三", "group": "g", "marker": "CD19", "slide": folder.name, "mpp": 0.5}]
    write_rows(tmp_path / "STUDY.csv", rows)
    shutil.copy(small_study / "PROTOCOL.toml", tmp_path)
    done = run(tmp_path, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    fields = pd.read_csv(tmp_path / "out" / "fields.csv")
    assert fields["shape"].tolist() == ["rectangle", "rectangle"]
    assert fields["width_um"].tolist() == [200.0, 200.0] and fields["height_um"].tolist() == [150.0, 150.0]
    assert (tmp_path / "out" / "sections" / "张三-CD19" / "receipt.json").is_file()


def test_exclusion_is_respected(small_study: Path, tmp_path: Path) -> None:
    """No field touches an excluded half of the slide (800 um, 0.5 um/px)."""
    ring = [[0, 0], [800, 0], [800, 1600], [0, 1600], [0, 0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "Exclude"}},
    }
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    slide = small_study / "slides" / "P01-CD19.svs"
    rows = [{"patient": "A", "group": "g", "marker": "CD19", "slide": slide, "annotations": "a.geojson"}]
    write_rows(tmp_path / "STUDY.csv", rows)
    shutil.copy(small_study / "PROTOCOL.toml", tmp_path)
    assert run(tmp_path, tmp_path / "out").returncode in (0, 1)
    fields = pd.read_csv(tmp_path / "out" / "fields.csv")
    assert len(fields) and (fields["center_x_um"] >= 400 + 100 - 8).all()


def test_fields_draws_without_measuring(small_study: Path, measured: Path, tmp_path: Path) -> None:
    slide = small_study / "slides" / "P01-CD19.svs"
    done = invoke("fields", slide, "--out", tmp_path / "out", "--protocol", small_study / "PROTOCOL.toml")
    assert done.returncode == 0, done.stderr
    receipt = json.loads((tmp_path / "out" / "receipt.json").read_text(encoding="utf-8"))
    stored = json.loads((measured / "sections" / "P01-CD19" / "receipt.json").read_text(encoding="utf-8"))
    # The section's ID seeds the draw: a slide named as its section gives the section's fields.
    assert receipt["fields"] == stored["fields"]
    assert (tmp_path / "out" / "overview.webp").stat().st_size > 1000


def test_info_tells_the_pixel_size(small_study: Path) -> None:
    done = invoke("info", small_study / "slides" / "P01-CD19.svs")
    assert done.returncode == 0 and "1600 x 1600" in done.stdout and "0.5" in done.stdout


def test_bias_agrees_with_the_closed_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tenth of the objects; test_bias.py takes more."""
    check, simulate = bias.check_bias, bias.simulate_bias
    monkeypatch.setattr(bias, "check_bias", partial(check, objects=5_000))
    monkeypatch.setattr(
        bias, "simulate_bias", lambda *sizes, **rest: simulate(*sizes, **{**rest, "objects": 5_000})
    )
    words = ("bias", "--field-um", 400, "--fiber-um", 50, "--cell-um", 8)
    done, quiet = invoke(*words), invoke(*words, "--quiet")
    assert done.returncode == 0 and "half_area" in done.stdout and "20000/20000" in done.stderr
    assert quiet.stdout == done.stdout and quiet.stderr == ""


def test_odd_files_end_with_1_and_the_good_section_is_measured(small_study: Path, tmp_path: Path) -> None:
    odd = SHARED / "slides" / "odd"
    if not odd.is_dir():
        pytest.skip("needs ../shared/data")
    rows = [{"patient": path.name, "marker": "CD19", "slide": path} for path in sorted(odd.iterdir())]
    rows.append({"patient": "good", "marker": "CD19", "slide": small_study / "slides" / "P02-CD19.svs"})
    write_rows(tmp_path / "STUDY.csv", [{"group": "", **row} for row in rows])
    shutil.copy(small_study / "PROTOCOL.toml", tmp_path)
    done = run(tmp_path, tmp_path / "out", "STUDY.csv", "--fields", 1)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    table = pd.read_csv(tmp_path / "out" / "sections.csv").set_index("patient")
    # Strips instead of tiles are odd, yet can be read: with tissue enough they are measured.
    odd_ones = table.drop(index=["good", "ome_strip.ome.tif"])
    assert odd_ones["status"].eq("failed").all() and odd_ones["reason"].ne("").all()
    assert "unexpected" not in " ".join(table["reason"].fillna(""))
    assert table["status"]["good"] == "ok"
