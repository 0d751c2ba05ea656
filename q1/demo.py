"""Question 1, shown: how many features the series needs, how far it is from softmax, and from which length it pays.

Writes the numbers to OUT/q1/demo.json, prints them as a sentence and two short tables, and draws OUT/plots/q1/demo-*.
"""

from __future__ import annotations

import bisect
import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import records
from command_line import Check, attempt, check_flags, flag
from q1.bound import approximation_bound
from q1.monomials import feature_dim, maclaurin_features

TERMS = (2, 3, 4, 5, 6)
LARGEST_SCORES = tuple(2.0**exponent for exponent in range(-4, 5))  # |q| |k|, from 1/16 to 16
DIMS = (16, 32, 64)  # of the crossover
HEADS, LONGEST = 4, 2**14
MEMORY = 2**31  # bytes that the error table may take


@dataclass(frozen=True)
class Config:
    """The flags."""

    dim: int = flag(16, "head dimension of the error table")
    length: int = flag(256, "queries and keys of the error table")
    seeds: tuple[int, ...] = flag(
        (0, 1, 2, 3, 4),
        "seeds of the error table",
        Check(
            lambda seeds: seeds and len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds),
            "one or more different numbers from 0 to 2^63 - 1",
        ),
    )
    out: str = flag("runs", "folder for the result and the plots")

    def __post_init__(self):
        check_flags(self)
        tokens, limit = min(max(self.length, 1), Config.length), f"{MEMORY / 2**30:g} GiB of memory"
        widest = largest(lambda dim: needed_memory(dim, tokens))
        if not 1 <= self.dim <= widest:
            raise ValueError(f"--dim is {self.dim}, but must be from 1 to {widest} ({tokens} tokens in {limit})")
        longest = largest(lambda length: needed_memory(self.dim, length))
        if not 1 <= self.length <= longest:
            raise ValueError(
                f"--length is {self.length}, but must be from 1 to {longest:,} (D = {self.dim} in {limit})"
            )


def needed_memory(dim: int, length: int) -> int:
    """Bytes in float64, about: features of queries, those of keys in three copies, and six matrices of scores."""
    return 8 * (4 * length * feature_dim(dim, max(TERMS)) + 6 * length**2)


def largest(needed: Callable[[int], int]) -> int:
    """The largest number that needs no more than MEMORY."""
    return bisect.bisect_right(range(1, MEMORY), MEMORY, key=needed)


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


def seconds(attention: Callable[..., Tensor], x: Tensor) -> float:
    start = time.perf_counter()
    attention(*x)
    return time.perf_counter() - start


def find_crossover(dim: int, linear_attention: Callable[..., Tensor], repetitions: int = 5) -> dict:
    """The first of the lengths 256, 512 ... at which `linear_attention` is faster than PyTorch's softmax attention."""
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


def run(config: Config, linear_attention: Callable[..., Tensor]) -> dict:
    start = time.perf_counter()
    return {
        "question": "q1",
        "run": "demo",
        "config": {key: value for key, value in dataclasses.asdict(config).items() if key != "out"},
        "seeds": list(config.seeds),
        "data": {"name": "random queries and keys", "source": "synthetic", "tokens": config.length},
        "features": [count_features(dim, terms) for dim in DIMS for terms in TERMS[:3]],
        "errors": measure_errors(config),
        "maps": weight_maps(config),
        "crossover": [find_crossover(dim, linear_attention) for dim in DIMS],
        "seconds": time.perf_counter() - start,
    }


def headline(result: dict) -> str:
    """What the measurement says, in a sentence: of D = 32, which lies between the others."""
    (row,) = (row for row in result["crossover"] if row["dim"] == DIMS[1])
    faster = f"from {row['length']:,} tokens on" if row["found"] else f"at none of the lengths up to {row['length']:,}"
    return f"Linear attention is faster than PyTorch's softmax attention {faster} (heads {row['dim']} wide)."


def report(result: dict) -> str:
    """The headline and two tables: cost by head dimension, and distance from softmax by the size of the scores."""
    rows = result["crossover"]
    features = {row["dim"]: row["symmetric"] for row in result["features"] if row["terms"] == 3}
    cells = {
        "Head dimension D": [row["dim"] for row in rows],
        "Features of K = 3 terms": [f"{features[row['dim']]:,}" for row in rows],
        "Tokens from which it is faster": [f"{'' if row['found'] else 'over '}{row['length']:,}" for row in rows],
        "Milliseconds there, linear": [f"{1000 * row['seconds']['linear']:.1f}" for row in rows],
        "Milliseconds there, softmax": [f"{1000 * row['seconds']['softmax']:.1f}" for row in rows],
    }
    lines = [headline(result), "", *(f"{name:<30}" + "".join(f"{x:>12}" for x in row) for name, row in cells.items())]

    vectors = f"D = {result['config']['dim']}, synthetic, {len(result['seeds'])} seeds"
    lines += ["", f"Distance from softmax's weights: 0 equal, 2 disjoint, more negative ({vectors})"]
    lines.append("Largest score" + "".join(f"{f'K = {terms}':>11}" for terms in TERMS) + "   bound, K = 3")
    for score in LARGEST_SCORES[2::2]:
        row = {row["terms"]: row for row in result["errors"] if row["largest_score"] == score}
        means = "".join(f"{row[terms]['error']['mean']:>11.1g}" for terms in TERMS)
        lines.append(f"{score:<13g}{means}{row[3]['bound']:>15.1g}")
    return "\n".join(lines)


def show(config: Config, linear_attention: Callable[..., Tensor]) -> None:
    """Measure, save, print and draw."""
    (Path(config.out) / "q1").mkdir(parents=True, exist_ok=True)  # fails now, not when all is measured
    result = run(config, linear_attention)
    path = records.save_results(config.out, result)
    print(report(result))
    with attempt("drawing"):
        from q1 import plots  # matplotlib takes a second

        drawn = plots.draw([path], Path(config.out) / "plots")
        print("\nplots:", *(plot for plot in drawn if plot.suffix == ".png"), sep="\n  ")
