"""Homework 1's derivatives as formulae, without autograd, and a figure of four activation functions and theirs.

python assignments/hw1/derivatives.py

In numerator layout, as the report: dy_dx is (outputs, inputs), so the gradient of a loss is a row, and that by a matrix
has the matrix's shape transposed. Vectors are columns on paper and of one dimension here. Letters: n inputs, H hidden
units, K outputs.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))  # the repository, before this folder

import command_line  # first, for Ctrl-C during the others

# isort: split

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

import records
import utils
from command_line import check_flags, flag, within

SLOPE, BETA = 0.01, 1.0  # of LeakyReLU and Softplus, as the sheet has them


def normal_cdf(z: Tensor) -> Tensor:
    return (1 + torch.erf(z / math.sqrt(2))) / 2


def normal_density(z: Tensor) -> Tensor:
    return torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


# of each name the function and its derivative, eq:hw1-activations in report/; at a kink, as PyTorch,
# the slope on the left
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "ReLU": (lambda z: z.clamp(min=0), lambda z: (z > 0).to(z.dtype)),
    "LeakyReLU(.01)": (
        lambda z: torch.where(z > 0, z, SLOPE * z),
        lambda z: SLOPE + (1 - SLOPE) * (z > 0).to(z.dtype),
    ),
    "Softplus(1)": (lambda z: torch.log1p(torch.exp(BETA * z)) / BETA, lambda z: 1 / (1 + torch.exp(-BETA * z))),
    "GELU": (lambda z: z * normal_cdf(z), lambda z: normal_cdf(z) + z * normal_density(z)),
}


# --- two affine layers -------------------------------------------------------------------------------

# of each name the function and its derivative by the formulae of eq:hw1-regression and eq:hw1-sigmoid in report/
LAYERS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "5 relu": (lambda z: 5 * z.clamp(min=0), lambda z: 5 * (z > 0).to(z.dtype)),
    "identity": (lambda z: z, torch.ones_like),
    "tanh": (torch.tanh, lambda z: 1 - torch.tanh(z) ** 2),
    "sigmoid": (lambda z: 1 / (1 + torch.exp(-z)), lambda z: 1 / (2 + torch.exp(z) + torch.exp(-z))),
}


def dl_dy_hat(loss: str, y: Tensor, y_hat: Tensor) -> Tensor:
    """The row (1, K) of the derivatives of the summed squared error ("se") or the mean binary cross-entropy ("bce")."""
    row = 2 * (y_hat - y) if loss == "se" else (y_hat - y) / (y_hat * (1 - y_hat)) / len(y)
    return row[None]


def forward(x: Tensor, parameters: dict[str, Tensor], f: str, g: str) -> dict[str, Tensor]:
    """Every layer's output for one example x (n) (eq:hw1-forward); W1 (H, n), b1 (H), W2 (K, H), b2 (K)."""
    z1 = parameters["W1"] @ x + parameters["b1"]  # (H)
    z2 = LAYERS[f][0](z1)
    z3 = parameters["W2"] @ z2 + parameters["b2"]  # (K)
    return {"z1": z1, "z2": z2, "z3": z3, "y_hat": LAYERS[g][0](z3)}


def derivatives(x: Tensor, y: Tensor, parameters: dict[str, Tensor], f: str, g: str, loss: str) -> dict[str, Tensor]:
    """The Jacobians between layers, and the loss's gradients by the parameters (eq:hw1-backward).

    x (n), y (K) -> dz2_dz1 (H, H), dy_hat_dz3 (K, K), dl_dy_hat (1, K), dl_dW1 (n, H), dl_db1 (1, H), dl_dW2 (H, K),
    dl_db2 (1, K).
    """
    layers = forward(x, parameters, f, g)
    dz2_dz1 = torch.diag(LAYERS[f][1](layers["z1"]))
    dy_hat_dz3 = torch.diag(LAYERS[g][1](layers["z3"]))
    by_output = dl_dy_hat(loss, y, layers["y_hat"])
    by_z3 = by_output @ dy_hat_dz3  # (1, K)
    by_z1 = by_z3 @ parameters["W2"] @ dz2_dz1  # (1, H)
    return {
        "dz2_dz1": dz2_dz1,
        "dy_hat_dz3": dy_hat_dz3,
        "dl_dy_hat": by_output,
        "dl_dW1": x[:, None] @ by_z1,
        "dl_db1": by_z1,
        "dl_dW2": layers["z2"][:, None] @ by_z3,
        "dl_db2": by_z3,
    }


