"""The plots of Lab 3's techniques of training, from their result files."""

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
TRIAL_KEYS = ("history.*.accuracy:number", "history.*.train_loss:number", "metrics:dict?")
STUDY_KEYS = (
    "models.*.settings.learning_rate:number", "models.*.history.*.*.train_loss:number", "models.*.diverged:number",
    "models.*.gap?.mean:number",
)  # fmt: skip


def plots(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file that does not hold what they need."""
    result = records.load_result(path, *KEYS)
    records.load_result(path, *(STUDY_KEYS if "models" in result else TRIAL_KEYS))
    if "models" not in result:
        return {"curve": plot_curve} if result["history"] else {}
    study = result["run"].split("-")[1]
    return {study: {"rates": plot_rates, "techniques": plot_techniques, "stability": plot_stability}[study]}


def plot_curve(result: dict) -> Figure:
    """Validation accuracy after each epoch."""
    return drawing.curve(title(result), [result["history"]], {"accuracy": None}, 100, ylabel="validation accuracy (%)")


@utils.plot_style()
def plot_techniques(result: dict) -> Figure:
    """Test accuracy of each technique beside the base's, and the gap between training and validation images."""
    models = {name: model for name, model in result["models"].items() if model["metrics"]}
    figure = Figure(figsize=(6.4, 0.8 + 0.24 * len(models)))
    accuracy, gap = figure.subplots(1, 2, sharey=True)
    places = range(len(models))
    for axes, metrics, colour, what in (
        (accuracy, [model["metrics"]["test"]["accuracy"] for model in models.values()], 0, "test accuracy (%)"),
        (gap, [model["gap"] for model in models.values()], 1, "training less validation (points)"),
    ):
        means, deviations = ([100 * (metric[of] or 0) for metric in metrics] for of in ("mean", "std"))
        axes.errorbar(means, places, xerr=deviations, fmt="o", ms=4, capsize=2, color=utils.COLOURS[colour])
        axes.axvline(means[0], color="0.5", lw=0.8, ls=":")  # the base's
        axes.set(xlabel=what)
    accuracy.set_yticks(places, list(models))
    accuracy.invert_yaxis()
    figure.suptitle(f"{title(result)} (dotted: the base)", fontsize=9)
    return figure


@utils.plot_style()
def plot_rates(result: dict) -> Figure:
    """The range test's loss by its step size, and validation accuracy by that of a whole training."""
    figure = Figure(figsize=(6.4, 2.7))
    loss, accuracy = figure.subplots(1, 2)
    for test in result["range_tests"]:
        loss.plot(test["rates"], test["smoothed"], color=utils.COLOURS[0], ls="-", lw=1)
        for axes in (loss, accuracy):
            axes.axvline(test["picked"], color="0.5", lw=0.8, ls=":")
    start = result["range_tests"][0]["smoothed"][0]
    loss.set(ylabel="loss, smoothed", ylim=(0, 2 * start))
    learnt = [model for model in result["models"].values() if model["metrics"]]
    rates = [model["settings"]["learning_rate"] for model in learnt]
    metrics = [model["metrics"]["validation"]["accuracy"] for model in learnt]
    means, deviations = ([100 * (metric[of] or 0) for metric in metrics] for of in ("mean", "std"))
    accuracy.errorbar(rates, means, deviations, fmt="o-", ms=4, capsize=2, color=utils.COLOURS[1])
    accuracy.set(ylabel="validation accuracy (%)")
    for axes in (loss, accuracy):
        axes.set_xscale("log")
        axes.set(xlabel="step size")
    figure.suptitle(f"{title(result)} (dotted: what the range test picks)", fontsize=9)
    return figure


@utils.plot_style()
def plot_stability(result: dict) -> Figure:
    """Training loss after each epoch of every seed, a panel for each danger, with the test accuracy at the end."""
    groups: dict[str, dict[str, dict]] = {}
    for name, model in result["models"].items():
        danger, _, remedy = name.partition(", ")
        groups.setdefault(danger, {})[remedy] = model
    figure = Figure(figsize=(6.4, 2.7))
    for axes, (danger, remedies) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
        for place, (remedy, model) in enumerate(remedies.items()):
            label = f"{remedy}: {outcome(model)}"
            for history in model["history"]:
                epochs = [record["epoch"] for record in history]
                losses = [record["train_loss"] for record in history]
                line = {"color": utils.COLOURS[place], "ls": utils.LINE_STYLES[place], "marker": "osv"[place]}
                axes.plot(epochs, losses, **line, ms=2, lw=1, label=label)
                label = None
            if not any(model["history"]):
                axes.plot([], [], **line, ms=2, lw=1, label=label)
        utils.epoch_axis(axes, ylabel="training loss", title=danger)
        axes.legend(fontsize=7)
    figure.suptitle(title(result), fontsize=9)
    return figure


def outcome(model: dict) -> str:
    """The test accuracy where no seed diverged, or how many did."""
    if model["diverged"]:
        return f"{model['diverged']} of {len(model['seeds'])} diverged"
    return f"{records.spread(model['metrics']['test']['accuracy'], 100)} %"


draw = partial(drawing.draw, plots)
