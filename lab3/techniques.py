"""Lab 3: one small network, one technique of training at a time: what does each gain, and what does it do to the gap?

python lab3/techniques.py                                          the base on scikit-learn's digits
python lab3/techniques.py --augment mixup --schedule cycle --dataset cifar10_jpeg --data_root DATA --train_size 2000
python lab3/techniques.py --study rates                            step sizes, and what a range test would pick
python lab3/techniques.py --study techniques                       the base, and every technique on top of it
python lab3/techniques.py --study stability                        warm-up and clipping, where training is in danger

Letters: B batch, C channels, S the images' size, K classes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import records
import utils
from attention import MultiHeadAttention
from command_line import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, flag
from common.classification import get_number_trainable_params, majority_baseline, predict
from common.recipes import WARM_UP, adamw, cycle
from image_data import ImageData
from lab3 import board, photographs, small_pictures, study, techniques_plots
from lab3.small_pictures import PictureSettings, Select
from lab3.study import varied
from vision_transformer import VisionTransformer

WIDTHS = (24, 48, 96)  # channels of the CNN
VIT = {"patch_size": 4, "dim": 48, "depth": 3, "num_heads": 4, "mlp_dim": 96}
NORMS = ("batch", "layer", "none")
SCHEDULES = ("constant", "warmup", "cosine", "restarts", "cycle")
AUGMENTS = ("none", "moved", "mixup")
RESTARTS = 3  # cycles of cosine with warm restarts
MIXUP = 0.2  # of mixup's beta distribution
SPIKE, SPIKE_SCALE = 0.5, 100.0  # where in the training a batch is broken, and how many times too bright it is
SLOWEST, FASTEST = 1e-5, 1.0  # step sizes of the range test
KEPT = 1000  # test images whose probabilities a result keeps, for ensembles
TRIED = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


@dataclass(frozen=True)
class Config(PictureSettings):
    """The flags."""

    study: str | None = flag(
        None, "several: rates, techniques or stability", choices=("rates", "techniques", "stability"), metavar="NAME"
    )
    network: str = flag("cnn", "cnn of three convolutions, or vit", choices=("cnn", "vit"))
    norm: str = flag("batch", "normalisation of the cnn: batch, layer or none", choices=NORMS)
    dropout: float = flag(0.0, "probability of dropping a feature before the last layer", SHARE)
    spatial_dropout: float = flag(0.0, "probability of dropping a whole channel of the cnn", SHARE)
    attention_dropout: float = flag(0.0, "probability of dropping a weight of the vit's attention", SHARE)
    epochs: int = flag(30, "passes over them", COUNT)
    batch_size: int = flag(64, "images per step", COUNT)
    optimizer: str = flag("adamw", "adamw; adam, whose weight decay is in the gradient; sgd, with momentum 0.9",
                          choices=("adamw", "adam", "sgd"))  # fmt: skip
    learning_rate: float = flag(1e-3, "largest step size", POSITIVE)
    weight_decay: float = flag(0.0, "weight decay", NOT_NEGATIVE)
    schedule: str = flag("constant", "of the step size: " + ", ".join(SCHEDULES), choices=SCHEDULES)
    augment: str = flag("none", "of the training images: none, moved, or mixup", choices=AUGMENTS)
    smoothing: float = flag(0.0, "share of a label that is spread over all classes", SHARE)
    clip_norm: float = flag(0.0, "largest norm of the gradient", NOT_NEGATIVE, shown="none")
    spike: bool = flag(False, f"one batch, in the middle, is {SPIKE_SCALE:g} times too bright")
    early_stopping: bool = flag(False, "keep the epoch that is best on the validation images")

    SCRIPT: ClassVar[str] = "techniques"

    def __post_init__(self):
        super().__post_init__()
        for name, network in (("spatial_dropout", "cnn"), ("attention_dropout", "vit")):
            if getattr(self, name) and self.network != network:
                raise ValueError(f"--{name} goes with --network {network}")


# --- the networks ------------------------------------------------------------------------------------


class SmallCNN(nn.Module):
    """Class scores (B, K) of images (B, C, S, S): three convolutions, each halving the image, and an affine layer."""

    def __init__(self, channels: int, num_classes: int, norm: str, dropout: float, spatial_dropout: float):
        super().__init__()
        layers, inputs = [], channels
        for outputs in WIDTHS:
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), normalisation(norm, outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(2), nn.Dropout2d(spatial_dropout)]
            inputs = outputs
        self.features = nn.Sequential(*layers)  # (B, C, S / 8, S / 8)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))


def normalisation(norm: str, channels: int) -> nn.Module:
    """Of each channel over the batch (Ioffe and Szegedy 2015), or of each image over its channels (Ba et al. 2016)."""
    return {"batch": nn.BatchNorm2d(channels), "layer": nn.GroupNorm(1, channels), "none": nn.Identity()}[norm]


class DroppedAttention(MultiHeadAttention):
    """Attention that forgets some of its weights at random in training; the others grow by as much."""

    def __init__(self, hidden_dim: int, num_heads: int, dropout: float):
        super().__init__(hidden_dim, num_heads)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.dropout(self.weights(x, x))  # (B, H, L, L)
        return self.output((weights @ self._heads(self.value(x))).transpose(1, 2).flatten(2))


def build(config: Config, data: ImageData) -> nn.Module:
    channels, size = data.train[0].shape[1:3]
    classes = len(data.class_names)
    if config.network == "cnn":
        return SmallCNN(channels, classes, config.norm, config.dropout, config.spatial_dropout)
    vit = VisionTransformer((channels, size, size), **VIT, num_classes=classes, dropout=config.dropout)
    if config.attention_dropout:
        for block in vit.blocks:
            block.attention = DroppedAttention(VIT["dim"], VIT["num_heads"], config.attention_dropout)
    return vit


# --- training ----------------------------------------------------------------------------------------


def optimizer_of(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW, whose decay is apart from the gradient; Adam, where it is a part of it (L2); or SGD."""
    decoupled = adamw(model, config.learning_rate, config.weight_decay)
    groups = [{name: group[name] for name in ("params", "weight_decay")} for group in decoupled.param_groups]
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.learning_rate, fused=True)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9) if config.optimizer == "sgd" else decoupled