# --- a graph, and softmax ----------------------------------------------------------------------------


def graph(x: float, y: float, z: float, o: float) -> tuple[float, dict[str, float]]:
    """w = (x + y) z o + z through a = x + y, b = z o, c = a b, w = c + z; then dw by each, backwards (eq:hw1-graph)."""
    a, b = x + y, z * o
    w = a * b + z
    by_a, by_b = b, a  # dw/dc = 1
    return w, {"a": by_a, "b": by_b, "c": 1.0, "x": by_a, "y": by_a, "z": by_b * o + 1, "o": by_b * z}


def softmax_jacobian(z: Tensor) -> Tensor:
    """diag(p) - p p^T of p = softmax(z): z (K) -> (K, K) (eq:hw1-softmax)."""
    weights = torch.exp(z - z.max())
    p = weights / weights.sum()
    return torch.diag(p) - p[:, None] * p[None, :]


def first_exact(dtype: torch.dtype, value: int) -> int:
    """The least whole d for which softmax of (d, 0) holds exactly `value`, 0 or 1, in that precision.

    For 0 it may depend on the processor: some vectorised exponentials are 0 below the least normal number.
    """
    for difference in range(1, 10_000):
        if (torch.softmax(torch.tensor([difference, 0], dtype=dtype), 0) == value).any():
            return difference
    raise ValueError(f"softmax does not reach {value} in {dtype}")


# --- the figure --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """The flags."""

    reach: int = flag(4, "the functions are drawn from -REACH to REACH", within(1, 100))
    points: int = flag(401, "points of each curve", within(2, 10_000))
    out: str = flag("runs", "folder for the result and the plot")

    __post_init__ = check_flags


def run(config: Config) -> dict:
    """The curves, and where softmax becomes exact, in the form of a result file."""
    z = torch.linspace(-config.reach, config.reach, config.points, dtype=torch.float64)
    return {
        "question": "assignments",
        "run": "hw1-derivatives",
        "config": {name: value for name, value in vars(config).items() if name != "out"},
        "seeds": [],
        "data": {"name": "equally spaced numbers", "source": "synthetic"},
        "z": z.tolist(),
        "curves": {
            name: {"value": value(z).tolist(), "derivative": derivative(z).tolist()}
            for name, (value, derivative) in ACTIVATIONS.items()
        },
        "softmax": {
            str(dtype).removeprefix("torch."): {name: first_exact(dtype, value) for name, value in EXACT.items()}
            for dtype in (torch.float32, torch.float64)
        },
    }


EXACT = {"one": 1, "zero": 0}
KEYS = ("z.*:number", "curves.*.value.*:number", "curves.*.derivative.*:number", "softmax.float32.one:number",
        "softmax.float32.zero:number")  # fmt: skip


@utils.plot_style()
def plot(result: dict) -> Figure:
    """A panel for each function, with its derivative."""
    figure = Figure(figsize=(6.3, 1.8))
    panels = figure.subplots(1, len(result["curves"]), sharey=True)
    for axes, (name, curve) in zip(panels, result["curves"].items(), strict=True):
        axes.plot(result["z"], curve["derivative"], label="derivative", lw=1.6)
        axes.plot(result["z"], curve["value"], label="function", lw=1)
        axes.set(title=name, xlabel="z", ylim=(-0.3, 2.2))
    panels[0].legend(fontsize=7, loc="upper left", handlelength=1.5)
    return figure


def draw(paths, out: str | Path) -> list[Path]:
    """Draw each result, as OUT/assignments/hw1-derivatives.pdf and .png."""
    return [
        drawn
        for path in paths
        for drawn in utils.save_figure(
            plot(records.load_result(path, *KEYS)), Path(out) / "assignments" / "hw1-derivatives", path
        )
    ]


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    result = run(config)
    path = records.save_results(config.out, result)
    for precision, found in result["softmax"].items():
        print(f"{precision}: softmax of (d, 0) holds 1 from d = {found['one']} on, and 0 from {found['zero']} on")
    print(path, *draw([path], Path(config.out) / "plots"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
