"""Homework 4: a Vision Transformer, and a convolutional network of the same size.

python assignments/hw4/compare.py                                   a Vision Transformer on scikit-learn's digits
python assignments/hw4/compare.py --dataset cifar10_jpeg --data_root DATA --train_size 5000 --model cnn
python assignments/hw4/compare.py --dataset cifar100 --download     the course's data
python assignments/hw4/compare.py --study rates                     which step size suits each, by validation
python assignments/hw4/compare.py --study sizes                     both, by the number of training images

Letters: B batch, C channels, S the images' size.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import records
import utils
from assignments.hw4 import compare_plots
from assignments.hw4.vit import VisionTransformer
from command_line import COUNT, DEVICES, NOT_NEGATIVE, PRECISIONS, SEED, SEEDS, SHARE, check_flags, flag, within
from common import cifar
from common.classification import accuracy, get_number_trainable_params, majority_baseline, multiply_adds, predict, some
from common.geometry import in_each_direction, jitter, mirrored
from common.grid import Training, results_side_by_side
from common.processes import precision_of
from common.recipes import adamw, cycle
from common.residual import ResidualCNN
from common.vit_looks import looks
from image_data import ImageData, from_arrays, load_images, with_shuffled_pixels

MODELS = ("vit", "cnn")
DATASETS = ("digits", *cifar.NAMES)
WIDTHS = (48, 96, 144)  # of the CNN, with as many parameters as the Vision Transformer's defaults
RATES = {"vit": 1e-3, "cnn": 2e-3}  # step sizes that --study rates chose, of those in TRIED
TRIED = (5e-4, 1e-3, 2e-3, 4e-3)
VALIDATION_SIZE = 5000  # of CIFAR's training images
WATCHED = 1000  # images whose accuracy is measured after each epoch
SHIFTS = (0, 1, 2, 3, 4)  # pixels by which validation images are moved, once a network is trained
SHOWN = 6  # images whose attention a result keeps


class Size(NamedTuple):
    """One size of the training part, in the study of sizes."""

    images: int
    epochs: int
    seeds: int  # how many of those that are asked for
    ways: tuple[str, ...] = ("moved", "as they are")  # of WAYS


WAYS = {  # how images are shown
    "moved": {},
    "as they are": {"no_augment": True},
    "shuffled": {"no_augment": True, "shuffle_pixels": True},
}
SIZES = {
    "digits": (Size(1000, 20, 1), Size(300, 40, 3, tuple(WAYS)), Size(100, 80, 3)),
    "photographs": (
        Size(45_000, 25, 1, ("moved",)), Size(20_000, 20, 1), Size(5000, 30, 3, tuple(WAYS)), Size(1000, 40, 3)
    ),
}  # fmt: skip
RATED = {"digits": (300, 20), "photographs": (5000, 15)}  # images and epochs of the study of step sizes


@dataclass(frozen=True)
class Config(Training):
    """The flags."""

    model: str = flag("vit", "vit, or cnn: a residual network of as many parameters", choices=MODELS)
    dataset: str = flag("digits", "digits, cifar10_jpeg, cifar10 or cifar100", choices=DATASETS, metavar="NAME")
    data_root: str = flag("data", "folder of the data")
    download: bool = flag(False, "let torchvision fetch cifar10 or cifar100 first (170 MB)")
    train_size: int = flag(0, "training images, as many of each class", within(0, 50_000), shown="all")
    patch_size: int = flag(4, "pixels on a side of a patch", within(1, 32))
    embed_dim: int = flag(96, "width of the Vision Transformer", within(1, 4096))
    num_layers: int = flag(6, "its blocks", within(1, 100))
    num_heads: int = flag(4, "its heads", within(1, 256))
    mlp_dim: int = flag(192, "hidden units of its MLPs", within(1, 16_384))
    dropout: float = flag(0.0, "probability of dropping a feature", SHARE)
    epochs: int = flag(25, "passes over the training images", COUNT)
    batch_size: int = flag(0, "images per step", within(0, 50_000), shown="128, of digits 32")
    learning_rate: float = flag(0.0, "largest step size of AdamW", NOT_NEGATIVE, shown="1e-3 of vit, 2e-3 of cnn")
    weight_decay: float = flag(0.05, "weight decay", NOT_NEGATIVE)
    no_augment: bool = flag(False, "train on the images as they are, neither moved nor mirrored")
    shuffle_pixels: bool = flag(False, "one fixed permutation of the pixels of all images")
    study: str | None = flag(None, "several trainings: rates, or sizes", choices=("rates", "sizes"), metavar="NAME")
    seed: int = flag(0, "seed of the weights and the order", SEED)
    seeds: tuple[int, ...] = flag((0, 1, 2), "those of a study", SEEDS)
    no_test: bool = flag(False, "leave the test images alone")
    device: str = flag("auto", "auto, cpu, cuda or mps", choices=DEVICES)
    mixed_precision: str = flag("auto", "auto: bf16 where the device computes in it; no; or bf16", choices=PRECISIONS)
    out: str = flag("runs", "folder for results, plots and checkpoints")
    resume: bool = flag(False, "go on from the checkpoints of the same command")
    overwrite: bool = flag(False, "replace a run of the same name with other settings or data")

    QUESTION: ClassVar[str] = "assignments"
    ASIDE: ClassVar[tuple[str, ...]] = (
        "data_root", "download", "study", "seeds", "no_test", "device", "out", "resume", "overwrite"
    )  # fmt: skip

    def __post_init__(self):
        check_flags(self)
        if self.embed_dim % self.num_heads:
            raise ValueError(f"--embed_dim {self.embed_dim} is not a multiple of --num_heads {self.num_heads}")
        if self.image_size % self.patch_size:
            raise ValueError(f"--patch_size is {self.patch_size}, but must divide {self.image_size}")

    @property
    def image_size(self) -> int:
        return 28 if self.dataset == "digits" else 32

    @property
    def kind(self) -> str:
        return "digits" if self.dataset == "digits" else "photographs"

    @property
    def images_per_step(self) -> int:
        return self.batch_size or (32 if self.dataset == "digits" else 128)

    @property
    def rate(self) -> float:
        return self.learning_rate or RATES[self.model]

    @property
    def precision(self) -> str:
        return precision_of(self.mixed_precision, self.device)

    def settings(self) -> dict:
        chosen = {"mixed_precision": self.precision, "batch_size": self.images_per_step, "learning_rate": self.rate}
        return super().settings() | chosen

    @property
    def run_name(self) -> str:
        if self.study:
            return f"hw4-{self.study}-{self.dataset}"
        parts = [self.model, self.dataset, str(self.train_size or "all")]
        parts += ["plain"] * self.no_augment + ["shuffled"] * self.shuffle_pixels
        return "-".join(["hw4", *parts, *([f"rate{self.rate:g}"] if self.learning_rate else []), f"seed{self.seed}"])

    def head(self, described: dict) -> dict:
        return super().head(described) | {"seeds": list(self.seeds) if self.study else [self.seed]}


# --- data and networks -------------------------------------------------------------------------------


def load(config: Config) -> ImageData:
    """The images that a configuration asks for; for each size of the training part the same validation images.

    Raises FileNotFoundError that says where the data come from, or ValueError for too few of them.
    """
    if config.dataset == "digits":
        data = load_images("digits")
        if config.train_size > len(data.train[1]):
            raise ValueError(f"--train_size is {config.train_size}, but digits has {len(data.train[1])} to train on")
        data = replace(data, train=tuple(part[: config.train_size or None] for part in data.train))
    else:
        if config.download:
            download(config)
        groups, classes = cifar.read_cifar(config.dataset, config.data_root)
        size = config.train_size or sum(map(len, groups["train"])) - VALIDATION_SIZE
        arrays = cifar.split_by_class(config.dataset, groups, {"val": VALIDATION_SIZE, "train": size})
        data = from_arrays(config.dataset, "real", "multi-class", classes, arrays)
    return with_shuffled_pixels(data) if config.shuffle_pixels else data


def download(config: Config) -> None:
    if config.dataset not in cifar.SIZES:
        raise ValueError(f"--download goes with cifar10 or cifar100, not with {config.dataset}")
    cifar.torchvision_set(config.dataset)(config.data_root, download=True)


def build(config: Config, data: ImageData) -> nn.Module:
    """A network that gives class scores (B, classes) of images (B, C, S, S)."""
    channels, size = data.train[0].shape[1:3]
    if config.model == "cnn":
        return ResidualCNN(channels, WIDTHS, len(data.class_names), config.dropout)
    return VisionTransformer(
        size, config.patch_size, channels, config.embed_dim, config.num_heads, config.mlp_dim, config.num_layers,
        len(data.class_names), config.dropout,
    )  # fmt: skip


def moved(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A batch with its images turned, scaled and moved at random."""
    return jitter(batch[0]), batch[1]


