"""The plots of Lab 3's study of sentiment, from its result files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import records
import utils
from lab3 import drawing

NAMES = {"grammar": "A small grammar's sentences", "rotten_tomatoes": "Rotten Tomatoes"}
MODELS = {"minilm": "MiniLM", "tiny": "a tiny encoder"}
METHODS = {
    "tfidf": "TF-IDF + logistic regression",
    "svm": "frozen features + SVM",
    "partial": "last layers",
    "lora": "LoRA",
    "full": "all layers",
    "random": "all, from random weights",
    "trainer": "all, by Hugging Face's Trainer",
}
PANELS = (("tfidf", "svm", "full"), ("lora", "full", "random"))  # of the study of labels: at most four lines in each
MARKERS = dict(zip(METHODS, "^svDoxo", strict=True))
STYLES = dict(zip(METHODS, (":", "--", "-.", "-.", "-", ":", "-"), strict=True))
KEYS = ("data.name:text", "data.source:text", "config.dataset:text", "config.model:text")
TRIAL_KEYS = ("history.*.train_loss:number", "metrics.*.accuracy.mean:number")
STUDY_KEYS = ("models.*.settings.method:text", "models.*.settings.labels:number", "baseline.validation:number",
              "models.*.settings.learning_rate:number", "models.*.metrics.*.accuracy.mean:number",
              "models.*.parameters.trained:number", "models.*.training_seconds.mean:number")  # fmt: skip


def title(result: dict) -> str:
    model = result["config"]["model"]
    return f"{NAMES[result['data']['name']]} ({result['data']['source']}), {MODELS.get(model, Path(model).name)}"


def plots(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file that does not hold what they need."""
    result = records.load_result(path, *KEYS)
    if "models" in result:
        records.load_result(path, *STUDY_KEYS)
        study = result["run"].split("-")[1]
        return {"rates": {"rates": plot_rates}, "methods": {"methods": plot_methods}}.get(
            study, {"labels": plot_labels}
        )
    records.load_result(path, *TRIAL_KEYS)
    return {"curves": plot_curves} if result["history"] else {}


def plot_curves(result: dict) -> Figure:
    """Training loss after each epoch."""
    words, axis = f"{title(result)}: {METHODS[result['config']['method']]}", {"ylabel": "training loss (nats)"}
    return drawing.curve(words, [result["history"]], {"train_loss": None}, **axis, ylim=(0, None))


@utils.plot_style()
def plot_rates(result: dict) -> Figure:
    """Validation accuracy by the largest step size."""
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    for method in METHODS:
        models = [m for m in result["models"].values() if m["settings"]["method"] == method]
        if models:
            draw_line(axes, method, models, "learning_rate", "validation")
    axes.set_xscale("log")
    axes.set(xlabel="largest step size of AdamW", ylabel="validation accuracy (%)")
    axes.legend()
    figure.suptitle(title(result), fontsize=9)
    return figure


@utils.plot_style()
def plot_methods(result: dict) -> Figure:
    """Test accuracy of each method, with its deviation, the parameters that it trains and the time it takes."""
    models = result["models"]
    methods = [method for method in METHODS if method in models]
    figure = Figure(figsize=(5.6, 0.6 + 0.38 * len(methods)))
    axes = figure.subplots()
    for place, method in enumerate(methods):
        model = models[method]
        accuracy = model["metrics"]["test"]["accuracy"]
        axes.errorbar(100 * accuracy["mean"], place, xerr=100 * (accuracy["std"] or 0), fmt=MARKERS[method],
                      color=colour(method), ms=5, capsize=3)  # fmt: skip
        words = f"{parameters_in_words(model)}, {model['training_seconds']['mean']:,.0f} s"
        axes.annotate(words, (1.02, place), xycoords=("axes fraction", "data"), fontsize=7, va="center")
    axes.set_yticks(range(len(methods)), [METHODS[method] for method in methods])
    axes.set(xlabel="test accuracy (%)", ylim=(len(methods) - 0.5, -0.5))
    figure.suptitle(f"{title(result)}: with the parameters trained and the time", fontsize=9)
    return figure


def parameters_in_words(model: dict) -> str:
    count = model["parameters"]["trained"]
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"


@utils.plot_style()
def plot_labels(result: dict) -> Figure:
    """Test accuracy by the number of labels, with fine-tuning in both panels."""
    figure = Figure(figsize=(6.6, 2.9))
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, methods in zip(panels, PANELS, strict=True):
        for method in methods:
            models = [m for m in result["models"].values() if m["settings"]["method"] == method]
            if models:
                draw_line(axes, method, models, "labels", "test")
                sizes = sorted(model["settings"]["labels"] for model in models)
        axes.axhline(100 * result["baseline"]["test"], color="grey", lw=0.8, ls="-")
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.set(xlabel="labels")
        axes.legend(fontsize=8)
    panels[0].set(ylabel="test accuracy (%)")
    figure.suptitle(f"{title(result)} (grey: always one class)", fontsize=9)
    return figure


def colour(method: str) -> str:
    return utils.COLOURS[list(METHODS).index("full" if method == "trainer" else method)]


def draw_line(axes: Axes, method: str, models: list[dict], setting: str, part: str) -> None:
    """A method's means over seeds by one of its settings, in percent, with their deviation."""
    ordered = sorted(models, key=lambda model: model["settings"][setting])
    accuracies = [model["metrics"][part]["accuracy"] for model in ordered]
    means, deviations = ([100 * (accuracy[of] or 0) for accuracy in accuracies] for of in ("mean", "std"))
    axes.errorbar(
        [model["settings"][setting] for model in ordered], means, yerr=deviations, label=METHODS[method], capsize=2,
        fmt=MARKERS[method], ls=STYLES[method], color=colour(method), ms=4,
    )  # fmt: skip


draw = partial(drawing.draw, plots)
