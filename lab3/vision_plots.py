"""The plots of Lab 3's vision networks, from their result files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

import records
import utils
from lab3 import drawing
from lab3.transfer_plots import title_of_all_digits as title

KEYS = ("data.name:text", "baseline.accuracy.test:number", "baseline.class:text")
TRIAL_KEYS = ("config.network:text", "history.*.val_accuracy:number", "metrics:dict")
STUDY_KEYS = (
    "models.*.settings.network:text", "models.*.settings.learning_rate:number", "models.*.multiply_adds:number",
    "models.*.metrics.validation.accuracy.mean:number", "models.*.metrics.test?.accuracy.mean:number",
)  # fmt: skip


def plots(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file that does not hold what they need."""
    result = records.load_result(path, *KEYS)
    records.load_result(path, *(STUDY_KEYS if "models" in result else TRIAL_KEYS))
    if "models" not in result:
        return {"curve": plot_curve}
    return {"rates": plot_rates} if result["run"].split("-")[1] == "rates" else {"networks": plot_networks}


def plot_curve(result: dict) -> Figure:
    """Validation accuracy after each epoch."""
    words = f"{title(result)}: {result['config']['network']}"
    return drawing.curve(words, [result["history"]], {"val_accuracy": None}, 100, ylabel="validation accuracy (%)")


@utils.plot_style()
def plot_networks(result: dict) -> Figure:
    """Test accuracy of each network, from the best to the worst, with the work for an image."""
    models = dict(
        sorted(result["models"].items(), key=lambda item: item[1]["metrics"]["test"]["accuracy"]["mean"], reverse=True)
    )
    figure = Figure(figsize=(5.6, 0.6 + 0.28 * len(models)))
    axes = figure.subplots()
    for place, model in enumerate(models.values()):
        accuracy = model["metrics"]["test"]["accuracy"]
        deviation = 100 * (accuracy["std"] or 0)
        axes.errorbar(100 * accuracy["mean"], place, xerr=deviation, fmt="o", color=utils.COLOURS[0], ms=5, capsize=3)
        words = f"{model['multiply_adds'] / 1e6:.1f} M"
        axes.annotate(words, (1.02, place), xycoords=("axes fraction", "data"), fontsize=7, va="center")
    axes.set_yticks(range(len(models)), list(models))
    axes.set(xlabel="test accuracy (%)", ylim=(len(models) - 0.5, -0.5))
    figure.suptitle(f"{title(result)}: with the multiply-adds of an image", fontsize=9)
    return figure


@utils.plot_style()
def plot_rates(result: dict) -> Figure:
    """Validation accuracy by the largest step size, for each family of networks."""
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    groups: dict[str, list[dict]] = {}
    for model in result["models"].values():
        groups.setdefault(model["settings"]["network"], []).append(model)
    for marker, (network, models) in zip("osD", groups.items(), strict=False):
        rates = [model["settings"]["learning_rate"] for model in models]
        accuracies = [100 * model["metrics"]["validation"]["accuracy"]["mean"] for model in models]
        axes.plot(rates, accuracies, marker=marker, ms=4, label=network)
    axes.set_xscale("log")
    axes.set(xlabel="largest step size of AdamW", ylabel="validation accuracy (%)")
    axes.legend()
    figure.suptitle(title(result), fontsize=9)
    return figure


draw = partial(drawing.draw, plots)
