"""Homework 2's gated network with its derivatives as formulae, and how gradients through time vanish or explode.

python assignments/hw2/gated.py

Letters: T time, n inputs, m units; Jacobians in numerator layout.
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
from command_line import COUNT, SEEDS, Check, check_flags, flag, within

COUNTS = Check(lambda values: values and all(map(COUNT.valid, values)), f"each {COUNT.expected}")
BIASES = Check(lambda values: values and all(abs(value) <= 100 for value in values), "each from -100 to 100")


class GatedRNN(nn.Module):
    """c[t] = sigmoid(W_c x[t] + W_h h[t-1]), h[t] = c[t] * h[t-1] + (1 - c[t]) * W_x x[t] (eq:hw2-gated in report/).

    W_c and W_x (m, n), W_h (m, m), standard normal divided by the root of their inputs.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.W_c, self.W_x = (nn.Parameter(torch.randn(hidden_size, input_size) / input_size**0.5) for _ in range(2))
        self.W_h = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size**0.5)

    def step(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """x[t] (..., n) and h[t-1] (..., m) -> the gate c[t] and the state h[t], (..., m) each."""
        c = torch.sigmoid(x @ self.W_c.T + h @ self.W_h.T)
        return c, c * h + (1 - c) * (x @ self.W_x.T)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """x (T, n), or (T, B, n), and the state before it, zero if left out -> the states (T, ..., m)."""
        h = x.new_zeros(*x.shape[1:-1], len(self.W_h)) if h is None else h
        found = []
        for x_t in x:
            _, h = self.step(x_t, h)
            found.append(h)
        return torch.stack(found)

    @torch.no_grad()
    def jacobians(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """dc[t]/dh[t-1] and dh[t]/dh[t-1] (m, m) of x[t] (n) and h[t-1] (m) (eq:hw2-gated-jacobians)."""
        c, _ = self.step(x, h)
        by_gate = (c * (1 - c))[:, None] * self.W_h
        return by_gate, torch.diag(c) + (h - self.W_x @ x)[:, None] * by_gate

    @torch.no_grad()
    def gradient_of_w_x(self, x: Tensor, direct: Tensor) -> Tensor:
        """dl/dW_x (n, m) of a sequence x (T, n) from zero, by eq:hw2-gated-gradient.

        `direct` (T, m) are the loss's derivatives by each state as it enters the loss itself.
        """
        before = torch.cat([x.new_zeros(1, len(self.W_h)), self(x)[:-1]])  # (T, m): h[t-1]
        gradient, row = torch.zeros_like(self.W_x.T), torch.zeros_like(direct[0])
        for t in reversed(range(len(x))):
            row = row + direct[t]  # dl/dh[t]: what enters the loss itself, and what came from t + 1
            c, _ = self.step(x[t], before[t])
            gradient += torch.outer(x[t], row * (1 - c))
            row = row @ self.jacobians(x[t], before[t])[1]
        return gradient


# --- a measurement -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """The flags."""

    inputs: int = flag(16, "features of an input, beside one that is always 1", within(1, 1000))
    hidden: int = flag(32, "units", within(1, 1000))
    length: int = flag(100, "steps through time", within(2, 10_000))
    gains: tuple[int, ...] = flag((1, 16), "what W_h is multiplied by", COUNTS)
    biases: tuple[int, ...] = flag((0, 4), "weights of the input 1 in each gate", BIASES)
    seeds: tuple[int, ...] = flag((0, 1, 2, 3, 4, 5, 6, 7, 8, 9), "a network and a sequence of each", SEEDS)
    out: str = flag("runs", "folder for the result and the plot")

    __post_init__ = check_flags


def network(config: Config, gain: float, bias: float, seed: int) -> tuple[GatedRNN, Tensor]:
    """A network and a sequence (T, n + 1) in double precision; the last input is 1, and W_x does not see it."""
    torch.manual_seed(seed)
    model = GatedRNN(config.inputs, config.hidden).double()
    ones = torch.ones(config.hidden, 1, dtype=torch.float64)
    model.W_h.data *= gain
    model.W_c.data = torch.cat([model.W_c.data, bias * ones], 1)
    model.W_x.data = torch.cat([model.W_x.data, 0 * ones], 1)
    x = torch.randn(config.length, config.inputs, dtype=torch.float64)
    return model, torch.cat([x, torch.ones(config.length, 1, dtype=torch.float64)], 1)


@torch.no_grad()
def norms_through_time(model: GatedRNN, x: Tensor) -> tuple[list[float], float]:
    """The spectral norm of dh[t]/dh[0], a product of t Jacobians, for t = 1 ... T; and the mean gate."""
    h, product = x.new_zeros(len(model.W_h)), torch.eye(len(model.W_h), dtype=x.dtype)
    norms, gates = [], []
    for x_t in x:
        product = model.jacobians(x_t, h)[1] @ product
        c, h = model.step(x_t, h)
        norms.append(torch.linalg.matrix_norm(product, 2).item())
        gates.append(c.mean().item())
    return norms, sum(gates) / len(gates)


def run(config: Config) -> dict:
    """Measure each gain with each bias, and return the norms in the form of a result file."""
    start, rows = time.perf_counter(), []
    for gain in config.gains:
        for bias in config.biases:
            found = [norms_through_time(*network(config, gain, bias, seed)) for seed in config.seeds]
            logs = torch.tensor([norms for norms, _ in found]).log10()  # (seeds, T)
            rows.append({
                "gain": gain,
                "bias": bias,
                "log10_norms": logs.tolist(),
                "gate": records.mean_std([gate for _, gate in found]),
                "factor_per_step": records.mean_std((10 ** (logs[:, -1] / config.length)).tolist()),
            })  # fmt: skip
    return {
        "question": "assignments",
        "run": "hw2-gradients",
        "config": {name: value for name, value in vars(config).items() if name not in ("seeds", "out")},
        "seeds": list(config.seeds),
        "data": {"name": "random sequences", "source": "synthetic"},
        "rows": rows,
        "seconds": time.perf_counter() - start,
    }


KEYS = ("rows.*.gain:number", "rows.*.bias:number", "rows.*.log10_norms.*.*:number", "rows.*.gate.mean:number",
        "rows.*.factor_per_step.mean:number")  # fmt: skip


@utils.plot_style()
def plot(result: dict) -> Figure:
    """The norm of dh[t]/dh[0] against t: the mean of its logarithm over seeds, with a band of one deviation."""
    figure = Figure(figsize=(5.2, 2.5))
    axes = figure.subplots()
    curves = [(torch.tensor(row["log10_norms"]), row) for row in result["rows"]]  # (seeds, T) each
    gap = 0.08 * np.ptp([logs.mean(0) for logs, _ in curves])  # between labels, which must not cover each other
    height = -np.inf  # of the last label
    for logs, row in sorted(curves, key=lambda curve: curve[0][:, -1].mean()):
        steps, mean = range(1, logs.shape[1] + 1), logs.mean(0)
        (line,) = axes.plot(steps, mean)
        if len(logs) > 1:
            deviation = logs.std(0)
            axes.fill_between(steps, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.2, lw=0)
        height = max(mean[-1].item(), height + gap)
        label = f" ${'' if row['gain'] == 1 else row['gain']}W_h$, bias {row['bias']}"
        axes.annotate(label, (steps[-1], height), color=line.get_color(), va="center", fontsize=8)
    length = result["config"]["length"]
    axes.set(xlabel="steps through time t", ylabel="log$_{10}$ norm of ∂h[t] / ∂h[0]", xlim=(0, 1.3 * length))
    axes.set_xticks(range(0, length + 1, max(1, length // 5)))
    axes.set_title("Gradients through time of untrained networks, random (synthetic) inputs")
    return figure


def draw(paths, out: str | Path) -> list[Path]:
    """Draw each result, as OUT/assignments/hw2-gradients.pdf and .png."""
    return [
        drawn
        for path in paths
        for drawn in utils.save_figure(
            plot(records.load_result(path, *KEYS)), Path(out) / "assignments" / "hw2-gradients", path
        )
    ]


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    torch.set_num_threads(1)
    result = run(config)
    path = records.save_results(config.out, result)
    for row in result["rows"]:
        factor, gate = records.spread(row["factor_per_step"], digits=3), records.spread(row["gate"], digits=2)
        print(f"W_h times {row['gain']}, bias {row['bias']}: the norm grows by {factor} per step; mean gate {gate}")
    print(path, *draw([path], Path(config.out) / "plots"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