def moved_and_mirrored(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The same, with half of the images mirrored: what a photograph may be, but no digit."""
    return moved((mirrored(batch[0]), batch[1]))


def augmentation(config: Config) -> Callable | None:
    if config.no_augment:
        return None
    return moved if config.dataset == "digits" else moved_and_mirrored


# --- training ----------------------------------------------------------------------------------------


def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    # a CNN is faster with the channels last; the patches of a Vision Transformer are cut out of either
    images = images.contiguous(memory_format=torch.channels_last)
    return F.cross_entropy(model(images), labels, reduction="none")  # (B,)


def train(config: Config, data: ImageData) -> dict:
    """Train one network, and test it; the body of its result."""
    utils.configure_seed(config.seed)
    model = build(config, data)
    if config.model == "cnn":
        model = model.to(memory_format=torch.channels_last)
    cost = multiply_adds(model, data.train[0].shape[1:])
    optimizer = adamw(model, config.rate, config.weight_decay)
    batches = utils.Batches(data.train, config.images_per_step, config.seed)
    watched = {"train": some(data.train, WATCHED), "val": some(data.val, WATCHED)}

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {f"{part}_accuracy": accuracy(model, *images) for part, images in watched.items()}

    history = utils.fit(
        model, batches, optimizer, loss_fn=losses, evaluate=evaluate, epochs=config.epochs, seed=config.seed,
        augment=augmentation(config), scheduler=cycle(optimizer, config.epochs * len(batches)),
        checkpoint=config.file(".ckpt"), config=config.settings() | {"data": data.digest}, resume=config.resume,
        overwrite=config.overwrite, device=config.device, mixed_precision=config.precision,
    )  # fmt: skip
    parts = {"train": some(data.train, len(data.val[1])), "validation": data.val}
    parts |= {} if config.no_test else {"test": data.test}
    right = {part: predict(model, images).argmax(1) == labels for part, (images, labels) in parts.items()}
    body = {
        "parameters": get_number_trainable_params(model),
        "multiply_adds": cost,
        "history": history,
        "metrics": {
            part: {"accuracy": records.mean_std([each.double().mean().item()])} for part, each in right.items()
        },
        "shifted": [accuracy_of_moved(model, *watched["val"], pixels) for pixels in SHIFTS],
        "baseline": majority_baseline(data),
    }
    if "test" in right:  # image by image, so that two networks can be compared on the same ones
        body["test_right"] = "".join("01"[value] for value in right["test"].tolist())
    if config.model == "vit":
        stride = max(1, len(data.val[1]) // SHOWN)
        body["attention"] = looks(model, data.val[0][::stride][:SHOWN], data.pixels("val")[::stride][:SHOWN])
    return body


def accuracy_of_moved(model: nn.Module, images: Tensor, labels: Tensor, pixels: int) -> float:
    """The accuracy on images (N, C, S, S) that are moved by so many pixels: the mean over four directions."""
    copies = in_each_direction(images, pixels) if pixels else [images]
    return sum(accuracy(model, copy, labels) for copy in copies) / len(copies)


# --- studies -----------------------------------------------------------------------------------------


def variants(config: Config) -> dict[str, list[Config]]:
    """What a study trains: for each variant its name, and its configuration with every seed."""
    plain = replace(config, study=None, seeds=Config.seeds, download=False)
    if config.study == "rates":
        images, epochs = RATED[config.kind]
        plain = replace(plain, train_size=images, epochs=epochs, seed=config.seeds[0], no_test=True)
        return {
            f"{model}, {rate:g}": [replace(plain, model=model, learning_rate=rate)]
            for model in MODELS
            for rate in TRIED
        }
    found = {}
    for size in SIZES[config.kind]:
        for way, model in itertools.product(size.ways, MODELS):
            each = replace(plain, model=model, train_size=size.images, epochs=size.epochs, **WAYS[way])
            seeds = config.seeds[: 1 if each.shuffle_pixels else size.seeds]  # a control
            found[f"{model}, {size.images}, {way}"] = [replace(each, seed=seed) for seed in seeds]
    return found


def compare(config: Config, described: Callable[[Config], dict]) -> dict:
    """Train every variant with its seeds, side by side; the body of the study's result."""
    groups = variants(config)
    singles = [single for group in groups.values() for single in group]
    tested = [] if any(single.no_test for single in singles) else ["metrics.test:dict"]
    keys = ("history:list", "metrics:dict", "shifted:list", *tested)
    results = iter(results_side_by_side(singles, lambda single: single.head(described(single)), keys))
    models, attention = {}, None
    for name, group in groups.items():
        trials = [next(results) for _ in group]
        models[name] = summary(trials)
        attention = attention or trials[0].get("attention")  # of the first Vision Transformer
    return {"models": models, "attention": attention, "baseline": trials[0]["baseline"]}


def summary(trials: list[dict]) -> dict:
    """One variant: means and deviations over its seeds, with what it took."""
    first = trials[0]
    return {
        "settings": {key: first["config"][key] for key in (
            "model", "train_size", "epochs", "learning_rate", "no_augment", "shuffle_pixels"
        )},
        "seeds": [trial["seeds"][0] for trial in trials],
        "parameters": first["parameters"],
        "multiply_adds": first["multiply_adds"],
        "metrics": {
            part: {"accuracy": records.mean_std([t["metrics"][part]["accuracy"]["mean"] for t in trials])}
            for part in first["metrics"]
        },
        "shifted": [records.mean_std(list(values)) for values in zip(*(t["shifted"] for t in trials), strict=True)],
        "seconds": sum(epoch["seconds"] for trial in trials for epoch in trial["history"]),
        "history": first["history"],
        **{key: first[key] for key in ("test_right",) if key in first and len(trials) == 1},
    }  # fmt: skip


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    start, data = time.perf_counter(), load(config)
    head = config.head(data.describe())
    found = {config.train_size: head["data"]}  # shuffled pixels are the same data

    def described(single: Config) -> dict:
        if single.train_size not in found:
            found[single.train_size] = load(single).describe()
        return found[single.train_size]

    with records.claim(config.out, head, config.overwrite):
        body = compare(config, described) if config.study else train(config, data)
    return head | {"seconds": time.perf_counter() - start} | body


def print_result(result: dict) -> None:
    print(f"\n{compare_plots.title(result)}; accuracy in %")
    models = result.get("models", {compare_plots.MODELS[result["config"]["model"]]: result})
    for name, model in models.items():
        cells = [f"{part} {records.spread(scores['accuracy'], 100)}" for part, scores in model["metrics"].items()]
        print(f"  {name:36}{model['parameters']:10,} parameters  {', '.join(cells)}")
    baseline = result["baseline"]
    print(f"  always {baseline['class']}: {100 * baseline['accuracy']['test']:.1f}")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    result = run(config)
    path = records.save_results(config.out, result)
    print_result(result)
    print(path, *compare_plots.draw([path], Path(config.out) / "plots"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
