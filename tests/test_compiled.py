"""Compiled functions: same results as the plain ones, compiled late, kept where there is a place for it."""

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from histoquant.compiled import Compiled


@Compiled
def _square(number: float) -> float:
    return number * number


@Compiled
def _sum_squares(numbers: npt.NDArray[np.float64]) -> float:
    """Sum of squares."""
    total = 0.0
    for number in numbers:
        total += _square(number)
    return total


def test_a_compiled_function_gives_what_the_plain_one_gives() -> None:
    assert _sum_squares(np.array([1.0, 2.0, 3.0])) == 14 == _sum_squares.plain(np.array([1.0, 2.0, 3.0]))


def test_it_keeps_name_and_docstring() -> None:
    assert (_sum_squares.__name__, _sum_squares.__doc__) == ("_sum_squares", "Sum of squares.")


def test_nothing_is_compiled_before_it_is_called() -> None:
    """numba takes a second, which `--help` and a first picture do not have."""
    code = "import sys; from histoquant import pipeline; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_a_folder_to_keep_it_in_a_function_is_compiled_all_the_same() -> None:
    code = "def double(number):\n    return 2 * number"
    names: dict[str, Compiled[[int], int]] = {}
    exec(compile(code, "<nowhere>", "exec"), names)  # type: ignore[arg-type]
    assert Compiled(names["double"])(4) == 8


def test_a_full_disk_keeps_nothing_and_spoils_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Compiled, "lost", False)  # as it was, afterwards
    from numba.core.caching import IndexDataCacheFile

    tried = []

    def fill_disk(*_: object) -> None:
        tried.append("once")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "save", fill_disk)
    inner = Compiled(_square.plain)
    assert inner(np.float32(3)) == 9 and tried == ["once"] and Compiled.lost


def test_it_is_known_when_something_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when it is found on disk, and no more when it is done."""
    from numba.core.caching import FunctionCache

    seen: list[bool] = []
    inner = Compiled(_square.plain)
    monkeypatch.setattr(FunctionCache, "load_overload", lambda *_: None)
    monkeypatch.setattr(FunctionCache, "save_overload", lambda *_: seen.append(Compiled.under_way))
    assert inner(np.int8(3)) == 9
    assert seen == [True] and not Compiled.under_way


def test_a_second_process_finds_what_the_first_has_compiled(tmp_path: Path) -> None:
    module = tmp_path / "once.py"
    lines = (
        "from histoquant.compiled import Compiled",
        "@Compiled",
        "def double(number):",
        "    return 2 * number",
    )
    module.write_text("\n".join(lines))
    code = "import once; once.double(4); print(sum(once.double._compiled.stats.cache_hits.values()))"
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [run.stdout.strip() for run in runs] == ["0", "1"]
