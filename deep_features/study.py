"""What the scripts of this course share: flags, data, one training, and studies that compare several.

A script trains one network, or with `--study NAME` variants of it that differ in a few flags, each with every seed.
Letters: N images, C channels, H and W their size.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

import command_line
import records
import utils
from command_line import DEVICES, POSITIVE, SEED, SEEDS, check_flags, flag, within
from common.classification import get_number_trainable_params
from common.grid import results_side_by_side
from image_data import PARTS, ImageData, load_images

QUESTION = "deep_features"
# fields on which a trained network does not depend
ASIDE = ("data_root", "study", "example", "seeds", "no_test", "device", "out", "resume", "overwrite", "dry_run")
PICTURES = ("reconstructions", "worst", "walk", "attention")  # of the first seed alone in a study's result
DRY_RUN_BATCHES = 10
LONGEST_NAME, DIGEST_BYTES = 120, 4  # characters of a variant's part of a file's name; what tells longer ones apart
SEEDS_OF_STUDY = (0, 1, 2)
Trainer = Callable[[Any, ImageData], tuple[nn.Module, dict]]


@dataclass(frozen=True)
class Study:
    """Variants to compare: the name of each, and the flags in which it differs from the command's.

    By default the best on validation images is trained anew on these, too, and tested, once; not `anew` where training
    takes long: then it is tested as it is. `tested`: every variant is, to stand beside published figures. `read_at`:
    epochs after which validation is looked at, where runs of fewer epochs are the beginnings of one longer run.
    """

    what: str
    variants: dict[str, dict[str, Any]] = field(hash=False)
    tested: bool = False
    anew: bool = True
    read_at: tuple[int, ...] = ()


class Choice(NamedTuple):
    """What validation selected: a variant, and after how many epochs."""

    variant: str
    epochs: int


@dataclass(frozen=True)
class Settings:
    """The flags that all scripts have; each adds its own, and says what it is called and how it selects."""

    dataset: str = flag(
        "mnist", "mnist, or digits: small ones that need no download", choices=("mnist", "digits"), metavar="NAME"
    )
    data_root: str = flag("data", "folder of the data files")
    train_size: int = flag(0, "train on the first TRAIN_SIZE images only", within(0, 60_000), shown="all")
    test_size: int = flag(0, "test on the first TEST_SIZE images only", within(0, 10_000), shown="all")
    all_training: bool = flag(False, "train on the validation images, too, once the settings are chosen")
    epochs: int = flag(20, "passes over the training images", within(1, 10_000))
    batch_size: int = flag(64, "images per step", within(1, 100_000))
    learning_rate: float = flag(1e-3, "step size of the optimiser", POSITIVE)
    seed: int = flag(0, "seed of the weights and the order", SEED)
    study: str | None = flag(None, "compare several trainings")
    seeds: tuple[int, ...] = flag(SEEDS_OF_STUDY, "seeds of a study, each of which trains every variant", SEEDS)
    no_test: bool = flag(False, "leave the test images alone")
    device: str = flag("auto", "auto, cpu, cuda or mps", choices=DEVICES)
    out: str = flag("runs", "folder for results, plots and checkpoints")
    resume: bool = flag(False, "go on from the checkpoints of the same command")
    overwrite: bool = flag(False, "replace a run of the same name with other settings or data")
    dry_run: bool = flag(False, "one short epoch on few images, to check a command; writes nothing")

    SCRIPT: ClassVar[str] = ""  # its file's name, without .py
    STUDIES: ClassVar[dict[str, Study]] = {}
    SCORE: ClassVar[str] = "accuracy"  # by which a study selects
    MORE_IS_BETTER: ClassVar[bool] = True

    def __post_init__(self):
        check_flags(self)
        if self.seeds != SEEDS_OF_STUDY and not self.study:
            raise ValueError("--seeds goes with --study: one training has a --seed")
        if self.study:
            own = {name for changes in self.STUDIES[self.study].variants.values() for name in changes} - set(ASIDE)
            given = [each.name for each in dataclasses.fields(self) if getattr(self, each.name) != each.default]
            if clash := sorted(own.intersection(given)):
                flags = ", ".join(f"--{name}" for name in clash)
                raise ValueError(f"--study {self.study} has settings of its own for {flags}: leave out {flags}")

    def settings(self) -> dict:
        """What a trained network depends on."""
        return {name: value for name, value in vars(self).items() if name not in ASIDE}

    @property
    def variant(self) -> str:
        """The flags that are not at their defaults, as a part of a file's name; a long one ends in a digest of all."""
        defaults = {each.name: each.default for each in dataclasses.fields(self)}
        kept = ((name, value) for name, value in self.settings().items() if name not in ("dataset", "seed"))
        words = [
            name if value is True else f"{name}{'_'.join(map(str, value if isinstance(value, tuple) else [value]))}"
            for name, value in kept
            if value != defaults[name]
        ]
        name = "-".join(words) or "base"
        if len(name) <= LONGEST_NAME:
            return name
        digest = hashlib.blake2b(name.encode(), digest_size=DIGEST_BYTES).hexdigest()
        return f"{name[: LONGEST_NAME - len(digest) - 1]}-{digest}"

    @property
    def run_name(self) -> str:
        last = f"study-{self.study}" if self.study else f"{self.variant}-seed{self.seed}"
        return f"{self.SCRIPT}-{self.dataset}-{last}"

    def file(self, suffix: str) -> Path:
        return Path(self.out) / QUESTION / f"{self.run_name}{suffix}"

    def command(self) -> list[str]:
        """The command line that gives this configuration."""
        return [sys.executable, str(records.ROOT / QUESTION / f"{self.SCRIPT}.py"), *command_line.flags_of(self)]


