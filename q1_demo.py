"""Question 1, shown: how many features the series needs, how far it is from softmax, and from which length it pays.

Prints three short tables, writes their numbers to OUT/q1/demo.json, and draws from that OUT/plots/q1/demo-*.
"""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import dataclasses
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import records
from q1_linear_attention import (
    approximation_bound,
    feature_dim,
    linear_attention,
    maclaurin_features,
)

TERMS = (2, 3, 4, 5, 6)
LARGEST_SCORES = tuple(2.0**exponent for exponent in range(-4, 5))  # |q| |k|, from 1/16 to 16
HEADS, LONGEST = 4, 2**14


@dataclass(frozen=True)
class Config:
    dim: int = 16
    length: int = 256
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: str = "runs"

    def __post_init__(self):
        for name in ("dim", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}, but must be at least 1")
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError("--seeds needs one or more numbers from 0 on")


def count_features(dim: int, terms: int) -> dict:
    counts = {form: feature_dim(dim, terms, form == "symmetric") for form in ("symmetric", "ordered")}
    return {"dim": dim, "terms": terms, **counts}


def unit_vectors(config: Config, seed: int) -> Tensor:
    """Random directions of queries and keys: (2, L, D)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, config.length, config.dim, generator=generator, dtype=torch.float64)
    return F.normalize(x, dim=-1)


def series_weights(query: Tensor, key: Tensor, terms: int) -> Tensor:
    """The approximated attention weights, through the features: (L, S)."""
    kernel = maclaurin_features(query, terms) @ maclaurin_features(key, terms).mT
    return kernel / kernel.sum(-1, keepdim=True)


def measure_errors(config: Config) -> list[dict]:
    """Sum over keys of |exact - approximated weight|, mean over queries, for each seed; and its bound."""
    rows = []
    for terms in TERMS:
        for score in LARGEST_SCORES:
            errors, bounds = [], []
            for seed in config.seeds:
                query, key = unit_vectors(config, seed)
                query = query * score
                distance = (series_weights(query, key, terms) - (query @ key.mT).softmax(-1)).abs().sum(-1)
                errors.append(distance.mean().item())
                bounds.append(approximation_bound(query, key, terms, scale=1.0).mean().item())
            row = {"terms": terms, "largest_score": score, "error": records.mean_std(errors)}
            rows.append(row | {"bound": max(bounds)})
    return rows


def weight_maps(config: Config, tokens: int = 32, largest_score: float = 4.0) -> dict:
    """Exact and approximated weights of smooth random queries and keys, as a picture."""
    query, key = unit_vectors(dataclasses.replace(config, length=tokens), config.seeds[0])
    blur = torch.exp(-(torch.cdist(*[torch.arange(tokens, dtype=torch.float64)[:, None]] * 2) ** 2) / 8)
    query, key = (F.normalize(blur @ x, dim=-1) for x in (query, query + key / 2))
    maps = {f"{terms} terms": series_weights(largest_score * query, key, terms) for terms in (2, 3, 5)}
    maps = {"exact softmax": (largest_score * query @ key.mT).softmax(-1)} | maps
    return {"largest_score": largest_score, "weights": {name: weights.tolist() for name, weights in maps.items()}}


def seconds(attention, x: Tensor) -> float:
    start = time.perf_counter()
    attention(*x)
    return time.perf_counter() - start


def find_crossover(dim: int, repetitions: int = 5) -> dict:
    """The first of the lengths 256, 512 ... at which linear attention is faster than PyTorch's softmax attention."""
    length = 128
    while length < LONGEST:
        length *= 2
        x = torch.randn(3, 1, HEADS, length, dim)
        contenders = {"linear": linear_attention, "softmax": F.scaled_dot_product_attention}
        times = {name: [] for name in contenders}
        for repetition in range(repetitions + 1):
            for name, attention in contenders.items():
                elapsed = seconds(attention, x)
                if repetition:  # the first warms up
                    times[name].append(elapsed)
        medians = {name: statistics.median(values) for name, values in times.items()}
        if medians["linear"] < medians["softmax"]:
            break
    return {"dim": dim, "length": length, "found": medians["linear"] < medians["softmax"], "seconds": medians}


def run(config: Config) -> dict:
    start = time.perf_counter()
    return {
        "question": "q1",
        "run": "demo",
        "config": {key: value for key, value in dataclasses.asdict(config).items() if key != "out"},
        "seeds": list(config.seeds),
        "data": {"name": "random queries and keys", "source": "synthetic", "tokens": config.length},
        "features": [count_features(dim, terms) for dim in (16, 32, 64) for terms in TERMS[:3]],
        "errors": measure_errors(config),
        "maps": weight_maps(config),
        "crossover": [find_crossover(dim) for dim in (16, 32, 64)],
        "seconds": time.perf_counter() - start,
    }


def report(result: dict) -> str:
    lines = ["Features M of the truncated exponential: each monomial once (each ordered product)"]
    for dim in (16, 32, 64):
        cells = [f"{row['symmetric']:,} ({row['ordered']:,})" for row in result["features"] if row["dim"] == dim]
        labels = [f"K = {terms}" for terms in TERMS[: len(cells)]]
        lines.append(f"  D = {dim}: " + "".join(f"  {a}: {b:<17}" for a, b in zip(labels, cells, strict=True)).rstrip())
    dim = result["config"]["dim"]
    lines += ["", f"Sum of |exact - approximated attention weight| of a query, and its bound (D = {dim}, synthetic)"]
    lines.append("  |q||k|  " + "".join(f"K = {terms}".center(20) for terms in TERMS).rstrip())
    for score in LARGEST_SCORES[2::2]:
        rows = [row for row in result["errors"] if row["largest_score"] == score]
        cells = [f"{row['error']['mean']:.1e} ≤ {row['bound']:.1e}".center(20) for row in rows]
        lines.append(f"  {score:<8g}" + "".join(cells).rstrip())
    threads = torch.get_num_threads()
    lines += [
        "",
        f"From which length it is faster than PyTorch's softmax attention ({HEADS} heads, {threads} threads, K = 3)",
    ]
    for row in result["crossover"]:
        times = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in row["seconds"].items())
        lines.append(f"  D = {row['dim']}: {'from' if row['found'] else 'not up to'} L = {row['length']:,} ({times})")
    return "\n".join(lines)


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    parser = command_line.ArgumentParser(description=__doc__)
    parser.add_flag("dim", type=int, default=Config.dim, help="head dimension of the error table (16)")
    parser.add_flag("length", type=int, default=Config.length, help="queries and keys of the error table (256)")
    parser.add_flag("seeds", type=int, nargs="+", default=Config.seeds, help="seeds of the error table (0 1 2 3 4)")
    parser.add_flag("out", default=Config.out, help="folder for the result and the plots (runs)")
    args = vars(parser.parse_args(argv))
    config = Config(**args | {"seeds": tuple(args["seeds"])})
    result = run(config)
    print(report(result))
    path = records.save_results(config.out, result)
    import q1_plots  # matplotlib takes a second

    print(
        "\nplots:",
        *(plot for plot in q1_plots.draw(path, Path(config.out) / "plots") if plot.suffix == ".png"),
        sep="\n  ",
    )


if __name__ == "__main__":
    sys.exit(main())
