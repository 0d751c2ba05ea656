"""The plots of the autoencoders, from their result files (see `deep_features.plots`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import records
import utils
from deep_features.drawing import data_title, grid_of_images, seeds_in_words, title

THOUSANDTHS = "validation error (thousandths)"
SETTINGS = ("epochs", "batch_size", "code_dim")
KEYS = (  # what a single training holds, as each trial of a study does
    "history.*.train_loss:number", "history.*.val_mse?:number", "history.*.dead_units?:number", "dead_units:number",
    "reconstructions?.*.*:number", "worst?.mse.*:number", "worst?.images.*.*:number",
    "worst?.reconstructions.*.*:number", "walk?.codes.*.*:number", "walk?.pixels.*.*:number",
)  # fmt: skip
STUDY_KEYS = (
    "models.*.parameters:number", *(f"models.*.settings.{name}:number" for name in SETTINGS),
    "models.*.metrics.*.mse.mean:number", *(f"models.*.trials.*.{key}" for key in KEYS),
    *(f"retrained?.trials.*.{key}" for key in KEYS), "pca_reconstructions?.*.*.*:number",
)  # fmt: skip


def plots(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file that does not hold what they need."""
    result = records.load_result(path, "images.*.*:number")
    study = result["config"]["study"]
    records.load_result(path, *(STUDY_KEYS if study else KEYS))
    found = {"curves": plot_curves, "reconstructions": plot_reconstructions}
    if study == "grid":
        found |= {"grid": plot_grid, "dead_units": plot_dead_units}
    if tested(result):
        found |= {"worst": plot_worst, "walk": plot_walk}
    return found


def tested(result: dict) -> dict | None:
    """The first trial of the network that was tested: of a study the one that was trained anew, or its last."""
    trials = result["retrained"]["trials"] if "retrained" in result else list(trials_of(result).values())[-1]
    return trials[0] if "worst" in trials[0] else None


def trials_of(result: dict) -> dict[str, list[dict]]:
    """The trials of each variant; of a single training, its own."""
    models = result.get("models")
    return {name: model["trials"] for name, model in models.items()} if models else {"": [result]}


def settings_of(result: dict, name: str) -> dict:
    return result["models"][name]["settings"] if name else result["config"]


@utils.plot_style()
def plot_curves(result: dict) -> Figure:
    """Validation error per epoch; of a grid one panel for each code."""
    groups: dict[int, dict[str, list[dict]]] = {}
    for name, trials in trials_of(result).items():
        groups.setdefault(settings_of(result, name)["code_dim"], {})[name] = trials
    figure = Figure(figsize=(6.6 if len(groups) > 1 else 4.0, 2.6))
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, (code, variants) in zip(panels, sorted(groups.items()), strict=True):
        for name, trials in variants.items():
            histories = [trial["history"] for trial in trials]
            key = "val_mse" if "val_mse" in histories[0][0] else "train_loss"
            utils.draw_curves(axes, histories, key, 1000, label=name.partition(", code")[0])
        utils.epoch_axis(axes, title=f"code of {code} units", yscale="log")
        axes.yaxis.set_minor_locator(matplotlib.ticker.LogLocator(subs=(2, 3, 5)))  # beside 7, 8 and 9, 10 has no room
        for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis(matplotlib.ticker.StrMethodFormatter("{x:g}"))
        if len(variants) > 1:
            axes.legend(fontsize=7)
    panels[0].set_ylabel(THOUSANDTHS)
    title(figure, result)
    return figure


@utils.plot_style()
def plot_grid(result: dict) -> Figure:
    """Validation error of each batch size and code at the last epoch: the mean over seeds, and their deviation."""
    cells = {
        (model["settings"]["batch_size"], model["settings"]["code_dim"]): model["metrics"]["validation"]["mse"]
        for model in result["models"].values()
    }
    batches, codes = (sorted({key[i] for key in cells}) for i in (0, 1))
    means = np.array([[1000 * cells[batch, code]["mean"] for code in codes] for batch in batches])
    figure = Figure(figsize=(4.6, 2.6))
    axes = figure.subplots()
    axes.imshow(means, cmap="Blues", norm="log", aspect="auto")
    for i, batch in enumerate(batches):
        for j, code in enumerate(codes):
            dark = means[i, j] > np.sqrt(means.min() * means.max())
            text = records.spread(cells[batch, code], 1000, 2)
            axes.text(j, i, text, ha="center", va="center", color="white" if dark else "black", fontsize=8)
    axes.set_xticks(range(len(codes)), [str(code) for code in codes])
    axes.set_yticks(range(len(batches)), [str(batch) for batch in batches])
    axes.set(xlabel="units of the code", ylabel="batch size")
    axes.grid(False)
    epochs = next(iter(result["models"].values()))["settings"]["epochs"]
    figure.suptitle(f"{data_title(result)}, {epochs} epochs, {seeds_in_words(result)}:\n{THOUSANDTHS}", fontsize=9)
    return figure


@utils.plot_style()
def plot_dead_units(result: dict) -> Figure:
    """Validation error of each training against the number of its code's units that are never active."""
    figure = Figure(figsize=(4.0, 2.7))
    axes = figure.subplots()
    codes = sorted({model["settings"]["code_dim"] for model in result["models"].values()})
    for code, colour, marker in zip(codes, utils.COLOURS, "os^", strict=False):
        trials = [t for m in result["models"].values() if m["settings"]["code_dim"] == code for t in m["trials"]]
        errors = [1000 * trial["history"][-1]["val_mse"] for trial in trials]
        axes.plot([t["dead_units"] for t in trials], errors, marker, color=colour, ms=4, label=f"code of {code}")
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.set(xlabel="units that are 0 for every training image", ylabel=THOUSANDTHS, ylim=(0, None))
    axes.legend()
    figure.suptitle(f"{data_title(result)}: a point for each training", fontsize=9)
    return figure


@utils.plot_style()
def plot_reconstructions(result: dict) -> Figure:
    """Validation images, and what the best autoencoder of each size, and PCA, make of them."""
    rows, best = {"images": result["images"]}, {}
    for name, (trial, *_) in trials_of(result).items():
        code, error = settings_of(result, name)["code_dim"], trial["history"][-1].get("val_mse", 0)
        if "reconstructions" in trial and error < best.get(code, (np.inf,))[0]:
            best[code] = error, trial["reconstructions"]
    rows |= {f"code of {code}": images for code, (_, images) in sorted(best.items())}
    rows |= {f"PCA, {code}": images for code, images in result.get("pca_reconstructions", {}).items()}
    return grid_of_images(rows, f"{data_title(result)}: validation images, reconstructed")


@utils.plot_style()
def plot_worst(result: dict) -> Figure:
    """The test images with the largest errors."""
    worst = tested(result)["worst"]
    titles = [f"{1000 * error:.0f}" for error in worst["mse"]]
    rows = {"images": worst["images"], "reconstructed": worst["reconstructions"]}
    return grid_of_images(rows, f"{data_title(result)}: the largest test errors (thousandths)", titles)


@utils.plot_style()
def plot_walk(result: dict) -> Figure:
    """From one test image to another in equal steps: of the code, and of the pixels."""
    walk = tested(result)["walk"]
    rows = {"of the code": walk["codes"], "of the pixels": walk["pixels"]}
    return grid_of_images(rows, f"{data_title(result)}: from one test image to another, in equal steps")
