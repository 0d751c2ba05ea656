"""The flags of Question 2 (`python hw2-q2.py --help`), read into one frozen Config and checked."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command_line
import records
from command_line import DEVICES, NOT_NEGATIVE, POSITIVE, SEED, SEEDS, SHARE, Check, check_flags, flag, within

RESULT_KEYS = (  # what the result file of a training run or a comparison holds
    "data.name:text", "data.source:text", "data.sizes.*:number", "data.classes.*:text", "seconds:number",
    "majority_baseline.class:text", "majority_baseline.accuracy.validation:number",
    "majority_baseline.accuracy.test:number", "models.*.settings.recipe:text", "models.*.settings.no_maxpool:bool",
    "models.*.settings.learning_rate:number", "models.*.settings.epochs:number", "models.*.settings.batch_size:number",
    "models.*.settings.dropout:number", "models.*.parameters:number", "models.*.multiply_adds:number",
    "models.*.inference_us_per_image:number", "models.*.diverged_seeds.*:number", "models.*.metrics:dict",
    "models.*.metrics.*.accuracy.mean:number", "models.*.metrics.*.accuracy.std:number?",
    "models.*.metrics.*.accuracy.values.*:number", "models.*.metrics.*.auc.mean:number?",
    "models.*.metrics.*.auc.std:number?", "models.*.metrics.*.auc.values:list", "models.*.trials.*.seed:number",
    "models.*.trials.*.diverged_in_epoch:number?", "models.*.trials.*.history.*.train_loss:number",
    "models.*.trials.*.history.*.val_accuracy:number", "models.*.trials.*.validation?.accuracy:number",
    "models.*.trials.*.test?.confusion_matrix.*.*:number", "models.*.trials.*.test?.mistakes.*.index:number",
    "models.*.trials.*.test?.mistakes.*.true:number", "models.*.trials.*.test?.mistakes.*.predicted:number",
    "models.*.trials.*.test?.mistakes.*.probability:number", "models.*.trials.*.first_layer?.*.*.*:number",
)  # fmt: skip
SHIFT_KEYS = (  # and that of --shift
    "config.shifts.*:number", "data.name:text", "data.source:text", "models.*.settings.recipe:text",
    "models.*.settings.no_maxpool:bool", "models.*.settings.learning_rate:number", "models.*.receptive_field:number",
    "models.*.changed_predictions.*.mean:number", "models.*.changed_predictions.*.std:number?",
    "models.*.moved_features.*.mean:number", "models.*.moved_features.*.std:number?",
)  # fmt: skip

STRONG = {  # what --recipe strong has instead of the homework's defaults
    "epochs": 20,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "l2_decay": 0.05,
    "dropout": 0.2,
    "optimizer": "adam",
}
SETTINGS = ("dataset", "recipe", *STRONG, "no_maxpool", "seed")  # on which a trained model depends
SWEEP_SEEDS = (0, 1, 2)


def recipe_flag(name: str, default: float, meaning: str, check: Check) -> Any:
    """A flag whose default depends on the recipe."""
    return flag(default, meaning, check, shown=f"{default:g}; strong: {STRONG[name]:g}")


@dataclass(frozen=True)
class Config:
    """What to train, and on what; or which part of the homework to do."""

    dataset: str = flag(
        "octmnist",
        "octmnist, another single-label 2-D MedMNIST set, mnist, or synthetic-oct, which is made offline",
        Check(records.is_plain_name, "the name of a data set, such as octmnist"),
    )
    data_root: str = flag("data", "folder of the data files")
    recipe: str = flag("homework", "homework, or strong: a better network and training", choices=("homework", "strong"))
    epochs: int = recipe_flag("epochs", 15, "passes over the training set", within(1, 10_000))
    batch_size: int = recipe_flag("batch_size", 8, "images per step, over all processes together", within(1, 100_000))
    learning_rate: float = recipe_flag("learning_rate", 0.01, "step size of the optimiser", POSITIVE)
    l2_decay: float = recipe_flag("l2_decay", 0.0, "weight decay", NOT_NEGATIVE)
    dropout: float = recipe_flag("dropout", 0.7, "probability of dropping a hidden unit", SHARE)
    optimizer: str = flag("sgd", "sgd or adam", choices=("sgd", "adam"))
    no_maxpool: bool = flag(False, "convolutions of stride 2 instead of max-pooling")
    seed: int = flag(0, "seed of the weights, the order and the dropout", SEED)
    seeds: tuple[int, ...] = flag(
        (), "train once per seed, side by side, and report mean and deviation", SEEDS, shown="sweep: 0 1 2"
    )
    sweep: bool = flag(
        False, "compare learning rates 0.1, 0.01, 0.001 on validation data, with pooling and without, then test"
    )
    shift: bool = flag(False, "after a sweep: what its tested networks make of images moved by a few pixels")
    device: str = flag("auto", "auto, cpu, cuda or mps", choices=DEVICES)
    out: str = flag("runs", "folder for results, plots and checkpoints")
    resume: bool = flag(False, "go on from the checkpoints of the same command")
    overwrite: bool = flag(False, "replace a run of the same name with other settings or data")
    dry_run: bool = flag(False, "one short epoch on a few images, to check a command; writes nothing")
    no_test: bool = flag(False, "leave the test set alone")
    course_test_split: bool = flag(False, "test on the 529 images of OCTMNIST that the course's own loader kept")
    strict_checksum: bool = flag(False, "refuse a data file whose MD5 is not the official one")
    tensorboard: bool = flag(False, "log to OUT/q2/tensorboard")

    def __post_init__(self):
        check_flags(self)
        if self.recipe == "strong" and (self.sweep or self.no_maxpool or self.optimizer != "adam"):
            raise ValueError(
                "--recipe strong has its own network and optimiser: leave out --sweep, --no_maxpool and --optimizer"
            )

    def settings(self) -> dict:
        return {name: getattr(self, name) for name in SETTINGS}

    @property
    def variant(self) -> str:
        network = "strong" if self.recipe == "strong" else "no_maxpool" if self.no_maxpool else "maxpool"
        return f"{network}-{self.optimizer}-lr{self.learning_rate:g}"

    @property
    def run_name(self) -> str:
        return f"{self.dataset}-{self.variant}-seed{self.seed}"

    def file(self, suffix: str) -> Path:
        return Path(self.out) / "q2" / f"{self.run_name}{suffix}"

    def command(self) -> list[str]:
        """The command line that gives this configuration."""
        return [sys.executable, str(records.ROOT / "hw2-q2.py"), *command_line.flags_of(self)]


@dataclass(frozen=True)
class Prediction:
    """What to classify instead of training, and with which model."""

    predict: tuple[str, ...] = flag(
        (), "classify pictures instead of training: files, folders, or patterns such as 'scans/**/*.png'",
        metavar="IMAGE",
    )  # fmt: skip
    checkpoint: str = flag(
        str(records.ROOT / "checkpoints" / "pneumoniamnist-strong.safetensors"),
        "with --predict: a .safetensors file that a training run wrote",
        metavar="FILE",
        shown="the shipped strong model",
    )
    json: bool = flag(False, "with --predict: print a JSON object on a line for each picture")


def parse_config(argv: list[str] | None, description: str) -> tuple[Config, Prediction | None]:
    """Read the command line into a Config, and what to predict (None to train)."""
    given = vars(command_line.ArgumentParser((Config, Prediction), description=description).parse_args(argv))
    options = {name: given.pop(name) for name in ("predict", "checkpoint", "json") if name in given}
    if options and "predict" not in options:
        raise ValueError(f"--{next(iter(options))} goes with --predict")
    defaults = STRONG if given.get("recipe") == "strong" else {}
    if given.get("sweep"):
        defaults = defaults | {"seeds": SWEEP_SEEDS}
    return Config(**defaults | given), Prediction(**options) if options else None
