"""Lab 3: features learnt without labels: how many labels do they save, when the labelled images are few?

python lab3/self_supervised.py                                     SimCLR on scikit-learn's digits, and a linear probe
python lab3/self_supervised.py --method scratch --dataset cifar10_jpeg --data_root DATA --train_size 10000
python lab3/self_supervised.py --study labels                      all methods, by the number of labels

SimCLR (Chen et al. 2020) trains a network to tell, among all images of a batch, which is another view of the same one.

Letters: B batch, C channels, S the images' size, N images, D features.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import records
import utils
from command_line import COUNT, POSITIVE, flag, within
from common import cifar
from common.classification import accuracy, get_number_trainable_params, majority_baseline, predict
from common.geometry import mirrored, reframe
from common.recipes import adamw, cycle
from image_data import ImageData
from lab3 import board, photographs, self_supervised_plots, small_pictures, study
from lab3.small_pictures import PictureSettings, Select
from lab3.study import varied
from lab3.vision_networks import Basic, Staged

CIFAR_LABELS = (100, 500, 2000, 10_000)
LABELS = {  # how many training images have a label, of those that there are
    "digits": (50, 200, 1000), "pneumoniamnist": (100, 500, 2000), "cifar10_jpeg": CIFAR_LABELS, "cifar10": CIFAR_LABELS
}  # fmt: skip
METHODS = ("simclr", "scratch", "random", "pixels")
WIDTH, DEPTH = 16, 1  # channels of the first stage, and blocks of each
PROJECTED = 64  # what the contrastive loss sees of an image
SMALLEST_CROP = 0.25  # share of an image's area
BRIGHTNESS, CONTRAST, TINT = 0.4, 0.4, 0.2  # largest changes of a view, of pixels from -1 to 1
GREY = 0.2  # chance that a view has no colour
SCRATCH_RATE, SCRATCH_BATCH, SCRATCH_EPOCHS = 2e-3, 64, 30
SCRATCH_IMAGES = 2000  # of an epoch at least: fewer labelled images are seen several times in it
WEIGHT_DECAY = 0.05
STRENGTHS = tuple(10.0**power for power in range(-5, 3))  # the inverse of logistic regression's penalty


@dataclass(frozen=True)
class Config(PictureSettings):
    """The flags."""

    dataset: str = flag("digits", ", ".join(LABELS), choices=tuple(LABELS), metavar="NAME")
    study: str | None = flag(None, "several: labels", choices=("labels",))
    method: str = flag("simclr", "where features come from: " + ", ".join(METHODS), choices=METHODS)
    epochs: int = flag(20, "passes over them without labels", COUNT)
    batch_size: int = flag(256, "images per step, each in two views", within(2, 4096))
    learning_rate: float = flag(2e-3, "largest step size of AdamW, without labels", POSITIVE)
    temperature: float = flag(0.5, "what similarities are divided by", POSITIVE)

    SCRIPT: ClassVar[str] = "self_supervised"


# --- SimCLR ------------------------------------------------------------------------------------------


def views(images: Tensor, mirror: bool) -> Tensor:
    """Another random view of each image (B, C, S, S), of values from -1 to 1: cropped, mirrored, in other colours."""

    def uniform(limit: float | Tensor, channels: int = 1) -> Tensor:
        return (2 * torch.rand(len(images), channels, 1, 1, device=images.device) - 1) * limit

    side = (SMALLEST_CROP + (1 - SMALLEST_CROP) * uniform(1).abs()).sqrt()  # (B, 1, 1, 1), in sides of the image
    cropped = reframe(images, torch.zeros_like(side), side, (uniform(1 - side), uniform(1 - side)))
    seen = mirrored(cropped) if mirror else cropped
    if images.shape[1] > 1:
        seen = seen * uniform(TINT, images.shape[1]).exp()
        chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < GREY
        seen = torch.where(chosen, seen.mean(1, keepdim=True), seen)
    mean = seen.mean((1, 2, 3), keepdim=True)
    return ((seen - mean) * uniform(CONTRAST).exp() + mean + uniform(BRIGHTNESS)).clamp(-1, 1)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The losses (2 B,) of projected views (B, D) and (B, D), NT-Xent of Chen et al. 2020.

    Each view is to be found by its partner, among all other views of the batch: the cross-entropy of their cosines,
    divided by the temperature.
    """
    both = F.normalize(torch.cat([first, second]))  # (2 B, D)
    cosines = both @ both.T
    itself = torch.eye(len(both), dtype=torch.bool, device=both.device)
    partners = torch.arange(len(both), device=both.device).roll(len(first))
    return F.cross_entropy((cosines / temperature).masked_fill(itself, -math.inf), partners, reduction="none")


