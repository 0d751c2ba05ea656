"""The plots of self-attention, from its result files (see `deep_features.plots`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import records
import utils

KEYS = (
    "maps.softmax.*.*:number", "maps.exercise.*.*:number", "sentence.words.*:text", "sentence.weights.*.*:number",
    "config.length:number",
)  # fmt: skip


def plots(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file that does not hold what they need."""
    records.load_result(path, *KEYS)
    return {"maps": plot_maps, "sentence": plot_sentence}


@utils.plot_style()
def plot_maps(result: dict) -> Figure:
    """The weights of random tokens by a right softmax, and by the exercise's."""
    figure = Figure(figsize=(5.4, 2.7))
    titles = {"softmax": "softmax", "exercise": "the exercise's softmax: all weights equal"}
    highest = np.max(result["maps"]["softmax"])
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        drawn = axes.imshow(result["maps"][name], cmap="Greys", vmin=0, vmax=highest)
        axes.set(title=title, xlabel="token looked at")
        axes.grid(False)
    figure.axes[0].set_ylabel("token that looks")
    figure.colorbar(drawn, ax=figure.axes, label="weight")
    figure.suptitle(f"{result['config']['length']} random tokens (synthetic)", fontsize=9)
    return figure


@utils.plot_style()
def plot_sentence(result: dict) -> Figure:
    """Where each word of the sentence looks."""
    words, weights = result["sentence"]["words"], np.array(result["sentence"]["weights"])
    figure = Figure(figsize=(4.4, 3.9))
    axes = figure.subplots()
    axes.imshow(weights, cmap="Greys", vmin=0, vmax=1)
    for i, j in np.argwhere(weights >= 0.095):
        axes.text(j, i, f"{weights[i, j]:.1f}", ha="center", va="center", fontsize=7,
                  color="white" if weights[i, j] > 0.5 else "black")  # fmt: skip
    axes.set_xticks(range(len(words)), words, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(words)), words)
    axes.set(xlabel="word looked at (its key: what it is)", ylabel="word that looks (its query: what it asks for)")
    axes.grid(False)
    figure.suptitle("Attention over a sentence, features made by hand", fontsize=9)
    return figure
