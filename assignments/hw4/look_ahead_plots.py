"""The plot of what a limited look-ahead costs Question 3's encoder, from its result file."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

import records
import utils

KEYS = ("rows.*.cer.mean:number", "rows.*.cer.interval.*:number", "data.source:text", "config.blocks:number")


@utils.plot_style()
def plot(result: dict) -> Figure:
    """Character error rate by delay, with the rate of whole clips as a line."""
    *rows, whole = result["rows"]
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    late = [row["milliseconds_late"] / 1000 for row in rows]
    means = [100 * row["cer"]["mean"] for row in rows]
    bounds = zip(*(row["cer"]["interval"] for row in rows), strict=True)
    errors = [[abs(100 * bound - mean) for bound, mean in zip(side, means, strict=True)] for side in bounds]
    axes.errorbar(late, means, yerr=errors, fmt="o-", ms=4, capsize=2)
    axes.axhline(100 * whole["cer"]["mean"], color="0.4", lw=0.8, ls=":")
    axes.text(late[-1], 100 * whole["cer"]["mean"], "whole clips", ha="right", va="top", fontsize=8)
    axes.set(xlabel="delay of the output (s)", ylabel="characters wrong (%)", ylim=(0, None))
    figure.suptitle(f"Question 3's encoder with a limited look-ahead ({result['data']['source']} speech)", fontsize=9)
    return figure


def draw(paths, out: str | Path) -> list[Path]:
    """Draw the plot of each result, as OUT/assignments/<run>.pdf and .png."""
    drawn = []
    for path in paths:
        result = records.load_result(path, *KEYS)
        drawn += utils.save_figure(plot(result), Path(out) / "assignments" / result["run"], path)
    return drawn
