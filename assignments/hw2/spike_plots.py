"""The plots of Homework 2's spikes: a close look at one, and the loss of every way to train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import records
import utils

KEYS = ("steps?.loss.*:number", "steps?.gradient.*:number", "steps?.root.*:number", "steps?.step.*:number")
STUDY_KEYS = (*KEYS, "recipes.*.trials.*.losses.*:number", "recipes.*.trials.*.spikes:list",
              "recipes.*.metrics.test.accuracy.mean:number")  # fmt: skip
PANELS = {
    "loss": "loss of the step's batch",
    "gradient": "norm of the gradient",
    "root": "mean root of second moments",
    "step": "length of the step",
}


@utils.plot_style()
def plot_spike(result: dict) -> Figure:
    """Loss, gradient, second moments and step around the step with the greatest loss of the worst spike."""
    steps = result["steps"]
    figure = Figure(figsize=(6.3, 3.8))
    panels = figure.subplots(2, 2, sharex=True).flat
    at = np.arange(len(steps["loss"])) + steps["start"] - steps["worst"]
    for axes, (name, words) in zip(panels, PANELS.items(), strict=True):
        axes.semilogy(at, steps[name], lw=1.2)
        axes.axvline(0, color="0.6", lw=0.8, ls=":")
        axes.set_title(words)
    for axes in figure.axes[2:]:
        axes.set_xlabel("steps from the worst one")
    figure.suptitle("The worst spike as the course trains: temporal order (synthetic)", fontsize=9)
    return figure


@utils.plot_style()
def plot_recipes(result: dict) -> Figure:
    """Mean loss of every epoch, a panel for each way to train and a line for each seed."""
    recipes = result["recipes"]
    columns, lines = 4, -(-len(recipes) // 4)
    figure = Figure(figsize=(6.9, 1.6 * lines + 0.3))
    panels = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, (name, row) in zip(panels, recipes.items(), strict=False):
        for trial in row["trials"]:
            axes.semilogy(
                range(1, len(trial["losses"]) + 1), trial["losses"], lw=0.9, color=utils.COLOURS[0], alpha=0.6
            )
        smooth = sum(not trial["spikes"] for trial in row["trials"])
        axes.set_title(f"{name}\n{smooth} of {len(row['trials'])} without a spike", fontsize=7)
        axes.axhline(0.1, color="0.6", lw=0.8, ls=":")
    for axes in panels[len(recipes) :]:
        axes.set_axis_off()
    figure.supxlabel("epoch", fontsize=8)
    figure.supylabel("mean loss of an epoch (synthetic data)", fontsize=8)
    return figure


def draw(paths, out: str | Path) -> list[Path]:
    """Draw the plots of each result, as OUT/assignments/<run>-<plot>.pdf and .png."""
    drawn = []
    for path in paths:
        result = records.load_result(path)
        studied = "recipes" in result
        result = records.load_result(path, *(STUDY_KEYS if studied else KEYS))
        stem = Path(out) / "assignments" / result["run"]
        if "steps" in result:
            drawn += utils.save_figure(plot_spike(result), f"{stem}-worst", path)
        if studied:
            drawn += utils.save_figure(plot_recipes(result), f"{stem}-recipes", path)
    return drawn
