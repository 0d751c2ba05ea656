"""The plots of Lab 3's architecture search, from its result files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import records
import utils
from lab3 import drawing

KEYS = ("data.name:text", "config.rungs:number")
STEP_KEYS = ("epochs:number", "score:number", "spent:number")
TRIAL_KEYS = ("metrics.validation.accuracy.mean:number", *(f"trace.*.{key}" for key in STEP_KEYS))
STUDY_KEYS = (
    "models.*.metrics.*.accuracy.mean:number", "models.*.metrics.*.accuracy.values.*:number",
    *(f"models.*.traces.*.*.{key}" for key in STEP_KEYS),
)  # fmt: skip
TITLES = {"digits": "scikit-learn's digits (real)", "mnist": "MNIST (real)"}


def title(result: dict) -> str:
    return TITLES[result["data"]["name"]]


def plots(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file that does not hold what they need."""
    result = records.load_result(path, *KEYS)
    records.load_result(path, *(STUDY_KEYS if "models" in result else TRIAL_KEYS))
    if "models" in result:
        return {"methods": plot_methods}
    return {"trace": plot_trace} if result["trace"] else {}


def best_so_far(trace: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Epochs spent, and the best score of any training so far."""
    spent, scores = (np.array([step[key] for step in trace]) for key in ("spent", "score"))
    return spent, np.maximum.accumulate(scores)


@utils.plot_style()
def plot_trace(result: dict) -> Figure:
    """Validation accuracy of each training of one search, and the best so far."""
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    spent, best = best_so_far(result["trace"])
    scores = [100 * step["score"] for step in result["trace"]]
    axes.plot(spent, scores, "o", ms=3, color=utils.COLOURS[0], label="a network that was tried")
    axes.step(spent, 100 * best, where="post", color=utils.COLOURS[1], label="best so far")
    axes.set(xlabel="epochs of training spent", ylabel="validation accuracy (%)")
    axes.legend(fontsize=8)
    figure.suptitle(title(result), fontsize=9)
    return figure


@utils.plot_style()
def plot_methods(result: dict) -> Figure:
    """The least validation error so far by epochs spent, of each search and their mean; the winners on test images."""
    figure = Figure(figsize=(6.4, 2.9))
    searched, tested = figure.subplots(1, 2, width_ratios=(3, 2))
    models = result["models"]
    for place, (name, model) in enumerate(models.items()):
        line = {"color": utils.COLOURS[place], "ls": utils.LINE_STYLES[place]}
        if any(model["traces"]):
            draw_best(searched, model["traces"], name, **line)
        else:
            error = 1 - model["metrics"]["validation"]["accuracy"]["mean"]
            searched.axhline(100 * error, lw=1, label=name, **line)
        metric = model["metrics"]["test"]["accuracy"]
        mean, deviation = (100 * (metric[of] or 0) for of in ("mean", "std"))
        tested.errorbar(place, mean, deviation, marker="osD"[place], ms=4, capsize=2, color=utils.COLOURS[place])
    searched.set(xlabel="epochs of training spent", ylabel="validation error of the best (%)", yscale="log")
    searched.yaxis.set_major_formatter("{x:g}")
    searched.legend(fontsize=8)
    tested.set_xticks(range(len(models)), [name.replace(" ", "\n", 1) for name in models], fontsize=8)
    tested.set(ylabel="test accuracy (%)", xlim=(-0.5, len(models) - 0.5))
    figure.suptitle(title(result), fontsize=9)
    return figure


def draw_best(axes, traces: list[list[dict]], label: str, **line) -> None:
    """Error of the best so far of several searches, each as a thin line: all spend the same, step by step."""
    spent, _ = best_so_far(traces[0])
    errors = 100 * (1 - np.array([best_so_far(trace)[1] for trace in traces]))  # (seeds, trainings)
    for each in errors:
        axes.step(spent, each, where="post", lw=0.7, alpha=0.5, **line)
    axes.step(spent, errors.mean(0), where="post", lw=2, label=label, **line)


draw = partial(drawing.draw, plots)
