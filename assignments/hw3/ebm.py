"""Homework 3's claims about energies, on a circle: for each x two values of y are right.

python assignments/hw3/ebm.py

A small network F(x, y) learns that y^2 = 1 - x^2 (synthetic), in several ways: right answers pushed down and nothing
else, the negative log-likelihood with several beta, a margin. How deep do the right answers lie below the wrong ones,
and when does that stop?
Letters: N points, G values of y on a grid.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import time
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import records
import utils
from assignments.hw3.losses import gibbs, hinge
from command_line import COUNT, POSITIVE, SEEDS, check_flags, flag, within

WIDTH, LIMIT = 64, 1.5  # units of each hidden layer; largest |y|
NEAR = 0.25  # a y so close to a right one is not called wrong
FLOOR = -1.0  # where pushing right answers down ends, without anything else
SHOWN_XS = 25  # columns of the surfaces that a result keeps
WAYS: dict[str, dict] = {
    "right answers only": {"loss": "positives"},
    "likelihood, beta .3": {"loss": "nll", "beta": 0.3},
    "likelihood, beta 1": {"loss": "nll", "beta": 1.0},
    "likelihood, beta 10": {"loss": "nll", "beta": 10.0},
    "margin": {"loss": "margin"},
}


@dataclass(frozen=True)
class Config:
    """The flags."""

    steps: int = flag(3000, "steps of a training", within(10, 1_000_000))
    points: int = flag(64, "points of the circle per step", COUNT)
    grid: int = flag(61, "values of y on the grid that sums run over", within(11, 1001))
    learning_rate: float = flag(3e-3, "step size of Adam", POSITIVE)
    seeds: tuple[int, ...] = flag((0, 1, 2), "a network of each", SEEDS)
    out: str = flag("runs", "folder for the result and the plots")

    __post_init__ = check_flags


class Energy(nn.Module):
    """F(x, y) of any shape: x and y (...) -> (...)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layers(torch.stack(torch.broadcast_tensors(x, y), -1))[..., 0]


def circle(count: int) -> tuple[Tensor, Tensor]:
    """Points of the circle, at angles that are equally likely: x and y (N)."""
    angles = 2 * np.pi * torch.rand(count)
    return angles.cos(), angles.sin()


def is_wrong(x: Tensor, y: Tensor) -> Tensor:
    """Whether y is far from both right answers, sqrt(1 - x^2) and -sqrt(1 - x^2)."""
    right = (1 - x**2).clamp(min=0).sqrt()
    return ((y - right).abs() > NEAR) & ((y + right).abs() > NEAR)


def loss_of(model: nn.Module, way: dict, x: Tensor, y: Tensor, grid: Tensor) -> Tensor:
    """What one of WAYS makes small, for points x, y (N) and a grid of y (G): a number."""
    right = model(x, y)  # (N)
    if way["loss"] == "positives":
        return (right - FLOOR).relu().mean()
    energies = model(x[:, None], grid)  # (N, G)
    if way["loss"] == "nll":  # the integral over y as a sum over the grid, eq:hw3-canyon
        step = (grid[1] - grid[0]).log()
        return (right + ((-way["beta"] * energies).logsumexp(1) + step) / way["beta"]).mean()
    return hinge(right[:, None], energies)[is_wrong(x[:, None], grid)].mean()


@torch.no_grad()
def depth(model: nn.Module, grid: Tensor) -> float:
    """How far the right answers lie below the mean of the wrong ones, over the circle."""
    angles = torch.linspace(0, 2 * np.pi, 101)[:-1]
    x, y = angles.cos(), angles.sin()
    wrong = is_wrong(x[:, None], grid)  # (N, G)
    means = (model(x[:, None], grid) * wrong).sum(1) / wrong.sum(1)
    return (means - model(x, y)).mean().item()


def train(config: Config, way: dict, seed: int) -> tuple[nn.Module, list[float]]:
    """Train one network; returns it with the depth after each hundredth of the steps."""
    utils.configure_seed(seed)
    model, grid = Energy(), torch.linspace(-LIMIT, LIMIT, config.grid)
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate)
    depths = []
    for step in range(1, config.steps + 1):
        loss = loss_of(model, way, *circle(config.points), grid)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step * 100 // config.steps > (step - 1) * 100 // config.steps:
            depths.append(depth(model, grid))
    return model, depths


@torch.no_grad()
def surface(model: nn.Module, grid: Tensor) -> Tensor:
    """Energies (G, SHOWN_XS) over the plane, y upwards."""
    return model(torch.linspace(-1, 1, SHOWN_XS), grid[:, None])


