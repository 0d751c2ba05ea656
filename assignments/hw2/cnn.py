"""Homework 2: cats against dogs, with a small residual network.

python assignments/hw2/cnn.py --data_root DATA                       2,000 training images, as many as the course has
python assignments/hw2/cnn.py --data_root DATA --train_size 9000 --validation_size 1000 --seeds 0 1 2
python assignments/hw2/cnn.py --dataset cats_and_dogs_filtered       the course's own photographs

Letters: B batch, C channels, S the images' size.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import math
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

import records
import utils
from assignments.hw2.cats_dogs import CLASSES, FOLDER, load_cats_dogs
from command_line import (
    COUNT,
    DEVICES,
    NOT_NEGATIVE,
    POSITIVE,
    PRECISIONS,
    SEED,
    SEEDS,
    SHARE,
    check_flags,
    flag,
    within,
)
from common import cifar
from common.classification import (
    confident_mistakes,
    confusion_matrix,
    get_number_trainable_params,
    majority_baseline,
    predict,
)
from common.geometry import cut_out, jitter, mirrored
from common.grid import Training, results_side_by_side
from common.processes import precision_of
from common.recipes import adamw
from common.residual import ResidualCNN
from image_data import ImageData

WIDTHS = (32, 64, 128)  # channels of the stem and of the two residual blocks
CUT = 0.4  # side of the square that training images lack, as a share of theirs
AVERAGE_DECAY = 0.995  # of the moving average of the weights, per step
DATASETS = (cifar.JPEG, "cifar10", FOLDER)
SHOWN = 6  # examples of each kind that a result keeps
LAYERS, MAPS = {"stem": "stem", "blocks.0": "first block", "blocks.2": "second block"}, 8  # whose maps it keeps


@dataclass(frozen=True)
class Config(Training):
    """The flags."""

    dataset: str = flag(cifar.JPEG, "cifar10_jpeg, cifar10 or cats_and_dogs_filtered", choices=DATASETS, metavar="NAME")
    data_root: str = flag("data", "folder of the data")
    download: bool = flag(False, "let torchvision fetch cifar10 first (170 MB)")
    train_size: int = flag(2000, "training images, half of them cats", within(2, 9998))
    validation_size: int = flag(500, "images for validation, likewise", within(2, 9998))
    image_size: int = flag(32, "pixels on a side, of pictures that are larger", within(16, 256))
    epochs: int = flag(100, "passes over the training images", COUNT)
    batch_size: int = flag(64, "images per step", COUNT)
    learning_rate: float = flag(3e-3, "largest step size of AdamW, which falls to 0", POSITIVE)
    weight_decay: float = flag(0.05, "weight decay", NOT_NEGATIVE)
    dropout: float = flag(0.3, "probability of dropping a feature before the last layer", SHARE)
    smoothing: float = flag(0.1, "share of a label that is spread over both classes", SHARE)
    no_augment: bool = flag(False, "train on the images as they are, neither mirrored nor moved")
    seed: int = flag(0, "seed of the weights and the order", SEED)
    seeds: tuple[int, ...] = flag((), "train once per seed, side by side", SEEDS, shown="only SEED")
    device: str = flag("auto", "auto, cpu, cuda or mps", choices=DEVICES)
    mixed_precision: str = flag("auto", "auto: bf16 where the device computes in it; no; or bf16", choices=PRECISIONS)
    out: str = flag("runs", "folder for results, plots and checkpoints")
    resume: bool = flag(False, "go on from the checkpoints of the same command")
    overwrite: bool = flag(False, "replace a run of the same name with other settings or data")

    QUESTION: ClassVar[str] = "assignments"
    ASIDE: ClassVar[tuple[str, ...]] = ("data_root", "download", "seeds", "device", "out", "resume", "overwrite")

    __post_init__ = check_flags

    @property
    def precision(self) -> str:
        return precision_of(self.mixed_precision, self.device)

    def settings(self) -> dict:
        return super().settings() | {"mixed_precision": self.precision}

    @property
    def run_name(self) -> str:
        kind = f"{self.dataset}-{self.train_size}" + ("-plain" if self.no_augment else "")
        return f"hw2-cnn-{kind}" + ("" if self.seeds else f"-seed{self.seed}")


class CNN(ResidualCNN):
    """Class scores (B, 2) of images (B, 3, S, S) of any size from 16 pixels."""

    def __init__(self, dropout: float = 0.3):
        super().__init__(3, WIDTHS, len(CLASSES), dropout)


# --- the course's functions --------------------------------------------------------------------------


def get_loss_and_correct(
    model: nn.Module, batch: tuple[Tensor, Tensor], criterion: nn.Module, device: str | torch.device
) -> tuple[Tensor, Tensor]:
    """The loss of a batch of images and labels, and how many of them are classified correctly."""
    images, labels = (part.to(device) for part in batch)
    logits = model(images)
    return criterion(logits, labels), (logits.argmax(1) == labels).sum()


def step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step down the gradient of a loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def intermediate_output(model: nn.Module, image: Tensor, layer: nn.Module) -> Tensor:
    """What a layer of the network makes of one image (3, S, S): its maps (C, height, width)."""
    found = []
    hook = layer.register_forward_hook(lambda module, inputs, output: found.append(output[0]))
    try:
        model.eval()(image[None])
    finally:
        hook.remove()
    return found[0].cpu()


@utils.plot_style()
def plot_intermediate_output(maps: Tensor, title: str = "", count: int = 16) -> Figure:
    """The first maps (C, height, width) of a layer, each scaled by itself."""
    shown = maps[:count]
    columns = min(8, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(0.8 * columns, 0.8 * rows + 0.3))
    for axes in (panels := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, values in zip(panels.flat, shown, strict=False):
        axes.imshow(values.numpy(), cmap="viridis")
    figure.suptitle(title, fontsize=9)
    return figure


def mirrored_scores(model: nn.Module, images: Tensor) -> Tensor:
    """Class scores (N, 2), the mean of those of each image and of its mirror image."""
    return (predict(model, images) + predict(model, images.flip(-1))) / 2


def mirrored_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (mirrored_scores(model, images).argmax(1) == labels).double().mean().item()


# --- training ----------------------------------------------------------------------------------------


def moved(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A batch with half of its images mirrored, all turned, scaled and moved a little, and a square missing in each."""
    images, labels = batch
    images = jitter(mirrored(images))
    return cut_out(images, round(CUT * images.shape[-1])), labels


