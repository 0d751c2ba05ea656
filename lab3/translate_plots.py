"""The plots of translation, from its result files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import records
import utils
from lab3 import drawing

KEYS = ("data.languages.*:text", "data.name:text", "data.source:text")
TRIAL_KEYS = ("history.*.train_loss:number", "history.*.val_loss:number", "attention.*.weights:list",
              "attention.*.source.*:text", "attention.*.target.*:text")  # fmt: skip
STUDY_KEYS = ("models.*.by_length.*.bleu.mean:number", "models.*.history.*.*.val_loss:number", "first.*.attention:list")
MOST_WORDS = 24  # tokens of a sentence whose attention can be read


def title(result: dict) -> str:
    corpus = "Multi30k (real)" if result["data"]["name"] == "multi30k" else "a grammar (synthetic)"
    return f"{corpus}, {' to '.join(result['data']['languages'])}"


def plots(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file that does not hold what they need."""
    result = records.load_result(path, *KEYS)
    studied = "models" in result
    records.load_result(path, *(STUDY_KEYS if studied else TRIAL_KEYS))
    return {"curves": plot_curves, "heads": plot_heads} | ({"lengths": plot_lengths} if studied else {})


def models_of(result: dict) -> dict[str, list[list[dict]]]:
    """The histories of each network of a result."""
    if "models" in result:
        return {name: model["history"] for name, model in result["models"].items()}
    return {result["config"]["model"]: [result["history"]]}


@utils.plot_style()
def plot_curves(result: dict) -> Figure:
    """Validation loss after each epoch."""
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    for name, histories in models_of(result).items():
        utils.draw_curves(axes, histories, "val_loss", label=name)
    utils.epoch_axis(axes, ylabel="validation loss per token")
    axes.legend()
    figure.suptitle(title(result), fontsize=9)
    return figure


@utils.plot_style()
def plot_lengths(result: dict) -> Figure:
    """BLEU by the number of words of the source."""
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    for place, (name, model) in enumerate(result["models"].items()):
        groups = model["by_length"]
        means, deviations = ([group["bleu"][key] or 0 for group in groups] for key in ("mean", "std"))
        x = np.arange(len(groups)) + 0.1 * (place - (len(result["models"]) - 1) / 2)
        axes.errorbar(x, means, yerr=deviations, fmt="osv"[place], ms=4, capsize=2, label=name)
    axes.set_xticks(range(len(groups)), [f"{g['from']} to {g['to']}\n({g['sentences']})" for g in groups])
    axes.set(xlabel="words of the source (sentences)", ylabel="BLEU on the test")
    axes.legend()
    figure.suptitle(title(result), fontsize=9)
    return figure


def plot_heads(result: dict) -> Figure:
    """Where each head of each layer looks in the source to write each token: the first sentence, the first network."""
    name, first = next(iter(result["first"].items())) if "first" in result else (result["config"]["model"], result)
    return draw_heads(
        first["attention"][0], f"{title(result)}, {name}: the source (below) as tokens are written (left)"
    )


@utils.plot_style()
def draw_heads(found: dict, heading: str) -> Figure:
    """Where each head of each layer looks, in an image for each; of a long sentence only the beginning."""
    weights = np.array(found["weights"])[..., :MOST_WORDS, :MOST_WORDS]  # (layers, H, N, S)
    layers, heads, length, width = weights.shape
    figure = Figure(figsize=(1.4 + 1.5 * heads, 1.0 + max(1.5, 0.4 + 0.13 * length) * layers))  # so that words fit
    for line, layer, number in zip(figure.subplots(layers, heads, squeeze=False), weights, range(layers), strict=True):
        for axes, values, head in zip(line, layer, range(heads), strict=True):
            axes.imshow(values, cmap="Greys", vmin=0, vmax=1, aspect="auto")
            axes.set_xticks(range(width), found["source"][:MOST_WORDS] if number == layers - 1 else [], rotation=90)
            axes.set_yticks(range(length), found["target"][:MOST_WORDS] if head == 0 else [])
            axes.tick_params(labelsize=7)
            axes.grid(False)
            axes.set_title(f"layer {number + 1}, head {head + 1}", fontsize=8)
    figure.suptitle(heading, fontsize=9)
    return figure


draw = partial(drawing.draw, plots)