@torch.no_grad()
def width(model: nn.Module, beta: float) -> float:
    """The entropy of the Gibbs distribution over a fine grid of y, in bits, averaged over x; a flat one has 10."""
    grid, x = torch.linspace(-LIMIT, LIMIT, 1024), torch.linspace(-0.8, 0.8, 17)
    probabilities = gibbs(model(x[:, None], grid), beta)
    return -(probabilities * probabilities.clamp(min=1e-30).log2()).sum(1).mean().item()


def run(config: Config) -> dict:
    """Train in every way with every seed, and return surfaces and depths in the form of a result file."""
    start, ways = time.perf_counter(), {}
    grid = torch.linspace(-LIMIT, LIMIT, config.grid)
    for name, way in WAYS.items():
        trained = [train(config, way, seed) for seed in config.seeds]
        ways[name] = way | {
            "depths": [[float(f"{value:.4g}") for value in depths] for _, depths in trained],
            "surface": [[round(value, 3) for value in row] for row in surface(trained[0][0], grid).tolist()],
            "depth": records.mean_std([depths[-1] for _, depths in trained]),
            "still_growing": records.mean_std([depths[-1] / depths[len(depths) // 2] for _, depths in trained]),
            "entropy": records.mean_std([width(model, way.get("beta", 1.0)) for model, _ in trained]),
        }
    return {
        "question": "assignments",
        "run": "hw3-energies",
        "config": {name: value for name, value in vars(config).items() if name not in ("seeds", "out")},
        "seeds": list(config.seeds),
        "data": {"name": "circle", "source": "synthetic"},
        "ways": ways,
        "seconds": time.perf_counter() - start,
    }


# --- what was found ----------------------------------------------------------------------------------

KEYS = ("ways.*.surface.*.*:number", "ways.*.depths.*.*:number", "ways.*.depth.mean:number")


@utils.plot_style()
def plot_surfaces(result: dict) -> Figure:
    """The energy over the plane after each way to train, each on a scale of its own; the circle is what is right."""
    ways = result["ways"]
    figure = Figure(figsize=(6.9, 2.1))
    angles = np.linspace(0, 2 * np.pi, 200)
    for axes, (name, way) in zip(figure.subplots(1, len(ways), sharey=True), ways.items(), strict=True):
        extent = (-1, 1, -LIMIT, LIMIT)
        axes.imshow(way["surface"], origin="lower", extent=extent, aspect="auto", cmap="viridis")
        axes.grid(visible=False)
        axes.plot(np.cos(angles), np.sin(angles), color="white", lw=0.7, ls=":")
        low, high = np.min(way["surface"]), np.max(way["surface"])
        axes.set_title(f"{name}\n{low:.1f} to {high:.1f}", fontsize=7)
        axes.set_xlabel("x")
    figure.axes[0].set_ylabel("y")
    figure.suptitle("Energies, dark is low; the circle is right (synthetic)", fontsize=9)
    return figure


@utils.plot_style()
def plot_depths(result: dict) -> Figure:
    """How far the right answers lie below the wrong ones, while each way to train goes on."""
    figure = Figure(figsize=(5.6, 2.6))
    axes = figure.subplots()
    styles = zip(utils.COLOURS, ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))), strict=False)
    for (name, way), (colour, style) in zip(result["ways"].items(), styles, strict=True):
        depths = np.array(way["depths"]).mean(0)
        axes.plot(
            np.linspace(0, result["config"]["steps"], len(depths) + 1)[1:], depths, color=colour, ls=style, label=name
        )
    axes.set_yscale("symlog", linthresh=1)
    axes.set(xlabel="step", ylabel="mean wrong energy minus right")
    axes.set_title("Depth of the canyon (synthetic)")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw(paths, out: str | Path) -> list[Path]:
    """Draw the plots of each result, as OUT/assignments/<run>-<plot>.pdf and .png."""
    drawn = []
    for path in paths:
        result = records.load_result(path, *KEYS)
        for name, plot in (("surfaces", plot_surfaces), ("depths", plot_depths)):
            drawn += utils.save_figure(plot(result), Path(out) / "assignments" / f"{result['run']}-{name}", path)
    return drawn


def print_result(result: dict) -> None:
    print("\nright answers below wrong ones on a circle (synthetic): at the end, and against half-way")
    for name, way in result["ways"].items():
        end, growth = (records.spread(way[key], digits=2) for key in ("depth", "still_growing"))
        print(f"  {name:20} {end:>16}   x {growth}")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    torch.set_num_threads(1)
    (Path(config.out) / "assignments").mkdir(parents=True, exist_ok=True)  # fails now, not after minutes
    result = run(config)
    path = records.save_results(config.out, result)
    print_result(result)
    print(path, *draw([path], Path(config.out) / "plots"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
