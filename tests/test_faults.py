"""Faults of the machine: a clock that jumps, files that may not be read."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from conftest import invoke

from histoquant import results, runs

TABLES = ("fields.csv", "sections.csv", "patients.csv", "statistics.csv")
_BOUNDING_DROP, _OVERRIDE, _SEARCH = 24, 1, 2  # of prctl and of Linux' capabilities


class JumpingClock(datetime):
    """A clock set back by an hour at every look."""

    jumps = 0

    @classmethod
    def now(cls, tz: object = None) -> datetime:
        cls.jumps += 1
        return datetime(2026, 3, 29, 12, tzinfo=UTC) - timedelta(hours=cls.jumps)


def test_a_clock_that_jumps_changes_no_byte(
    small_study: Path, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (results, runs):
        monkeypatch.setattr(module, "datetime", JumpingClock)
    protocol = small_study / "PROTOCOL.toml"
    words = ("run", small_study / "STUDY.csv", "--out", tmp_path, "--protocol", protocol, "--workers", 1)
    done = invoke(*words)
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / name).read_bytes() == (small_run / name).read_bytes() for name in TABLES)
    about = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert about["finished"] < about["started"]
    again = invoke(*words)
    assert again.returncode == 0 and "0 sections measured, 4 kept" in again.stdout


def obey_permissions() -> None:
    """Root reads everything, in a process that keeps what it may do."""
    for capability in (_OVERRIDE, _SEARCH):
        ctypes.CDLL(None).prctl(_BOUNDING_DROP, capability, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="permissions are those of Linux")
def test_a_slide_that_may_not_be_read_fails_with_that_reason(small_study: Path, tmp_path: Path) -> None:
    study = shutil.copytree(small_study, tmp_path / "study")
    (study / "slides" / "P01-CD19.svs").chmod(0)
    words = ["run", study / "STUDY.csv", "--out", tmp_path / "out", "--protocol", study / "PROTOCOL.toml"]
    command = [sys.executable, "-m", "histoquant", *map(str, words), "--workers", "1", "--quiet"]
    drop = obey_permissions if os.geteuid() == 0 else None
    done = subprocess.run(command, preexec_fn=drop, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1, done.stderr
    table = pd.read_csv(tmp_path / "out" / "sections.csv").set_index("section")
    assert table["status"].to_dict() == dict.fromkeys(table.index, "ok") | {"P01-CD19": "failed"}
    assert "Permission denied" in table.loc["P01-CD19", "reason"]
    assert "P01-CD19" in done.stderr and "Traceback" not in done.stderr
