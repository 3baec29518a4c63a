"""Work on a cluster: tasks go to the workers of a dask scheduler, through the interface of every executor."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from typing import Any

from histoquant import __version__
from histoquant.errors import HistoquantError, WorkerError
from histoquant.executors import calm_threads, keep_memory

_CONNECT_S = 30
_GONE = "the scheduler was lost"


class ClusterExecutor(Executor):
    """An executor whose workers are those of a scheduler of dask.distributed.

    A task whose worker is lost goes to another one; how often is the scheduler's setting
    `distributed.scheduler.allowed-failures`.

    Parameters
    ----------
    address : str
        Of the scheduler, `tcp://host:8786` say.

    Raises
    ------
    WorkerError
        `distributed` is not installed, no scheduler answers, or it has no workers.
    """

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            fix = "install histoquant[cluster], here and on every worker"
            raise WorkerError("dask.distributed is not installed", "--scheduler", fix) from error
        try:
            self._client = Client(address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            fix = "give the address that the scheduler printed when it started"
            raise WorkerError(f"no scheduler answers ({error})", address, fix) from error
        self.slots = sum(self._client.nthreads().values())
        """Tasks that the workers of the moment do at once."""
        if not self.slots:
            self._client.close()
            raise WorkerError("the scheduler has no workers", address, "start some, then run again")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a worker do the work.

        The future holds its result, its error, a WorkerError if the task lost too many workers, or
        BrokenExecutor if the scheduler was lost.
        """
        outer: Future[Any] = Future()
        inner = self._client.submit(_work, __version__, fn, args, kwargs, pure=False)
        inner.add_done_callback(lambda done: _hand_over(done, outer))
        return outer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the scheduler; tasks that are not done are dropped, its workers stay."""
        self._client.close()


def _work(version: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do the work on a worker, which may be any that came since."""
    if version != __version__:
        raise HistoquantError(
            f"a worker has histoquant {__version__}, not {version}",
            fix="install the same version on every worker",
        )
    calm_threads()
    keep_memory()
    from histoquant.warm import warm_up  # loads everything, which the program that asks need not

    warm_up()
    return fn(*args, **kwargs)


def _hand_over(inner: Any, outer: Future[Any]) -> None:
    """Pass on a result or an error as the rest of the program knows it."""
    try:
        outer.set_result(inner.result())
    except Exception as error:
        # What a task raised is its own, an OSError too; without a task's error the way to it is gone.
        lost = isinstance(error, CancelledError | OSError) and inner.status != "error"
        outer.set_exception(BrokenExecutor(f"{_GONE} ({error})") if lost else _translate(error))


def _translate(error: Exception) -> Exception:
    if type(error).__name__ != "KilledWorker":
        return error
    fix = "they may run out of memory: start fewer threads per worker, or give each more"
    return WorkerError("several workers died on it", fix=fix)
