"""What the plots of this course share: titles in words, and rows of small images."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

NAMES = {"mnist": "MNIST", "digits": "scikit-learn's digits"}


def data_title(result: dict) -> str:
    """The data in words."""
    return NAMES[result["data"]["name"]]


def seeds_in_words(result: dict) -> str:
    """How many seeds there are, and what shows their deviation."""
    count = len(result["seeds"])
    return "one seed" if count == 1 else f"{count} seeds (± one standard deviation)"


def title(figure: Figure, result: dict) -> None:
    """The data, and how many seeds, above all panels."""
    figure.suptitle(f"{data_title(result)}, {seeds_in_words(result)}", fontsize=9)


def grid_of_images(rows: dict[str, list[list[int]]], title: str, above: list[str] | None = None) -> Figure:
    """Rows of grey images of 28x28 bytes, each row with its name, the first perhaps with words `above` its images."""
    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(1.1 + 0.55 * columns, 0.35 + 0.6 * len(rows) + 0.2 * bool(above)))
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, images) in zip(panels, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(np.reshape(image, (28, 28)), cmap="Greys", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    for axes, words in zip(panels[0], above or [], strict=False):
        axes.set_title(words, fontsize=8)
    figure.suptitle(title, fontsize=9)
    return figure
