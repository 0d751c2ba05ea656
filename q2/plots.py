"""The plots of Question 2, drawn from its result files: `python -m q2.plots results/q2/*.json --out plots`."""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import records
import utils
from command_line import flag
from image_data import load_images, with_course_test_split
from q2.config import RESULT_KEYS, SHIFT_KEYS


def draw(paths: Iterable[Path], out: str | Path, data_root: str | Path = "data") -> list[Path]:
    """Draw every plot that each result file has the numbers for, as OUT/q2/<run>-<plot>.pdf and .png.

    The panel of mistakes also needs the images themselves: without the data file it is left out, with a note.
    """
    return [figure for path in paths for figure in draw_one(path, out, data_root)]


def draw_one(result_path: Path, out: str | Path, data_root: str | Path) -> list[Path]:
    result = records.load_result(result_path)
    if "shifts" in result["config"]:
        result = records.load_result(result_path, *SHIFT_KEYS)
        return utils.save_figure(plot_shift(result), Path(out) / "q2" / result["run"], result_path)
    result = records.load_result(result_path, *RESULT_KEYS)
    tested = {name: model for name, model in result["models"].items() if "test" in model["metrics"]}
    plots = {"curves": plot_curves(result)}
    if len(tested) > 1:
        plots["pooling"] = plot_pooling(result, tested)
    if tested:
        plots["confusion"] = plot_confusion(result, tested)
    if any("first_layer" in model["trials"][0] for model in tested.values()):
        plots["filters"] = plot_filters(result, tested)
    if tested:
        try:
            plots["mistakes"] = plot_mistakes(result, tested, data_root)
        except (FileNotFoundError, ValueError, IndexError) as error:  # the last: these are other images
            print(f"no panel of mistakes: {error}", file=sys.stderr)
    written = []
    for name, figure in plots.items():
        written += utils.save_figure(figure, Path(out) / "q2" / f"{result['run']}-{name}", result_path)
    return written


def data_title(result: dict) -> str:
    synthetic = ", synthetic" if result["data"]["source"] == "synthetic" else ""
    course = ", course's test split" if result["config"].get("course_test_split") else ""
    return f"{result['data']['name']}{synthetic}{course}"


def seeds(result: dict, mark: str) -> str:
    """How many seeds there are, and what shows their deviation; that of one seed is not known."""
    count = len(result["seeds"])
    return "one seed" if count == 1 else f"{count} seeds, {mark}: one standard deviation"


def label(model: dict) -> str:
    settings = model["settings"]
    if settings["recipe"] == "strong":
        return "strong recipe"
    return f"{'no max-pool' if settings['no_maxpool'] else 'max-pool'}, rate {settings['learning_rate']:g}"


def draw_band(axes, model: dict, key: str, scale: float = 1.0) -> None:
    """`utils.draw_curves` of a network's seeds, without those that diverged."""
    histories = [trial["history"] for trial in model["trials"] if trial["diverged_in_epoch"] is None]
    if not histories:
        axes.plot([], [], label=f"{label(model)}: diverged")
        return
    utils.draw_curves(axes, histories, key, scale, label=label(model))


@utils.plot_style()
def plot_curves(result: dict) -> Figure:
    """Training loss and validation accuracy per epoch, a line for each learning rate."""
    models = sorted(result["models"].values(), key=lambda model: -model["settings"]["learning_rate"])
    if len(models) > 1:  # the selected rate's network without pooling has a plot of its own
        models = [model for model in models if not model["settings"]["no_maxpool"]]
    figure = Figure(figsize=(6.6, 2.7))
    loss, accuracy = figure.subplots(1, 2)
    for model in models:
        draw_band(loss, model, "train_loss")
        draw_band(accuracy, model, "val_accuracy", 100)
    utils.epoch_axis(loss, ylabel="training loss", ylim=(0, None))
    utils.epoch_axis(accuracy, ylabel="validation accuracy (%)")
    accuracy.legend()
    figure.suptitle(f"{data_title(result)}: {seeds(result, 'band')}", fontsize=9)
    return figure


@utils.plot_style()
def plot_pooling(result: dict, tested: dict) -> Figure:
    """Max-pooling against strided convolutions: validation accuracy per epoch, and the test scores of each seed."""
    figure = Figure(figsize=(6.6, 2.7))
    curve, accuracy, auc = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    for place, (model, colour) in enumerate(zip(tested.values(), utils.COLOURS, strict=False)):
        draw_band(curve, model, "val_accuracy", 100)
        for axes, name, scale in ((accuracy, "accuracy", 100), (auc, "auc", 1)):
            metric = model["metrics"]["test"][name]
            mean, values = scale * np.float64(metric["mean"]), scale * np.array(metric["values"], np.float64)
            offsets = place + np.linspace(-0.12, 0.12, len(values)) * (len(values) > 1)
            axes.plot(offsets, values, "o", color=colour, markersize=4, alpha=0.7)
            axes.plot([place - 0.25, place + 0.25], [mean] * 2, "-", color=colour)
    utils.epoch_axis(curve, ylabel="validation accuracy (%)")
    curve.legend()
    for axes, name in ((accuracy, "test accuracy (%)"), (auc, "test AUC")):
        axes.set(ylabel=name, xlim=(-0.6, len(tested) - 0.4))
        axes.set_xticks(range(len(tested)), [label(model).replace(", ", "\n") for model in tested.values()], fontsize=7)
    shown = "one seed" if len(result["seeds"]) == 1 else "a dot for each seed, a bar for their mean"
    figure.suptitle(f"{data_title(result)}: {shown}", fontsize=9)
    return figure


