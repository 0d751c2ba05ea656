"""The plots of Lab 3's few-shot learning, from their result files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import records
import utils
from lab3 import drawing

NAMES = {"digits": "scikit-learn's digits", "mnist": "MNIST"}
RULES = {"nearest_mean": "nearest mean", "nearest_neighbour": "nearest neighbour"}
STYLES = {  # of the contenders that are drawn: the place of their colour, marker and line
    "prototypes": (0, "o", "-"),
    "classifier, nearest mean": (1, "s", "--"),
    "classifier, nearest neighbour": (2, "^", "-."),
    "pixels, nearest mean": (3, "D", ":"),
}
KEYS = ("data.name:text", "chance:number")
TRIAL_KEYS = ("metrics.*.*.mean:number",)
STUDY_KEYS = ("models.*.metrics.*.*.mean:number", "models.*.settings.learning_rate:number")


def title(result: dict) -> str:
    return f"New classes of {NAMES[result['data']['name']]} (real), five at a time"


def lines(result: dict) -> dict[str, dict]:
    """The accuracy of each part by the number of shots, of every contender of a study, or every rule of one run."""
    if "models" in result:
        return {name: model["metrics"] for name, model in result["models"].items()}
    return {
        f"{result['config']['method']}, {words}": {
            part: {name.rpartition("_")[2]: value for name, value in found.items() if name.startswith(rule)}
            for part, found in result["metrics"].items()
        }
        for rule, words in RULES.items()
    }


def plots(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file that does not hold what they need."""
    result = records.load_result(path, *KEYS)
    records.load_result(path, *(STUDY_KEYS if "models" in result else TRIAL_KEYS))
    if "models" not in result:
        return {"shots": plot_run} if "test" in result["metrics"] else {}
    return {"shots": plot_shots} if "differences" in result else {"rates": plot_rates}


@utils.plot_style()
def plot_run(result: dict) -> Figure:
    """Test accuracy of one network's features by the number of shots, with each rule."""
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    for place, (name, metrics) in enumerate(lines(result).items()):
        draw_line(axes, metrics["test"], name, (place, "os"[place], utils.LINE_STYLES[place]))
    finish(axes, "test accuracy (%)")
    axes.legend(fontsize=8)
    figure.suptitle(title(result), fontsize=9)
    return figure


@utils.plot_style()
def plot_shots(result: dict) -> Figure:
    """Test accuracy of the contenders by the number of shots, and what prototypes have over each, seed by seed."""
    figure = Figure(figsize=(6.6, 3.2))
    accuracy, difference = figure.subplots(1, 2)
    for name, style in STYLES.items():
        draw_line(accuracy, result["models"][name]["metrics"]["test"], name, style)
        if name in result["differences"]:
            draw_line(difference, result["differences"][name], None, style)
    difference.axhline(0, color="0.5", lw=0.8)
    finish(accuracy, "test accuracy (%)")
    finish(difference, "lead of prototypes (points)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle(title(result), fontsize=9)
    return figure


@utils.plot_style()
def plot_rates(result: dict) -> Figure:
    """Validation accuracy, with the most shots, on new images of the training classes, by the largest step size."""
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    groups: dict[str, dict[float, dict]] = {}
    for model in result["models"].values():
        settings = model["settings"]
        *_, accuracy = model["metrics"]["validation"].values()
        groups.setdefault(settings["method"], {})[settings["learning_rate"]] = accuracy
    for place, (method, by_rate) in enumerate(groups.items()):
        draw_line(axes, by_rate, method, (place, "os"[place], utils.LINE_STYLES[place]))
    axes.set_xscale("log")
    axes.set(xlabel="largest step size of AdamW", ylabel="validation accuracy (%)")
    axes.legend()
    figure.suptitle(f"Training classes of {NAMES[result['data']['name']]} (real)", fontsize=9)
    return figure


def draw_line(axes: Axes, metrics: dict, label: str | None, style: tuple[int, str, str]) -> None:
    """Means over seeds, in percent, with their deviation, by what they are listed under."""
    means, deviations = ([100 * (metric[of] or 0) for metric in metrics.values()] for of in ("mean", "std"))
    colour, marker, line = style
    axes.errorbar([float(x) for x in metrics], means, deviations, color=utils.COLOURS[colour], marker=marker, ls=line,
                  ms=4, capsize=2, label=label)  # fmt: skip


def finish(axes: Axes, ylabel: str) -> None:
    axes.set(xlabel="labelled images of each class", ylabel=ylabel)
    axes.set_xticks([1, 5, 10])


draw = partial(drawing.draw, plots)
