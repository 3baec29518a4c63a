"""Executors: where tasks run. A task that takes its worker down, or never ends, costs itself alone."""

from __future__ import annotations

import ctypes
import os
import pickle
import queue
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2

from histoquant.errors import HistoquantError, SlideError, WorkerError

TIMEOUT_S = 1800.0
"""Longest time for one task."""
HUGE_PAGES = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
"""By which glibc, from 2.35 on, asks for huge pages as a process starts: images are found sooner."""
_ATTEMPTS = 10
_STARTS = 20
_PATIENCE_S = 120.0
_LOOK_AGAIN_S = 1.0
_FORK_AGAIN_S = 0.2
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEEP_BYTES, _LARGE_BYTES = 1 << 30, 1 << 26


def _choose_start() -> Any:
    """How processes start: forked from one that has loaded everything once, and does nothing else.

    To fork this process can hang, since it draws a progress bar from a thread.
    """
    if sys.platform != "linux":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["histoquant.preload"])
    return context


_CONTEXT = _choose_start()


class SerialExecutor(Executor):
    """An executor that does the work at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do the work and hold its result or its error."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class WorkerPool(Executor):
    """Worker processes of which each may die: its task is given to a new one.

    A pool of `concurrent.futures` breaks with its first dead worker and takes all tasks with it. Here each
    worker does one task at a time, so that it is known whose task was lost.

    Parameters
    ----------
    workers : int
        Number of processes.
    timeout_s : float, optional
        Longest time for one task; a worker that takes longer is killed.
    memory_bytes : int, optional
        Memory that a worker may take, where the system has such a limit; none if not given.
    """

    def __init__(self, workers: int, timeout_s: float = TIMEOUT_S, memory_bytes: int | None = None) -> None:
        self._timeout_s = timeout_s
        self._closed = False
        self._workers = [_Worker(memory_bytes) for _ in range(workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a worker do the work.

        The future holds its result, its error, or a WorkerError: the work took too long, or its worker
        died on each of ten attempts. Workers that die before they have begun tell nothing about the work.
        """
        return self._threads.submit(self._run, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers: after all work, or at once if it is to be cancelled."""
        if cancel_futures or not wait:
            self._closed = True
            for worker in self._workers:
                worker.interrupt()
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        if wait:
            self._closed = True
            for worker in self._workers:
                worker.kill()

    def _run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        work = pickle.dumps((fn, args, kwargs))
        worker = self._idle.get()
        try:
            deaths = starts = 0
            while deaths < _ATTEMPTS and starts < _STARTS:
                if self._closed:
                    raise CancelledError
                try:
                    worker.start()
                    starts = 0
                    if self._closed:  # since: loops may have been compiled meanwhile
                        raise CancelledError
                    return worker.call(work, self._timeout_s)
                except (EOFError, OSError):
                    if worker.starting:
                        starts += 1
                    else:
                        deaths += 1
                    cause = worker.kill()
            raise WorkerError(
                f"the worker process died on it {max(deaths, starts)} times ({cause})",
                fix="it may have run out of memory: run again with fewer --workers",
            )
        finally:
            self._idle.put(worker)


class _Worker:
    """A process that is started when there is work and none is running."""

    def __init__(self, memory_bytes: int | None) -> None:
        self._memory_bytes = memory_bytes
        self._process: Any = None
        self._pipe: Connection | None = None
        self.starting = False

    def start(self) -> None:
        """Start the process, if none is running, and wait until it is ready; raises EOFError if it dies."""
        if self._pipe is not None:
            return
        self.starting = True
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, self._memory_bytes), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv_bytes()  # the time of its start is not the task's
        self.starting = False

    def call(self, work: bytes, timeout_s: float) -> Any:
        """The result of pickled work; raises its error, EOFError or OSError if the process died."""
        assert self._pipe is not None
        self._pipe.send_bytes(work)
        if not self._pipe.poll(timeout_s):
            self.kill()
            raise WorkerError(
                f"took longer than {timeout_s:g} s", fix="look whether its slide can be read; see --timeout"
            )
        answer: tuple[bool, Any] = pickle.loads(self._pipe.recv_bytes())
        succeeded, value = answer
        if succeeded:
            return value
        raise value

    def interrupt(self) -> None:
        """End the process from another thread; the one that waits for its answer cleans up."""
        if (process := self._process) is not None and process.pid is not None:
            process.kill()

    def kill(self) -> str:
        """End the process, and say how it ended."""
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        if process is None or pipe is None:
            return "not running"
        if process.pid is None:  # what forks it has just died, which takes a moment to be seen
            time.sleep(_FORK_AGAIN_S)
            pipe.close()
            return "it could not be forked"
        process.join(0.1)  # the dying say their own reason
        process.kill()
        process.join()
        pipe.close()
        code = process.exitcode or 0
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def make_executor(workers: int, timeout_s: float = TIMEOUT_S) -> WorkerPool:
    """Make worker processes that share the machine's memory evenly.

    Parameters
    ----------
    workers : int
        Number of processes.
    timeout_s : float, optional
        See `WorkerPool`.

    Returns
    -------
    WorkerPool
    """
    os.environ.setdefault(*HUGE_PAGES)
    return WorkerPool(workers, timeout_s, _find_memory_bytes() // workers)


def make_ready() -> None:
    """Make this process a worker, or what forks workers: settings, libraries, compiled loops; no thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides what Ctrl-C means
    calm_threads()
    keep_memory()
    from histoquant.warm import warm_up  # loads everything, which the owner of a pool need not

    warm_up()


def calm_threads() -> None:
    """One thread per worker: workers share the cores, and sums do not depend on the thread count."""
    cv2.setNumThreads(1)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def keep_memory() -> None:
    """Let freed images of up to 64 MB stay with the process, where the C library is glibc.

    Pages that were given back must be made anew for each image, which takes as long as many a step on it.
    Larger ones are given back: holes of their size would add up.
    """
    # Arrow's own allocator lays claim to 1 GB, which counts where memory is limited.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return
    if not mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES):  # an old one keeps no more than half of that
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES // 2)
    mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)


