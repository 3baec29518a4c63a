"""Workers begin warm: loops are compiled by one process, and a first field has none left to compile."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest

from histoquant import executors, pipeline, turns, warm
from histoquant.compiled import Compiled
from histoquant.executors import WorkerPool
from histoquant.prepare import prepare_section
from histoquant.protocol import validate_protocol
from histoquant.slide import open_slide
from histoquant.study import read_study
from histoquant.turns import is_compiling, take_turn

# Run by a process of its own: tells how many loops it has compiled and loaded, and how many threads started.
LOOK = """
import os, sys
from histoquant import warm
from histoquant.compiled import Compiled
from histoquant.executors import make_ready
import numba
threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0
make_ready()
stats = [
    each._compiled.stats
    for name, module in list(sys.modules.items()) if name.startswith("histoquant.")
    for each in vars(module).values() if isinstance(each, Compiled) and "_compiled" in vars(each)
]
print(*(sum(sum(kind.values()) for kind in column) for column in zip(
    *((one.cache_misses, one.cache_hits) for one in stats))))
print(threads - (len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0))
"""


def count_variants() -> dict[str, int]:
    """Variants of every loop that were compiled or loaded; what only others call is in them."""
    return {
        f"{name}.{loop}": len(each._compiled.signatures)
        for name, module in list(sys.modules.items())
        if name.startswith("histoquant.")
        for loop, each in vars(module).items()
        if isinstance(each, Compiled) and "_compiled" in vars(each)
    }


def list_tasks(study: Path, folder: Path) -> Iterator[tuple[str, Any, Any, Any]]:
    """Fields of several pixel sizes, and a camera image; all compartments."""
    protocol = validate_protocol({"fields": {"count": 1, "width_um": 200, "margin_um": 60}}, "test")
    section = next(one for one in read_study(study / "STUDY.csv", ("BAFF-R", "CD19")).sections)
    marker = protocol.markers["CD19"]
    (task,) = prepare_section(section, protocol, 0).tasks
    for mpp in (task.mpp, 0.2527, 0.25, 0.17):
        middle = 400 * mpp / task.mpp
        field = replace(task.field, center_x_um=middle, center_y_um=middle)
        yield f"a field at {mpp} um/px", replace(task, mpp=mpp, field=field), marker, protocol
    for compartment in ("cell", "nucleus", "cytoplasm"):
        yield compartment, task, marker.model_copy(update={"compartment": compartment}), protocol
    with open_slide(task.path) as slide:
        pixels = slide.read(200, 200, 301, 251).pixels
    cv2.imwrite(str(folder / "image.png"), pixels[..., ::-1])
    source = replace(section.sources[0], path=folder / "image.png", mpp=task.mpp, kind="field")
    (image,) = prepare_section(replace(section, sources=(source,)), protocol, 0).tasks
    yield "a camera image", image, marker, protocol


def test_a_real_field_has_nothing_left_to_compile(small_study: Path, tmp_path: Path) -> None:
    """A new loop, or an array of another type or layout: let the scrap of `warm.py` reach it."""
    warm._measure_patch()
    known = count_variants()
    assert len(known) > 25
    for name, *how in list_tasks(small_study, tmp_path):
        measured = pipeline.measure_field(*how)
        assert measured.row["fibers"], name
        assert count_variants() == known, name


def test_what_is_not_on_disk_is_compiled_by_another_process_and_loaded(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True, check=True
    )
    (misses, hits), (threads,) = (map(int, line.split()) for line in done.stdout.splitlines())
    # The first of all is asked for twice, since another process may have compiled it meanwhile.
    assert misses == 2 and hits > 25 and threads == 0


def test_what_cannot_be_kept_is_compiled_at_once() -> None:
    from numba.core.caching import NullCache

    warm._refuse_to_compile(SimpleNamespace(_cache=NullCache()))
    with pytest.raises(warm._Cold):
        warm._refuse_to_compile(SimpleNamespace(_cache=None))


def test_a_process_that_cannot_keep_loops_compiles_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Compiled, "lost", False)
    warm._refuse_when_lost(None)
    monkeypatch.setattr(Compiled, "lost", True)
    with pytest.raises(warm._Cold):
        warm._refuse_when_lost(None)


@pytest.mark.parametrize("code", [0, 1, -2])
def test_loops_that_another_process_did_not_keep_are_compiled_here(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not after Ctrl-C, which ends that process with a signal."""
    asked: list[object] = []

    def measure(ask: object = None) -> None:
        asked.append(ask)
        if ask is not None:
            raise warm._Cold

    monkeypatch.setattr(warm, "_measure_patch", measure)
    monkeypatch.setattr(warm.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=code))
    warm.warm_up.__wrapped__()
    assert asked == [warm._refuse_to_compile] * 2 + [None] * (code >= 0)


def test_nothing_in_the_way_keeps_a_worker_from_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "PATCH", "models/none.svs")
    warm.warm_up.__wrapped__()


def test_a_worker_that_is_spawned_begins_warm_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_CONTEXT", get_context("spawn"))
    with WorkerPool(1) as pool:
        assert len(pool.submit(count_variants).result()) > 25


def test_a_pool_given_up_while_a_worker_starts_gives_it_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = WorkerPool(1)
    monkeypatch.setattr(executors._Worker, "start", lambda worker: setattr(pool, "_closed", True))
    monkeypatch.setattr(executors._Worker, "call", lambda *_: pytest.fail("it has work"))
    with pytest.raises(CancelledError):
        pool.submit(divmod, 7, 2).result()
    pool.shutdown()


@pytest.fixture
def own_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_one_compiles_and_the_others_wait(own_temporary: Path) -> None:
    order: list[str] = []

    def wait() -> None:
        with take_turn():
            order.append("second")

    assert not is_compiling()
    with take_turn():
        other = threading.Thread(target=wait)
        other.start()
        other.join(0.3)
        assert is_compiling() and not order
        order.append("first")
    other.join(30)
    assert order == ["first", "second"] and not is_compiling()


def test_loops_kept_elsewhere_are_another_matter(
    own_temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with take_turn():
        assert is_compiling()
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(own_temporary / "other"))
        assert not is_compiling()


def test_nobody_waits_for_ever_or_without_a_place(
    own_temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_PATIENCE_S", 0.1)
    with take_turn(), take_turn():
        assert is_compiling()
    (own_temporary / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(own_temporary / "file"))
    with take_turn():
        assert not is_compiling()
