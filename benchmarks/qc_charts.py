"""What one slide cannot tell, a control chart can: `python benchmarks/qc_charts.py --help`.

A control tissue is stained with every batch. Its densities vary from batch to batch by a coefficient of
variation; 20 batches make the baseline, then a fault begins and stays. Told is in how many series a rule that
rejects has fired at the first, by the third and by the fifth batch with the fault, on any of the three charts
of strength. Densities are scaled, pixels are not: what the fault does to them beyond that is left out.

`--months` needs no image: one control a month, whose mean drifts, jumps or stays for thirty months after the
baseline, and the month at which a rule that rejects first fires, beside what theory says of 1-3s alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
from qc_faults import PHOTOGRAPHS, Good, read_photographs, render_fields
from scipy import stats
from tables import format_table

from histoquant.control.charts import is_rejected
from histoquant.control.westgard import judge_series, set_baseline
from histoquant.geometry import Patch
from histoquant.stains import separate_stains

BASELINE, FAULTY = 20, 5
FAULTS = {
    "none": (1.0, 1.0, 0.0),
    "DAB faded by 15 %": (1.0, 0.85, 0.0),
    "DAB faded by 30 %": (1.0, 0.7, 0.0),
    "DAB faded by 50 %": (1.0, 0.5, 0.0),
    "both stains 1.5 times": (1.5, 1.5, 0.0),
    "both stains twice": (2.0, 2.0, 0.0),
    "both stains three times": (3.0, 3.0, 0.0),
    "background of 0.05 OD more": (1.0, 1.0, 0.05),
    "background of 0.1 OD more": (1.0, 1.0, 0.1),
    "background of 0.2 OD more": (1.0, 1.0, 0.2),
}
"""Factors of haematoxylin and DAB, and DAB added."""


def measure(good: Good) -> tuple[float, float, float]:
    """Strong haematoxylin, strong DAB and DAB background of a control, as `measure_strength` has them."""
    stains = separate_stains(Patch(good.pixels, 0.0, 0.0, good.mpp), good.white)
    tissue = stains.haematoxylin + stains.dab > 0.03
    strong = (float(np.percentile(one[tissue], 99)) for one in (stains.haematoxylin, stains.dab))
    return (*strong, float(np.median(stains.dab[tissue])))


def simulate(
    rng: np.random.Generator, usual: tuple[float, float, float], fault: str, variation: float
) -> Iterator[npt.NDArray[np.float64]]:
    """Series of the three measures: a baseline, then batches with the fault."""
    blue, brown, added = (np.ones(BASELINE + FAULTY) for _ in range(3))
    blue[BASELINE:], brown[BASELINE:], added[BASELINE:] = FAULTS[fault]
    added[:BASELINE] = 0
    blue, brown = (part * rng.normal(1, variation, len(part)) for part in (blue, brown))
    added = added + rng.normal(0, 0.1 * variation, len(added))
    for value, factor, more in zip(usual, (blue, brown, brown), (0, added, added), strict=True):
        yield value * factor + more


def find_alarm(series: Iterator[npt.NDArray[np.float64]]) -> float:
    """First batch of the fault at which a rule rejects; inf if none does."""
    first = np.inf
    for values in series:
        limits = set_baseline(values.tolist(), BASELINE)
        assert limits is not None
        scores = ((values[BASELINE:] - limits.mean) / limits.sd).tolist()
        verdicts = judge_series(scores, [str(at) for at in range(FAULTY)])
        rejected = [at for at, rules in enumerate(verdicts, 1) if is_rejected(" ".join(rules))]
        first = min(first, *rejected, np.inf)
    return first


def simulate_months(series: int = 1000, months: int = 30) -> pd.DataFrame:
    """First month rejected, by what the mean does; in SD."""
    rng = np.random.default_rng(30)
    at = np.arange(1, months + 1)
    rows = []
    for name, means in {
        "drifts by 0.2 a month": 0.2 * at,
        "jumps by 2": 0 * at + 2.0,
        "stays": 0.0 * at,
    }.items():
        found = np.array([find_month(rng, means) for _ in range(series)])
        passed = np.cumprod(stats.norm.cdf(3 - means) - stats.norm.cdf(-3 - means))
        row = {"mean": name, "series": series, "rejected": f"{np.isfinite(found).mean():.1%}"}
        for share in (0.5, 0.95, 0.999):
            month = np.sort(found)[int(np.ceil(share * series)) - 1]
            alone = np.argmax(passed <= 1 - share) + 1 if passed[-1] <= 1 - share else np.inf
            row[f"{share:.1%} by month (1-3s alone, theory)"] = f"{month:g} ({alone:g})"
        rows.append(row)
    return pd.DataFrame(rows)


def find_month(rng: np.random.Generator, means: npt.NDArray[np.float64]) -> float:
    """First month whose control is rejected; inf if none is."""
    scores = [*rng.normal(0, 1, BASELINE), *(means + rng.normal(0, 1, len(means)))]
    verdicts = judge_series(scores, [str(at) for at in range(len(scores))])[BASELINE:]
    return min((at for at, rules in enumerate(verdicts, 1) if is_rejected(" ".join(rules))), default=np.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rendered", type=int, default=2)
    parser.add_argument("--series", type=int, default=50, help="per control tissue")
    parser.add_argument("--months", action="store_true", help="only the thirty months")
    args = parser.parse_args()
    if args.months:
        print(format_table(simulate_months()))
        return
    goods = [*render_fields(range(args.rendered), 900), *read_photographs(PHOTOGRAPHS, 0, 1)]
    controls = [(good.kind, measure(good)) for good in goods]
    rng = np.random.default_rng(0)
    rows = []
    for variation in (0.05, 0.1):
        for fault in FAULTS:
            for kind in dict.fromkeys(kind for kind, _ in controls):
                own = [usual for name, usual in controls if name == kind]
                alarms = np.array([
                    find_alarm(simulate(rng, usual, fault, variation))
                    for usual in own
                    for _ in range(args.series)
                ])  # fmt: skip
                shares = {f"by batch {n}": f"{(alarms <= n).mean():.0%}" for n in (1, 3, 5)}
                about = {"variation": f"{variation:.0%}", "fault": fault, "control": kind}
                rows.append({**about, "series": len(alarms), **shares})
    print(format_table(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