def attempt(fn: Callable[..., Any], path: Path | None, /, *args: Any) -> Any:
    """Call a function; whatever goes wrong in it becomes a reason, so that others go on.

    A file that has vanished is waited for, as a share may come back.

    Parameters
    ----------
    fn : callable
        The work.
    path : Path or None
        The file that it reads.
    *args
        What the function takes.

    Returns
    -------
    Any
        What the function returns.

    Raises
    ------
    HistoquantError
        The function's own, or one that names what was unexpected and where.
    """
    try:
        try:
            return fn(*args)
        except SlideError:
            if path is None or _is_there(path) or not _wait_for(path):
                raise
            return fn(*args)
    except HistoquantError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        raise HistoquantError(f"unexpected {type(error).__name__}: {error} ({place})") from error


def _wait_for(path: Path) -> bool:
    limit = time.monotonic() + _PATIENCE_S
    while time.monotonic() < limit:
        if _is_there(path):
            return True
        time.sleep(_LOOK_AGAIN_S)
    return False


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True


def _serve(pipe: Connection, memory_bytes: int | None) -> None:
    """A worker's life: it ends when the other end of its pipe does."""
    make_ready()
    _limit_memory(memory_bytes)
    with suppress(OSError):
        pipe.send_bytes(b"ready")
    while True:
        try:
            fn, args, kwargs = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            answer = pickle.dumps((True, fn(*args, **kwargs)))
        except Exception as error:
            answer = _pickle_error(error)
        try:
            pipe.send_bytes(answer)
        except OSError:
            return


def _pickle_error(error: Exception) -> bytes:
    try:
        data = pickle.dumps((False, error))
        pickle.loads(data)
    except Exception:  # some errors of libraries do not survive the way
        return pickle.dumps((False, HistoquantError(f"unexpected {type(error).__name__}: {error}")))
    return data


def _limit_memory(memory_bytes: int | None) -> None:
    if memory_bytes is None:
        return
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = memory_bytes if most == resource.RLIM_INFINITY else min(memory_bytes, most)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))


def _find_memory_bytes() -> int:
    """Memory of the machine; a generous guess where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 36
