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
