"""Westgard rules: is a series of controls still what its baseline was?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WARNING = "1-2s"
MEANINGS = {
    "1-2s": "one control beyond 2 SD: a warning, look at it",
    "1-3s": "one control beyond 3 SD",
    "2-2s": "two controls in a row beyond 2 SD on the same side",
    "R-4s": "two controls of one batch beyond 2 SD on opposite sides",
    "4-1s": "four controls in a row beyond 1 SD on the same side",
    "10-x": "ten controls in a row on the same side of the mean",
    "trend": "seven controls in a row, each above, or each below, the one before",
}
_TREND = 7


class Baseline(NamedTuple):
    """Mean and SD that a series is judged by, and from how many of its first controls."""

    mean: float
    sd: float
    n: int


def set_baseline(values: Sequence[float], least: int) -> Baseline | None:
    """Take mean and SD from the first values of a series.

    Parameters
    ----------
    values : sequence of float
        Oldest first.
    least : int
        How many the baseline takes.

    Returns
    -------
    Baseline or None
        None while there are fewer, or if they do not vary.

    Examples
    --------
    >>> set_baseline([1.0, 2.0, 3.0, 9.0], 3)
    Baseline(mean=2.0, sd=1.0, n=3)
    """
    if least < 2 or len(values) < least:
        return None
    first = np.asarray(values[:least], float)
    sd = float(first.std(ddof=1))
    return (
        Baseline(float(first.mean()), sd, least) if sd > 1e-9 * max(1.0, abs(float(first.mean()))) else None
    )


def judge_series(scores: Sequence[float], batches: Sequence[str]) -> list[tuple[str, ...]]:
    """Name the rules that each control of a series breaks, together with those before it.

    Parameters
    ----------
    scores : sequence of float
        (value - mean) / SD, oldest first.
    batches : sequence of str
        Batch of each: R-4s looks at controls of one batch only.

    Returns
    -------
    list of tuple of str
        Per control, in the order of `MEANINGS`; all but 1-2s reject.

    References
    ----------
    Westgard JO, Barry PL, Hunt MR, Groth T. A multi-rule Shewhart chart for quality control in clinical
    chemistry. Clin Chem 1981;27:493-501 (all but trend). Trend, as 7T: Westgard JO. Basic QC Practices.

    Examples
    --------
    >>> judge_series([0.4, 2.3, 2.6, -3.2], ["1", "2", "3", "4"])
    [(), ('1-2s',), ('1-2s', '2-2s'), ('1-2s', '1-3s')]
    """
    return [_judge_last(scores[: at + 1], batches[: at + 1]) for at in range(len(scores))]


def _judge_last(scores: Sequence[float], batches: Sequence[str]) -> tuple[str, ...]:
    last = scores[-1]
    same_batch = [
        score for score, batch in zip(scores[:-1], batches[:-1], strict=True) if batch == batches[-1]
    ]
    broken = {
        "1-2s": abs(last) > 2,
        "1-3s": abs(last) > 3,
        "2-2s": _are_beyond(scores, 2, 2.0),
        "R-4s": abs(last) > 2 and any(abs(other) > 2 and other * last < 0 for other in same_batch),
        "4-1s": _are_beyond(scores, 4, 1.0),
        "10-x": _are_beyond(scores, 10, 0.0),
        "trend": _is_trend(scores),
    }
    return tuple(name for name, is_broken in broken.items() if is_broken)


def _are_beyond(scores: Sequence[float], number: int, limit: float) -> bool:
    """Whether the last `number` all lie beyond the limit on one side."""
    own = scores[-number:]
    return len(own) == number and (min(own) > limit or max(own) < -limit)


def _is_trend(scores: Sequence[float]) -> bool:
    steps = np.diff(scores[-_TREND:])
    return len(steps) == _TREND - 1 and bool((steps > 0).all() or (steps < 0).all())
