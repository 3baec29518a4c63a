"""How wide the intervals of a validation are with 10, 20, 40 and 60 sections.

python benchmarks/validation_width.py
"""

from __future__ import annotations

import numpy as np

from histoquant.agreement import measure_icc, measure_limits, measure_proportion

DRAWS = 500
ERROR = 0.08  # SD of the logarithm of run / truth, about 8 %
SPREAD = 0.5  # SD of the logarithm of sections' values


def main() -> None:
    rng = np.random.default_rng(0)
    print("| sections | bias | one limit | ICC, median interval | concordance of 90 % |")
    print("| --- | --- | --- | --- | --- |")
    for n in (10, 20, 40, 60):
        bias, limit, icc = [], [], []
        for _ in range(DRAWS):
            truth = rng.normal(0, SPREAD, n)
            run = truth + rng.normal(0, ERROR, n)
            found = measure_limits(100 * run, 100 * truth)
            bias.append(found.bias.ci_high - found.bias.ci_low)
            limit.append(found.high.ci_high - found.high.ci_low)
            one = measure_icc(np.stack([run, truth], axis=1))
            icc.append((one.ci_low, one.ci_high))
        low, high = np.median(icc, axis=0)
        share = measure_proportion(round(0.9 * n), n)
        print(
            f"| {n} | {np.median(bias):.1f} points | {np.median(limit):.1f} points | {low:.3f} to {high:.3f} "
            f"| {share.ci_low:.0%} to {share.ci_high:.0%} |"
        )


if __name__ == "__main__":
    main()
