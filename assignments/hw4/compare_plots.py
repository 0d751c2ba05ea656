"""The plots of Homework 4's comparison, from its result files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import records
import utils
from common import cifar, vit_looks

NAMES = cifar.TITLES | {"digits": "scikit-learn's digits"}
MODELS = {"vit": "Vision Transformer", "cnn": "CNN"}
STYLES = {("vit", False): "o-", ("vit", True): "o:", ("cnn", False): "s-", ("cnn", True): "s:"}
KEYS = ("data.name:text", "config.dataset:text")
TRIAL_KEYS = ("history.*.train_accuracy:number", "history.*.val_accuracy:number", "metrics:dict")
STUDY_KEYS = ("models.*.settings.train_size:number", "models.*.metrics.*.accuracy.mean:number",
              "models.*.shifted.*.mean:number", "models.*.settings.learning_rate:number")  # fmt: skip


def title(result: dict) -> str:
    """The data in words, which are real."""
    name = NAMES[result["data"]["name"]]
    return name.replace(")", ", real)") if name.endswith(")") else f"{name} (real)"


def plots(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file that does not hold what they need."""
    result = records.load_result(path, *KEYS)
    records.load_result(path, *(STUDY_KEYS if "models" in result else TRIAL_KEYS))
    if "models" not in result:
        found = {"curves": plot_curves}
    elif result["run"].startswith("hw4-rates"):
        return {"rates": plot_rates}
    else:
        found = {"accuracies": plot_accuracies, "gaps": plot_gaps}
    if result.get("attention"):
        records.load_result(path, *(f"attention.{key}" for key in vit_looks.KEYS))
        found |= {"attention": plot_attention, "positions": plot_positions}
    return found


@utils.plot_style()
def plot_curves(result: dict) -> Figure:
    """Accuracy on training and validation images after each epoch."""
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    for key, label in (("train_accuracy", "training images"), ("val_accuracy", "validation images")):
        utils.draw_curves(axes, [result["history"]], key, 100, label=label)
    utils.epoch_axis(axes, ylabel="accuracy (%)")
    axes.legend()
    figure.suptitle(f"{title(result)}: {MODELS[result['config']['model']]}", fontsize=9)
    return figure


@utils.plot_style()
def plot_rates(result: dict) -> Figure:
    """Validation accuracy by the largest step size."""
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    for kind, name in MODELS.items():
        models = [m for m in result["models"].values() if m["settings"]["model"] == kind]
        rates = [m["settings"]["learning_rate"] for m in models]
        draw_means(axes, rates, [m["metrics"]["validation"]["accuracy"] for m in models], STYLES[kind, False], name)
    axes.set_xscale("log")
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    axes.set(xlabel="largest step size of AdamW", ylabel="validation accuracy (%)")
    axes.legend()
    figure.suptitle(title(result), fontsize=9)
    return figure


@utils.plot_style()
def plot_accuracies(result: dict) -> Figure:
    """Test accuracy by the number of training images: moved, and as they are."""
    figure = Figure(figsize=(4.6, 3.1))
    axes = figure.subplots()
    for (kind, plain), style in STYLES.items():
        models = [m for m in in_order(result, kind, plain) if not m["settings"]["shuffle_pixels"]]
        words = f"{MODELS[kind]}, {'as they are' if plain else 'moved at random'}"
        colour = utils.COLOURS[list(MODELS).index(kind)]
        x = [m["settings"]["train_size"] for m in models]
        draw_means(axes, x, [m["metrics"]["test"]["accuracy"] for m in models], style, words, color=colour)
    axes.set_xscale("log")
    label_sizes(axes, sorted({m["settings"]["train_size"] for m in result["models"].values()}))
    axes.set(xlabel="training images, shown as they are or moved at random", ylabel="test accuracy (%)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    figure.suptitle(title(result), fontsize=9)
    return figure


@utils.plot_style()
def plot_gaps(result: dict) -> Figure:
    """What the two differ in: how much better they do on training images, and on images moved by some pixels."""
    figure = Figure(figsize=(6.2, 2.8))
    gaps, shifts = figure.subplots(1, 2)
    counts = [{m["settings"]["train_size"] for m in in_order(result, *line)} for line in STYLES]
    sizes, largest = sorted(set.union(*counts)), max(set.intersection(*counts))
    for (kind, plain), style in STYLES.items():
        models = [m for m in in_order(result, kind, plain) if not m["settings"]["shuffle_pixels"]]
        words = f"{MODELS[kind]}, {'as they are' if plain else 'moved'}"
        colour = utils.COLOURS[list(MODELS).index(kind)]
        x = [m["settings"]["train_size"] for m in models]
        differences = [
            100 * (m["metrics"]["train"]["accuracy"]["mean"] - m["metrics"]["test"]["accuracy"]["mean"]) for m in models
        ]
        gaps.plot(x, differences, style, ms=4, label=words, color=colour)
        (most,) = (m for m in models if m["settings"]["train_size"] == largest)
        draw_means(shifts, range(len(most["shifted"])), most["shifted"], style, words, color=colour)
    gaps.set_xscale("log")
    label_sizes(gaps, sizes)
    gaps.set(xlabel="training images", ylabel="training minus test (points)")
    figure.legend(*gaps.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    shifts.set(xlabel="pixels by which images are moved", ylabel="validation accuracy (%)",
               title=f"trained on {largest:,} images")  # fmt: skip
    figure.suptitle(title(result), fontsize=9)
    return figure


def in_order(result: dict, kind: str, plain: bool) -> list[dict]:
    """The variants of one network with images moved, or as they are, by the number of training images."""
    chosen = [
        m for m in result["models"].values() if (m["settings"]["model"], m["settings"]["no_augment"]) == (kind, plain)
    ]
    return sorted(chosen, key=lambda model: model["settings"]["train_size"])


def label_sizes(axes: Axes, sizes: list[int]) -> None:
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()


def draw_means(axes: Axes, x, metrics: list[dict], style: str, label: str, **line) -> None:
    """A line of means over seeds, in percent, with their deviation."""
    means, deviations = ([100 * (m[of] or 0) for m in metrics] for of in ("mean", "std"))
    axes.errorbar(x, means, yerr=deviations, fmt=style, ms=4, capsize=2, label=label, **line)


def plot_attention(result: dict) -> Figure:
    channels = 1 if result["data"]["name"] == "digits" else 3
    return vit_looks.plot_attention(result["attention"], channels, title(result))


def plot_positions(result: dict) -> Figure:
    return vit_looks.plot_positions(result["attention"], title(result))


def draw(paths, out: str | Path) -> list[Path]:
    """Draw the plots of each result, as OUT/assignments/<run>-<plot>.pdf and .png."""
    drawn = []
    for path in paths:
        result = records.load_result(path)
        for name, plot in plots(path).items():
            drawn += utils.save_figure(plot(result), Path(out) / "assignments" / f"{result['run']}-{name}", path)
    return drawn
