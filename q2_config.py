"""The flags of Question 2 (`python hw2-q2.py --help`), read into one frozen Config and checked."""

from __future__ import annotations

import dataclasses
import math
import sys
from argparse import SUPPRESS, RawDescriptionHelpFormatter
from dataclasses import dataclass
from pathlib import Path

import command_line
import q2_strong
import records
from command_line import within

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
SHIFT_KEYS = (  # and that of q2_shift.py
    "config.shifts.*:number", "data.name:text", "data.source:text", "models.*.settings.recipe:text",
    "models.*.settings.no_maxpool:bool", "models.*.settings.learning_rate:number", "models.*.receptive_field:number",
    "models.*.changed_predictions.*.mean:number", "models.*.changed_predictions.*.std:number?",
    "models.*.moved_features.*.mean:number", "models.*.moved_features.*.std:number?",
)  # fmt: skip

RECIPES = ("homework", "strong")


@dataclass(frozen=True)
class Config:
    """The flags; `settings` are those that a trained model depends on."""

    dataset: str = "octmnist"
    data_root: str = "data"
    recipe: str = "homework"
    epochs: int = 15
    batch_size: int = 8
    learning_rate: float = 0.01
    l2_decay: float = 0.0
    dropout: float = 0.7
    optimizer: str = "sgd"
    no_maxpool: bool = False
    seed: int = 0
    device: str = "auto"
    strict_checksum: bool = False
    course_test_split: bool = False
    no_test: bool = False
    seeds: tuple[int, ...] = ()
    sweep: bool = False
    out: str = "runs"
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False
    tensorboard: bool = False

    def __post_init__(self):
        in_range = all(within(seed, *command_line.SEEDS)[0] for seed in self.seeds)
        distinct = in_range and len(set(self.seeds)) == len(self.seeds)
        checks = {
            "dataset": (records.is_plain_name(self.dataset), "the name of a data set, such as octmnist"),
            "epochs": within(self.epochs, 1, 10_000),
            "batch_size": within(self.batch_size, 1, 100_000),
            "learning_rate": (0 < self.learning_rate < math.inf, "positive"),
            "l2_decay": (0 <= self.l2_decay < math.inf, "not negative"),
            "dropout": (0 <= self.dropout < 1, "at least 0 and less than 1"),
            "seed": within(self.seed, *command_line.SEEDS),
            "seeds": (distinct, f"distinct, each {within(0, *command_line.SEEDS)[1]}"),
        }
        command_line.check_flags(self, checks)
        if self.recipe == "strong" and (self.sweep or self.no_maxpool or self.optimizer != "adam"):
            raise ValueError(
                "--recipe strong has its own network and optimiser: leave out --sweep, --no_maxpool and --optimizer"
            )

    def settings(self) -> dict:
        names = "dataset recipe epochs batch_size learning_rate l2_decay dropout optimizer no_maxpool seed"
        return {name: getattr(self, name) for name in names.split()}

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
        flags = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is True:
                flags.append(f"--{field.name}")
            elif field.name == "seeds":
                flags += ["--seeds", *map(str, value)] if value else []
            elif value is not False:
                flags += [f"--{field.name}", str(value)]
        return [sys.executable, str(records.ROOT / "hw2-q2.py"), *flags]


@dataclass(frozen=True)
class Prediction:
    """What `--predict` classifies: files, folders and patterns; with which model; and whether to print JSON."""

    images: tuple[str, ...]
    checkpoint: str = str(records.ROOT / "checkpoints" / "pneumoniamnist-strong.safetensors")
    json: bool = False


def parse_config(argv: list[str] | None, description: str) -> tuple[Config, Prediction | None]:
    """Read the command line into a Config, and what to predict (None to train)."""
    parser = command_line.ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    flag = lambda name, text, **kwargs: parser.add_flag(name, help=text, default=SUPPRESS, **kwargs)  # noqa: E731
    flag("dataset", "octmnist (default), another single-label 2-D MedMNIST set, mnist, or synthetic-oct (made offline)")
    flag("data_root", "folder of the data files (data)")
    flag("recipe", "homework (default), or strong: a better network and training", choices=RECIPES)
    flag("epochs", "passes over the training set (15; strong: 20)", type=int)
    flag("batch_size", "images per step, over all processes together (8; strong: 64)", type=int)
    flag("learning_rate", "step size of the optimiser (0.01; strong: 0.003)", type=float)
    flag("l2_decay", "weight decay (0; strong: 0.05)", type=float)
    flag("dropout", "probability of dropping a hidden unit (0.7; strong: 0.2)", type=float)
    flag("optimizer", "sgd (default) or adam", choices=("sgd", "adam"))
    flag("no_maxpool", "convolutions of stride 2 instead of max-pooling", action="store_true")
    flag("seed", "seed of the weights, the order and the dropout (0)", type=int)
    flag(
        "seeds", "train once per seed, side by side, and report mean and deviation (sweep: 0 1 2)", type=int, nargs="+"
    )
    flag("sweep", "compare learning rates 0.1, 0.01, 0.001 on validation data, then test and train no_maxpool",
         action="store_true")  # fmt: skip
    flag("device", "auto (default), cpu, cuda or mps", choices=("auto", "cpu", "cuda", "mps"))
    flag("out", "folder for results, plots and checkpoints (runs)")
    flag("resume", "go on from the checkpoints of the same command", action="store_true")
    flag("overwrite", "replace a run of the same name with other settings or data", action="store_true")
    flag("dry_run", "one short epoch on a few images, to check a command; writes nothing", action="store_true")
    flag("no_test", "leave the test set alone", action="store_true")
    flag(
        "course_test_split", "test on the 529 images of OCTMNIST that the course's own loader kept", action="store_true"
    )
    flag("strict_checksum", "refuse a data file whose MD5 is not the official one", action="store_true")
    flag("tensorboard", "log to OUT/q2/tensorboard", action="store_true")
    flag("predict", "classify pictures instead of training: files, folders, or patterns such as 'scans/**/*.png'",
         nargs="+", metavar="IMAGE")  # fmt: skip
    flag("checkpoint", "with --predict: a .safetensors file that a training run wrote (the shipped strong model)",
         metavar="FILE")  # fmt: skip
    flag("json", "with --predict: print a JSON object on a line for each picture", action="store_true")
    given = vars(parser.parse_args(argv))
    options = {name: given.pop(name) for name in ("checkpoint", "json") if name in given}
    if options and "predict" not in given:
        raise ValueError(f"--{next(iter(options))} goes with --predict")
    prediction = Prediction(tuple(given.pop("predict")), **options) if "predict" in given else None
    if "seeds" in given:
        given["seeds"] = tuple(given["seeds"])
    elif given.get("sweep"):
        given["seeds"] = (0, 1, 2)
    return Config(**(q2_strong.DEFAULTS if given.get("recipe") == "strong" else {}) | given), prediction
