"""Lab 3: architecture search: random search and successive halving at one budget, against a network made by hand.

Both draw from one space of small CNNs, train what they have drawn for some epochs, and keep what is best on validation
images. Random search trains few networks for long. Successive halving (Jamieson and Talwalkar 2016) trains many for one
epoch, the best third of them for three, the best third of these for nine, and so on; together as many epochs.

python lab3/search.py                                              successive halving on scikit-learn's digits
python lab3/search.py --method random                              random search, at the same budget
python lab3/search.py --method none                                the network made by hand
python lab3/search.py --study methods --rungs 3 --dataset mnist --train_size 5000 --data_root DATA

Letters: K rungs.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

import records
import utils
from command_line import COUNT, POSITIVE, flag, within
from common.classification import get_number_trainable_params, majority_baseline, multiply_adds
from common.recipes import adamw
from common.shaped_cnn import ACTIVATIONS, Shape, ShapedCNN
from image_data import ImageData, load_images
from lab3 import board, photographs, search_plots, study, techniques
from lab3.study import Settings, varied

DATASETS = ("digits", "mnist")
METHODS = ("halving", "random", "none")
ETA = 3  # a rung keeps one of so many networks, and trains it for so many times the epochs
LARGEST = 100_000  # parameters of a network
DEPTHS, WIDTHS, KERNELS, MOST_POOLS = (2, 3, 4, 5), (8, 16, 32), (3, 5), 3
HIDDEN = ((), (32,), (64,), (128,))
TRAININGS = 3  # of the winner, from the beginning
VALIDATION = 5000  # of MNIST's training images
# made by hand: the base of the study of factors of deep_features/cnn.py
BASE = Shape((8, 8, 16, 16), (3, 3, 3, 3), (1, 1, 1, 1), (1, 1, 1, 1), pools=(2, 4), hidden=(64,))
KEYS = (
    "metrics.*.accuracy.mean:number", "parameters:number", "multiply_adds:number", "seconds:number",
    "trace.*.score:number",
)  # fmt: skip


@dataclass(frozen=True)
class Config(Settings):
    """The flags."""

    dataset: str = flag("digits", ", ".join(DATASETS), choices=DATASETS, metavar="NAME")
    study: str | None = flag(None, "methods: both, and the network made by hand", choices=("methods",), metavar="NAME")
    method: str = flag(
        "halving", "halving, random, or none: train the network made by hand", choices=METHODS, metavar="NAME"
    )
    rungs: int = flag(2, "K: the longest training is 3^(K - 1) epochs, the budget 2 K + 1 times as many", within(1, 5))
    train_size: int = flag(0, "training images, as many of each class", within(0, 50_000), shown="all")
    batch_size: int = flag(64, "images per step", COUNT)
    learning_rate: float = flag(1e-3, "step size", POSITIVE)

    SCRIPT: ClassVar[str] = "search"

    @property
    def epochs(self) -> int:
        """The epochs of the longest training."""
        return ETA ** (self.rungs - 1)


# --- the space ---------------------------------------------------------------------------------------


def sample(generator: np.random.Generator) -> Shape:
    """A network of the space: each choice is drawn uniformly, and all are drawn anew until it is small enough."""
    while True:
        depth = int(generator.choice(DEPTHS))
        kernels = tuple(generator.choice(KERNELS, depth).tolist())
        pools = generator.choice(depth, generator.integers(1, min(depth, MOST_POOLS) + 1), replace=False) + 1
        shape = Shape(
            widths=tuple(generator.choice(WIDTHS, depth).tolist()), kernels=kernels, strides=(1,) * depth,
            paddings=tuple(kernel // 2 for kernel in kernels), pools=tuple(sorted(pools.tolist())),
            hidden=HIDDEN[generator.integers(len(HIDDEN))], activation=str(generator.choice(list(ACTIVATIONS))),
            batch_norm=bool(generator.integers(2)),
        )  # fmt: skip
        if parameters(shape) <= LARGEST:
            return shape


def parameters(shape: Shape) -> int:
    with torch.device("meta"):  # sizes alone, without weights
        return get_number_trainable_params(ShapedCNN(shape))


# --- search ------------------------------------------------------------------------------------------

Score = Callable[[int, int], float]  # of a candidate, by its number, after so many epochs


class Rung(NamedTuple):
    """How many candidates go on, and up to which number of epochs."""

    candidates: int
    epochs: int


def rungs_of(method: str, rungs: int) -> list[Rung]:
    """Successive halving's K rungs, or random search's one: 3^(K - 1) (2 K + 1) epochs together with either."""
    if method == "random":
        return [Rung(2 * rungs + 1, ETA ** (rungs - 1))]
    return [Rung(ETA ** (rungs - place), ETA**place) for place in range(rungs)]


def search(rungs: list[Rung], score: Score) -> list[dict]:
    """Train rung by rung, and let the best of each go on: per training its candidate, epochs, score and epochs spent.

    A candidate that goes on costs the epochs that are new. Of equal scores the first drawn wins.
    """
    trace, going, before, spent = [], list(range(rungs[0].candidates)), 0, 0
    for rung in rungs:
        scores = {}
        for candidate in going[: rung.candidates]:
            scores[candidate] = score(candidate, rung.epochs)
            spent += rung.epochs - before
            trace.append({"candidate": candidate, "epochs": rung.epochs, "score": scores[candidate], "spent": spent})
        going, before = sorted(scores, key=lambda candidate: (-scores[candidate], candidate)), rung.epochs
    return trace


def winner_of(trace: list[dict]) -> int:
    """The best candidate among those that were trained longest."""
    longest = max(step["epochs"] for step in trace)
    return max((step for step in trace if step["epochs"] == longest), key=lambda step: step["score"])["candidate"]


# --- training ----------------------------------------------------------------------------------------


def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels, reduction="none")  # (B,)


def fit(
    config: Config, data: ImageData, shape: Shape, name: str, epochs: int, seed: int, resume: bool
) -> tuple[nn.Module, list[dict]]:
    """A network trained up to so many epochs, from its checkpoint of that name where it is to `resume`; its history.

    The step size is constant, so that a short training is the beginning of a longer one.
    """
    utils.configure_seed(seed)
    model = ShapedCNN(shape)
    history = utils.fit(
        model, utils.Batches(data.train, config.batch_size, seed), adamw(model, config.learning_rate, 0.0),
        loss_fn=losses, evaluate=lambda model: techniques.scores(model, data.val), epochs=epochs, seed=seed,
        checkpoint=config.file(f"-{name}.ckpt"), config=config.settings() | asdict(shape) | {"data": data.digest},
        resume=resume, overwrite=config.overwrite, device=config.device,
        tensorboard=board.folder(config) / name if config.tensorboard else None,
    )  # fmt: skip
    return model, history


def searched(config: Config, data: ImageData) -> tuple[Shape, dict]:
    """The network that the search finds, and the search's part of its result."""
    if config.method == "none":
        return BASE, {"trace": []}
    rungs, generator = rungs_of(config.method, config.rungs), np.random.default_rng(config.seed)
    candidates = [sample(generator) for _ in range(rungs[0].candidates)]
    histories: dict[int, list[dict]] = {}

    def score(candidate: int, epochs: int) -> float:
        resume = config.resume or candidate in histories  # a candidate that goes on, goes on from its checkpoint
        name = f"candidate{candidate}"
        _, histories[candidate] = fit(config, data, candidates[candidate], name, epochs, config.seed, resume)
        return histories[candidate][epochs - 1]["accuracy"]

    trace = search(rungs, score)
    curves = {str(candidate): [record["accuracy"] for record in each] for candidate, each in histories.items()}
    body = {"trace": trace, "candidates": [asdict(shape) for shape in candidates], "curves": curves}
    return candidates[winner_of(trace)], body


