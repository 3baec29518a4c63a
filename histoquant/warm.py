# This module touches files: it reads a scrap of a section.
"""Loops compiled before the first field, by one process of a machine, and loaded before workers fork."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histoquant import pipeline
from histoquant.annotations import Annotations
from histoquant.compiled import Compiled
from histoquant.fibers import cross_check_fibers
from histoquant.geometry import Field
from histoquant.network import prepare_input, split_fibers
from histoquant.pipeline import FieldTask
from histoquant.protocol import Protocol
from histoquant.stains import DEFAULT_VECTORS
from histoquant.turns import take_turn

Ask = Callable[[Any], None]

PATCH = "models/patch.svs"
"""A rendered section, 512 px wide: fibers of 25 um (seed 5), the middle of 200 um."""

# Ctrl-C ends it, which those that it compiles for ignore.
_COMPILE = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.path[:] = {}
from histoquant.warm import compile_loops
compile_loops()
"""
_LONGEST_S = 600
_WHITE = (243.0, 241.0, 239.0)
# A scale of 1/2, which most loops were made for, and one that does not divide.
_MPP = (0.25, 0.2523)
_FIBER_PX = 24


class _Cold(BaseException):
    """A loop is not on disk; no error, which a stage could handle."""


@cache
def warm_up() -> None:
    """Load all that a field needs, once in a process: libraries, and loops compiled.

    Loops that are not on disk are compiled by a process of its own, since that takes memory, which workers
    would inherit. What cannot be kept is compiled here. No thread is started, so that workers can be forked.
    """
    with suppress(Exception):  # a field without it takes longer, and tells what is wrong
        try:
            _measure_patch(_refuse_to_compile)
        except _Cold:
            _compile_apart()


def _compile_apart() -> None:
    with take_turn():
        with suppress(_Cold):  # the one before may have compiled the same
            return _measure_patch(_refuse_to_compile)
        words = [sys.executable, "-c", _COMPILE.format(sys.path)]
        nowhere = subprocess.DEVNULL
        done = subprocess.run(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, timeout=_LONGEST_S)
        if done.returncode >= 0:  # otherwise it was killed: by Ctrl-C, say, or for want of memory
            _measure_patch()
    return None


def compile_loops() -> None:
    """Compile all loops that a field needs and keep them on disk; ends early where there is no room."""
    _measure_patch(_refuse_when_lost)


def _refuse_to_compile(dispatcher: Any) -> None:
    from numba.core.caching import NullCache

    if not isinstance(dispatcher._cache, NullCache):
        raise _Cold


def _refuse_when_lost(dispatcher: Any) -> None:
    if Compiled.lost:
        raise _Cold


def _measure_patch(ask: Ask | None = None) -> None:
    """Measure a scrap of a section with every loop; `ask` is called before one is compiled.

    All is as in a run but for the network itself: its session has threads, which do not survive a fork.
    """
    place = Path(str(resources.files("histoquant") / PATCH))
    field = Field(1, "circle", 64.0, 64.0, 80.0, 80.0)
    protocol = Protocol.model_validate({"fields": {"margin_um": 20.0}, "fibers": {"method": "classical"}})
    with _ask_before_compiling(ask):
        for mpp in _MPP:
            how = (_WHITE, DEFAULT_VECTORS, Annotations(None, None, ()), 1.0)
            task = FieldTask(place, mpp, "slide", field, *how)
            found = pipeline.find_objects(task, protocol.markers["CD19"], protocol)
            split_fibers(_draw_maps(*prepare_input(found.stains).shape[1:]))
            cross_check_fibers(found.fibers, found.stains, found.inside, Protocol().fibers)
            pipeline.measure_field(task, protocol.markers["CD19"], protocol)


@contextmanager
def _ask_before_compiling(ask: Ask | None) -> Iterator[None]:
    from numba.core import event

    thread = threading.get_ident()

    class Listener(event.Listener):  # type: ignore[misc]
        def on_start(self, event: Any) -> None:
            if ask is not None and threading.get_ident() == thread:
                ask(event.data["dispatcher"])

        def on_end(self, event: Any) -> None:
            """Nothing."""

    with event.install_listener("numba:compile", Listener()):
        yield


def _draw_maps(rows: int, columns: int) -> npt.NDArray[np.float32]:
    """The network's maps of square fibers side by side, in one half with borders too weak to part them."""
    y, x = (np.abs(np.arange(side) % _FIBER_PX / (_FIBER_PX / 2) - 1) for side in (rows, columns))
    edge = np.maximum(y[:, None], x)
    border = edge**4
    border[:, columns // 2 :] *= 0.3
    return np.asarray([edge < 0.95, border, 1 - edge], np.float32)
