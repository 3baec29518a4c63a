"""The history of controls and the rules by which its series are judged."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from histoquant.control import history
from histoquant.control.history import VERSION, Observation, add_observations, read_history
from histoquant.control.westgard import MEANINGS, judge_series, set_baseline
from histoquant.errors import HistoryError


def observe(slide: str, value: float = 1.0, measure: str = "blur_um") -> Observation:
    return Observation("2026-01-01T00:00:00Z", slide, "b1", "CD19", "positive", measure, value, "P-CD19")


def judge(*scores: float, batches: list[str] | None = None) -> set[str]:
    names = batches or [str(at) for at in range(len(scores))]
    return set(judge_series(list(scores), names)[-1])


def test_a_textbook_exercise() -> None:
    """Control 1: 106, mean 100, s 2.5; control 2 of the same run: 199, mean 205, s 2.5. Answer: R-4s.

    An exercise of courses in clinical chemistry; 1-3s, 4-1s and a mere warning are its wrong answers.
    """
    scores = ((106 - 100) / 2.5, (199 - 205) / 2.5)
    assert judge(*scores, batches=["day 1", "day 1"]) == {"1-2s", "R-4s"}


# Controls and answers of: Westgard S. Break All the Rules, parts one and two, westgard.com 2015.
ONE_CONTROL = [
    *(
        42.5,
        55.1,
        46.4,
        47.0,
        43.1,
        56.9,
        41.3,
        44.9,
        45.5,
        41.3,
        47.0,
        37.7,
        41.6,
        53.3,
        55.4,
        44.6,
        47.3,
        48.2,
    ),
    *(
        41.3,
        42.8,
        44.3,
        47.6,
        44.3,
        45.8,
        47.6,
        39.8,
        39.8,
        50.9,
        49.7,
        45.5,
        45.2,
        47.3,
        47.9,
        44.3,
        40.1,
        48.2,
    ),
    *(
        40.7,
        41.9,
        43.4,
        43.7,
        49.7,
        42.2,
        52.1,
        44.6,
        45.2,
        45.8,
        41.6,
        41.3,
        44.9,
        43.7,
        45.2,
        50.6,
        50.3,
        51.2,
    ),
    *(51.5, 44.3, 41.6, 53.9, 48.8, 48.2, 50.6),
]


def test_a_published_series_of_one_control() -> None:
    """Mean 47, SD 3. Answers name the first or last control of a rule; 8-x is none here."""
    scores = [(value - 47) / 3 for value in ONE_CONTROL]
    verdicts = judge_series(scores, [str(at) for at in range(len(scores))])
    rejected = {at: set(rules) - {"1-2s"} for at, rules in enumerate(verdicts, 1) if set(rules) - {"1-2s"}}
    assert rejected == {6: {"1-3s"}, 12: {"1-3s"}, 15: {"2-2s"}, 27: {"2-2s"}, 40: {"4-1s"}, 55: {"4-1s"}}
    assert [at for at, rules in enumerate(verdicts, 1) if rules == ("1-2s",)] == [2, 14, 26, 35, 37, 58]


@pytest.mark.parametrize(
    ("values", "broken"),
    [
        ((38.9, 51.0), {"1-2s", "2-2s"}),
        ((46.0, 91.8), {"1-2s"}),
        ((49.1, 95.5), {"1-2s", "1-3s"}),
        ((37.0, 90.0), {"1-2s", "R-4s"}),
        ((54.2, 54.0), {"1-2s", "R-4s"}),
        # The range is 4.2 SD: rejected there "by calculation", not by the rule of 1981.
        ((40.0, 86.2), set()),
    ],
)
def test_published_runs_of_two_controls(values: tuple[float, float], broken: set[str]) -> None:
    """Low control: mean 47, SD 3. High control: mean 71, SD 8. Runs 2, 4, 8, 10, 26 and 14."""
    assert judge((values[0] - 47) / 3, (values[1] - 71) / 8, batches=["run", "run"]) == broken


@pytest.mark.parametrize(
    ("scores", "broken"),
    [
        # The definitions of Westgard et al. 1981, at and on either side of each limit.
        ([2.0], set()),
        ([2.1], {"1-2s"}),
        ([-3.0], {"1-2s"}),
        ([-3.1], {"1-2s", "1-3s"}),
        ([2.1, 2.2], {"1-2s", "2-2s"}),
        ([2.1, -2.2], {"1-2s"}),
        ([2.1, 0.0, 2.2], {"1-2s"}),
        ([1.1, 1.4, 1.2, 1.9], {"4-1s"}),
        ([1.1, 1.4, 0.9, 1.9], set()),
        ([-1.1, -1.4, -1.2, 1.9], set()),
        ([0.1, 0.5, 0.2] * 3 + [0.1], {"10-x"}),
        ([0.1, 0.5, 0.2] * 3, set()),
        ([0.1, 0.5, 0.2] * 3 + [-0.1], set()),
        ([-0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6], {"trend"}),
        ([-0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.3], set()),
        ([0.6, 0.4, 0.2, 0.1, -0.2, -0.4, -0.6], {"trend"}),
    ],
)
def test_each_rule_at_its_limit(scores: list[float], broken: set[str]) -> None:
    assert judge(*scores) == broken


def test_every_rule_has_a_meaning_and_every_control_its_own_verdict() -> None:
    verdicts = judge_series([3.5, 0.0, -0.5], ["a", "b", "c"])
    assert verdicts == [("1-2s", "1-3s"), (), ()]
    assert set(MEANINGS) == {"1-2s", "1-3s", "2-2s", "R-4s", "4-1s", "10-x", "trend"}


def test_a_baseline_needs_enough_that_varies() -> None:
    assert set_baseline([1.0, 2.0], 3) is None
    assert set_baseline([1.0, 1.0, 1.0], 3) is None
    assert set_baseline([1.0, 2.0, 3.0, 100.0], 3) == (2.0, 1.0, 3)


def test_a_sudden_shift_is_caught_as_soon_as_theory_says() -> None:
    """A shift of 2 SD. By 1-3s alone P(z > 1) = 0.159 a run: half are caught by run 5 (1 - 0.841^5 = 0.58).

    With 2-2s as well, a run passes only if z < 0, or 0 < z < 1 after a z < 0: the chance to pass n runs is
    0.44 at 3 and 0.002 at 20, which 4-1s lowers further.
    """
    rng = np.random.default_rng(7)
    delays = []
    for _ in range(200):
        scores = [*rng.normal(0, 1, 30), *rng.normal(2, 1, 30)]
        verdicts = judge_series(scores, [str(at) for at in range(60)])
        rejected = [at for at in range(30, 60) if set(verdicts[at]) - {"1-2s"}]
        delays.append(rejected[0] - 29 if rejected else 99)
    assert np.median(delays) <= 4
    assert max(delays) <= 20


def test_a_drift_over_thirty_months_is_found_as_soon_as_theory_says() -> None:
    """A control a month, 0.2 SD further each month: the mean is 3 SD off after 15 months.

    By 1-3s alone, the chance to pass month n is P(z < 3 - 0.2 n); the product over months falls below one
    half at month 11 and below 0.001 at month 19. More rules only find it sooner.
    """
    means = 0.2 * np.arange(1, 31)
    passes = np.cumprod(stats.norm.cdf(3 - means) - stats.norm.cdf(-3 - means))
    half, nearly_sure = (int(np.argmax(passes < share)) + 1 for share in (0.5, 0.001))
    rng = np.random.default_rng(11)
    found = []
    for _ in range(200):
        scores = [*rng.normal(0, 1, 20), *(means + rng.normal(0, 1, 30))]
        verdicts = judge_series(scores, [str(at) for at in range(50)])
        rejected = [at - 19 for at in range(20, 50) if set(verdicts[at]) - {"1-2s"}]
        found.append(rejected[0] if rejected else 99)
    assert np.median(found) <= half
    assert np.quantile(found, 0.995) <= nearly_sure


def test_thirty_good_months_are_rarely_rejected() -> None:
    """By 1-3s 0.27 % of good controls are rejected; all rules together reject a few in a hundred."""
    rng = np.random.default_rng(12)
    verdicts = [
        verdict
        for _ in range(100)
        for verdict in judge_series(rng.normal(0, 1, 30).tolist(), [str(at) for at in range(30)])
    ]
    assert 0.0005 < np.mean(["1-3s" in verdict for verdict in verdicts]) < 0.007
    assert np.mean([bool(set(verdict) - {"1-2s"}) for verdict in verdicts]) < 0.03


def test_what_is_added_is_read_and_the_same_slide_again_is_no_second_one(tmp_path: Path) -> None:
    path = tmp_path / "history µ.sqlite"
    assert add_observations(path, [observe("a", 1.0), observe("b", 2.0)]) == 2
    assert add_observations(path, [observe("a", 1.5)]) == 0
    table = read_history(path)
    assert table["slide"].tolist() == ["a", "b"]
    assert table["value"].tolist() == [1.5, 2.0]


def test_one_bad_observation_leaves_nothing_of_its_batch(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    add_observations(path, [observe("a")])
    with pytest.raises(HistoryError, match="NOT NULL"):
        add_observations(path, [observe("b"), observe("c")._replace(value=None)])  # type: ignore[arg-type]
    assert read_history(path)["slide"].tolist() == ["a"]


ADD = """
import sys
from pathlib import Path
from histoquant.control.history import Observation, add_observations
for i in range(25):
    rows = [Observation("t", f"{sys.argv[2]}{i}", "b", "m", "positive", name, 1.0, "s") for name in "xyz"]
    add_observations(Path(sys.argv[1]), rows)
