"""What every worker begins with: to import this module loads all that a field needs, and starts numba."""

from __future__ import annotations

from histoquant import pipeline
from histoquant.compiled import Compiled

__all__ = ["pipeline"]


@Compiled
def _start(number: int) -> int:
    return number


_start(0)
