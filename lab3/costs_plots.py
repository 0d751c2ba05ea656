"""The plot of what Lab 3's techniques cost, from their result file."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

import records
import utils

KEYS = ("rows.*.technique:text", "rows.*.share_of_time:number", "rows.*.memory?:number", "rows.*.seconds:number")
NAMES = {"plain": "plain", "parts": "in four parts", "checkpointing": "checkpointing", "compiled": "compiled"}


@utils.plot_style()
def plot(result: dict) -> Figure:
    """Time and memory of a step, each as a share of the plain one's."""
    rows = result["rows"]
    figure = Figure(figsize=(6.2, 0.8 + 0.3 * len(rows)))
    time, memory = figure.subplots(1, 2, sharey=True)
    places = range(len(rows))
    time.barh(places, [row["share_of_time"] for row in rows], color=utils.COLOURS[0], height=0.6)
    plain = rows[0]["memory"]
    memory.barh(
        places, [(row["memory"] or 0) / plain if plain else 0 for row in rows], color=utils.COLOURS[1], height=0.6
    )
    for axes, what in ((time, "time"), (memory, "memory")):
        axes.axvline(1, color="0.5", lw=0.8, ls=":")
        axes.set(xlabel=f"{what} of a step, the plain one's is 1")
    time.set_yticks(places, [NAMES.get(row["technique"], row["technique"]) for row in rows])
    time.invert_yaxis()
    figure.suptitle("A Vision Transformer on random images (synthetic)", fontsize=9)
    return figure


def draw(paths, out: str | Path) -> list[Path]:
    """Draw each result, as OUT/lab3/<run>.pdf and .png."""
    drawn = []
    for path in paths:
        result = records.load_result(path, *KEYS)
        drawn += utils.save_figure(plot(result), Path(out) / "lab3" / result["run"], path)
    return drawn
