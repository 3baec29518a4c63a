"""The cluster: a real scheduler and its workers in processes of their own."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest
from cluster_tasks import die_once, divide, wait_long
from conftest import invoke

from histoquant import cluster
from histoquant.cluster import ClusterExecutor
from histoquant.errors import HistoquantError, WorkerError

CLUSTER = """
import sys
if __name__ == "__main__":
    from distributed import LocalCluster
    with LocalCluster(
        n_workers=int(sys.argv[1]),
        processes=int(sys.argv[1]) > 1,
        protocol="tcp",
        threads_per_worker=1,
        dashboard_address=None,
        silence_logs=50,
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


def start_cluster(folder: Path, workers: int) -> tuple[subprocess.Popen[str], str]:
    script = folder / "start.py"
    script.write_text(CLUSTER, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script), str(workers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        # The tasks are found there.
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end_cluster(process: subprocess.Popen[str]) -> None:
    try:
        process.communicate("", timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process, address = start_cluster(tmp_path_factory.mktemp("cluster"), 2)
    yield address
    end_cluster(process)


def test_results_and_errors_come_back(scheduler: str) -> None:
    with ClusterExecutor(scheduler) as executor:
        assert executor.slots == 2
        found = [executor.submit(divide, by) for by in (2, 0, 7, 8)]
        assert found[0].result(60) == 0.5
        with pytest.raises(ZeroDivisionError):
            found[1].result(60)
        with pytest.raises(HistoquantError, match="row 7"):
            found[2].result(60)
        with pytest.raises(FileNotFoundError, match="share"):  # the scheduler is still there
            found[3].result(60)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_the_task_of_a_lost_worker_goes_to_another(scheduler: str, tmp_path: Path) -> None:
    with ClusterExecutor(scheduler) as executor:
        assert executor.submit(die_once, str(tmp_path / "mark")).result(120) == "done"


def test_a_worker_of_another_version_is_refused() -> None:
    with pytest.raises(HistoquantError, match="same version"):
        cluster._work("0.0.0", divide, (2,), {})


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x"])
def test_where_no_scheduler_answers_it_says_so(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_S", 1)
    with pytest.raises(WorkerError, match="no scheduler answers"):
        ClusterExecutor(address)


def test_a_scheduler_without_workers_is_named(tmp_path: Path) -> None:
    process, address = start_cluster(tmp_path, 0)
    try:
        with pytest.raises(WorkerError, match="has no workers"):
            ClusterExecutor(address)
    finally:
        end_cluster(process)


def test_a_lost_scheduler_breaks_the_executor(tmp_path: Path) -> None:
    process, address = start_cluster(tmp_path, 1)
    with ClusterExecutor(address) as executor:
        future = executor.submit(wait_long)
        process.kill()
        process.communicate()
        with pytest.raises(BrokenExecutor, match="scheduler was lost"):
            future.result(120)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "distributed":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(WorkerError, match=r"histoquant\[cluster\]"):
        ClusterExecutor("tcp://127.0.0.1:1")


def test_a_task_that_lost_too_many_workers_says_so() -> None:
    killed = type("KilledWorker", (Exception,), {})
    assert "several workers died" in str(cluster._translate(killed("task")))
    assert isinstance(cluster._translate(ValueError("x")), ValueError)


def test_a_cluster_gives_the_tables_of_the_local_workers(
    scheduler: str, small_study: Path, tmp_path: Path
) -> None:
    rows = (small_study / "STUDY.csv").read_text(encoding="utf-8").splitlines()[:3]
    table = small_study / "CLUSTER.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    protocol = small_study / "PROTOCOL.toml"
    for name, where in (("far", ("--scheduler", scheduler)), ("near", ("--workers", 1))):
        done = invoke("run", table, "--out", tmp_path / name, "--protocol", protocol, "--quiet", *where)
        assert done.returncode == 0, done.stderr
    for name in ("fields.csv", "sections.csv", "patients.csv", "statistics.csv"):
        assert (tmp_path / "far" / name).read_bytes() == (tmp_path / "near" / name).read_bytes()
    lines = (tmp_path / "far" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert (events[0], events[-1]) == ("run_started", "run_finished")
    assert events.count("section_stored") == 2 and events.count("field_measured") == 4