"""
DIE = """
import os, sys
from pathlib import Path
from histoquant.control import history
def rows():
    yield history.Observation("t", "half", "b", "m", "positive", "x", 1.0, "s")
    os._exit(9)
history.add_observations(Path(sys.argv[1]), rows())
"""


def test_two_processes_add_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    both = [subprocess.Popen([sys.executable, "-c", ADD, path, name]) for name in "AB"]
    assert [process.wait(120) for process in both] == [0, 0]
    assert len(read_history(path)) == 2 * 25 * 3


def test_a_process_that_dies_in_the_middle_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    add_observations(path, [observe("a")])
    assert subprocess.run([sys.executable, "-c", DIE, path], check=False, timeout=120).returncode == 9
    assert read_history(path)["slide"].tolist() == ["a"]
    assert add_observations(path, [observe("b")]) == 1


def make_version_1(path: Path) -> None:
    with closing(sqlite3.connect(path)) as old, old:
        old.execute(history._STEPS[0])
        old.execute("INSERT INTO observations VALUES (1, 't', 'old', 'b', 'm', 'positive', 'x', 0.5)")
        old.execute("PRAGMA user_version = 1")


def test_an_older_file_is_copied_and_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    make_version_1(path)
    before = path.read_bytes()
    table = read_history(path)
    assert table[["slide", "value", "section"]].to_numpy().tolist() == [["old", 0.5, ""]]
    copy = tmp_path / "h.sqlite.version1"
    with closing(sqlite3.connect(copy)) as old:
        assert old.execute("SELECT slide FROM observations").fetchall() == [("old",)]
        assert old.execute("PRAGMA user_version").fetchone() == (1,)
    assert len(before) == copy.stat().st_size
    assert sorted(file.name for file in tmp_path.iterdir()) == ["h.sqlite", "h.sqlite.version1"]


def test_a_step_that_fails_leaves_the_older_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "h.sqlite"
    make_version_1(path)
    monkeypatch.setattr(history, "_STEPS", (*history._STEPS, "no sql"))
    monkeypatch.setattr(history, "VERSION", VERSION + 1)
    with pytest.raises(HistoryError, match="syntax error"):
        read_history(path)
    monkeypatch.undo()
    assert read_history(path)["slide"].tolist() == ["old"]


def test_a_newer_file_and_anothers_are_refused(tmp_path: Path) -> None:
    newer, other, text = (tmp_path / name for name in ("newer", "other", "text"))
    with closing(sqlite3.connect(newer)) as file, file:
        file.execute(f"PRAGMA user_version = {VERSION + 1}")
    with closing(sqlite3.connect(other)) as file, file:
        file.execute("CREATE TABLE recipes (name TEXT)")
    text.write_text("patient,group\n" * 100)
    for path, message in ((newer, "update histoquant"), (other, "another program"), (text, "not a database")):
        with pytest.raises(HistoryError, match=message):
            read_history(path)
    with pytest.raises(HistoryError, match="unable to open"):
        read_history(tmp_path / "nowhere" / "h.sqlite")
