"""What the scripts of Lab 3 share: flags, names of runs, variants trained with several seeds, and a script's end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

import records
from command_line import DEVICES, SEED, SEEDS, check_flags, flag
from common.grid import Training, results_side_by_side
from lab3 import board


@dataclass(frozen=True)
class Settings(Training):
    """The flags that scripts of the lab have in common; each adds its own, and says what it is called."""

    dataset: str = flag("digits", "the data")
    data_root: str = flag("data", "folder of the data")
    study: str | None = flag(None, "several trainings")
    seed: int = flag(0, "seed of what is drawn: data, weights and their order", SEED)
    seeds: tuple[int, ...] = flag((0, 1, 2), "those of a study", SEEDS)
    device: str = flag("auto", "auto, cpu, cuda or mps", choices=DEVICES)
    tensorboard: bool = flag(False, "losses and step size go to OUT/lab3/tensorboard")
    out: str = flag("runs", "folder for results, plots and checkpoints")
    resume: bool = flag(False, "go on from results and checkpoints of the same command")
    overwrite: bool = flag(False, "replace a run of the same name with other settings or data")

    QUESTION: ClassVar[str] = "lab3"
    SCRIPT: ClassVar[str]  # its file's name, without .py
    ASIDE: ClassVar[tuple[str, ...]] = (
        "data_root", "download", "study", "seeds", "no_test", "device", "tensorboard", "out", "resume", "overwrite"
    )  # fmt: skip

    def __post_init__(self):
        check_flags(self)

    @property
    def variant(self) -> str:
        """The flags that are not at their defaults, as a part of a file's name."""
        defaults = {each.name: each.default for each in dataclasses.fields(self)}
        given = ((name, value) for name, value in super().settings().items() if name not in ("dataset", "seed"))
        words = (
            value if isinstance(value, str) else name if value is True else f"{name}{value:g}"
            for name, value in given
            if value != defaults[name]
        )  # fmt: skip
        return "-".join(words) or "base"

    @property
    def run_name(self) -> str:
        if self.study:
            return f"{self.SCRIPT}-{self.study}-{self.dataset}"
        return f"{self.SCRIPT}-{self.dataset}-{self.variant}-seed{self.seed}"

    def head(self, described: dict) -> dict:
        return super().head(described) | {"seeds": list(self.seeds) if self.study else [self.seed]}


def varied(config: Settings, changes: dict[str, dict[str, Any]]) -> dict[str, list[Settings]]:
    """The trainings of a study: for each variant its name, and the command with its changes, with every seed."""
    aside = {"download": False} if hasattr(config, "download") else {}
    plain = dataclasses.replace(config, study=None, seeds=type(config).seeds, **aside)
    return {
        name: [dataclasses.replace(plain, seed=seed, **change) for seed in config.seeds]
        for name, change in changes.items()
    }  # fmt: skip


def train_all(
    groups: dict[str, list[Settings]], described: Callable[[Any], dict], keys: tuple[str, ...]
) -> dict[str, list[dict]]:
    """The results of every variant with every seed, by the variant's name (see `results_side_by_side`)."""
    singles = [single for group in groups.values() for single in group]
    each = iter(results_side_by_side(singles, lambda single: single.head(described(single)), keys))
    return {name: [next(each) for _ in group] for name, group in groups.items()}


def over_seeds(trials: list[dict]) -> dict:
    """Every score of every part, its mean and deviation over trainings that differ in their seed."""
    return {
        part: {name: records.mean_std([trial["metrics"][part][name]["mean"] for trial in trials]) for name in scores}
        for part, scores in trials[0]["metrics"].items()
    }


def gap(trials: list[dict]) -> dict:
    """By how much the accuracy on training images is above that on validation images, over the seeds."""
    shares = ([t["metrics"][part]["accuracy"]["mean"] for t in trials] for part in ("train", "validation"))
    return records.mean_std([seen - unseen for seen, unseen in zip(*shares, strict=True)])


def main(
    config: Settings,
    run: Callable[[Any], dict],
    print_result: Callable[[dict], None],
    draw: Callable[[Iterable[Path], Path], list[Path]],
) -> int:
    """`run(config)`, save, draw and print the result; the exit code of a script."""
    torch.set_num_threads(1)  # small steps gain little from a second one; a study has a process for each core instead
    torch.set_flush_denormal(True)
    result = run(config)
    # a result that was read keeps the environment it was measured in
    path = config.file(".json") if "environment" in result else records.save_results(config.out, result)
    print_result(result)
    print(f"  {records.cost(records.load_result(path))}")
    print(path, *draw([path], Path(config.out) / "plots"), *board.command(config), sep="\n")
    return 0