@utils.plot_style()
def plot_confusion(result: dict, tested: dict) -> Figure:
    """Confusion matrices on the test set: counts summed over seeds, shades as shares of the true class."""
    classes = result["data"]["classes"]
    figure = Figure(figsize=(3.4 * len(tested), 3.2))
    for axes, model in zip(np.atleast_1d(figure.subplots(1, len(tested))), tested.values(), strict=True):
        counts = sum(np.array(trial["test"]["confusion_matrix"]) for trial in model["trials"] if trial.get("test"))
        shares = counts / counts.sum(1, keepdims=True).clip(1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares):
            text = f"{100 * share:.0f}%\n{counts[row, column]}"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=7, color="white" if share > 0.5 else "black"
            )
        short = [textwrap.fill(name, 12, break_long_words=False) for name in classes]
        axes.set_xticks(range(len(classes)), short, fontsize=6, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), short, fontsize=6)
        axes.set(xlabel="predicted", ylabel="true", title=label(model))
        axes.grid(False)
    figure.suptitle(f"{data_title(result)}: test set, all seeds together", fontsize=9)
    return figure


@utils.plot_style()
def plot_filters(result: dict, tested: dict) -> Figure:
    """The 3x3 filters of the first convolution, for the first seed of each network."""
    filters = {
        label(m): np.array(m["trials"][0]["first_layer"]) for m in tested.values() if "first_layer" in m["trials"][0]
    }
    columns = max(len(bank) for bank in filters.values())
    figure = Figure(figsize=(0.75 * columns, 1.0 * len(filters) + 0.35))
    grid = figure.subplots(len(filters), columns, squeeze=False)
    limit = max(np.abs(bank).max() for bank in filters.values())
    for row, (name, bank) in zip(grid, filters.items(), strict=True):
        for axes, kernel in zip(row, bank, strict=True):
            axes.imshow(kernel, cmap="gray", vmin=-limit, vmax=limit)
            axes.set_xticks([])
            axes.set_yticks([])
        row[0].set_ylabel(name.replace(", ", "\n"), fontsize=7)
    figure.suptitle(f"{data_title(result)}: filters of conv1, seed {result['seeds'][0]}", fontsize=9)
    return figure


@utils.plot_style()
def plot_mistakes(result: dict, tested: dict, data_root: str | Path) -> Figure:
    """The test images that the selected network's first seed got wrong with the highest probability."""
    mistakes = next(iter(tested.values()))["trials"][0]["test"]["mistakes"]
    data = load_images(result["data"]["name"], data_root)
    images = (with_course_test_split(data) if result["config"]["course_test_split"] else data).test[0]
    figure = Figure(figsize=(6.6, 3.2))
    axes_grid = figure.subplots(2, 6).flatten()
    for axes in axes_grid:
        axes.axis("off")
    for axes, mistake in zip(axes_grid, mistakes, strict=False):
        image = images[mistake["index"]].permute(1, 2, 0).numpy()  # (H, W, C)
        low, high = image.min(), image.max()
        axes.imshow((image - low) / (high - low), cmap="gray")
        true, predicted = (data.class_names[mistake[key]] for key in ("true", "predicted"))
        title = [textwrap.fill(true, 19), textwrap.fill(f"→ {predicted} {mistake['probability']:.2f}", 19)]
        axes.set_title("\n".join(title), fontsize=6)
    figure.suptitle(f"{data_title(result)}: most confident mistakes (true → predicted)", fontsize=9)
    return figure


@utils.plot_style()
def plot_shift(result: dict) -> Figure:
    """What a shift of the image does to predictions and features, by its size (see q2/shift.py)."""
    figure = Figure(figsize=(6.6, 2.4))
    panels = figure.subplots(1, 2)
    for model in result["models"].values():
        for axes, name, scale in zip(panels, ("changed_predictions", "moved_features"), (100, 1), strict=True):
            mean, std = (scale * np.float64([answer[key] for answer in model[name]]) for key in ("mean", "std"))
            axes.errorbar(result["config"]["shifts"], mean, std, label=label(model), marker="o", ms=3, capsize=2)
    for axes, text in zip(panels, ("predictions that change (%)", "features: distance / length"), strict=True):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="shift (pixels)", ylabel=text, ylim=(0, None))
    panels[1].legend(loc="lower right")
    figure.suptitle(f"{data_title(result)}: validation images, {seeds(result, 'bar')}", fontsize=9)
    return figure


@dataclass(frozen=True)
class Config:
    """The flags."""

    results: tuple[Path, ...] = flag((), "result files of hw2-q2.py and of its --shift", positional=True)
    out: str = flag("runs/plots", "folder for the plots")
    data_root: str = flag("data", "folder of the data files, for the panel of mistakes")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    return command_line.for_each(
        config.results, lambda path: print(*draw_one(path, config.out, config.data_root), sep="\n")
    )


if __name__ == "__main__":
    matplotlib.use("Agg")
    sys.exit(main())
