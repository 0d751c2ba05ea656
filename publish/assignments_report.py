"""What the assignments' report takes from results/: softmax, pixels, gradients through time, spikes, energies."""

from __future__ import annotations

import math

import numpy as np

from assignments import runs
from assignments.hw2 import permuted, spikes
from assignments.hw3.ocr_plots import NAMES, exact_of
from publish.latex import Document, Results, absent, number, spread, tabular
from publish.transformers_report import (
    limited_look,
    look_ahead_table,
    on_mnist,
    transformer_table,
    transformers,
)
from records import mean_std

DERIVATIVES, GRADIENTS, SPIKES, PERMUTED, ENERGIES, READING = (
    f"assignments/{name}"
    for name in ("hw1-derivatives", "hw2-gradients", "hw2-spikes", "hw2-permuted-mnist", "hw3-energies", "hw3-ocr")
)
BETA = r"$\beta=$"
COMMANDS = {
    DERIVATIVES: "assignments/hw1/derivatives.py",
    GRADIENTS: "assignments/hw2/gated.py",
    SPIKES: "assignments/hw2/spikes.py --study",
    PERMUTED: "assignments/hw2/permuted.py --seeds 0 1 2",
    ENERGIES: "assignments/hw3/ebm.py",
}


def result_of(results: Results, name: str) -> dict:
    """Raises FileNotFoundError, with its command, where it was not run."""
    if not results.exists(name):
        raise FileNotFoundError(f"{name} was not run here: python {COMMANDS[name]}")
    return results(name)


def softmax(results: Results) -> dict[str, str]:
    """The least whole differences of two entries for which softmax is exact; "flushed": 0 without subnormal numbers."""
    found = result_of(results, DERIVATIVES)["softmax"]
    numbers = {}
    for precision, kind in (("float32", ""), ("float64", "-double")):
        differences = found[precision] | {"flushed": math.ceil(-math.log(np.finfo(precision).tiny))}
        numbers |= {f"softmax-{name}{kind}": str(difference) for name, difference in differences.items()}
    return numbers


def direction(row: dict) -> str:
    """What a norm does, where its factor per step differs from 1 by more than two standard errors."""
    factor = row["factor_per_step"]
    error = (factor["std"] or 0) / len(factor["values"]) ** 0.5
    if abs(factor["mean"] - 1) <= 2 * error:
        return "stays"
    return "explodes" if factor["mean"] > 1 else "vanishes"


def settings(row: dict) -> str:
    matrix = "$W_h$" if row["gain"] == 1 else rf"${row['gain']}\,W_h$"
    return f"{matrix} and a bias of {row['bias']}"


def change(row: dict) -> str:
    """The power of ten that the norm ends at, the mean over networks, with its deviation."""
    return spread(mean_std([logs[-1] for logs in row["log10_norms"]]))


def finding(rows: list[dict]) -> str:
    """Which settings let the norm vanish, and which explode."""
    said = {
        "vanishes": "The norm vanishes with",
        "explodes": "The norm explodes with",
        "stays": "Neither is resolved with",
    }
    parts = []
    for kind, words in said.items():
        found = [
            f"{settings(row)} ({number(row['factor_per_step']['mean'], 2)} per step, mean gate"
            f" {number(row['gate']['mean'], 2)})"
            for row in rows
            if direction(row) == kind
        ]
        if found:
            parts.append(f"{words} {' and with '.join(found)}.")
    return " ".join(parts)


def through_time(results: Results) -> dict[str, str]:
    result = result_of(results, GRADIENTS)
    return {
        "gradients-units": str(result["config"]["hidden"]),
        "gradients-length": str(result["config"]["length"]),
        "gradients-seeds": str(len(result["seeds"])),
        "gradients-finding": finding(result["rows"]),
    }


