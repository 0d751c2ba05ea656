"""The plots of Lab 3's self-supervised learning, from their result files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

import records
import utils
from lab3 import drawing
from lab3.transfer_plots import title_of_all_digits as title

METHODS = {
    "simclr": "linear on SimCLR's features",
    "scratch": "trained from scratch",
    "random": "linear on an untrained network's",
    "pixels": "linear on pixels",
}
MARKERS = dict(zip(METHODS, "osv^", strict=True))
KEYS = ("data.name:text", "baseline.accuracy.test:number", "baseline.class:text")
TRIAL_KEYS = ("config.method:text", "metrics.test.*.mean:number", "history:list")
STUDY_KEYS = ("models.*.metrics.test.*.mean:number",)


def models(result: dict) -> dict[str, dict]:
    """What a result says of each method of a study, or of its own."""
    return result.get("models", {result["config"]["method"]: result})


def plots(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file that does not hold what they need."""
    result = records.load_result(path, *KEYS)
    records.load_result(path, *(STUDY_KEYS if "models" in result else TRIAL_KEYS))
    found = {"labels": plot_labels}
    if "models" not in result and result["config"]["method"] == "simclr":
        found["curve"] = plot_curve
    return found


@utils.plot_style()
def plot_labels(result: dict) -> Figure:
    """Test accuracy of each method by the number of labels."""
    figure = Figure(figsize=(6.2, 2.9))
    axes = figure.subplots()
    for place, (method, words) in enumerate(METHODS.items()):
        if method in models(result):
            accuracies = models(result)[method]["metrics"]["test"]
            means, deviations = ([100 * (found[of] or 0) for found in accuracies.values()] for of in ("mean", "std"))
            sizes = [int(size) for size in accuracies]
            axes.errorbar(sizes, means, deviations, color=utils.COLOURS[place], marker=MARKERS[method],
                          ls=utils.LINE_STYLES[place], ms=4, capsize=2, label=words)  # fmt: skip
    baseline = result["baseline"]
    axes.axhline(100 * baseline["accuracy"]["test"], color="0.5", lw=0.8, label=f"always {baseline['class']}")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="labelled images", ylabel="test accuracy (%)")
    figure.legend(loc="outside right center", fontsize=8)
    figure.suptitle(title(result), fontsize=9)
    return figure


def plot_curve(result: dict) -> Figure:
    """The contrastive loss after each epoch."""
    scores = {"train_loss": "training", "val_loss": "validation"}
    return drawing.curve(title(result), [result["history"]], scores, ylabel="contrastive loss (nats)")


draw = partial(drawing.draw, plots)
