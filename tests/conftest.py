"""Small sections for tests that need a slide: rendered once per worker."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from concurrent.futures import Executor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import settings

from histoquant import executors
from histoquant.cli import main
from histoquant.synthetic import MarkerPlan, RenderSettings, StudyPlan, write_study
from histoquant.synthetic.settings import LayoutSettings

# A submission is judged on the same examples each time; elsewhere every run looks at new ones. A busy
# machine is no failure, so that no example has a deadline.
settings.register_profile("own", deadline=None)
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "own")

PROTOCOL = """
[fields]
count = 2
width_um = 200
margin_um = 60
"""


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with STUDY.csv, two patients, BAFF-R and CD19, slides of 0.8 mm, and PROTOCOL.toml."""
    folder = tmp_path_factory.mktemp("small study µ 张三")
    render = RenderSettings(size_um=(800.0, 800.0), layout=LayoutSettings(rim_um=60.0))
    value = MarkerPlan(mean=(0.3, 0.5), sd=(0.1, 0.1))
    plan = StudyPlan(patients=(1, 1), markers={"BAFF-R": value, "CD19": value}, render=render, vary=False)
    write_study(folder, plan)
    (folder / "PROTOCOL.toml").write_text(PROTOCOL)
    return folder


@pytest.fixture(scope="session")
def small_run(small_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study measured, for reading; a test that changes it takes a copy."""
    out = tmp_path_factory.mktemp("small run") / "results"
    words = ("--protocol", small_study / "PROTOCOL.toml", "--workers", 1)
    done = invoke("run", small_study / "STUDY.csv", "--out", out, *words)
    assert done.returncode == 0, done.stderr
    return out


def call(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "histoquant", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def invoke(*words: object) -> subprocess.CompletedProcess[str]:
    """The command line in this process, which is its single worker too: neither costs a start."""

    def make_executor(workers: int, timeout_s: float) -> Executor:
        at_once = workers == 1 and timeout_s == executors.TIMEOUT_S
        return executors.SerialExecutor() if at_once else pool(workers, timeout_s)

    pool, out, err = executors.make_executor, io.StringIO(), io.StringIO()
    with (
        patch.object(executors, "make_executor", make_executor),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as left,
    ):
        main(list(map(str, words)))
    return subprocess.CompletedProcess(list(words), int(left.value.code or 0), out.getvalue(), err.getvalue())