def backbone(data: ImageData) -> Staged:
    """Class scores of images; its features are what goes into the head."""
    network = Staged(Basic, data.train[0].shape[1], WIDTH, DEPTH, len(data.class_names))
    return network.to(memory_format=torch.channels_last)


def pretrain(config: Config, network: Staged, data: ImageData) -> list[dict]:
    """Train a network without labels, and drop its projection again; returns the history."""
    features = network.head.in_features
    network.head = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, PROJECTED))
    mirror = config.dataset in cifar.NAMES  # digits and chests have a left and a right
    optimizer = adamw(network, config.learning_rate, WEIGHT_DECAY)
    batches = utils.Batches(data.train[:1], config.batch_size, config.seed)
    # as many as in a step, so that a view is as hard to find; from all classes, and drawn once
    watched = data.val[0][:: max(1, len(data.val[0]) // config.batch_size)][: config.batch_size]
    watched = torch.cat([views(watched, mirror), views(watched, mirror)])

    def losses(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        return nt_xent(*model(batch[0].contiguous(memory_format=torch.channels_last)).chunk(2), config.temperature)

    def both_views(batch: tuple[Tensor]) -> tuple[Tensor]:
        return (torch.cat([views(batch[0], mirror), views(batch[0], mirror)]),)

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"val_loss": nt_xent(*predict(model, watched).chunk(2), config.temperature).mean().item()}

    history = utils.fit(
        network, batches, optimizer, loss_fn=losses, augment=both_views, evaluate=evaluate, epochs=config.epochs,
        scheduler=cycle(optimizer, config.epochs * len(batches)), seed=config.seed, device=config.device,
        tensorboard=board.folder(config),
    )  # fmt: skip
    network.head = nn.Identity()
    return history


# --- what the labels are used for --------------------------------------------------------------------


def labelled(data: ImageData, seed: int) -> dict[int, np.ndarray]:
    """The places of the labelled training images, by their number; the first ones stay with a larger number."""
    labels = data.train[1].numpy()
    classes = len(data.class_names)
    return {
        size: photographs.balanced(labels, size, classes, seed) for size in LABELS[data.name] if size <= len(labels)
    }


def probe(train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray]) -> tuple[Pipeline, float]:
    """Logistic regression on features (N, D) and labels (N,), and its C: the one of the least validation loss.

    A larger C than the first that makes that loss worse is not tried: the fit takes ever longer.
    """
    best, chosen, lowest = None, math.nan, math.inf
    for strength in STRENGTHS:
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500)).fit(*train)
        loss = log_loss(val[1], fitted.predict_proba(val[0]), labels=fitted.classes_)
        if loss >= lowest:
            break
        best, chosen, lowest = fitted, strength, loss
    return best, chosen


def by_probes(config: Config, data: ImageData) -> dict:
    """Features that no label has changed, and a linear probe for each number of labels; the body of a result."""
    network, history, trained = backbone(data), [], 0
    if config.method == "simclr":
        history = pretrain(config, network, data)
        trained = get_number_trainable_params(network)
    network.head = nn.Identity()
    features = {
        part: (features_of(config, network, images), labels.numpy())
        for part, (images, labels) in {"train": data.train, "val": data.val, "test": data.test}.items()
    }
    metrics, strengths = {"validation": {}, "test": {}}, {}
    for size, places in labelled(data, config.seed).items():
        some = tuple(array[places] for array in features["train"])
        best, strengths[str(size)] = probe(some, features["val"])
        for name, part in (("validation", "val"), ("test", "test")):
            metrics[name][str(size)] = records.mean_std([best.score(*features[part])])
    return {"parameters": trained, "history": history, "strengths": strengths, "metrics": metrics}


