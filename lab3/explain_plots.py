"""The plots of Lab 3's explanations, from their result files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import records
import utils
from lab3 import drawing, sentiment_plots, transfer_plots

NAMES = transfer_plots.NAMES | sentiment_plots.NAMES
WAYS = {"deletion": ("removed", "lower"), "insertion": ("inserted", "higher")}  # what is done, and which area is better
SHADES = "RdBu_r"  # red counts for the class, blue against it
STYLES = ({"color": "0.5", "ls": ":"}, *({"color": utils.COLOURS[i], "ls": utils.LINE_STYLES[i]} for i in range(3)))
REDRAWN = (("nothing", "D"), ("last layer", "s"), ("all layers", "^"))  # with their markers
KEYS = (
    "data.name:text", "data.source:text", "methods.*.scores.*.mean:number", "methods.*.scores.*.std:number?",
    "methods.*.less_random.*.mean:number", "methods.*.less_random.*.standard_error:number",
    "methods.*.curves.deletion.*:number", "methods.*.curves.insertion.*:number",
    "examples.*.class:text", "examples.*.predicted:text", "examples.*.maps.*.*:number",
)  # fmt: skip


def title(result: dict) -> str:
    name = NAMES[result["data"]["name"]]
    return f"{name[0].upper()}{name[1:]} ({result['data']['source']})"


def plots(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file that does not hold what they need."""
    result = records.load_result(path, *KEYS)
    pictures = of_pictures(result)
    records.load_result(path, *(f"examples.*.{key}:list" for key in (("pixels", "size") if pictures else ("words",))))
    examples = {"examples": plot_pictures if pictures else plot_sentences} if result["examples"] else {}
    return examples | {"curves": plot_curves, "scores": plot_scores}


def of_pictures(result: dict) -> bool:
    return "contrast" in result["methods"]


def prediction(example: dict) -> str:
    """What is explained: the class that was predicted, and the other one that would have been right."""
    right = example["class"] == example["predicted"]
    return f"predicted: {example['predicted']}" + ("" if right else f"\n(it is {example['class']})")


@utils.plot_style()
def plot_pictures(result: dict) -> Figure:
    """Some pictures, and beside each of them every method's map of it."""
    examples = result["examples"]
    methods = list(examples[0]["maps"])
    figure = Figure(figsize=(6.6, 0.55 + 0.98 * len(examples)))
    for row, example in zip(figure.subplots(len(examples), 1 + len(methods), squeeze=False), examples, strict=True):
        size = example["size"]
        image = np.array(example["pixels"], dtype=np.uint8).reshape(size)
        row[0].imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        row[0].set_ylabel(prediction(example), fontsize=7)
        for axes, method in zip(row[1:], methods, strict=True):
            scores = np.array(example["maps"][method]).reshape(size[:2])
            # of scores with few large ones among them the others would look like none at all
            largest = max(np.percentile(np.abs(scores), 99), 1)
            axes.imshow(scores, cmap=SHADES, vmin=-largest, vmax=largest)
        for axes, name in zip(row, ["picture", *methods], strict=True):
            if example is examples[0]:
                axes.set_title(name.replace(" ", "\n"), fontsize=8)
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
    figure.suptitle(f"{title(result)}: red pixels count for the prediction, blue ones against it", fontsize=9)
    return figure


@utils.plot_style()
def plot_sentences(result: dict) -> Figure:
    """Some sentences, their words coloured by every method's scores."""
    examples = result["examples"]
    figure = Figure(figsize=(6.6, 0.5 + 1.9 * len(examples)))
    for axes, example in zip(figure.subplots(len(examples), 1, squeeze=False)[:, 0], examples, strict=True):
        words, methods = example["words"], list(example["maps"])
        axes.imshow(list(example["maps"].values()), cmap=SHADES, vmin=-100, vmax=100, aspect="auto")
        axes.set_xticks(range(len(words)), words, rotation=35, ha="right", rotation_mode="anchor", fontsize=7)
        axes.set_yticks(range(len(methods)), methods, fontsize=7)
        axes.set_title(prediction(example).replace("\n", " "), fontsize=8)
        axes.grid(visible=False)
    figure.suptitle(f"{title(result)}: red words count for the prediction, blue ones against it", fontsize=9)
    return figure


@utils.plot_style()
def plot_curves(result: dict) -> Figure:
    """The predicted class's probability by the share that is removed or inserted; random order in all panels."""
    random, *others = result["methods"]
    groups = [[random, *others[:3]], [random, *others[3:]]]
    figure = Figure(figsize=(6.4, 4.4))
    panels = figure.subplots(len(groups), 2, sharex=True, sharey=True)
    for row, methods in zip(panels, groups, strict=True):
        for axes, way in zip(row, WAYS, strict=True):
            for style, method in zip(STYLES, methods, strict=False):
                curve = result["methods"][method]["curves"][way]
                axes.plot(np.linspace(0, 100, len(curve)), curve, label=method, lw=1.4, **style)
            axes.set(ylim=(0, 1.02))
        row[0].set_ylabel("probability")
        row[0].legend(fontsize=7)
    what = "pixels" if of_pictures(result) else "words"
    for top, bottom, (way, (done, better)) in zip(*panels, WAYS.items(), strict=True):
        top.set_title(f"{way}: a {better} curve is better")
        bottom.set_xlabel(f"{what} {done}, the most important first (%)")
    figure.suptitle(title(result), fontsize=9)
    return figure


@utils.plot_style()
def plot_scores(result: dict) -> Figure:
    """Every method's areas under both curves beside the random map's, and what new weights leave of its map."""
    methods = result["methods"]
    figure = Figure(figsize=(6.6, 2.9))
    deletion, insertion, redrawn = figure.subplots(1, 3, sharey=True)
    for axes, (way, (_, better)) in zip((deletion, insertion), WAYS.items(), strict=True):
        found = [method["less_random"][way] for method in methods.values()]
        draw_points(axes, [each["mean"] for each in found], [each["standard_error"] for each in found], "o", 0)
        axes.axvline(0, color="0.5", lw=0.8, ls=":")
        axes.set(xlabel="area, less that of random", title=f"{way}: {better} is better")
    for colour, (name, marker) in enumerate(REDRAWN, 1):
        found = [method["scores"][name] for method in methods.values()]
        draw_points(
            redrawn, [each["mean"] for each in found], [each["std"] or 0 for each in found], marker, colour, name
        )
    redrawn.set(xlabel="rank correlation", title="weights drawn anew", xlim=(-0.25, 1.1))
    figure.legend(loc="outside lower right", ncols=3, fontsize=7)
    for axes in (deletion, insertion, redrawn):
        axes.title.set_fontsize(8)
        axes.xaxis.label.set_fontsize(8)
    deletion.set_yticks(range(len(methods)), list(methods))
    deletion.invert_yaxis()
    figure.suptitle(title(result), fontsize=9)
    return figure


def draw_points(
    axes: Axes, means: list[float], errors: list[float], marker: str, colour: int, label: str | None = None
) -> None:
    axes.errorbar(
        means, range(len(means)), xerr=errors, fmt=marker, ms=4, capsize=2, color=utils.COLOURS[colour], label=label
    )


draw = partial(drawing.draw, plots)
