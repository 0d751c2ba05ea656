"""The plots of Lab 3's transfer, from its result files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import records
import utils
from common import cifar
from lab3 import drawing

NAMES = {
    "digits": "scikit-learn's digits 5 to 9",
    "ants_bees": "photographs of ants and bees",
    "pneumoniamnist": "PneumoniaMNIST",
    **cifar.TITLES,
}
METHODS = {"frozen": "frozen features", "partial": "last stages", "full": "whole network", "scratch": "from scratch"}
MARKERS = {"frozen": "o", "partial": "^", "full": "s", "scratch": "D"}
KEYS = ("data.name:text", "config.dataset:text")
TRIAL_KEYS = ("config.method:text", "history.*.val_accuracy:number", "metrics:dict")
STUDY_KEYS = (
    "models.*.settings.method:text", "models.*.settings.dataset:text", "models.*.settings.learning_rate:number",
    "models.*.sizes.train:number", "models.*.parameters.trainable:number",
    "models.*.metrics.validation.accuracy.mean:number", "models.*.metrics.test?.accuracy.mean:number",
    "models.*.baseline.accuracy.test:number",
)  # fmt: skip


def title(result: dict) -> str:
    return f"{NAMES[result['data']['name']]} (real)"


def title_of_all_digits(result: dict) -> str:
    """The same, for scripts that do not split the digits."""
    return title(result).replace(" 5 to 9", "")


def plots(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file that does not hold what they need."""
    result = records.load_result(path, *KEYS)
    records.load_result(path, *(STUDY_KEYS if "models" in result else TRIAL_KEYS))
    if "models" not in result:
        return {"curve": plot_curve} if result["history"] else {}  # frozen features have none
    study = result["run"].split("-")[1]
    return {study: {"methods": plot_methods, "sizes": plot_sizes, "domains": plot_domains, "rates": plot_rates}[study]}


def plot_curve(result: dict) -> Figure:
    """Validation accuracy after each epoch."""
    words = f"{title(result)}: {METHODS[result['config']['method']]}"
    return drawing.curve(words, [result["history"]], {"val_accuracy": None}, 100, ylabel="validation accuracy (%)")


@utils.plot_style()
def plot_methods(result: dict) -> Figure:
    """Test accuracy of each method, with the number of parameters that it trains."""
    figure = Figure(figsize=(4.6, 2.7))
    axes = figure.subplots()
    models = list(result["models"].values())
    for place, model in enumerate(models):
        draw_means(axes, [place], [model], model["settings"]["method"])
    words = [f"{METHODS[m['settings']['method']]}\n{m['parameters']['trainable']:,}" for m in models]
    axes.set_xticks(range(len(models)), words, fontsize=8)
    axes.set(xlabel="what is trained, and how many parameters", ylabel="test accuracy (%)",
             xlim=(-0.5, len(models) - 0.5))  # fmt: skip
    draw_baseline(axes, models[0])
    axes.legend()
    figure.suptitle(title(result), fontsize=9)
    return figure


@utils.plot_style()
def plot_sizes(result: dict) -> Figure:
    """Test accuracy of each method by the number of training images."""
    figure = Figure(figsize=(5.8, 2.7))
    axes = figure.subplots()
    for method, models in by_method(result).items():
        sizes = [model["sizes"]["train"] for model in models]
        draw_means(axes, sizes, models, method, "-", label=METHODS[method])
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    draw_baseline(axes, models[0])
    axes.set(xlabel="training images", ylabel="test accuracy (%)")
    figure.legend(loc="outside right center", fontsize=8)
    figure.suptitle(title(result), fontsize=9)
    return figure


@utils.plot_style()
def plot_domains(result: dict) -> Figure:
    """Test accuracy of each method on other kinds of pictures."""
    figure = Figure(figsize=(5.2, 2.9))
    axes = figure.subplots()
    groups = by_method(result)
    for shift, (method, models) in zip((-0.2, 0, 0.2), groups.items(), strict=True):
        places = [place + shift for place in range(len(models))]
        draw_means(axes, places, models, method, label=METHODS[method])
    always = [100 * model["baseline"]["accuracy"]["test"] for model in models]
    axes.hlines(always, [x - 0.4 for x in range(len(models))], [x + 0.4 for x in range(len(models))],
                colors="0.5", linestyles=":", label="commonest class")  # fmt: skip
    words = [f"{NAMES[m['settings']['dataset']]}\n{m['sizes']['train']:,} training images" for m in models]
    axes.set_xticks(range(len(models)), words, fontsize=8)
    axes.set(ylabel="test accuracy (%)", ylim=(0, 100))
    axes.legend(fontsize=8, ncols=2)
    figure.suptitle("A network from ImageNet on other pictures (real)", fontsize=9)
    return figure


@utils.plot_style()
def plot_rates(result: dict) -> Figure:
    """Validation accuracy by the largest step size."""
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    for method, models in by_method(result).items():
        rates = [model["settings"]["learning_rate"] for model in models]
        draw_means(axes, rates, models, method, "-", part="validation", label=METHODS[method])
    axes.set_xscale("log")
    axes.set(xlabel="largest step size of AdamW", ylabel="validation accuracy (%)")
    axes.legend()
    figure.suptitle(title(result), fontsize=9)
    return figure


def by_method(result: dict) -> dict[str, list[dict]]:
    """The variants of each method, in the study's order."""
    groups: dict[str, list[dict]] = {}
    for model in result["models"].values():
        groups.setdefault(model["settings"]["method"], []).append(model)
    return groups


def draw_means(axes: Axes, x, models: list[dict], method: str, line: str = "", part: str = "test", **label) -> None:
    """Means over seeds, in percent, with their deviation, in the colour and with the marker of a method."""
    metrics = [model["metrics"][part]["accuracy"] for model in models]
    means, deviations = ([100 * (metric[of] or 0) for metric in metrics] for of in ("mean", "std"))
    colour = utils.COLOURS[list(METHODS).index(method)]
    axes.errorbar(x, means, deviations, fmt=MARKERS[method] + line, ms=4, capsize=2, color=colour, **label)


def draw_baseline(axes: Axes, model: dict) -> None:
    accuracy = 100 * model["baseline"]["accuracy"]["test"]
    axes.axhline(accuracy, color="0.5", linestyle=":", label=f"always {model['baseline']['class']}")


draw = partial(drawing.draw, plots)