def schedule_of(config: Config, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The share of the largest step size that each step takes."""
    rising = max(1, round(WARM_UP * steps))
    cosine = lambda share: (1 + math.cos(math.pi * share)) / 2  # noqa: E731
    shares = {
        "constant": lambda step: 1.0,
        "warmup": lambda step: min(1.0, (step + 1) / rising),
        "cosine": lambda step: cosine(step / steps),
        "restarts": lambda step: cosine(RESTARTS * step / steps % 1.0),
    }
    if config.schedule == "cycle":  # warm-up, then a cosine
        return cycle(optimizer, steps)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, shares[config.schedule])


def losses(model: nn.Module, batch: tuple[Tensor, ...], smoothing: float = 0.0) -> Tensor:
    """Cross-entropy (B,); of mixed images the mean of both labels' losses, weighted by their shares."""
    images, labels, *mixed = batch
    scores = model(images)
    found = F.cross_entropy(scores, labels, reduction="none", label_smoothing=smoothing)
    if mixed:
        others, shares = mixed  # (B,), (B,)
        other = F.cross_entropy(scores, others, reduction="none", label_smoothing=smoothing)
        found = shares * found + (1 - shares) * other
    return found


def mixup(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Each image mixed with another one, by shares drawn at random (Zhang et al. 2018): images, both labels, shares."""
    images, labels = batch
    share = torch.distributions.Beta(MIXUP, MIXUP).sample((len(images),)).to(images)  # (B,)
    order = torch.randperm(len(images), device=images.device)
    weights = share[:, None, None, None]
    return weights * images + (1 - weights) * images[order], labels, labels[order], share


class Augment:
    """The random changes of a batch, and the one that is broken."""

    def __init__(self, config: Config, size: int, steps: int):
        self.config, self.size = config, size
        self.step, self.broken = itertools.count(), round(SPIKE * steps) if config.spike else None

    def __call__(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        images, labels = batch
        if next(self.step) == self.broken:
            images = SPIKE_SCALE * images
        if self.config.augment == "moved":
            images = photographs.augmented(self.config.dataset, images, self.size)
        return mixup((images, labels)) if self.config.augment == "mixup" else (images, labels)


def train(config: Config, data: ImageData) -> dict:
    """Train one network, and test it; the body of its result."""
    utils.configure_seed(config.seed)
    model = build(config, data)
    batches = utils.Batches(data.train, config.batch_size, config.seed)
    steps = config.epochs * len(batches)
    optimizer = optimizer_of(config, model)
    body = {"parameters": get_number_trainable_params(model), "baseline": majority_baseline(data)}
    try:
        history = utils.fit(
            model, batches, optimizer, loss_fn=lambda model, batch: losses(model, batch, config.smoothing),
            augment=Augment(config, data.train[0].shape[-1], steps), scheduler=schedule_of(config, optimizer, steps),
            evaluate=lambda model: scores(model, data.val), clip_norm=config.clip_norm or None,
            keep_best=(lambda metrics: -metrics["loss"]) if config.early_stopping else None,
            epochs=config.epochs, seed=config.seed, device=config.device, tensorboard=board.folder(config),
        )  # fmt: skip
    except utils.Diverged as diverged:
        return body | {"history": diverged.history, "diverged_in_epoch": diverged.epoch, "metrics": None}
    parts = {"train": data.train, "validation": data.val, "test": data.test}
    kept = predict(model, data.test[0][:: max(1, len(data.test[1]) // KEPT)]).log_softmax(1)
    return body | {
        "history": history,
        "metrics": {
            part: {name: records.mean_std([value]) for name, value in scores(model, images).items()}
            for part, images in parts.items()
        },
        "test_log_probs": [[round(value, 3) for value in row] for row in kept.tolist()],
    }


def scores(model: nn.Module, part: tuple[Tensor, Tensor]) -> dict[str, float]:
    images, labels = part
    found = predict(model, images)
    return {
        "loss": F.cross_entropy(found, labels).item(),
        "accuracy": (found.argmax(1) == labels).double().mean().item(),
    }


# --- the range test ----------------------------------------------------------------------------------


def range_test(config: Config, data: ImageData) -> dict:
    """Losses over one pass as the step size grows from SLOWEST to FASTEST (Smith 2017), and the one it would pick."""
    utils.configure_seed(config.seed)
    model, batches = build(config, data), utils.Batches(data.train, config.batch_size, config.seed)
    optimizer = optimizer_of(config, model)
    rates = np.geomspace(SLOWEST, FASTEST, len(batches)).tolist()
    found = []
    for rate, batch in zip(rates, batches.epoch(1), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = losses(model, batch).mean()
        if not loss.isfinite():
            break
        found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    smooth = smoothed(found)
    return {"rates": rates[: len(found)], "losses": found, "smoothed": smooth, "picked": picked(rates, smooth)}


def smoothed(values: list[float], keep: float = 0.9) -> list[float]:
    """An exponential moving average, corrected for its start."""
    found, mean = [], 0.0
    for count, value in enumerate(values, 1):
        mean = keep * mean + (1 - keep) * value
        found.append(mean / (1 - keep**count))
    return found


def picked(rates: list[float], smooth: list[float]) -> float:
    """A tenth of the step size at which the loss is least: beyond that it soon grows."""
    return rates[int(np.argmin(smooth))] / 10


# --- studies -----------------------------------------------------------------------------------------

TECHNIQUES: dict[str, dict] = {
    "base": {},
    "cosine": {"schedule": "cosine"},
    "warm restarts": {"schedule": "restarts"},
    "warm-up and cosine": {"schedule": "cycle"},
    "clipping at 1": {"clip_norm": 1.0},
    "no normalisation": {"norm": "none"},
    "layer normalisation": {"norm": "layer"},
    "dropout 0.3": {"dropout": 0.3},
    "spatial dropout 0.1": {"spatial_dropout": 0.1},
    "decoupled weight decay 0.1": {"weight_decay": 0.1},
    "L2 0.001": {"optimizer": "adam", "weight_decay": 1e-3},
    "moved images": {"augment": "moved"},
    "mixup": {"augment": "mixup"},
    "label smoothing 0.1": {"smoothing": 0.1},
    "early stopping": {"early_stopping": True},
    "vit": {"network": "vit"},
    "vit, attention dropout 0.2": {"network": "vit", "attention_dropout": 0.2},
}
DANGERS = {  # without normalisation
    "large steps": {"norm": "none", "learning_rate": 0.03},
    "a broken batch": {"norm": "none", "optimizer": "sgd", "learning_rate": 0.05, "spike": True},
}
REMEDIES = {"plain": {}, "warm-up": {"schedule": "warmup"}, "clipping at 1": {"clip_norm": 1.0}}
STABILITY: dict[str, dict] = {
    f"{danger}, {remedy}": at_risk | change
    for danger, at_risk in DANGERS.items()
    for remedy, change in REMEDIES.items()
}  # fmt: skip


def variants(config: Config) -> dict[str, list[Config]]:
    """What a study trains: for each variant its name, and its configuration with every seed."""
    rates = {f"{rate:g}": {"learning_rate": rate} for rate in TRIED}
    return varied(config, {"rates": rates, "techniques": TECHNIQUES, "stability": STABILITY}[config.study])


def compare(config: Config, select: Select) -> dict:
    """Train every variant with its seeds, side by side; the body of the study's result."""
    groups = variants(config)
    keys = ("history:list", "metrics:dict?", "parameters:number", "seconds:number")
    trials = study.train_all(groups, lambda single: select(single).describe(), keys)
    results = [trial for group in trials.values() for trial in group]
    body = {
        "models": {name: summary(group) for name, group in trials.items()},
        "baseline": results[0]["baseline"],
        "seconds": sum(result["seconds"] for result in results),
    }
    if config.study == "rates":
        body["range_tests"] = [range_test(single, select(single)) for single in next(iter(groups.values()))]
    if config.study == "techniques":
        labels = select(config).test[1]
        body["ensemble"] = ensemble(trials["base"], labels[:: max(1, len(labels) // KEPT)])
    return body


def summary(trials: list[dict]) -> dict:
    """One variant: means and deviations over the seeds that learnt something, and how many diverged."""
    learnt = [trial for trial in trials if trial["metrics"]]
    return {
        "settings": trials[0]["config"],
        "seeds": [trial["seeds"][0] for trial in trials],
        "diverged": len(trials) - len(learnt),
        "parameters": trials[0]["parameters"],
        "metrics": learnt and study.over_seeds(learnt),
        "gap": study.gap(learnt) if learnt else None,
        "history": [trial["history"] for trial in trials],
    }


def ensemble(trials: list[dict], labels: Tensor) -> dict:
    """The accuracy of the mean of several networks' probabilities, beside that of each on the same test images."""
    log_probs = torch.tensor([trial["test_log_probs"] for trial in trials])  # (trials, N, K)
    right = lambda found: (found.argmax(-1) == labels).double().mean(-1)  # noqa: E731
    return {
        "together": right(log_probs.exp().mean(0)).item(),
        "alone": records.mean_std(right(log_probs).tolist()),
        "images": len(labels),
    }


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    return small_pictures.run(config, train, compare)


def print_result(result: dict) -> None:
    print(f"\n{techniques_plots.title(result)}; accuracy in %")
    for name, model in result.get("models", {"trained": result}).items():
        cells = [f"{part} {records.spread(s['accuracy'], 100)}" for part, s in (model["metrics"] or {}).items()]
        if diverged := model.get("diverged", int("diverged_in_epoch" in model)):
            cells.append(f"{diverged} of {len(model.get('seeds', [0]))} diverged")
        print(f"  {name:32}{', '.join(cells)}")
    if found := result.get("ensemble"):
        print(f"  three together {100 * found['together']:.1f}, each alone {records.spread(found['alone'], 100)}")
    if tests := result.get("range_tests"):
        print("  a range test picks", ", ".join(f"{each['picked']:.0e}" for each in tests))


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    return study.main(command_line.parse(Config, argv, __doc__), run, print_result, techniques_plots.draw)


if __name__ == "__main__":
    sys.exit(main())