def load(config: Config) -> ImageData:
    if config.download:
        cifar.torchvision_set("cifar10")(config.data_root, download=True)
    sizes = (config.train_size, config.validation_size, config.image_size)
    return load_cats_dogs(config.dataset, config.data_root, *sizes)


def train(config: Config, data: ImageData) -> dict:
    """Train one network, and test it; the body of its result."""
    utils.configure_seed(config.seed)
    model = CNN(config.dropout).to(memory_format=torch.channels_last)
    optimizer = adamw(model, config.learning_rate, config.weight_decay)
    batches = utils.Batches(data.train, config.batch_size, config.seed)
    few = tuple(part[:: max(1, len(part) // len(data.val[1]))] for part in data.train)  # as many as for validation

    def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        images = images.contiguous(memory_format=torch.channels_last)
        return F.cross_entropy(model(images), labels, reduction="none", label_smoothing=config.smoothing)

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"train_accuracy": mirrored_accuracy(model, *few), "val_accuracy": mirrored_accuracy(model, *data.val)}

    history = utils.fit(
        model, batches, optimizer, loss_fn=losses, evaluate=evaluate, epochs=config.epochs, seed=config.seed,
        augment=None if config.no_augment else moved, average_decay=AVERAGE_DECAY,
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, config.epochs * len(batches)),
        checkpoint=config.file(".ckpt"), config=config.settings() | {"data": data.digest}, resume=config.resume,
        overwrite=config.overwrite, device=config.device, mixed_precision=config.precision,
    )  # fmt: skip
    log_probs, labels = mirrored_scores(model, data.test[0]).log_softmax(1), data.test[1]
    parts = {"train": few, "validation": data.val, "test": data.test}
    return {
        "parameters": get_number_trainable_params(model),
        "history": history,
        "metrics": {
            part: {"accuracy": records.mean_std([mirrored_accuracy(model, *images)])} for part, images in parts.items()
        },
        "confusion_matrix": confusion_matrix(log_probs, labels),
        "examples": examples(data, log_probs),
        "responses": responses(model, data),
        "baseline": majority_baseline(data),
    }


def examples(data: ImageData, log_probs: Tensor) -> dict:
    """Test images, as bytes: the first ones that are classified correctly, and the most confident mistakes."""
    labels = data.test[1]
    right = (log_probs.argmax(1) == labels).nonzero().flatten()
    correct = [i for kind in range(len(CLASSES)) for i in right[labels[right] == kind][: SHOWN // 2].tolist()]
    wrong = [mistake["index"] for mistake in confident_mistakes(log_probs, labels, SHOWN)]
    pixels = data.pixels("test").mul(255).round().byte().permute(0, 2, 3, 1)  # (N, S, S, 3)
    return {
        kind: [{"true": CLASSES[labels[i]], "pixels": pixels[i].flatten(0, 1).tolist()} for i in indices]
        for kind, indices in (("correct", correct), ("wrong", wrong))
    }


def responses(model: nn.Module, data: ImageData) -> dict:
    """What each layer of LAYERS makes of the first test image: its first maps as bytes, from each map's least value."""
    image, maps = data.test[0][0], {}
    for layer in LAYERS:
        found = intermediate_output(model, image, model.get_submodule(layer))[:MAPS].flatten(1)  # (MAPS, pixels)
        least, most = found.amin(1, keepdim=True), found.amax(1, keepdim=True)
        maps[layer] = ((found - least) / (most - least).clamp(min=1e-12) * 255).round().byte().tolist()
    pixels = data.pixels("test")[0].mul(255).round().byte().permute(1, 2, 0)  # (S, S, 3)
    return {"true": CLASSES[data.test[1][0]], "pixels": pixels.flatten(0, 1).tolist(), "maps": maps}


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    start, data = time.perf_counter(), load(config)
    described = data.describe()
    with records.claim(config.out, config.head(described), config.overwrite):
        if not config.seeds:
            body = train(config, data)
        else:
            singles = [replace(config, seeds=(), download=False, seed=seed) for seed in config.seeds]
            trials = results_side_by_side(singles, lambda single: single.head(described), ("history:list",))
            body = summary(trials)
    return config.head(described) | {"seconds": time.perf_counter() - start} | body


def summary(results: list[dict]) -> dict:
    """The body of a result of several seeds."""
    first = results[0]
    means = {
        part: {"accuracy": records.mean_std([r["metrics"][part]["accuracy"]["mean"] for r in results])}
        for part in first["metrics"]
    }
    trials = [{key: r[key] for key in ("seeds", "history", "confusion_matrix")} for r in results]
    seconds = sum(epoch["seconds"] for trial in trials for epoch in trial["history"])  # also of what was resumed
    kept = {key: first[key] for key in ("parameters", "examples", "responses", "baseline")}
    return kept | {"trials": trials, "metrics": means, "seconds": seconds}


# --- what was found ----------------------------------------------------------------------------------

EXAMPLES = {"correct": "right", "wrong": "most confident\nmistakes"}
NAMES = cifar.TITLES | {FOLDER: FOLDER}
KEYS = ("metrics.test.accuracy.mean:number", "examples.*.*.pixels.*.*:number", "responses.maps.*.*.*:number",
        "responses.pixels.*.*:number", "data.name:text")  # fmt: skip


@utils.plot_style()
def plot_accuracies(result: dict) -> Figure:
    """Accuracy on training and validation images after each epoch: their gap is what overfitting looks like."""
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    histories = [trial["history"] for trial in result.get("trials", [result])]
    for key, label in (("train_accuracy", "training images"), ("val_accuracy", "validation images")):
        utils.draw_curves(axes, histories, key, 100, label=label)
    utils.epoch_axis(axes, ylabel="accuracy (%)")
    axes.legend()
    figure.suptitle(title(result), fontsize=9)
    return figure


@utils.plot_style()
def plot_examples(result: dict) -> Figure:
    """Test images that are classified correctly, and the most confident mistakes, with what they show."""
    size = square(result["examples"]["correct"][0]["pixels"])
    figure = Figure(figsize=(1.0 * SHOWN + 0.4, 2.5))
    panels = figure.subplots(2, SHOWN, squeeze=False)
    for line, (kind, shown) in zip(panels, result["examples"].items(), strict=True):
        for axes, example in zip(line, shown, strict=False):
            axes.imshow(np.reshape(example["pixels"], (*size, 3)))
            axes.set_title(example["true"], fontsize=8)
        line[0].set_ylabel(EXAMPLES[kind], fontsize=8)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    figure.suptitle(title(result), fontsize=9)
    return figure


@utils.plot_style()
def plot_responses(result: dict) -> Figure:
    """What the first maps of some layers respond to in one test image, a line for each layer."""
    shown = result["responses"]
    figure = Figure(figsize=(0.68 * (MAPS + 2), 0.72 * len(LAYERS) + 0.4))
    panels = figure.subplots(len(LAYERS), MAPS + 2)
    for axes in panels.flat:
        axes.set_axis_off()
    panels[0, 1].imshow(np.reshape(shown["pixels"], (*square(shown["pixels"]), 3)))
    for line, (layer, maps) in zip(panels, shown["maps"].items(), strict=True):
        rows, columns = square(maps[0])
        line[0].text(0.5, 0.5, f"{LAYERS[layer]}\n{rows}x{columns}", ha="center", va="center", fontsize=8)
        for axes, values in zip(line[2:], maps, strict=True):
            axes.imshow(np.reshape(values, (rows, columns)), cmap="viridis")
    figure.suptitle(f"{title(result)}: what layers respond to in a {shown['true']}", fontsize=9)
    return figure


def square(pixels: list) -> tuple[int, int]:
    side = round(len(pixels) ** 0.5)
    return side, side


def title(result: dict) -> str:
    return f"Cats and dogs of {NAMES[result['data']['name']]}, {result['data']['sizes']['train']:,} to train on"


PLOTS = {"accuracies": plot_accuracies, "examples": plot_examples, "responses": plot_responses}


def draw(paths, out: str | Path) -> list[Path]:
    """Draw the plots of each result, as OUT/assignments/<run>-<plot>.pdf and .png."""
    drawn = []
    for path in paths:
        result = records.load_result(path, *KEYS)
        for name, plot in PLOTS.items():
            drawn += utils.save_figure(plot(result), Path(out) / "assignments" / f"{result['run']}-{name}", path)
    return drawn


def print_result(result: dict) -> None:
    count = result["data"]["sizes"]["test"]
    test = result["metrics"]["test"]["accuracy"]
    error = 100 * math.sqrt(test["mean"] * (1 - test["mean"]) / count)
    print(f"\n{title(result)}, {result['parameters']:,} parameters; accuracy in %")
    for part, scores in result["metrics"].items():
        print(f"  {part:11} {records.spread(scores['accuracy'], 100, 2)}")
    print(f"  always {result['baseline']['class']}: {100 * result['baseline']['accuracy']['test']:.1f}")
    print(f"the test's {count:,} images alone give its accuracy a standard error of {error:.2f} points")


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