def study_flag(studies: dict[str, Study]) -> Any:
    """The flag of a script's studies."""
    meanings = "; ".join(f"{name}: {study.what}" for name, study in studies.items())
    return flag(None, f"compare several trainings side by side. {meanings}", choices=tuple(studies), metavar="NAME")


# --- data --------------------------------------------------------------------------------------------


def load_data(config: Settings) -> ImageData:
    """The images that a configuration asks for."""
    data = load_images(config.dataset, config.data_root)
    if config.all_training:
        whole = tuple(torch.cat(pair) for pair in zip(data.train, data.val, strict=True))
        data = dataclasses.replace(data, train=whole)
    few = {"train": config.train_size, "test": config.test_size}
    if config.dry_run:
        few = dict.fromkeys(PARTS, DRY_RUN_BATCHES * config.batch_size)
    cut = {part: tuple(t[:size] for t in getattr(data, part)) for part, size in few.items() if size}
    return dataclasses.replace(data, **cut)


def to_bytes(pixels: Tensor) -> list[list[int]]:
    """Pixels (N, H W) in [0, 1] as whole numbers from 0 to 255, for a result to keep."""
    return pixels.clamp(0, 1).mul(255).round().int().tolist()


# --- one training ------------------------------------------------------------------------------------


def fit(
    config: Settings,
    data: ImageData,
    model: nn.Module,
    tensors: tuple[Tensor, ...],
    optimizer: torch.optim.Optimizer,
    *,
    evaluate: Callable[[nn.Module], dict[str, float]],
    phase: str = "",
    epochs: int | None = None,
    **options,
) -> list[dict]:
    """`utils.fit` as a configuration asks for it; without validation where its images are trained on.

    A training in several phases names each, and gives its epochs where they are not the configuration's.
    """
    return utils.fit(
        model,
        utils.Batches(tensors, config.batch_size, config.seed),
        optimizer,
        evaluate=(lambda model: {}) if config.all_training else evaluate,
        epochs=1 if config.dry_run else epochs or config.epochs,
        seed=config.seed,
        checkpoint=None if config.dry_run else config.file(f"{phase}.ckpt"),
        config=config.settings() | {"data": data.digest},
        resume=config.resume,
        overwrite=config.overwrite,
        device=config.device,
        **options,
    )


def result_head(config: Settings, described: dict) -> dict:
    """How the result of a run begins: what it is of, by which another run of the same name is told from it."""
    return {
        "question": QUESTION,
        "run": config.run_name,
        "config": config.settings() | {"script": config.SCRIPT, "study": config.study},
        "seeds": list(config.seeds if config.study else (config.seed,)),
        "data": described,
    }


def train_one(config: Settings, data: ImageData, train: Trainer) -> dict:
    """Train one network; its trial, as the body of a result file."""
    utils.configure_seed(config.seed)
    model, trial = train(config, data)
    metrics = {
        part: {name: records.mean_std([value]) for name, value in trial[part].items()}
        for part in ("validation", "test")
        if part in trial
    }
    return {"parameters": get_number_trainable_params(model), "metrics": metrics, **trial}


# --- studies -----------------------------------------------------------------------------------------


def variants_of(config: Settings) -> dict[str, Settings]:
    """The configurations that a study compares, by the names of its variants."""
    study = config.STUDIES[config.study]
    plain = dataclasses.replace(config, study=None, seeds=SEEDS_OF_STUDY, no_test=not study.tested)
    return {name: dataclasses.replace(plain, **changes) for name, changes in study.variants.items()}


def train_side_by_side(configs: list[Settings]) -> list[dict]:
    """The results of these trainings, each in a process of its own (see `results_side_by_side`)."""
    described: dict[tuple, dict] = {}

    def head(config: Settings) -> dict:
        images = config.train_size, config.test_size, config.all_training
        if images not in described:
            described[images] = load_data(config).describe()
        return result_head(config, described[images])

    tested = [] if any(config.no_test for config in configs) else ["metrics.test:dict"]
    return results_side_by_side(configs, head, ("history:list", "parameters:number", "metrics:dict", *tested))


