"""What the plots of Lab 3's scripts share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from matplotlib.figure import Figure

import records
import utils

Plots = Callable[[Path], dict[str, Callable[[dict], Figure]]]  # of a result file: its plots by name


def draw(plots: Plots, paths: Iterable[Path], out: str | Path) -> list[Path]:
    """Draw the plots of each result, as OUT/lab3/<run>-<plot>.pdf and .png."""
    drawn = []
    for path in paths:
        result = records.load_result(path)
        for name, plot in plots(path).items():
            drawn += utils.save_figure(plot(result), Path(out) / "lab3" / f"{result['run']}-{name}", path)
    return drawn


@utils.plot_style()
def curve(title: str, histories: list[list[dict]], scores: dict[str, str | None], scale: float = 1.0, **axis) -> Figure:
    """Scores of trainings after each epoch, by their names; each with its label, where there are several."""
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    for name, label in scores.items():
        utils.draw_curves(axes, histories, name, scale, label=label)
    utils.epoch_axis(axes, **axis)
    if any(scores.values()):
        axes.legend()
    figure.suptitle(title, fontsize=9)
    return figure