def temporal_order(results: Results) -> dict[str, str]:
    """What the study of spikes found."""
    result = result_of(results, SPIKES)
    words = spikes.finding(result).replace("“", "``").replace("”", "''").replace("%", r"\%")
    return {"spikes-seeds": str(len(result["seeds"])), "spikes-finding": words}


def shuffled_pixels(results: Results) -> dict[str, str]:
    """Two small networks with pixels in order and shuffled."""
    result = result_of(results, PERMUTED)
    sizes = (model["parameters"] for model in result["models"].values())
    counts = " and ".join(f"{size:,}" for size in sorted(set(sizes), reverse=True))
    return {
        "permuted-seeds": str(len(result["seeds"])),
        "permuted-parameters": counts,
        "permuted-finding": permuted.finding(result),
    }


def grows(way: dict) -> str:
    """What the depth of a canyon did in the second half of its training, beyond two standard errors of its seeds."""
    growth = way["still_growing"]
    error = (growth["std"] or 0) / len(growth["values"]) ** 0.5
    if abs(growth["mean"] - 1) <= max(2 * error, 0.05):
        return "stands still"
    return f"{'grows' if growth['mean'] > 1 else 'shrinks'} to {number(growth['mean'], 2)} times its value half-way"


def energies(results: Results) -> dict[str, str]:
    """Collapse, and depths that go on growing or don't."""
    result = result_of(results, ENERGIES)
    ways = result["ways"]
    alone, margin = (ways[name]["depth"] for name in ("right answers only", "margin"))
    depths = [
        f"with {name.replace('beta', BETA)} the depth is {spread(way['depth'], digits=1)} at the end, and {grows(way)}"
        for name, way in ways.items()
        if name != "right answers only"
    ]
    return {
        "hw3-energy-seeds": str(len(result["seeds"])),
        "hw3-collapse": (
            "Measured on the circle (synthetic), right answers then lie"
            f" {spread(alone, digits=2)} below wrong ones, and {spread(margin, digits=2)} with a margin."
        ),
        "hw3-canyon": f"{'; '.join(depths)}.",
    }


def reading(results: Results) -> dict[str, str]:
    """How many words each way to train reads, in a sentence."""
    if not results.exists(READING):
        return {"hw3-reader": absent(runs.READERS)}
    result = results(READING)
    length = result["config"]["word_length"]
    parts = []
    for name, method in result["methods"].items():
        trained, twice, noise = (
            spread(exact_of(name, method, which), 100) for which in (str(length), str(2 * length), "noise")
        )
        parts.append(f"{NAMES[name]}: {trained}, {twice} and {noise}")
    return {
        "hw3-reader": (
            f"Trained on rendered words (synthetic) of {length} letters, moved at random, over {len(result['seeds'])}"
            f" seeds, networks read so many \\% of words of {length} letters, of {2 * length}, and of {length} with"
            " a tenth of the pixels turned on, which they were not trained with, without a mistake:"
            f" {'; '.join(parts)}. CTC is read window by window, as its paths are others; the rest by the best path of"
            " any word."
        )
    }


def gradients(results: Results) -> str:
    """A row for each gain and bias."""
    rows = [
        [
            "$W_h$" if row["gain"] == 1 else rf"${row['gain']}\,W_h$",
            str(row["bias"]),
            spread(row["gate"], digits=2),
            spread(row["factor_per_step"], digits=3),
            change(row),
            direction(row),
        ]
        for row in result_of(results, GRADIENTS)["rows"]
    ]
    header = ["matrix", "bias", "mean gate", "per step", r"$\log_{10}$ of the norm at the end", "it"]
    return tabular("lrrrrl", header, rows)


DOCUMENT = Document(
    name="assignments",
    folder="assignments",
    numbers=(
        softmax,
        shuffled_pixels,
        through_time,
        temporal_order,
        energies,
        reading,
        limited_look,
        transformers,
        on_mnist,
    ),
    tables={"gradients": gradients, "look-ahead": look_ahead_table, "transformers": transformer_table},
)
