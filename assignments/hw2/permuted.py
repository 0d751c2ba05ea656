"""Homework 2's lectures: a CNN against a fully connected network, on digits with their pixels in order or shuffled.

python assignments/hw2/permuted.py --seeds 0 1 2        MNIST, three networks of each kind
python assignments/hw2/permuted.py --dataset digits     small digits, without a download

Both networks have some 6,400 parameters. A convolution assumes that near pixels belong together and that a stroke means
the same everywhere; shuffled by one fixed permutation, the images hold as much as before, but neither is true.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import math
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

import records
import utils
from command_line import COUNT, POSITIVE, SEED, SEEDS, check_flags, flag
from common.classification import accuracy, get_number_trainable_params
from common.grid import Training, results_side_by_side
from image_data import ImageData, load_images, with_shuffled_pixels

ORDERS = ("in order", "shuffled")
NETWORKS = ("fully connected", "CNN")


@dataclass(frozen=True)
class Config(Training):
    """The flags."""

    dataset: str = flag(
        "mnist", "mnist, or digits: small ones that need no download", choices=("mnist", "digits"), metavar="NAME"
    )
    data_root: str = flag("data", "folder of the data files")
    epochs: int = flag(10, "passes over the training images", COUNT)
    batch_size: int = flag(64, "images per step", COUNT)
    learning_rate: float = flag(2e-3, "largest step size of Adam", POSITIVE)
    seed: int = flag(0, "seed of the weights and the order", SEED)
    seeds: tuple[int, ...] = flag((), "train once per seed, side by side", SEEDS, shown="only SEED")
    out: str = flag("runs", "folder for results, plots and checkpoints")
    resume: bool = flag(False, "go on from the checkpoints of the same command")
    overwrite: bool = flag(False, "replace a run of the same name with other settings or data")

    QUESTION: ClassVar[str] = "assignments"
    ASIDE: ClassVar[tuple[str, ...]] = ("data_root", "seeds", "out", "resume", "overwrite")

    __post_init__ = check_flags

    @property
    def run_name(self) -> str:
        return f"hw2-permuted-{self.dataset}" + ("" if self.seeds else f"-seed{self.seed}")


def build(network: str) -> nn.Sequential:
    """Class scores (B, 10) of images (B, 1, 28, 28): with 6,442 parameters, or with 6,422 as a CNN."""
    if network == "fully connected":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2),  # (B, 6, 12, 12)
        nn.Conv2d(6, 6, 5), nn.ReLU(), nn.MaxPool2d(2),  # (B, 6, 4, 4)
        nn.Flatten(), nn.Linear(96, 50), nn.ReLU(), nn.Linear(50, 10),
    )  # fmt: skip


def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def train(config: Config, data: ImageData, network: str, order: str) -> dict:
    """Train one network and test it."""
    utils.configure_seed(config.seed)
    data = with_shuffled_pixels(data) if order == "shuffled" else data
    model, batches = build(network), utils.Batches(data.train, config.batch_size, config.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    history = utils.fit(
        model, batches, optimizer, loss_fn=losses, epochs=config.epochs, seed=config.seed,
        evaluate=lambda model: {"val_accuracy": accuracy(model, *data.val)},
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, config.epochs * len(batches)),
        checkpoint=config.file(f"-{network}-{order}.ckpt".replace(" ", "_")),
        config=config.settings() | {"data": data.digest}, resume=config.resume, overwrite=config.overwrite,
    )  # fmt: skip
    parts = {"validation": data.val, "test": data.test}
    return {
        "parameters": get_number_trainable_params(model),
        "history": history,
        "metrics": {part: {"accuracy": records.mean_std([accuracy(model, *images)])} for part, images in parts.items()},
    }


def run(config: Config) -> dict:
    """Do what the flags ask for and return it in the form of a result file."""
    start, data = time.perf_counter(), load_images(config.dataset, config.data_root)
    described = data.describe()
    with records.claim(config.out, config.head(described), config.overwrite):
        if config.seeds:
            singles = [replace(config, seeds=(), seed=seed) for seed in config.seeds]
            trials = results_side_by_side(singles, lambda single: single.head(described), ("models:dict",))
            models = {name: summary([trial["models"][name] for trial in trials]) for name in trials[0]["models"]}
        else:
            each = ((network, order) for network in NETWORKS for order in ORDERS)
            models = {f"{network}, {order}": train(config, data, network, order) for network, order in each}
    return config.head(described) | {"models": models, "seconds": time.perf_counter() - start}


def summary(results: list[dict]) -> dict:
    """One network's entry in a result of several seeds."""
    metrics = {
        part: {"accuracy": records.mean_std([result["metrics"][part]["accuracy"]["mean"] for result in results])}
        for part in results[0]["metrics"]
    }
    histories = [result["history"] for result in results]
    return {"parameters": results[0]["parameters"], "histories": histories, "metrics": metrics}


