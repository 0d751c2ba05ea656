"""What the benchmarks share: two contenders, timed in turn in one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from tqdm import tqdm


def compare(
    what: str,
    baseline: Callable[[], float],
    ours: Callable[[], float],
    repetitions: int,
    per_second: int | None = None,
) -> dict:
    """Time two contenders in turn; `per_second` turns seconds into items per second."""
    times = [(baseline(), ours()) for _ in tqdm(range(repetitions), what)]
    show = (lambda seconds: per_second / seconds) if per_second else float
    sides = {side: [show(pair[i]) for pair in times] for i, side in enumerate(("baseline", "ours"))}
    sides["ratio"] = [first / second for first, second in times]
    return {"what": what, **{side: {"median": statistics.median(v), "values": v} for side, v in sides.items()}}


def print_ratios(metrics: dict[str, dict]) -> None:
    """A line for each comparison: both medians, and the median of the ratios."""
    for row in metrics.values():
        baseline, ours, ratio = (row[side]["median"] for side in ("baseline", "ours", "ratio"))
        print(f"{row['what']}: {baseline:.1f} -> {ours:.1f}, ratio {ratio:.2f}")
