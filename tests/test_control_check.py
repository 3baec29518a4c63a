"""The check of a study: verdicts, their files, charts and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import invoke

from histoquant.control.charts import is_rejected, judge_history, plot_series
from histoquant.control.check import look_at_peers
from histoquant.control.history import Observation, add_observations, read_history
from histoquant.control.peers import Peer, compare_peers
from histoquant.control.survey import SlideCheck, decide, read_file_quality, take_medians
from histoquant.protocol import PeerSettings, QcSettings
from histoquant.slide import open_slide
from histoquant.study import Section

PROTOCOL = "[fields]\ncount = 2\nwidth_um = 200\nmargin_um = 60\n[qc]\nbaseline = 5\n"


def write_image(folder: Path, source: Path, name: str, sigma_um: float) -> None:
    """A camera image of the middle of a rendered slide, out of focus or not."""
    with open_slide(source) as slide:
        patch = slide.read(150.0, 150.0, 400.0, 400.0)
    pixels = patch.pixels
    if sigma_um:
        pixels = cv2.GaussianBlur(pixels, (0, 0), sigma_um / patch.mpp)
    cv2.imwrite(str(folder / name), pixels[..., ::-1])


@pytest.fixture(scope="module")
def study(small_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good patient, a blurred one, one that is not there, and a positive control."""
    folder = tmp_path_factory.mktemp("qc µ")
    source = next((small_study / "slides").glob("*CD19*"))
    for name, sigma_um in (("good.png", 0.0), ("blurred.png", 2.0), ("control.png", 0.0)):
        write_image(folder, source, name, sigma_um)
    rows = ["good,,,good.png", "blurred,,,blurred.png", "absent,,,absent.png", "ctrl,positive,b9,control.png"]
    lines = [
        f"{p},,CD19,{image},{control},{batch},0.5"
        for p, control, batch, image in (r.split(",") for r in rows)
    ]
    (folder / "STUDY.csv").write_text(
        "\n".join(["patient,group,marker,slide,control,batch,mpp", *lines]) + "\n"
    )
    (folder / "P.toml").write_text(PROTOCOL)
    return folder


def check(study: Path, out: Path, *words: object) -> tuple[int, str, pd.DataFrame]:
    done = invoke("qc", study / "STUDY.csv", "--out", out, "--protocol", study / "P.toml", "--quiet", *words)
    return done.returncode, done.stderr, pd.read_csv(out / "qc.csv").set_index("patient")


def test_the_command_gives_verdicts_files_and_a_history(study: Path, tmp_path: Path) -> None:
    """Four controls before this one, far from it: the fifth closes the baseline; a sixth is judged by it."""
    code, stderr, table = check(study, tmp_path / "out", "--history", tmp_path / "h.sqlite")
    assert code == 1
    assert table["verdict"].to_dict() == {
        "good": "pass",
        "blurred": "repeat",
        "absent": "repeat",
        "ctrl": "pass",
    }
    assert "blurred by" in table.loc["blurred", "reason"]
    assert "blurred-CD19: repeat" in stderr
    stored = json.loads((tmp_path / "out" / "qc.json").read_text(encoding="utf-8"))
    assert stored["fails"] is True
    assert [slide["verdict"] for slide in stored["slides"]].count("repeat") == 2
    page = (tmp_path / "out" / "qc.html").read_text(encoding="utf-8")
    assert "Of 4 slides: pass 2, look 0, repeat 2." in page
    assert "too few controls for a baseline" in page
    assert page.count("data:image/webp") == 3
    history = read_history(tmp_path / "h.sqlite")
    assert set(history["section"]) == {"ctrl-CD19"}
    assert set(history["batch"]) == {"b9"}


def test_a_control_far_from_its_baseline_fails_a_study_of_good_slides(study: Path, tmp_path: Path) -> None:
    lines = (study / "STUDY.csv").read_text().splitlines()
    (study / "GOOD.csv").write_text(
        "\n".join(line for line in lines if "blurred" not in line and "absent" not in line)
    )
    history = tmp_path / "h.sqlite"
    words = ("qc", study / "GOOD.csv", "--protocol", study / "P.toml", "--quiet")
    assert invoke(*words, "--out", tmp_path / "none").returncode == 0
    add_observations(history, [
        Observation("t", f"old{at}", f"b{at}", "CD19", "positive", "haematoxylin_strong_od", value, "old")
        for at, value in enumerate((0.20, 0.21, 0.19, 0.20, 0.22))
    ])  # fmt: skip
    done = invoke(*words, "--out", tmp_path / "out", "--history", history)
    assert done.returncode == 1
    assert "ctrl-CD19: haematoxylin_strong_od breaks 1-2s 1-3s" in done.stderr
    page = (tmp_path / "out" / "qc.html").read_text(encoding="utf-8")
    assert "Haematoxylin of nuclei" in page
    assert "Controls that break a rule: ctrl-CD19." in page
    assert "one control beyond 3 SD" in page