def features_of(config: Config, network: nn.Module, images: Tensor) -> np.ndarray:
    """What a method's probes see of images: (N, D)."""
    return (images.flatten(1) if config.method == "pixels" else predict(network, images)).numpy()


def from_scratch(config: Config, data: ImageData) -> dict:
    """A network trained for each number of labels, on the labelled images alone; the body of a result."""
    history, metrics = [], {"validation": {}, "test": {}}
    for size, places in labelled(data, config.seed).items():
        utils.configure_seed(config.seed)
        network = backbone(data)
        places = np.tile(places, max(1, SCRATCH_IMAGES // size))
        train = tuple(tensor[torch.from_numpy(places)] for tensor in data.train)
        history += [{"labels": size} | epoch for epoch in train_on(config, network, train, data)]
        for name, part in (("validation", data.val), ("test", data.test)):
            metrics[name][str(size)] = records.mean_std([accuracy(network, *part)])
    return {"parameters": get_number_trainable_params(network), "history": history, "metrics": metrics}


def train_on(config: Config, network: nn.Module, train: tuple[Tensor, Tensor], data: ImageData) -> list[dict]:
    """Train a network on labelled images; the epoch is kept that is best on the validation images."""
    optimizer = adamw(network, SCRATCH_RATE, WEIGHT_DECAY)
    batches = utils.Batches(train, SCRATCH_BATCH, config.seed)

    def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return F.cross_entropy(model(images.contiguous(memory_format=torch.channels_last)), labels, reduction="none")

    def moved(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return photographs.augmented(config.dataset, batch[0], batch[0].shape[-1]), batch[1]

    return utils.fit(
        network, batches, optimizer, loss_fn=losses, augment=moved, epochs=SCRATCH_EPOCHS, seed=config.seed,
        evaluate=lambda model: {"val_accuracy": accuracy(model, *data.val)},
        keep_best=lambda metrics: metrics["val_accuracy"],
        scheduler=cycle(optimizer, SCRATCH_EPOCHS * len(batches)), device=config.device,
    )  # fmt: skip


def train(config: Config, data: ImageData) -> dict:
    """Use all images and some labels by one method, and test it; the body of its result."""
    utils.configure_seed(config.seed)
    body = (from_scratch if config.method == "scratch" else by_probes)(config, data)
    return body | {"baseline": majority_baseline(data)}


# --- the study ---------------------------------------------------------------------------------------


def compare(config: Config, select: Select) -> dict:
    """Train every method with its seeds, side by side; the body of the study's result."""
    groups = varied(config, {method: {"method": method} for method in METHODS})
    keys = ("metrics:dict", "parameters:number", "seconds:number", "baseline:dict")
    trials = study.train_all(groups, lambda single: select(single).describe(), keys)
    models = {
        method: {
            "settings": group[0]["config"],
            "seeds": [trial["seeds"][0] for trial in group],
            "parameters": group[0]["parameters"],
            "metrics": study.over_seeds(group),
            "history": [trial["history"] for trial in group],
            "seconds": records.mean_std([trial["seconds"] for trial in group]),
        }
        for method, group in trials.items()
    }
    seconds = sum(trial["seconds"] for group in trials.values() for trial in group)
    return {"models": models, "baseline": trials["simclr"][0]["baseline"], "seconds": seconds}


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    return small_pictures.run(config, train, compare)


def print_result(result: dict) -> None:
    print(f"\n{self_supervised_plots.title(result)}; test accuracy in %, by the number of labels")
    for method, model in self_supervised_plots.models(result).items():
        cells = [f"{size}: {records.spread(found, 100)}" for size, found in model["metrics"]["test"].items()]
        print(f"  {self_supervised_plots.METHODS[method]:34}{', '.join(cells)}")
    print(f"  always {result['baseline']['class']}: {100 * result['baseline']['accuracy']['test']:.1f}")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    return study.main(command_line.parse(Config, argv, __doc__), run, print_result, self_supervised_plots.draw)


if __name__ == "__main__":
    sys.exit(main())