def compare(config: Settings) -> dict:
    """Train every variant with every seed, select on validation, and test; the body of a study's result."""
    study, variants = config.STUDIES[config.study], variants_of(config)
    singles = {name: [dataclasses.replace(each, seed=s) for s in config.seeds] for name, each in variants.items()}
    results = iter(train_side_by_side([single for group in singles.values() for single in group]))
    models = {name: summarise([next(results) for _ in group]) for name, group in singles.items()}
    body = {"models": models}
    if not study.tested:
        choice = select(config, models)
        body |= {"selected": choice._asdict(), "metrics": models[choice.variant]["metrics"]}
        if not config.no_test:
            chosen = dataclasses.replace(variants[choice.variant], epochs=choice.epochs, no_test=False)
            # what is not trained anew goes on from its checkpoint, which has all of its epochs
            last = dataclasses.replace(chosen, all_training=study.anew, resume=chosen.resume or not study.anew)
            final = summarise(train_side_by_side([dataclasses.replace(last, seed=s) for s in config.seeds]))
            if study.anew:
                body |= {"retrained": final}
            else:
                models[choice.variant] = final
            body["metrics"] = body["metrics"] | {"test": final["metrics"]["test"]}
    return body


def summarise(results: list[dict]) -> dict:
    """One variant's entry in the result of a study: means and deviations over seeds, and the trials themselves."""
    first = results[0]
    aside = ("question", "run", "config", "seeds", "data", "parameters", "metrics", "environment", "images")
    return {
        "settings": {name: value for name, value in first["config"].items() if name != "seed"},
        "parameters": first["parameters"],
        "metrics": {
            part: {name: records.mean_std([r["metrics"][part][name]["mean"] for r in results]) for name in scores}
            for part, scores in first["metrics"].items()
        },
        "trials": [
            {"seed": r["seeds"][0]}
            | {name: value for name, value in r.items() if name not in (aside if r is first else (*aside, *PICTURES))}
            for r in results
        ],
    }


def readings(config: Settings) -> tuple[int, ...]:
    """The epochs after which a study looks at validation: the last, where it has none of its own."""
    return tuple(e for e in config.STUDIES[config.study].read_at if e <= config.epochs) or (config.epochs,)


def score_at(model: dict, name: str, epoch: int) -> dict:
    """A validation score after so many epochs, over the seeds."""
    return records.mean_std([trial["history"][epoch - 1][f"val_{name}"] for trial in model["trials"]])


def select(config: Settings, models: dict[str, dict]) -> Choice:
    """The variant, and the reading, with the best validation score, its mean over the seeds."""
    choices = [
        Choice(name, epoch)
        for name, model in models.items()
        for epoch in (readings(config) if config.STUDIES[config.study].read_at else (model["settings"]["epochs"],))
    ]
    best = max if config.MORE_IS_BETTER else min
    return best(choices, key=lambda choice: score_at(models[choice.variant], config.SCORE, choice.epochs)["mean"])


# --- a script ----------------------------------------------------------------------------------------


def run(config: Settings, train: Trainer) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    start, data = time.perf_counter(), load_data(config)
    head = result_head(config, data.describe())
    claim = contextlib.nullcontext() if config.dry_run else records.claim(config.out, head, config.overwrite)
    with claim:
        body = compare(config) if config.study else train_one(config, data, train)
    return head | body | {"seconds": time.perf_counter() - start}


def main(config: Settings, run: Callable[[Any], dict], print_result: Callable[[dict], None]) -> int:
    """`run(config)`, save, draw and print the result; the exit code of a script."""
    torch.set_num_threads(1)  # small steps gain little from a second one; a study has a process for each core instead
    # pixels that are always black leave Adam with moments of 1e-40, which a processor computes with ten times as slowly
    torch.set_flush_denormal(True)
    if config.dry_run and config.study:
        variants = variants_of(config)
        print(f"would train {len(variants) * len(config.seeds)} networks; the first one, in brief:")
        config = dataclasses.replace(next(iter(variants.values())), study=None)
    result = run(config)
    if config.dry_run:
        print("dry run: a short epoch on few images; nothing was written")
        return 0
    path = records.save_results(config.out, result)
    drawn = []
    with command_line.attempt(f"drawing {path}"):
        from deep_features import plots

        drawn = plots.draw([path], Path(config.out) / "plots")
    print_result(result)
    print(f"results: {path}")
    if drawn:
        print("plots:  ", *(plot for plot in drawn if plot.suffix == ".png"), sep="\n  ")
    return 0