def test_a_history_that_is_none_stops_before_any_work(study: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 100)
    words = ("--out", tmp_path / "out", "--history", tmp_path / "text", "--quiet")
    done = invoke("qc", study / "STUDY.csv", *words)
    assert done.returncode == 2
    assert "not a database" in done.stderr
    assert not (tmp_path / "out" / "qc.csv").exists()


def test_a_slide_is_repeated_if_scan_or_stain_fail_in_enough_fields() -> None:
    good, soft, turned = {"blur_um": 0.7}, {"blur_um": 1.6}, {"haematoxylin_angle_deg": 30.0}
    assert decide([good, good], QcSettings()) == ("pass", ())
    assert decide([good, good, soft], QcSettings())[0] == "look"
    assert decide([good, soft], QcSettings())[0] == "repeat"
    assert decide([turned, turned], QcSettings())[0] == "look"
    assert decide([soft, {"blur_um": 2.0}], QcSettings())[1][0].startswith(
        "2 of 2 fields: blurred by 2.00 um"
    )


def test_a_slide_apart_from_its_batch_is_to_be_looked_at() -> None:
    usual = [
        Peer("b", "CD19", {"haematoxylin_strong_od": od, "dab_background_od": 0.02}) for od in (0.5, 0.6)
    ]

    def compare(own: Peer, others: int = 4) -> tuple[str, ...]:
        return compare_peers([own, *others // 2 * usual], PeerSettings())[0]

    def make(od: float, brown: float = 0.02, batch: str = "b", marker: str = "CD19") -> Peer:
        return Peer(batch, marker, {"haematoxylin_strong_od": od, "dab_background_od": brown})

    assert compare(make(0.8)) == compare(make(0.4)) == ()
    (dark,) = compare(make(0.9))
    assert "1.6 times" in dark
    (pale,) = compare(make(0.3))
    assert "limit 0.67" in pale
    (brown,) = compare(make(0.5, 0.1))
    assert "0.08 OD above" in brown
    # Too few others, another batch, another marker (whose background is its own), nothing measured.
    assert compare(make(0.9, 0.1), others=2) == compare(make(0.9, 0.1, batch="c")) == ()
    assert compare(make(0.5, 0.1, marker="BAFF")) == ()
    assert compare(make(np.nan, np.nan)) == compare(Peer("b", "CD19", {})) == ()


def test_a_slide_that_passes_is_looked_at_if_it_stands_apart() -> None:
    section = Section("P-CD19", "P", "", "CD19", "", "", "", ())
    odd, *rest = look_at_peers(
        [
            SlideCheck(section, verdict, (), {"haematoxylin_strong_od": od})
            for verdict, od in (("pass", 1.0), *4 * [("pass", 0.5)], ("repeat", 1.0))
        ],
        PeerSettings(),
    )
    assert odd.verdict == "look"
    assert len(odd.reasons) == 1
    assert [slide.verdict for slide in rest] == [*4 * ["pass"], "repeat"]


def test_medians_leave_out_what_is_unknown() -> None:
    medians = take_medians([{"a": 1.0, "b": np.nan}, {"a": 2.0, "b": np.nan}])
    assert medians["a"] == 1.5
    assert np.isnan(medians["b"])


def test_the_files_own_table_is_read_where_there_is_one(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.jpg"), noise, [cv2.IMWRITE_JPEG_QUALITY, 30])
    cv2.imwrite(str(tmp_path / "a.png"), noise)
    assert read_file_quality(tmp_path / "a.jpg") == pytest.approx(30, abs=1)
    assert np.isnan(read_file_quality(tmp_path / "a.png"))
    assert np.isnan(read_file_quality(tmp_path / "absent.jpg"))


def make_history(values: list[float]) -> pd.DataFrame:
    rows = [
        Observation("t", f"s{i}", f"b{i}", "CD19", "positive", "blur_um", v, f"S{i}")
        for i, v in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=list(Observation._fields))


def test_rules_apply_after_the_baseline_only() -> None:
    judged = judge_history(make_history([1.0, 2.0, 3.0, 2.0, 2.0, 9.0]), baseline=5)
    assert judged["rules"].tolist() == ["", "", "", "", "", "1-2s 1-3s"]
    assert judged["mean"].tolist() == [2.0] * 6
    assert judge_history(make_history([1.0, 2.0]), baseline=5)["mean"].isna().all()
    assert judge_history(make_history([]), baseline=5).empty


def test_a_chart_names_every_control_and_marks_those_rejected() -> None:
    judged = judge_history(make_history([1.0, 2.0, 3.0, 2.0, 2.0, 9.0]), baseline=5)
    svg = plot_series(judged, "Blur, um")
    assert svg.startswith("<svg")
    assert svg.count("<title>") == 6
    assert "S5, batch b5: 9 (1-2s 1-3s)" in svg
    assert is_rejected("1-2s 10-x")
