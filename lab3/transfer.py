"""Lab 3: what a network that was trained on other pictures is worth, as it is and adapted.

python lab3/transfer.py                                     digits 5 to 9, by a network trained on 0 to 4
python lab3/transfer.py --method frozen                     its features, and logistic regression on them
python lab3/transfer.py --dataset ants_bees --data_root DATA --method partial     ImageNet: pip install -e '.[dreams]'
python lab3/transfer.py --study methods --train_size 50     frozen, partial, full and from scratch
python lab3/transfer.py --study sizes                       by the number of training images
python lab3/transfer.py --study domains --dataset cifar10_jpeg --data_root DATA   on chest X-rays and small pictures

Letters: B batch, C channels, S the images' size, D features, K classes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor, nn

import records
import utils
from command_line import COUNT, NOT_NEGATIVE, PRECISIONS, flag, within
from common import cifar, strong
from common.classification import get_number_trainable_params, majority_baseline, predict, some
from common.processes import connect, precision_of
from common.recipes import adamw, cycle
from image_data import ImageData
from lab3 import board, photographs, small_pictures, study, transfer_plots
from lab3.small_pictures import PictureSettings
from lab3.study import varied
from lab3.transfer_networks import Staged, contender, imagenet_network, small_network

METHODS = ("frozen", "partial", "full", "scratch")
STUDIES = ("methods", "sizes", "domains", "rates")
SIZES = (10, 20, 50, 0)  # training images of the study of sizes; 0 are all
DOMAINS = (("pneumoniamnist", 0), ("cifar10", 500), ("cifar10", 2000))  # sets and their training images
COMPARED = ("frozen", "full", "scratch")  # in the studies of sizes and of domains
TRIED = (1e-4, 3e-4, 1e-3, 3e-3)  # step sizes
STRENGTHS = tuple(10.0**power for power in range(-4, 5))  # the inverse of logistic regression's penalty
PHOTOGRAPH, ENLARGED, DIGIT = 224, 112, 28  # pixels that a network sees of each kind of image
MARGIN = 8 / 7  # photographs are read larger than a network sees them, by as much
WATCHED = 200  # validation images whose accuracy is measured after each epoch
AT_ONCE = 25  # images in a forward pass that is not trained on
PRETRAINING_EPOCHS = 10  # on the first digits


class Recipe(NamedTuple):
    """How one method trains on images of one kind; `epochs` go with so many `images`, and with fewer there are more."""

    epochs: int
    images: int
    batch_size: int
    rate: float


RECIPES = {  # those of photographs and small pictures with the step sizes that --study rates chose
    "digits": {
        "partial": Recipe(10, 600, 16, 1e-3), "full": Recipe(10, 600, 16, 1e-3), "scratch": Recipe(20, 600, 16, 3e-3)
    },
    "photographs": {
        "partial": Recipe(15, 200, 16, 3e-4), "full": Recipe(15, 200, 16, 1e-4), "scratch": Recipe(30, 200, 16, 1e-3)
    },
    "small": {
        "partial": Recipe(5, 5000, 32, 1e-3), "full": Recipe(5, 5000, 32, 1e-3), "scratch": Recipe(30, 5000, 64, 3e-3)
    },
}  # fmt: skip


@dataclass(frozen=True)
class Config(PictureSettings):
    """The flags."""

    dataset: str = flag(
        "digits", "digits, ants_bees, pneumoniamnist, cifar10_jpeg or cifar10", choices=photographs.DATASETS,
        metavar="NAME",
    )  # fmt: skip
    study: str | None = flag(None, "several: methods, sizes, domains or rates", choices=STUDIES, metavar="NAME")
    method: str = flag(
        "full", "frozen: features and logistic regression; partial: the last stages; full; or scratch",
        choices=METHODS, metavar="NAME",
    )  # fmt: skip
    top_blocks: int = flag(0, "of partial: stages trained, with the head", within(0, 100), shown="2, of digits 1")
    image_size: int = flag(0, "pixels that the network sees", within(0, 1024), shown="224, of small pictures 112")
    epochs: int = flag(0, "passes over the training images", COUNT, shown="more where these are few")
    batch_size: int = flag(0, "images per step", within(0, 50_000), shown="16, of small pictures 32 or 64")
    learning_rate: float = flag(0.0, "largest step size of AdamW", NOT_NEGATIVE, shown="by method and data")
    weight_decay: float = flag(0.05, "weight decay", NOT_NEGATIVE)
    no_test: bool = flag(False, "leave the test images alone")
    # auto would choose bf16 on CPUs that compute in it; there it makes these networks' steps slower
    mixed_precision: str = flag("no", "no; bf16; or auto: bf16 where the device computes in it", choices=PRECISIONS)

    SCRIPT: ClassVar[str] = "transfer"

    def __post_init__(self):
        super().__post_init__()
        if self.study == "domains" and self.dataset not in cifar.NAMES:
            raise ValueError("--study domains goes with --dataset cifar10_jpeg or cifar10, beside PneumoniaMNIST")

    @property
    def kind(self) -> str:
        return {"digits": "digits", "ants_bees": "photographs"}.get(self.dataset, "small")

    @property
    def pixels(self) -> int:
        return self.image_size or {"digits": DIGIT, "photographs": PHOTOGRAPH, "small": ENLARGED}[self.kind]

    @property
    def top(self) -> int:
        return self.top_blocks or (1 if self.kind == "digits" else 2)

    @property
    def recipe(self) -> Recipe:
        """How to train, with what the flags say in its place."""
        usual = RECIPES[self.kind]["full" if self.method == "frozen" else self.method]
        return usual._replace(batch_size=self.batch_size or usual.batch_size, rate=self.learning_rate or usual.rate)

    def epochs_for(self, images: int) -> int:
        """Four times as many passes over a sixteenth of the images, so that there are fewer steps, but not too few."""
        return self.epochs or round(self.recipe.epochs * math.sqrt(self.recipe.images / images))

    def settings(self) -> dict:
        recipe = self.recipe
        chosen = {"image_size": self.pixels, "top_blocks": self.top, "batch_size": recipe.batch_size}
        chosen |= {"learning_rate": recipe.rate, "mixed_precision": precision_of(self.mixed_precision, self.device)}
        return super().settings() | chosen

    @property
    def run_name(self) -> str:
        if self.study:
            return super().run_name
        method = f"partial{self.top}" if self.method == "partial" else self.method
        parts = [method, self.dataset, str(self.train_size or "all")]
        parts += [f"{self.image_size}px"] if self.image_size else []
        parts += [f"rate{self.recipe.rate:g}"] if self.learning_rate else []
        return "-".join(["transfer", *parts, f"seed{self.seed}"])


# --- networks ----------------------------------------------------------------------------------------


def build(config: Config, data: ImageData) -> nn.Module:
    """A network for the classes of `data`, with the stages frozen that the method does not train."""
    classes, scratch = len(data.class_names), config.method == "scratch"
    if config.kind == "small" and scratch:
        network = contender(data.train[0].shape[1], classes)
    elif config.kind == "digits":
        network = small_network(classes, config.pixels)
        if not scratch:
            network.stages = trained_on_other_digits(config).stages
    else:
        network = imagenet_network(classes, config.pixels, trained=not scratch)
    if config.method in ("frozen", "partial"):
        network.freeze_all_but(config.top if config.method == "partial" else 0)
    return network.to(memory_format=torch.channels_last)


def trained_on_other_digits(config: Config) -> Staged:
    """The network for digits, trained now, from the run's seed, on those that it is not transferred to."""
    data = photographs.select(photographs.digits(0, photographs.SPLIT))
    network = small_network(photographs.SPLIT, config.pixels)
    recipe = RECIPES["digits"]["scratch"]
    batches = utils.Batches(data.train, recipe.batch_size, config.seed)
    optimizer = adamw(network, recipe.rate, config.weight_decay)
    utils.fit(
        network, batches, optimizer, evaluate=lambda model: {"val_accuracy": share_right(model, data.val)},
        epochs=PRETRAINING_EPOCHS, seed=config.seed, device=config.device,
        **fit_options(config, data, optimizer, PRETRAINING_EPOCHS * len(batches)),
    )  # fmt: skip
    return network.cpu()


