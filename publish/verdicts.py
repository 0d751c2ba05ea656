"""Which of two results is better, and whether they can tell: one rule for README.md, docs/ and the report.

Several seeds are compared by the standard error of their difference, two single runs by a paired bootstrap over the
items that both were tested on (Efron, 1979).
"""

from __future__ import annotations

import math

import numpy as np

import records

RESAMPLES, LEVEL = 1000, 95  # of the bootstrap, and percent of them that its interval covers


def verdict(name: str, metric: dict, other: dict, more_is_better: bool = True, digits: int = 1) -> str:
    """What the difference of two shares, name's and another's, is worth, given their deviations over seeds."""
    difference, error = 100 * (metric["mean"] - other["mean"]), 100 * standard_error(metric, other)
    if math.isnan(error):
        return f"a difference of {abs(difference):.{digits}f} points of one seed each, which another seed may reverse"
    size = f"{abs(difference):.{digits}f} points (standard error {error:.{digits}f})"
    if abs(difference) < 2 * error:
        return f"a difference of {size}, which the seeds do not resolve"
    return f"{name} is {'better' if (difference > 0) == more_is_better else 'worse'} by {size}"


def standard_error(metric: dict, other: dict) -> float:
    """Of the difference of two means over seeds; NaN where either has a single seed."""
    if min(len(each["values"]) for each in (metric, other)) < 2:
        return math.nan
    return math.hypot(*(each["std"] / math.sqrt(len(each["values"])) for each in (metric, other)))


def resolved(metric: dict, other: dict) -> float:
    """The difference of two means over seeds; 0 where it is less than two standard errors, or of single seeds."""
    difference = metric["mean"] - other["mean"]
    return difference if abs(difference) >= 2 * standard_error(metric, other) else 0.0


def paired_bootstrap(values: list[float], others: list[float]) -> tuple[float, float]:
    """The interval of the mean difference, values minus others, of items that are drawn anew in pairs."""
    if len(values) != len(others):
        raise ValueError(f"results of {len(values)} and {len(others)} test items cannot be compared item by item")
    differences = np.subtract(values, others)  # (N,)
    rng, count = np.random.default_rng(0), len(differences)
    means = np.array([differences[rng.integers(0, count, count)].mean() for _ in range(RESAMPLES)])
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def fewer_errors(runs: dict[str, list[dict]]) -> str | None:
    """Which of two names has the lower error rate, or None where the results cannot tell.

    A name's list has a metric for each of its seeds: {"mean": …, "values": the error rate of each test item}.
    """
    (first, metrics), (second, others) = runs.items()
    if len(metrics) == len(others) == 1:
        low, high = paired_bootstrap(metrics[0]["values"], others[0]["values"])
    else:
        rates = [records.mean_std([metric["mean"] for metric in group]) for group in (metrics, others)]
        low = high = resolved(*rates)
    if high < 0:
        return first
    return second if low > 0 else None
