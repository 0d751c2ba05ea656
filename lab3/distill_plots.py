"""The plots of Lab 3's distillation, from its result files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

import records
import utils
from lab3 import drawing
from lab3.transfer_plots import title_of_all_digits as title

KEYS = ("data.name:text",)
TRIAL_KEYS = ("history.*.accuracy:number",)
STUDY_KEYS = (
    "models.*.metrics.test.accuracy.mean:number", "models.*.metrics.test.accuracy.values.*:number",
    "tried.*.*.mean:number",
)  # fmt: skip
MARKERS = "osD"


def plots(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file that does not hold what they need."""
    result = records.load_result(path, *KEYS)
    records.load_result(path, *(STUDY_KEYS if "models" in result else TRIAL_KEYS))
    return {"students": plot_students} if "models" in result else {"curve": plot_curve}


def plot_curve(result: dict) -> Figure:
    """Validation accuracy after each epoch."""
    return drawing.curve(title(result), [result["history"]], {"accuracy": None}, 100, ylabel="validation accuracy (%)")


@utils.plot_style()
def plot_students(result: dict) -> Figure:
    """Validation accuracy of every student, and test accuracy of the best of each kind, beside its teachers'."""
    figure = Figure(figsize=(6.4, 3.2))
    tried, tested = figure.subplots(1, 2)
    styles = dict(zip(result["tried"], zip(utils.COLOURS, MARKERS, strict=False), strict=False))
    students = [(kind, name, metric) for kind, each in result["tried"].items() for name, metric in each.items()]
    for place, (kind, _, metric) in enumerate(students):
        show(tried, metric, place, *styles[kind])
    tried.set_yticks(range(len(students)), [name for _, name, _ in students])
    tried.set(xlabel="validation accuracy (%)", title="all students")
    for place, (name, model) in enumerate(result["models"].items()):
        show(tested, model["metrics"]["test"]["accuracy"], place, *styles.get(name, ("0.4", "^")))
    tested.set_yticks(range(len(result["models"])), [words(*item) for item in result["models"].items()])
    tested.set(xlabel="test accuracy (%)", title="the best, and teachers")
    for axes in (tried, tested):
        axes.invert_yaxis()
    figure.suptitle(title(result), fontsize=9)
    return figure


def show(axes, metric: dict, place: int, colour: str, marker: str) -> None:
    """A mean with its deviation."""
    mean, deviation = (100 * (metric[of] or 0) for of in ("mean", "std"))
    axes.errorbar(mean, place, xerr=deviation, color=colour, marker=marker, ls="none", ms=4, capsize=2)


def words(name: str, model: dict) -> str:
    chosen = model.get("chosen", name)
    return name if chosen == name else f"{name}\n({chosen})"


draw = partial(drawing.draw, plots)
