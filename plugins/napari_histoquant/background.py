"""Work in a thread, so that the window stays alive; what goes wrong there becomes a message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from napari.qt.threading import create_worker

from napari_histoquant.messages import describe_error, show_error

T = TypeVar("T")


@dataclass(frozen=True)
class _Failure:
    error: Exception


def start(
    work: Callable[[], T], accept: Callable[[T], object], finish: Callable[[], object] = lambda: None
) -> Any:
    """Start work in a thread.

    Parameters
    ----------
    work : callable
        Touches no widget and no layer.
    accept : callable
        Takes the result, in the window's thread.
    finish : callable, optional
        Called in the end, whatever happened, in the window's thread.

    Returns
    -------
    worker
        Of superqt.
    """

    def attempt() -> Any:
        # An error that leaves the thread is raised once more by the worker, as a traceback.
        try:
            return work()
        except Exception as error:
            return _Failure(error)

    def conclude(result: Any) -> None:
        try:
            if isinstance(result, _Failure):
                show_error(describe_error(result.error))
            else:
                accept(result)
        finally:
            finish()

    worker = create_worker(attempt, _start_thread=False)
    worker.returned.connect(conclude)
    worker.start()
    return worker
