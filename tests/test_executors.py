"""Where tasks run: workers that die, hang, take too much memory, and files that vanish."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from histoquant import executors
from histoquant.errors import HistoquantError, SlideError, WorkerError
from histoquant.executors import SerialExecutor, WorkerPool, attempt, make_executor

# Tasks; a worker imports them from here.


def die(left: Path, times: int) -> str:
    """Kill the own process so many times, then succeed."""
    before = len(list(left.iterdir()))
    if before < times:
        (left / str(before)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def refuse(*_: object) -> None:
    """Serve nothing."""


def take_memory(megabytes: int) -> int:
    return len(bytes(megabytes * 1_000_000).replace(b"\0", b"\1"))


class Stubborn(Exception):
    """An error that cannot be rebuilt from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def list_loaded() -> set[str]:
    return {"numba", "histoquant.pipeline"} & set(sys.modules)


def fail() -> None:
    raise Stubborn(1, 2)


def test_serial_executor_holds_results_and_errors() -> None:
    with SerialExecutor() as executor:
        assert executor.submit(divmod, 7, 2).result() == (3, 1)
        assert isinstance(executor.submit(divmod, 7, 0).exception(), ZeroDivisionError)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each worker loads for itself")
def test_a_worker_begins_with_all_that_a_field_needs() -> None:
    with make_executor(1) as pool:
        assert pool.submit(list_loaded).result() == {"numba", "histoquant.pipeline"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing forks workers")
def test_what_forks_workers_may_die_too() -> None:
    with make_executor(2) as pool:
        parents = {pool.submit(os.getppid).result() for _ in range(4)}
        for parent in parents:
            os.kill(parent, signal.SIGKILL)
        assert pool.submit(divmod, 7, 2).result() == (3, 1)
    with make_executor(1) as pool:
        assert pool.submit(os.getppid).result() not in {os.getpid(), *parents}


def test_a_worker_that_cannot_be_forked_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start, tries = executors._CONTEXT.Process.start, iter(range(9))

    def refuse_twice(process: Any) -> None:
        if next(tries) < 2:
            raise ConnectionRefusedError
        start(process)

    monkeypatch.setattr(executors._CONTEXT.Process, "start", refuse_twice)
    with make_executor(1) as pool:
        assert pool.submit(divmod, 7, 2).result() == (3, 1)


def test_workers_are_processes_that_serve_many_tasks() -> None:
    with make_executor(2) as pool:
        futures = [pool.submit(os.getpid) for _ in range(20)]
        found = {future.result() for future in futures}
        assert 1 <= len(found) <= 2 and os.getpid() not in found
        assert isinstance(pool.submit(divmod, 7, 0).exception(), ZeroDivisionError)
        assert pool.submit(divmod, 7, 2).result() == (3, 1)


def test_the_task_of_a_dead_worker_is_done_by_another(tmp_path: Path) -> None:
    with WorkerPool(2) as pool:
        lost = pool.submit(die, tmp_path, 2)
        others = [pool.submit(divmod, number, 3) for number in range(10)]
        assert [future.result() for future in others] == [divmod(number, 3) for number in range(10)]
        assert lost.result() == "alive" and len(list(tmp_path.iterdir())) == 2


def test_a_task_that_kills_every_worker_fails_alone(tmp_path: Path) -> None:
    with WorkerPool(1) as pool:
        deadly, next_one = pool.submit(die, tmp_path, 99), pool.submit(divmod, 7, 2)
        with pytest.raises(WorkerError, match=r"died on it 10 times \(SIGKILL\); .* fewer --workers"):
            deadly.result()
        assert len(list(tmp_path.iterdir())) == 10
        assert next_one.result() == (3, 1)


def test_workers_that_die_before_they_begin_tell_nothing_of_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = executors._serve
    with WorkerPool(1) as pool:
        monkeypatch.setattr(executors, "_ATTEMPTS", 2)
        monkeypatch.setattr(executors, "_STARTS", 4)
        monkeypatch.setattr(executors, "_serve", refuse)
        with pytest.raises(WorkerError, match="died on it 4 times"):
            pool.submit(divmod, 7, 2).result()
        monkeypatch.setattr(executors, "_serve", serve)
        assert pool.submit(die, tmp_path, 1).result() == "alive"


def test_a_task_that_never_ends_is_ended() -> None:
    with WorkerPool(1, timeout_s=2.0) as pool:
        began = time.monotonic()
        endless, next_one = pool.submit(time.sleep, 600), pool.submit(divmod, 7, 2)
        with pytest.raises(WorkerError, match="took longer than 2 s"):
            endless.result()
        assert time.monotonic() - began < 60
        assert next_one.result() == (3, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process takes")
def test_too_much_memory_is_an_error_of_the_task() -> None:
    with WorkerPool(1, memory_bytes=1_000_000_000) as pool:
        assert isinstance(pool.submit(take_memory, 3000).exception(), MemoryError)
        assert pool.submit(take_memory, 30).result() == 30_000_000


def test_errors_that_cannot_travel_become_a_reason() -> None:
    with WorkerPool(1) as pool, pytest.raises(HistoquantError, match="unexpected Stubborn: 1 and 2"):
        pool.submit(fail).result()


def test_a_pool_that_is_given_up_does_not_wait() -> None:
    pool = WorkerPool(1)
    running, waiting = pool.submit(time.sleep, 600), pool.submit(time.sleep, 600)
    while not running.running():
        time.sleep(0.01)
    time.sleep(0.2)
    pool.shutdown(wait=False, cancel_futures=True)
    for future in (running, waiting):
        with pytest.raises(CancelledError):
            future.result(timeout=60)
    pool.shutdown()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_workers_do_not_outlive_a_killed_owner() -> None:
    code = (
        "from histoquant.executors import WorkerPool; import os, time\n"
        "if __name__ == '__main__':\n"
        "    print(WorkerPool(1).submit(os.getpid).result(), flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    worker = Path("/proc") / owner.stdout.readline().strip()
    assert worker.is_dir()
    owner.kill()
    owner.communicate()
    limit = time.monotonic() + 60
    while worker.is_dir() and time.monotonic() < limit:
        if "\nState:\tZ" in (worker / "status").read_text():
            break  # its adopter has not looked yet
        time.sleep(0.05)
    else:
        assert not worker.is_dir()


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise SlideError("cannot be opened", path) from error


def test_a_file_that_comes_back_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_LOOK_AGAIN_S", 0.02)
    share, path = tmp_path / "share", tmp_path / "share" / "a.svs"
    share.mkdir()
    path.write_text("pixels")
    share.rename(tmp_path / "lost")
    timer = threading.Timer(0.2, lambda: (tmp_path / "lost").rename(share))
    timer.start()
    assert attempt(read, path, path) == "pixels"
    timer.join()


def test_a_file_that_stays_away_or_is_damaged_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(executors, "_PATIENCE_S", 0.05)
    with pytest.raises(SlideError, match="cannot be opened"):
        attempt(read, tmp_path / "none.svs", tmp_path / "none.svs")
    monkeypatch.setattr(executors, "_PATIENCE_S", 600.0)
    with pytest.raises(SlideError, match="cannot be opened"):
        attempt(read, tmp_path, tmp_path)  # it is there: nothing to wait for
    with pytest.raises(SlideError, match="cannot be opened"):
        attempt(read, None, tmp_path / "none.svs")


def test_the_unexpected_becomes_a_reason_with_its_place() -> None:
    with pytest.raises(
        HistoquantError, match=r"unexpected Stubborn: 1 and 2 \(test_executors.py, line \d+\)"
    ):
        attempt(fail, None)
    with pytest.raises(HistoquantError, match="no pixel size"):
        attempt(_raise, None, HistoquantError("no pixel size"))


def _raise(error: Exception) -> Any:
    raise error


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory")
def test_freed_memory_stays_with_the_process() -> None:
    is_old = [int(part) for part in platform.libc_ver()[1].split(".")] < [2, 36]
    size = 20_000_000 if is_old else 50_000_000
    script = f"""
import numpy as np
from histoquant.executors import keep_memory

def held_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

keep_memory()
before = held_mb()
images = [np.ones({size}, np.uint8) for _ in range(5)]
del images
assert held_mb() - before > 4.5 * {size} / 1e6, held_mb() - before
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_workers_ask_for_huge_pages_unless_the_user_says_what_glibc_does(monkeypatch):
    for said, found in ((None, "glibc.malloc.hugetlb=1"), ("glibc.malloc.check=0", "glibc.malloc.check=0")):
        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
        if said:
            monkeypatch.setenv("GLIBC_TUNABLES", said)
        make_executor(1).shutdown()
        assert os.environ["GLIBC_TUNABLES"] == found
