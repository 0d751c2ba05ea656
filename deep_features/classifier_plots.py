"""The plots of this course's classifiers, from their result files (see `deep_features.plots`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import records
import utils
from common import vit_looks
from deep_features.drawing import data_title, title

MOST_LINES = 4
TRIAL_KEYS = (
    "history.*.train_loss:number", "history.*.val_accuracy?:number", *(f"attention?.{key}" for key in vit_looks.KEYS),
)  # fmt: skip
STUDY_KEYS = (
    "models.*.parameters:number", "models.*.metrics.*.accuracy.mean:number",
    "models.*.metrics.*.accuracy.std:number?", *(f"models.*.trials.*.{key}" for key in TRIAL_KEYS),
    *(f"retrained?.trials.*.{key}" for key in TRIAL_KEYS),
)  # fmt: skip


def plots(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file that does not hold what they need."""
    result = records.load_result(path)
    studied = bool(result["config"]["study"])
    records.load_result(path, *(STUDY_KEYS if studied else TRIAL_KEYS))
    found = {} if studied else {"curves": plot_curves}
    if len(result.get("models", {})) > 1:  # or there is nothing to compare
        found["accuracies"] = plot_accuracies
    if result["config"]["study"] in CURVES:
        name, keys, plot = CURVES[result["config"]["study"]]
        records.load_result(path, *keys)
        found[name] = plot
    if "attention" in first_trial(result):
        found |= {"attention": plot_attention, "positions": plot_positions}
    return found


def first_trial(result: dict) -> dict:
    """The first trial of the network that was trained anew, or of the first variant; a single training itself."""
    if "models" not in result:
        return result
    return result.get("retrained", next(iter(result["models"].values())))["trials"][0]


@utils.plot_style()
def plot_curves(result: dict) -> Figure:
    """Training loss, and validation accuracy, per epoch."""
    figure = Figure(figsize=(6.0, 2.5))
    loss, accuracy = figure.subplots(1, 2)
    utils.draw_curves(loss, [result["history"]], "train_loss")
    utils.epoch_axis(loss, ylabel="training loss", ylim=(0, None))
    if "val_accuracy" in result["history"][0]:
        utils.draw_curves(accuracy, [result["history"]], "val_accuracy", 100)
    utils.epoch_axis(accuracy, ylabel="validation accuracy (%)")
    title(figure, result)
    return figure


@utils.plot_style()
def plot_accuracies(result: dict) -> Figure:
    """The accuracy of each variant, with its deviation over seeds: of the test where all were tested."""
    models = result["models"]
    part = "test" if all("test" in model["metrics"] for model in models.values()) else "validation"
    figure = Figure(figsize=(6.2, 0.8 + 0.27 * len(models)))
    axes = figure.subplots()
    for row, model in enumerate(models.values()):
        metric = model["metrics"][part]["accuracy"]
        axes.errorbar(
            100 * metric["mean"], row, xerr=100 * (metric["std"] or 0), fmt="o", color=utils.COLOURS[0], ms=4, capsize=2
        )
    axes.set_yticks(range(len(models)), list(models), fontsize=8)
    axes.set(xlabel=f"{part} accuracy (%)", ylim=(len(models) - 0.5, -0.5))
    title(figure, result)
    return figure


def plot_attention(result: dict) -> Figure:
    """Validation images, and how much of each patch reaches the class token."""
    return vit_looks.plot_attention(first_trial(result)["attention"], 1, data_title(result))


def plot_positions(result: dict) -> Figure:
    """How alike the learned positions are."""
    return vit_looks.plot_positions(first_trial(result)["attention"], data_title(result))


@utils.plot_style()
def plot_labels(result: dict) -> Figure:
    """Test accuracy by the number of labelled images, of networks pre-trained or not."""
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    sizes = result["data"]["sizes"]
    for random, words, style in ((False, "pre-trained", "o-"), (True, "from random weights", "s--")):
        models = [m for m in result["models"].values() if m["settings"]["no_pretraining"] == random]
        counts = [m["settings"]["labels"] or sizes["train"] + sizes["val"] for m in models]  # 0: all of both parts
        draw_means(axes, counts, [m["metrics"]["test"]["accuracy"] for m in models], style, words)
    axes.set_xscale("log")
    axes.set(xlabel="labelled images", ylabel="test accuracy (%)")
    axes.legend()
    title(figure, result)
    return figure


@utils.plot_style()
def plot_shifts(result: dict) -> Figure:
    """Accuracy on validation images moved by some pixels, of the networks that see them as they are."""
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    networks = {name: m for name, m in result["models"].items() if not m["settings"]["shuffle_pixels"]}
    for (name, model), style in zip(networks.items(), ("o-", "s--"), strict=True):
        moved = [
            records.mean_std(values) for values in zip(*(t["shifted_accuracy"] for t in model["trials"]), strict=True)
        ]
        draw_means(axes, range(len(moved)), moved, style, name.removesuffix(", in order"))
    axes.set(xlabel="pixels by which images are moved", ylabel="validation accuracy (%)", ylim=(None, 101))
    axes.legend()
    title(figure, result)
    return figure


def draw_means(axes: Axes, x: Sequence[float], metrics: list[dict], style: str, label: str) -> None:
    """A line of means over seeds, in percent, with their deviation."""
    means, deviations = ([100 * (m[of] or 0) for m in metrics] for of in ("mean", "std"))
    axes.errorbar(x, means, yerr=deviations, fmt=style, ms=4, capsize=2, label=label)


CURVES = {  # what else a study is drawn as: name, keys that it needs, plot
    "labels": (
        "labels",
        ("models.*.settings.labels:number", "models.*.metrics.test.accuracy.mean:number"),
        plot_labels,
    ),
    "pixels": ("shifts", ("models.*.trials.*.shifted_accuracy.*:number",), plot_shifts),
}
