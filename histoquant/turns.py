# This module touches files: it holds a lock among temporary files.
"""Whose turn it is to compile loops: of a user's processes on a machine one does, the others wait."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

_PATIENCE_S = 300.0


@contextmanager
def take_turn() -> Iterator[None]:
    """Wait until no other process compiles, and let others wait until the end of the block.

    Where there is no place for the lock, or another one holds it for five minutes, nobody waits: to compile
    twice costs time only. A process that dies gives up its turn.
    """
    lock = None
    with suppress(OSError, NotImplementedError):  # no time left is an OSError
        lock = _name_lock()
        lock.acquire(timeout=_PATIENCE_S)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def is_compiling() -> bool:
    """Whether a process of this user compiles loops on this machine."""
    try:
        lock = _name_lock()
        lock.acquire(timeout=0)
    except TimeoutError:
        return True
    except (OSError, NotImplementedError):
        return False
    lock.release()
    return False


def _name_lock() -> FileLock:
    """One for all that keep their loops in the same place: another installation compiles its own."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    place = f"{Path(__file__).parent} {os.environ.get('NUMBA_CACHE_DIR')} {user}"
    name = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"histoquant-compiling-{name}.lock")