def train(config: Config, data: ImageData) -> dict:
    """Search, train what was found from the beginning with seeds of its own, and test that; the body of a result."""
    shape, body = searched(config, data)
    trials = []
    for place in range(TRAININGS):
        seed = utils.derived_seed(config.seed, place)  # none of the search's
        model, _ = fit(config, data, shape, f"final{place}", config.epochs, seed, config.resume)
        trials.append({"validation": techniques.scores(model, data.val), "test": techniques.scores(model, data.test)})
    return body | {
        "shape": asdict(shape),
        "parameters": get_number_trainable_params(model),
        "multiply_adds": multiply_adds(model.cpu(), tuple(data.train[0].shape[1:])),
        "baseline": majority_baseline(data),
        "metrics": {
            part: {name: records.mean_std([trial[part][name] for trial in trials]) for name in trials[0][part]}
            for part in trials[0]
        },
    }


# --- the study ---------------------------------------------------------------------------------------

VARIANTS = {"successive halving": "halving", "random search": "random", "made by hand": "none"}


def compare(config: Config, described: Callable[[Config], dict]) -> dict:
    """Search with both methods and every seed, and train the network made by hand; the body of the study's result."""
    groups = varied(config, {name: {"method": method} for name, method in VARIANTS.items()})
    trials = study.train_all(groups, described, KEYS)
    return {
        "models": {name: summary(group) for name, group in trials.items()},
        "ranks": ranks(trials["random search"], config.rungs),
        "baseline": trials["made by hand"][0]["baseline"],
        "seconds": sum(trial["seconds"] for group in trials.values() for trial in group),
    }


