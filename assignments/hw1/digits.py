"""Homework 1's network on handwritten digits, trained by hand and by autograd: `python assignments/hw1/mlp.py`.

Both start from the same weights and see the same batches, so their weights agree after every step.
"""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import records
import utils
from assignments.hw1.mlp import MLP, mse_loss
from command_line import POSITIVE, SEED, check_flags, flag, within
from image_data import load_images

CLASSES = 10


@dataclass(frozen=True)
class Config:
    """The flags."""

    hidden: int = flag(128, "units between the layers", within(1, 4096))
    epochs: int = flag(60, "passes over the training digits", within(1, 1000))
    batch_size: int = flag(32, "digits per step", within(1, 1197))
    learning_rate: float = flag(0.3, "step size of gradient descent", POSITIVE)
    seed: int = flag(0, "seed of the weights and the order", SEED)
    out: str = flag("runs", "folder for the result and the plot")

    __post_init__ = check_flags


def build(config: Config) -> MLP:
    """The network in double precision; its weights are divided by the root of their inputs, so that nothing is huge."""
    net = MLP(28 * 28, config.hidden, "relu", config.hidden, CLASSES, "identity")
    for name, value in net.parameters.items():
        net.parameters[name] = (
            value.double() / value.shape[1] ** 0.5 if value.ndim == 2 else torch.zeros_like(value).double()
        )
    return net


def autograd_copy(net: MLP) -> nn.Sequential:
    """The same network as PyTorch builds it."""
    copy = nn.Sequential(
        nn.Linear(28 * 28, len(net.parameters["b1"])), nn.ReLU(), nn.Linear(len(net.parameters["b1"]), CLASSES)
    )
    for layer, number in ((copy[0], 1), (copy[2], 2)):
        layer.weight.data, layer.bias.data = net.parameters[f"W{number}"].clone(), net.parameters[f"b{number}"].clone()
    return copy


def step_by_hand(net: MLP, pixels: Tensor, targets: Tensor, rate: float) -> float:
    """One step of gradient descent; returns the loss."""
    loss, gradient = mse_loss(targets, net.forward(pixels))
    net.backward(gradient)
    for name in net.parameters:
        net.parameters[name] = net.parameters[name] - rate * net.grads[f"dJd{name}"]
    return loss.item()


def step_by_autograd(copy: nn.Sequential, optimizer: torch.optim.Optimizer, pixels: Tensor, targets: Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.mse_loss(copy(pixels), targets).backward()
    optimizer.step()


def difference(net: MLP, copy: nn.Sequential) -> float:
    """The largest one between weights."""
    pairs = zip(net.parameters.values(), (p.data for p in copy.parameters()), strict=True)
    return max((mine - theirs).abs().max().item() for mine, theirs in pairs)


def run(config: Config) -> dict:
    """Train both, and return what was found in the form of a result file."""
    data, start = load_images("digits"), time.perf_counter()
    utils.configure_seed(config.seed)
    parts = {part: (data.pixels(part).flatten(1).double(), getattr(data, part)[1]) for part in ("train", "val", "test")}
    pixels, labels = parts["train"]
    targets = nn.functional.one_hot(labels, CLASSES).double()
    net = build(config)
    copy = autograd_copy(net)
    optimizer = torch.optim.SGD(copy.parameters(), lr=config.learning_rate)
    batches, history, largest = utils.Batches((pixels, targets), config.batch_size, config.seed), [], 0.0

    def accuracy(part: str) -> float:
        images, classes = parts[part]
        return (net.forward(images).argmax(1) == classes).double().mean().item()

    for epoch in range(1, config.epochs + 1):
        losses = []
        for batch in batches.epoch(epoch):
            losses.append(step_by_hand(net, *batch, config.learning_rate))
            step_by_autograd(copy, optimizer, *batch)
            largest = max(largest, difference(net, copy))
        history.append({"epoch": epoch, "train_loss": sum(losses) / len(losses), "val_accuracy": accuracy("val")})
    return {
        "question": "assignments",
        "run": "hw1-digits",
        "config": {name: value for name, value in vars(config).items() if name != "out"},
        "seeds": [config.seed],
        "data": data.describe(),
        "history": history,
        "metrics": {"test": {"accuracy": records.mean_std([accuracy("test")])}},
        "largest_difference": largest,
        "seconds": time.perf_counter() - start,
    }


@utils.plot_style()
def plot(result: dict) -> Figure:
    """Training loss and validation accuracy per epoch."""
    figure = Figure(figsize=(6.0, 2.5))
    loss, accuracy = figure.subplots(1, 2)
    utils.draw_curves(loss, [result["history"]], "train_loss")
    utils.epoch_axis(loss, ylabel="training loss (mean squared error)", ylim=(0, None))
    utils.draw_curves(accuracy, [result["history"]], "val_accuracy", 100)
    utils.epoch_axis(accuracy, ylabel="validation accuracy (%)")
    figure.suptitle("Backpropagation by hand on scikit-learn's digits, one seed", fontsize=9)
    return figure


def draw(paths, out: str | Path) -> list[Path]:
    """Draw the curves of each result, as OUT/assignments/hw1-digits.pdf and .png."""
    keys = ("history.*.train_loss:number", "history.*.val_accuracy:number")
    return [
        drawn
        for path in paths
        for drawn in utils.save_figure(
            plot(records.load_result(path, *keys)), Path(out) / "assignments" / "hw1-digits", path
        )
    ]


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    torch.set_num_threads(1)
    result = run(config)
    path = records.save_results(config.out, result)
    test = 100 * result["metrics"]["test"]["accuracy"]["mean"]
    count = result["data"]["sizes"]["test"]
    print(f"trained by hand, {test:.1f} % of {count} test digits are right after {result['seconds']:.0f} s")
    print(f"weights differ from autograd's by at most {result['largest_difference']:.1e} after any step")
    print(path, *draw([path], Path(config.out) / "plots"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