# --- training ----------------------------------------------------------------------------------------


def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels, reduction="none")  # (B,)


def fit_options(config: Config, data: ImageData, optimizer: torch.optim.Optimizer, steps: int) -> dict:
    """What `utils.fit` is given of a method: augmentation, loss and schedule; from scratch, the strong recipe's."""
    if config.method == "scratch" and config.kind == "small":
        return strong.fit_options(optimizer, steps, data.train[1], data.mean, data.std)

    def augment(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return photographs.augmented(config.dataset, batch[0], config.pixels), batch[1]

    return {"augment": augment, "loss_fn": losses, "scheduler": cycle(optimizer, steps)}


def right(model: nn.Module, part: tuple[Tensor, Tensor]) -> Tensor:
    """Which of its images (N) a network gives their label."""
    return predict(model, part[0], AT_ONCE).argmax(1) == part[1]


def share_right(model: nn.Module, part: tuple[Tensor, Tensor]) -> float:
    return right(model, part).double().mean().item()


def adapt(config: Config, data: ImageData, network: nn.Module, parts: dict) -> dict:
    """Train what is not frozen; which images of each part are right then, and the history."""
    epochs = config.epochs_for(len(data.train[1]))
    batches = utils.Batches(data.train, config.recipe.batch_size, config.seed)
    optimizer, watched = adamw(network, config.recipe.rate, config.weight_decay), some(data.val, WATCHED)
    history = utils.fit(
        network, batches, optimizer, evaluate=lambda model: {"val_accuracy": share_right(model, watched)},
        epochs=epochs, seed=config.seed, checkpoint=config.file(".ckpt"),
        config=config.settings() | {"epochs": epochs, "data": data.digest}, resume=config.resume,
        overwrite=config.overwrite, device=config.device, mixed_precision=config.settings()["mixed_precision"],
        tensorboard=board.folder(config),
        **fit_options(config, data, optimizer, epochs * len(batches)),
    )  # fmt: skip
    return {
        "history": history,
        "trainable": get_number_trainable_params(network),
        "right": {name: right(network, part) for name, part in parts.items()},
    }


def classify_features(config: Config, data: ImageData, network: Staged, parts: dict) -> dict:
    """Logistic regression on the features of images as they are; its penalty is the best in validation loss."""
    network.head = nn.Identity()
    network.to(connect(config.device, "no", None).device)
    features = {
        part: predict(network, images, AT_ONCE).double().numpy() for part, (images, _) in parts.items()
    }  # (N, D)
    inputs, labels = predict(network, data.train[0], AT_ONCE).double().numpy(), data.train[1].numpy()

    best, lowest = None, math.inf
    for strength in STRENGTHS:
        classifier = LogisticRegression(C=strength, max_iter=2000).fit(inputs, labels)
        probabilities = classifier.predict_proba(features["validation"])
        loss = log_loss(data.val[1].numpy(), probabilities, labels=classifier.classes_)
        if loss >= lowest:
            break  # from here on the penalty is too weak, and the fit takes ever longer
        best, lowest = classifier, loss
    return {
        "history": [],
        "strength": best.C,
        "trainable": best.coef_.size + best.intercept_.size,
        "right": {part: torch.from_numpy(best.predict(x)) == parts[part][1] for part, x in features.items()},
    }


def train(config: Config, data: ImageData) -> dict:
    """Adapt one network by one method, and test it; the body of its result."""
    utils.configure_seed(config.seed)
    network = build(config, data)
    size = sum(parameter.numel() for parameter in network.parameters())
    parts = {"validation": data.val} | ({} if config.no_test else {"test": data.test})
    start = time.perf_counter()
    found = (classify_features if config.method == "frozen" else adapt)(config, data, network, parts)
    shares = found.pop("right")
    body = {
        "parameters": {"trainable": found.pop("trainable"), "total": size},
        "adapting_seconds": time.perf_counter() - start,
        "peak_memory": records.peak_memory(),
        **found,
        "metrics": {
            part: {"accuracy": records.mean_std([each.double().mean().item()])} for part, each in shares.items()
        },
        "baseline": majority_baseline(data),
    }
    if "test" in shares:  # image by image, so that two methods can be compared on the same ones
        body["test_right"] = "".join("01"[value] for value in shares["test"].tolist())
    return body


# --- studies -----------------------------------------------------------------------------------------


def variants(config: Config) -> dict[str, list[Config]]:
    """What a study trains: for each variant its name, and its configuration with every seed."""
    if config.study == "rates":
        changes = {
            f"{method}, {rate:g}": {"method": method, "learning_rate": rate, "no_test": True}
            for method in METHODS[1:]
            for rate in TRIED
        }
        return varied(replace(config, seeds=config.seeds[:1]), changes)
    if config.study == "methods":
        return varied(config, {method: {"method": method} for method in METHODS})
    if config.study == "sizes":
        sets = {str(size or "all"): {"train_size": size} for size in SIZES}
    else:
        named = [(config.dataset if name == "cifar10" else name, size) for name, size in DOMAINS]
        sets = {f"{name}, {size or 'all'}": {"dataset": name, "train_size": size} for name, size in named}
    changes = {f"{method}, {name}": of | {"method": method} for name, of in sets.items() for method in COMPARED}
    return varied(config, changes)


def compare(groups: dict[str, list[Config]], described: Callable[[Config], dict]) -> dict:
    """Train every variant with its seeds, side by side; the body of the study's result."""
    keys = (
        "history:list", "metrics:dict", "parameters:dict", "baseline:dict", "adapting_seconds:number", "seconds:number"
    )  # fmt: skip
    trials = study.train_all(groups, described, keys)
    return {
        "models": {name: summary(group) for name, group in trials.items()},
        "seconds": sum(trial["seconds"] for group in trials.values() for trial in group),
    }


def summary(trials: list[dict]) -> dict:
    """One variant: means and deviations over its seeds, with what it took."""
    first = trials[0]
    kept = ("dataset", "method", "train_size", "top_blocks", "image_size", "learning_rate", "batch_size")
    return {
        "settings": {key: first["config"][key] for key in kept} | {"epochs": len(first["history"])},
        "seeds": [trial["seeds"][0] for trial in trials],
        "sizes": first["data"]["sizes"],
        "parameters": first["parameters"],
        "metrics": study.over_seeds(trials),
        "adapting_seconds": sum(trial["adapting_seconds"] for trial in trials),
        "peak_memory": max((trial["peak_memory"] for trial in trials if trial["peak_memory"]), default=None),
        "baseline": first["baseline"],
        **{key: first[key] for key in ("test_right",) if key in first and len(trials) == 1},
    }


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    start = time.perf_counter()
    small_pictures.fetch(config)
    groups = variants(config) if config.study else {"": [config]}
    first = [group[0] for group in groups.values()]
    pictures = {
        each.dataset: photographs.read(each.dataset, each.data_root, round(MARGIN * each.pixels)) for each in first
    }

    def select(single: Config) -> ImageData:
        return photographs.select(pictures[single.dataset], single.train_size, single.seed)

    data = select(first[-1])  # of a study the last variant's, which has the most training images
    head = config.head(data.describe())
    with records.claim(config.out, head, config.overwrite):
        body = compare(groups, lambda single: select(single).describe()) if config.study else train(config, data)
    return head | {"seconds": time.perf_counter() - start} | body


def print_result(result: dict) -> None:
    print(f"\n{transfer_plots.title(result)}; accuracy in %")
    for name, model in result.get("models", {result["config"]["method"]: result}).items():
        cells = [f"{part} {records.spread(scores['accuracy'], 100)}" for part, scores in model["metrics"].items()]
        cells.append(f"always {model['baseline']['class']} {100 * model['baseline']['accuracy']['test']:.1f}")
        print(f"  {name:28}{model['parameters']['trainable']:10,} parameters trained  {', '.join(cells)}")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    return study.main(command_line.parse(Config, argv, __doc__), run, print_result, transfer_plots.draw)


if __name__ == "__main__":
    sys.exit(main())
