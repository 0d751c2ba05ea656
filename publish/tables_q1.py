"""Question 1 in the report: speed, memory, and from which length linear attention pays."""

from __future__ import annotations

import math
import statistics

from publish.latex import Results, number, percent, tabular
from q1 import runs as q1
from q1.monomials import feature_dim

DIMS = (16, 32, 64)
LONG_ENOUGH = 1024  # from here on the package is compared


PEERS = {  # in the report's words
    "this": "three terms of the series, this code",
    "taylor-series-linear-attention": r"the same, package \emph{taylor-series-linear-attention}",
    "scaled_dot_product_attention": "exact attention, PyTorch's fused kernel (SDPA)",
    "elu + 1": r"elu\,+\,1 features~\cite{katharopoulos2020}",
    "random features": r"as many random features~\cite{choromanski2021}",
}


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
            f"q1-sdpa-share-{dim}": percent(sdpa_share(speed, dim), 0),
        }
    entries = [speed["metrics"][str(dim)]["forward"]["times_faster_than_package"] for dim in DIMS]
    ratios = [ratio for entry in entries for length, ratio in entry.items() if int(length) >= LONG_ENOUGH]
    peaks, errors = peak_memory(memory), output_errors(speed)
    numbers |= {f"q1-memory-{key}": rf"{number(peaks[name])}\,MiB" for key, name in SHORT.items()}
    numbers |= {f"q1-error-{key}": number(errors[name], 2) for key, name in SHORT.items() if key != "sdpa"}
    numbers |= {
        f"q1-error-at-{score:g}": rf"{number(100 * error, 1 if error > 0.001 else 3)}\,\%"
        for score, error in error_by_score(speed).items()
    }
    return numbers | {
        "q1-length": number(q1.LENGTH),
        "q1-longest": number(q1.LONGEST),
        "q1-package-from": number(LONG_ENOUGH),
        "q1-package-least": number(min(ratios), 1),
        "q1-package-most": number(max(ratios), 1),
        "q1-elu-faster": number(1 / relative_time(speed, "elu + 1", DIMS[-1]), 1),
        "q1-threads": str(speed["config"]["threads"]),
        "q1-heads": str(speed["config"]["heads"]),
    }


SHORT = {"this": "this", "package": "taylor-series-linear-attention", "sdpa": "scaled_dot_product_attention",
         "elu": "elu + 1", "random": "random features"}  # fmt: skip


def seconds(speed: dict, contender: str, dim: int, length: int = q1.LENGTH) -> list[float]:
    """The times of a forward pass."""
    case = (contender, dim, length, "forward")
    rows = [row for row in speed["rows"] if (row["contender"], row["dim"], row["length"], row["pass"]) == case]
    return rows[0]["seconds"]


def relative_time(speed: dict, contender: str, dim: int) -> float:
    """How many times as long as ours a forward pass takes."""
    pairs = zip(seconds(speed, contender, dim), seconds(speed, "this", dim), strict=True)  # taken in turn
    return statistics.median(theirs / ours for theirs, ours in pairs)


def sdpa_share(speed: dict, dim: int) -> float:
    """The rate of SDPA where ours begins to be faster, as a share of a large matrix product's.

    Ours is known as such a share; both are rates of the operations that their formulas count.
    """
    entry = speed["metrics"][str(dim)]
    length = entry["forward"]["crossover_with_sdpa"]
    operations = length * dim / (feature_dim(dim) * (dim + 1))  # of SDPA, over ours
    times = entry["forward"]["times_faster_than_sdpa"][str(length)]  # SDPA's time, over ours
    return entry["share_of_matrix_product_rate"][str(length)] * operations / times


def peak_memory(memory: dict) -> dict[str, float]:
    """MiB beyond the inputs of a forward pass at the longest length and the widest head, by contender."""
    case = (DIMS[-1], q1.LONGEST, "forward")
    rows = [row for row in memory["rows"] if (row["dim"], row["length"], row["pass"]) == case]
    return {row["contender"]: row["peak_bytes"] / 2**20 for row in rows}


def output_errors(speed: dict) -> dict[str, float]:
    """|output - exact output| / |exact output| on standard normal inputs at the widest head, by contender."""
    case = (DIMS[-1], q1.LENGTH, "forward")
    rows = [row for row in speed["rows"] if (row["dim"], row["length"], row["pass"]) == case]
    return {row["contender"]: row["error"] for row in rows if "error" in row}


def error_by_score(speed: dict, terms: int = 3) -> dict[float, float]:
    """The same for three terms by the largest score, mean over seeds."""
    found: dict[float, list[float]] = {}
    for row in speed["features"]:
        if (row["kind"], row["terms"]) == ("maclaurin", terms):
            found.setdefault(row["largest_score"], []).append(row["error"])
    return {score: statistics.mean(errors) for score, errors in found.items()}


def q1_speed(results: Results) -> str:
    """How many times faster than the published package and PyTorch's fused kernel."""
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
    header = [
        "$D$",
        "$M$",
        "package's time / ours",
        "with gradients",
        "SDPA's time / ours",
        "share of a product's rate",
    ]
    return tabular("rrrrrr", header, rows)


def q1_peers(results: Results) -> str:
    """Speed, memory and error of ours and of others, side by side."""
    speed, memory = results("q1/attention-speed"), results("q1/attention-memory")
    peaks, errors = peak_memory(memory), output_errors(speed)
    rows = [
        [
            shown,
            *(number(relative_time(speed, name, dim), 2) for dim in DIMS),
            number(peaks[name]),
            number(errors[name], 2) if errors[name] > 1e-3 else f"${errors[name]:.0e}}}$".replace("e-0", r"\cdot10^{-"),
        ]
        for name, shown in PEERS.items()
    ]
    header = ["", *(f"time, $D={dim}$" for dim in DIMS), "MiB", "error"]
    return tabular("lrrrrr", header, rows)
