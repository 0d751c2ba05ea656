"""Question 2 in brief: a small CNN on synthetic scans, with max-pooling and without."""

from __future__ import annotations

import importlib
from pathlib import Path

import records
from demo.part import Part, call
from publish.page import Picture, Section, Table
from q2.comparison import homework_pair

FLAGS = ("--dataset", "synthetic-oct", "--sweep", "--seeds", "0", "--epochs", "7")


def small_cnn(out: Path) -> Section:
    hw2_q2 = importlib.import_module("hw2-q2")  # the homework's name, which `import` can't spell
    command = call(hw2_q2.main, "python hw2-q2.py", *FLAGS, "--out", str(out))
    result = records.load_result(
        out / "q2" / "synthetic-oct-sweep.json",
        "models.*.metrics.validation?.accuracy.mean:number",
        "models.*.metrics.test?.accuracy.mean:number",
        "majority_baseline.accuracy.test:number",
    )
    stem = f"{out / 'plots' / 'q2' / 'synthetic-oct-sweep'}"
    pooling = Picture(
        Path(f"{stem}-pooling.png"),
        "Validation accuracy per epoch of two networks, with max-pooling and without, and their test scores",
        "Accuracy on synthetic scans, with max-pooling and without.",
    )
    mistakes = Picture(
        Path(f"{stem}-mistakes.png"),
        "Twelve synthetic scans, each with its true class and the wrong one that was predicted",
        "The synthetic scans that were classified wrongly with the highest probability.",
    )
    return Section(
        "Question 2: a small CNN",
        headline=told_apart(result),
        lines=(without_pooling(result),),
        pictures=(pooling, mistakes),
        tables=(networks(result),),
        commands=(command,),
    )


def percent(model: dict, part: str) -> str:
    metric = model["metrics"].get(part)
    return f"{100 * metric['accuracy']['mean']:.1f} %" if metric else "diverged" if model["diverged_seeds"] else ""


def told_apart(result: dict) -> str:
    baseline, count = 100 * result["majority_baseline"]["accuracy"]["test"], result["data"]["sizes"]["test"]
    right = percent(next(iter(result["models"].values())), "test")
    return f"A small CNN classifies {right} of {count:,} synthetic scans correctly; guessing gets {baseline:.0f} %."


def without_pooling(result: dict) -> str:
    strided = [model for model in homework_pair(result) if model["settings"]["no_maxpool"]]
    right = f"it is {percent(strided[0], 'test')}" if strided else "its training diverged"
    return f"Without max-pooling {right} (one training each, so a small difference may be chance)."


def networks(result: dict) -> Table:
    rows = [
        [
            "none" if model["settings"]["no_maxpool"] else "max-pooling",
            f"{model['settings']['learning_rate']:g}",
            percent(model, "validation"),
            percent(model, "test"),
            f"{model['parameters']:,}",
        ]
        for model in result["models"].values()
    ]
    header = ["pooling", "learning rate", "validation accuracy", "test accuracy", "parameters"]
    return Table(
        "Synthetic scans, one seed. Validation chose the rate; the test set was used after that.", header, rows
    )


PARTS = (Part("q2", "Question 2: a small CNN, trained six times", 100, small_cnn),)
