"""Question 1 in the report: speed, memory, and from which length linear attention pays."""

from __future__ import annotations

import math

from publish.latex import Results, number, percent, tabular
from q1 import runs as q1
from q1.monomials import feature_dim

DIMS = (16, 32, 64)
LONG_ENOUGH = 1024  # from here on the package is compared


def q1_numbers(results: Results) -> dict[str, str]:
    demo, speed, memory = (results(f"q1/{name}") for name in ("demo", "attention-speed", "attention-memory"))
    numbers = {f"q1-crossover-{row['dim']}": number(row["length"]) for row in demo["crossover"]}
    for dim in DIMS:
        features, forward = feature_dim(dim), speed["metrics"][str(dim)]["forward"]
        numbers |= {
            f"q1-features-{dim}": number(features),
            f"q1-ordered-{dim}": number(feature_dim(dim, symmetric=False)),
            f"q1-predicted-{dim}": number(math.ceil(features * (dim + 1) / dim)),
            f"q1-sdpa-crossover-{dim}": number(forward["crossover_with_sdpa"]),
        }
    peaks = {
        row["contender"]: row["peak_bytes"] / 2**20
        for row in memory["rows"]
        if (row["dim"], row["length"], row["pass"]) == (DIMS[-1], q1.LONGEST, "forward")
    }
    entries = [speed["metrics"][str(dim)]["forward"]["times_faster_than_package"] for dim in DIMS]
    ratios = [ratio for entry in entries for length, ratio in entry.items() if int(length) >= LONG_ENOUGH]
    numbers |= {
        "q1-length": number(q1.LENGTH),
        "q1-longest": number(q1.LONGEST),
        "q1-memory": rf"{number(peaks['this'])}\,MiB",
        "q1-package-memory": rf"{number(peaks['taylor-series-linear-attention'])}\,MiB",
        "q1-package-from": number(LONG_ENOUGH),
        "q1-package-least": number(min(ratios), 1),
        "q1-package-most": number(max(ratios), 1),
        "q1-threads": str(speed["config"]["threads"]),
        "q1-heads": str(speed["config"]["heads"]),
    }
    return numbers


def q1_speed(results: Results) -> str:
    """Against the published package and PyTorch's fused kernel."""
    speed = results("q1/attention-speed")
    rows = []
    for dim in DIMS:
        entry = speed["metrics"][str(dim)]
        cells = [str(dim), number(feature_dim(dim))]
        for passes in ("forward", "forward and backward"):
            ratios = {int(length): ratio for length, ratio in entry[passes]["times_faster_than_package"].items()}
            longest = max(length for length in ratios if length <= q1.LENGTH)
            cells.append(number(ratios[longest], 1) + ("" if longest == q1.LENGTH else f" ($L={number(longest)}$)"))
        cells += [
            number(entry["forward"]["times_faster_than_sdpa"][str(q1.LENGTH)], 1),
            percent(entry["share_of_matrix_product_rate"][str(q1.LENGTH)], 0),
        ]
        rows.append(cells)
    header = ["$D$", "$M$", "package, forward", "package, with gradient", "SDPA, forward", "of a product's rate"]
    return tabular("rrrrrr", header, rows)
