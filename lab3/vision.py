"""Lab 3: vision networks, equal in data and steps: what is a kind of block worth at equal size, what is a larger size?

python lab3/vision.py                                              a residual network on scikit-learn's digits
python lab3/vision.py --network cbam --dataset cifar10_jpeg --data_root DATA --train_size 5000
python lab3/vision.py --study rates                                which step size suits a family, by validation
python lab3/vision.py --study networks                             all networks

Letters: B batch, C channels, S the images' size, K classes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from torch import Tensor, nn

import records
import utils
from command_line import COUNT, NOT_NEGATIVE, PRECISIONS, flag
from common.classification import (
    get_number_trainable_params,
    inference_time,
    majority_baseline,
    multiply_adds,
    predict,
    some,
)
from common.processes import precision_of
from common.recipes import adamw, cycle
from image_data import ImageData
from lab3 import board, photographs, small_pictures, study, vision_plots
from lab3 import vision_networks as blocks
from lab3.small_pictures import PictureSettings, Select
from lab3.study import varied
from lab3.vision_networks import Staged, compound
from vision_transformer import VisionTransformer

DEPTH, SIZE = 2, 32  # blocks of a stage; and the pixels from which compound scaling starts
# each with the width of its first stage that gives it about 275,000 parameters
STAGED: dict[str, tuple[blocks.Block, int]] = {
    "plain": (blocks.Plain, 20),
    "basic": (blocks.Basic, 20),
    "preactivation": (blocks.Preactivation, 20),
    "bottleneck": (blocks.Bottleneck, 72),
    "excited": (partial(blocks.Basic, attention=blocks.SqueezeExcitation), 20),
    "cbam": (partial(blocks.Basic, attention=blocks.cbam), 20),
}
EFFICIENT_WIDTH = 28
EFFICIENT = {f"efficient{phi}": phi for phi in range(3)}  # the first of that size, the others scaled
NETWORKS = (*STAGED, *EFFICIENT, "vit")
FAMILIES = {"convolutional": "basic", "efficient": "efficient0", "vit": "vit"}  # with whom --study rates looks
RATES = {"convolutional": 2e-3, "efficient": 2e-3, "vit": 1e-3}
TRIED = (5e-4, 1e-3, 2e-3, 4e-3)
VIT = {"dim": 72, "depth": 6, "num_heads": 4, "mlp_dim": 144}
PATCH = 4  # pixels on a side
WATCHED = 1000  # images whose accuracy is measured after each epoch
TIMED = 200  # images whose time is measured


@dataclass(frozen=True)
class Config(PictureSettings):
    """The flags."""

    study: str | None = flag(None, "several: rates or networks", choices=("rates", "networks"), metavar="NAME")
    network: str = flag("basic", ", ".join(NETWORKS), choices=NETWORKS, metavar="NAME")
    epochs: int = flag(20, "passes over them", COUNT)
    batch_size: int = flag(64, "images per step", COUNT)
    learning_rate: float = flag(0.0, "largest step size of AdamW", NOT_NEGATIVE, shown="2e-3, of vit 1e-3")
    weight_decay: float = flag(0.05, "weight decay", NOT_NEGATIVE)
    no_test: bool = flag(False, "leave the test images alone")
    mixed_precision: str = flag("no", "no; bf16; or auto: bf16 where the device computes in it", choices=PRECISIONS)

    SCRIPT: ClassVar[str] = "vision"

    @property
    def family(self) -> str:
        return "efficient" if self.network in EFFICIENT else "vit" if self.network == "vit" else "convolutional"

    @property
    def rate(self) -> float:
        return self.learning_rate or RATES[self.family]

    def settings(self) -> dict:
        precision = precision_of(self.mixed_precision, self.device)
        return super().settings() | {"learning_rate": self.rate, "mixed_precision": precision}


def build(network: str, channels: int, size: int, num_classes: int) -> nn.Module:
    """A network of NETWORKS for images of `size` pixels; the scaled ones see them larger."""
    if network == "vit":
        return VisionTransformer((channels, size, size), PATCH, **VIT, num_classes=num_classes)
    if network in EFFICIENT:
        scaled = compound(EFFICIENT[network], DEPTH, EFFICIENT_WIDTH, SIZE)
        resolution = round(size * scaled.resolution / SIZE)
        block, width, depth = blocks.InvertedBottleneck, scaled.width, scaled.depth
        return Staged(block, channels, width, depth, num_classes, resolution if resolution != size else None)
    block, width = STAGED[network]
    return Staged(block, channels, width, DEPTH, num_classes)


# --- training ----------------------------------------------------------------------------------------


def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    # convolutions are faster with the channels last; the patches of a Vision Transformer are cut out of either
    images = images.contiguous(memory_format=torch.channels_last)
    return F.cross_entropy(model(images), labels, reduction="none")  # (B,)


def train(config: Config, data: ImageData) -> dict:
    """Train one network, and test it; the body of its result."""
    utils.configure_seed(config.seed)
    channels, size = data.train[0].shape[1:3]
    model = build(config.network, channels, size, len(data.class_names)).to(memory_format=torch.channels_last)
    cost = {
        "parameters": get_number_trainable_params(model),
        "multiply_adds": multiply_adds(model, data.train[0].shape[1:]),
        "inference_us_per_image": inference_time(model, data.val[0][:TIMED]),
    }
    optimizer = adamw(model, config.rate, config.weight_decay)
    batches = utils.Batches(data.train, config.batch_size, config.seed)
    watched = some(data.val, WATCHED)

    def augment(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return photographs.augmented(config.dataset, batch[0], size), batch[1]

    history = utils.fit(
        model, batches, optimizer, loss_fn=losses, augment=augment, epochs=config.epochs, seed=config.seed,
        evaluate=lambda model: {"val_accuracy": scores(model, watched)["accuracy"]},
        scheduler=cycle(optimizer, config.epochs * len(batches)), checkpoint=config.file(".ckpt"),
        config=config.settings() | {"data": data.digest}, resume=config.resume, overwrite=config.overwrite,
        device=config.device, mixed_precision=config.settings()["mixed_precision"], tensorboard=board.folder(config),
    )  # fmt: skip
    parts = {"train": some(data.train, len(data.val[1])), "validation": data.val}
    parts |= {} if config.no_test else {"test": data.test}
    return {
        **cost,
        "history": history,
        "training_seconds": sum(epoch["seconds"] for epoch in history),
        "peak_memory": records.peak_memory(),
        "metrics": {
            part: {name: records.mean_std([value]) for name, value in scores(model, images).items()}
            for part, images in parts.items()
        },
        "baseline": majority_baseline(data),
    }


def scores(model: nn.Module, part: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Accuracy, and the mean over classes of F1, the harmonic mean of precision and recall."""
    images, labels = part
    predicted = predict(model, images).argmax(1)
    return {
        "accuracy": (predicted == labels).double().mean().item(),
        "f1": float(f1_score(labels.numpy(), predicted.numpy(), average="macro")),
    }