def summary(trials: list[dict]) -> dict:
    """A method with every seed: what it found, and how well that does."""
    return {
        "parameters": trials[0]["parameters"],
        "winners": [{name: trial[name] for name in ("shape", "parameters", "multiply_adds")} for trial in trials],
        "traces": [trial["trace"] for trial in trials],
        "metrics": study.over_seeds(trials),
        "seconds": records.mean_std([trial["seconds"] for trial in trials]),
    }


def ranks(trials: list[dict], rungs: int) -> dict[str, dict]:
    """Spearman's rank correlation of validation accuracy after fewer epochs with that after all, over the candidates.

    Of random search's, all of which were trained to the end; a value for each seed.
    """
    curves = [np.array(list(trial["curves"].values())) for trial in trials]  # each (candidates, epochs)
    return {
        str(early): records.mean_std([float(spearmanr(each[:, early - 1], each[:, -1])[0]) for each in curves])
        for early in (ETA**place for place in range(rungs - 1))
    }


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    start = time.perf_counter()
    pictures = photographs.as_pictures(load_images(config.dataset, config.data_root, validation_size=VALIDATION))

    @functools.cache
    def describe(train_size: int, seed: int) -> dict:
        return photographs.select(pictures, train_size, seed).describe()

    head = config.head(describe(config.train_size, config.seed))
    with records.claim(config.out, head, config.overwrite):
        if config.study:
            body = compare(config, lambda single: describe(single.train_size, single.seed))
        else:
            body = train(config, photographs.select(pictures, config.train_size, config.seed))
    return head | {"seconds": time.perf_counter() - start} | body


def print_result(result: dict) -> None:
    print(f"\n{search_plots.title(result)}; accuracy in %")
    for name, model in result.get("models", {result["config"]["method"]: result}).items():
        cells = [f"{part} {records.spread(s['accuracy'], 100, 2)}" for part, s in model["metrics"].items()]
        for cost in ("parameters", "multiply_adds"):
            sizes = [f"{each[cost]:,}" for each in model.get("winners", [model])]
            cells.append(f"{' '.join(dict.fromkeys(sizes))} {cost.replace('_', '-')}")
        print(f"  {name:20}{'; '.join(cells)}")
    for epochs, found in result.get("ranks", {}).items():
        print(f"  rank correlation of epoch {epochs} with the last: {records.spread(found, 1, 2)}")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    return study.main(command_line.parse(Config, argv, __doc__), run, print_result, search_plots.draw)


if __name__ == "__main__":
    sys.exit(main())