# --- what was found ----------------------------------------------------------------------------------

DATA = {"mnist": "MNIST (real)", "digits": "Small digits (real)"}
KEYS = ("models.*.parameters:number", "models.*.metrics.test.accuracy.mean:number", "data.sizes.test:number")


@utils.plot_style()
def plot_accuracies(result: dict) -> Figure:
    """Validation accuracy of each network and order, epoch by epoch."""
    figure = Figure(figsize=(4.4, 2.7))
    axes = figure.subplots()
    for name, model in result["models"].items():
        style = "-" if name.endswith(ORDERS[0]) else "--"
        histories = model.get("histories") or [model["history"]]
        utils.draw_curves(axes, histories, "val_accuracy", 100, label=name, ls=style)
    utils.epoch_axis(axes, ylabel="validation accuracy (%)")
    axes.legend()
    figure.suptitle(f"{DATA[result['data']['name']]}, pixels in order or shuffled", fontsize=9)
    return figure


def draw(paths, out: str | Path) -> list[Path]:
    """Draw the plot of each result, as OUT/assignments/<run>-accuracies.pdf and .png."""
    drawn = []
    for path in paths:
        result = records.load_result(path, *KEYS)
        stem = Path(out) / "assignments" / f"{result['run']}-accuracies"
        drawn += utils.save_figure(plot_accuracies(result), stem, path)
    return drawn


def finding(result: dict) -> str:
    """How far the networks are apart with each order, in words."""
    kept, lost = (difference(result, order) for order in ORDERS)
    return f"The CNN is {kept} with pixels in order, and {lost} with the same pixels shuffled."


def difference(result: dict, order: str) -> str:
    """The CNN's test accuracy against the fully connected network's, told apart beyond two standard errors."""
    connected, cnn = (result["models"][f"{network}, {order}"]["metrics"]["test"]["accuracy"] for network in NETWORKS)
    points = 100 * (cnn["mean"] - connected["mean"])
    error = 100 * math.hypot(cnn["std"], connected["std"]) / len(result["seeds"]) ** 0.5
    if abs(points) <= 2 * error:
        return "neither better nor worse, as far as the seeds tell,"
    return f"{abs(points):.1f} points {'better' if points > 0 else 'worse'}"


def print_result(result: dict) -> None:
    print(f"\n{DATA[result['data']['name']]}, test accuracy in %, seeds {', '.join(map(str, result['seeds']))}")
    for name, model in result["models"].items():
        right = records.spread(model["metrics"]["test"]["accuracy"], 100, 2)
        print(f"  {name:26}{model['parameters']:6,} parameters  {right}")
    if len(result["seeds"]) > 1:
        print(finding(result))


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # pixels that are always black leave Adam with moments of 1e-40, which are slow
    result = run(config)
    path = records.save_results(config.out, result)
    print_result(result)
    print(path, *draw([path], Path(config.out) / "plots"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