# --- studies -----------------------------------------------------------------------------------------


def variants(config: Config) -> dict[str, list[Config]]:
    """What a study trains: for each variant its name, and its configuration with every seed."""
    if config.study == "networks":
        return varied(config, {name: {"network": name} for name in NETWORKS})
    changes = {
        f"{family}, {rate:g}": {"network": network, "learning_rate": rate, "no_test": True}
        for family, network in FAMILIES.items()
        for rate in TRIED
    }
    return varied(replace(config, seeds=config.seeds[:1]), changes)


def compare(config: Config, select: Select) -> dict:
    """Train every variant with its seeds, side by side; the body of the study's result."""
    keys = ("history:list", "metrics:dict", "parameters:number", "multiply_adds:number", "seconds:number")
    trials = study.train_all(variants(config), lambda single: select(single).describe(), keys)
    results = [trial for group in trials.values() for trial in group]
    return {
        "models": {name: summary(group) for name, group in trials.items()},
        "baseline": results[0]["baseline"],
        "seconds": sum(result["seconds"] for result in results),
    }


def summary(trials: list[dict]) -> dict:
    """One variant: means and deviations over its seeds, with what it took."""
    first = trials[0]
    return {
        "settings": {key: first["config"][key] for key in ("network", "learning_rate", "epochs", "train_size")},
        "seeds": [trial["seeds"][0] for trial in trials],
        "parameters": first["parameters"],
        "multiply_adds": first["multiply_adds"],
        "inference_us_per_image": records.mean_std([trial["inference_us_per_image"] for trial in trials]),
        "metrics": study.over_seeds(trials),
        "gap": study.gap(trials),
        "training_seconds": records.mean_std([trial["training_seconds"] for trial in trials]),
        "peak_memory": max((trial["peak_memory"] for trial in trials if trial["peak_memory"]), default=None),
    }


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    return small_pictures.run(config, train, compare)


def print_result(result: dict) -> None:
    print(f"\n{vision_plots.title(result)}; accuracy in %")
    for name, model in result.get("models", {result["config"]["network"]: result}).items():
        cells = [f"{part} {records.spread(scores['accuracy'], 100)}" for part, scores in model["metrics"].items()]
        print(
            f"  {name:20}{model['parameters']:9,} parameters{model['multiply_adds'] / 1e6:7.1f} million"
            f" multiply-adds  {', '.join(cells)}"
        )
    print(f"  always {result['baseline']['class']}: {100 * result['baseline']['accuracy']['test']:.1f}")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    return study.main(command_line.parse(Config, argv, __doc__), run, print_result, vision_plots.draw)


if __name__ == "__main__":
    sys.exit(main())
