"""The plots of Homework 3's reader: energies of one word, accuracy by length, free energies of words."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import records
import utils

KEYS = ("hello.*.*:number", "config.word_length:number")
STUDY_KEYS = (*KEYS, "methods.*.by_set.*.paths_exact.mean:number", "methods.*.trials.*.free_energies.*.*.*:number")
NAMES = {"viterbi": "best path", "margin": "margin", "nll": "all paths", "ctc": "CTC"}
READERS = {"viterbi": "paths", "margin": "paths", "nll": "paths", "ctc": "windows"}  # CTC's paths are not ours


@utils.plot_style()
def plot_hello(result: dict) -> Figure:
    """Energies of every window of "hello", after the training on single letters."""
    energies = np.array(result["hello"])  # (L, 27)
    figure = Figure(figsize=(4.4, 3.6))
    axes = figure.subplots()
    shown = axes.imshow(energies.T, aspect="auto", cmap="viridis", interpolation="nearest")
    axes.set_yticks(range(27), [*string.ascii_lowercase, "between"], fontsize=7)
    axes.set(xlabel="window of the image (synthetic)", ylabel="code")
    axes.set_title("Energies of “hello”, single letters learnt")
    axes.grid(visible=False)
    figure.colorbar(shown, ax=axes, label="energy")
    return figure


def exact_of(name: str, method: dict, which: str) -> dict:
    """The share of one set's words that a method reads exactly, in the way that it was trained for."""
    return method["by_set"][which][f"{READERS[name]}_exact"]


def methods_of(result: dict) -> dict[str, dict]:
    """The methods of a study; or the one of a run, with a single trial."""
    if "methods" in result:
        return result["methods"]
    single = {name: result[name] for name in ("history", "free_energies")}
    by_set = {
        name: {f"{reader}_exact": records.mean_std([each["exact"]]) for reader, each in scores.items()}
        for name, scores in result["by_set"].items()
    }
    return {result["config"]["method"]: {"trials": [single], "by_set": by_set}}


@utils.plot_style()
def plot_lengths(result: dict) -> Figure:
    """Words read exactly, by their number of letters, a line for each way to train."""
    figure = Figure(figsize=(4.6, 2.8))
    axes = figure.subplots()
    for (name, method), marker in zip(methods_of(result).items(), "osv^", strict=False):
        lengths = [int(length) for length in method["by_set"] if length.isdigit()]
        exact = [exact_of(name, method, str(length)) for length in lengths]
        means, deviations = ([100 * (score[key] or 0) for score in exact] for key in ("mean", "std"))
        axes.errorbar(lengths, means, deviations, marker=marker, ms=4, capsize=2, label=NAMES[name])
    axes.axvline(result["config"]["word_length"], color="0.6", lw=0.8, ls=":")
    axes.set(xlabel="letters of a word; trained with those of the dotted line", ylabel="read exactly (%)")
    axes.set_title("Words read exactly (synthetic images)")
    axes.legend(loc="lower left")
    return figure


@utils.plot_style()
def plot_energies(result: dict) -> Figure:
    """How far the best wrong word lies above the right one, before and after the training on words."""
    name, method = next(iter(methods_of(result).items()))
    figure = Figure(figsize=(4.6, 2.6))
    axes = figure.subplots()
    found = method["trials"][0]["free_energies"]
    gaps = {when: np.subtract(energies["wrong"], energies["right"]) for when, energies in found.items()}
    bins = np.linspace(min(map(np.min, gaps.values())), max(map(np.max, gaps.values())), 50)
    for (when, values), style in zip(gaps.items(), ({"histtype": "step", "lw": 1.5}, {"alpha": 0.7}), strict=True):
        axes.hist(values, bins, label=when, **style)
    axes.axvline(0, color="0.4", lw=0.8, ls=":")
    axes.set(xlabel="free energy of the best wrong word minus that of the right one", ylabel="images (synthetic)")
    axes.set_title(f"Before and after the training on words ({NAMES[name]})")
    axes.legend()
    return figure


PLOTS = {"hello": plot_hello, "lengths": plot_lengths, "energies": plot_energies}


def draw(paths, out: str | Path) -> list[Path]:
    """Draw the plots of each result, as OUT/assignments/<run>-<plot>.pdf and .png."""
    drawn = []
    for path in paths:
        result = records.load_result(path, *KEYS)
        for name, plot in PLOTS.items():
            drawn += utils.save_figure(plot(result), Path(out) / "assignments" / f"{result['run']}-{name}", path)
    return drawn
