"""Linear attention against its peers, in turn in one run: time, error against exact softmax attention, peak memory.

    python benchmarks/q1_attention.py --out results      (CPU, about 40 minutes; let nothing else run meanwhile)
    python benchmarks/q1_attention.py --memory --out results
    python benchmarks/q1_attention.py --device cuda --dtype bfloat16 --compile --out results

It needs the peer package: pip install -e '.[benchmark]'. A contender stops where one call would take more than
`--longest_call` seconds, or most of the memory, judged by the length before.
"""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import concurrent.futures
import dataclasses
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import records
from command_line import COUNT, POSITIVE, check_flags, flag
from q1_linear_attention import feature_dim, linear_attention, maclaurin_features, softmax_attention

LENGTHS = [2**exponent for exponent in range(9, 17)]
QUERIES_COMPARED = 256  # of the error: exact attention for some queries is linear in the length
MATRIX = 2048  # rows of the plain matrix product that sets the arithmetic rate to compare with
PASSES = ("forward", "forward and backward")


@dataclass(frozen=True)
class Config:
    """The flags."""

    dims: tuple[int, ...] = flag((16, 32, 64), "head dimensions")
    heads: int = flag(4, "heads", COUNT)
    repetitions: int = flag(5, "timed calls of each contender", COUNT)
    threads: int = flag(2, "threads of PyTorch", COUNT)
    device: str = flag("cpu", "cpu or cuda", choices=("cpu", "cuda"))
    dtype: str = flag("float32", "float32 or bfloat16", choices=("float32", "bfloat16"))
    compile: bool = flag(False, "put every contender through torch.compile")
    memory: bool = flag(False, "measure peak memory instead of time")
    longest_call: float = flag(10.0, "seconds of one call", POSITIVE)
    longest: int = flag(LENGTHS[-1], "the longest sequence", COUNT)
    out: str = flag("runs", "folder of the result file")

    __post_init__ = check_flags

    @property
    def lengths(self) -> list[int]:
        return [length for length in LENGTHS[:: -2 if self.memory else -1][::-1] if length <= self.longest]

    @property
    def run_name(self) -> str:
        what = "attention-memory" if self.memory else "attention-speed"
        return what if self.device == "cpu" else f"{what}-{self.device}-{self.dtype}"


# --- the contenders: (1, H, L, D) each -> (1, H, L, D) -------------------------------------------------


def package(query: Tensor, key: Tensor, value: Tensor, remove_even_power_dups: bool = False) -> Tensor:
    """taylor-series-linear-attention 0.2.0: its feature map, and the sums as its non-causal module forms them."""
    from taylor_series_linear_attention.attention import second_taylor_expansion

    query = second_taylor_expansion(query * query.shape[-1] ** -0.5, remove_even_power_dups)
    return attend_by_features(query, second_taylor_expansion(key, remove_even_power_dups), value)


def package_without_duplicates(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return package(query, key, value, remove_even_power_dups=True)


def elu_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """phi(x) = elu(x) + 1 (Katharopoulos et al. 2020): another kernel, not an approximation of softmax's."""
    return attend_by_features(F.elu(query) + 1, F.elu(key) + 1, value)


def random_feature_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Performer's positive orthogonal random features (Choromanski et al. 2021), as many as ours."""
    dim = query.shape[-1]
    directions = orthogonal_directions(feature_dim(dim), dim).to(query)
    query, key = (positive_random_features(x * dim**-0.25, directions) for x in (query, key))
    return attend_by_features(query, key, value)


def orthogonal_directions(count: int, dim: int, seed: int = 0) -> Tensor:
    """(M, D) normal vectors, orthogonal in each block of D."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randn(math.ceil(count / dim), dim, dim, generator=generator)
    lengths = torch.randn(len(blocks), dim, dim, generator=generator).norm(dim=-1, keepdim=True)
    q, r = torch.linalg.qr(blocks)
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # else the directions are not uniform, and the features biased
    return (q.mT * lengths).flatten(0, 1)[:count]


def positive_random_features(x: Tensor, directions: Tensor) -> Tensor:
    """exp(w.x - |x|^2 / 2) / M^1/2, whose inner products have the mean exp(q.k)."""
    return (x @ directions.mT - x.square().sum(-1, keepdim=True) / 2).exp() / len(directions) ** 0.5


def attend_by_features(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Features (B, H, L, M) and values (B, H, L, D) -> (B, H, L, D), all at once."""
    normaliser = query @ key.sum(-2)[..., None]  # (B, H, L, 1)
    return query @ (key.mT @ value) / normaliser


CONTENDERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "this": linear_attention,
    "scaled_dot_product_attention": F.scaled_dot_product_attention,
    "plain quadratic": softmax_attention,
    "taylor-series-linear-attention": package,
    "the same, without duplicates": package_without_duplicates,
    "elu + 1": elu_attention,
    "random features": random_feature_attention,
}
QUADRATIC = ("scaled_dot_product_attention", "plain quadratic")


# --- measuring ---------------------------------------------------------------------------------------


def inputs(config: Config, dim: int, length: int, backward: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    shape, dtype = (1, config.heads, length, dim), getattr(torch, config.dtype)
    # one by one: a copy of all three would be the peak of the memory
    x = [torch.randn(shape, generator=generator).to(config.device, dtype) for _ in range(3)]
    return [t.requires_grad_(backward) for t in x]


def call(contender: Callable, x: list[Tensor]) -> None:
    output = contender(*x)
    if x[0].requires_grad:
        output.backward(x[2].detach())
        for t in x:
            t.grad = None


def seconds(contender: Callable, x: list[Tensor]) -> float:
    synchronise = torch.cuda.synchronize if x[0].is_cuda else lambda: None
    synchronise()
    start = time.perf_counter()
    call(contender, x)
    synchronise()
    return time.perf_counter() - start


def matrix_product_rate(config: Config) -> float:
    """Floating-point operations per second of a large plain matrix product."""
    x = torch.randn(MATRIX, MATRIX, device=config.device, dtype=getattr(torch, config.dtype))
    return 2 * MATRIX**3 / statistics.median(seconds(torch.mm, [x, x]) for _ in range(3))


def extra_memory(config: Config, name: str, dim: int, length: int, backward: bool) -> int:
    """Bytes at the peak of a call beyond its inputs. On a CPU run it in a process of its own: it reads peak RSS."""
    torch.set_num_threads(config.threads)
    contender = CONTENDERS[name]
    call(contender, inputs(config, dim, 64, backward))  # thread pools and libraries
    x = inputs(config, dim, length, backward)
    if config.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call(contender, x)
        return torch.cuda.max_memory_allocated() - before
    import resource  # not on Windows

    before = psutil.Process().memory_info().rss
    call(contender, x)
    unit = 1 if sys.platform == "darwin" else 1024
    return max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before)


def measure_memory(config: Config, *case) -> int:
    if config.device == "cuda":
        return extra_memory(config, *case)
    context = multiprocessing.get_context("forkserver")  # forked from a process that has PyTorch, and ran nothing
    context.set_forkserver_preload(["torch"])
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(extra_memory, config, *case).result()


def held(name: str, x: list[Tensor]) -> int:
    """About the bytes that a contender holds at its peak: matrices of scores, or features of queries and keys."""
    *_, heads, length, dim = x[0].shape
    columns = {"scaled_dot_product_attention": dim, "plain quadratic": length, "elu + 1": dim, "this": dim}
    copies = 4 * (2 if x[0].requires_grad else 1)
    return copies * heads * length * columns.get(name, 2 * feature_dim(dim)) * x[0].element_size()


def relative_error(contender: Callable, x: list[Tensor]) -> float:
    """|output - exact| / |exact| (Frobenius) on the last queries, against float64 softmax attention."""
    query, key, value = x
    output = contender(query, key, value)[..., -QUERIES_COMPARED:, :].double()
    exact = softmax_attention(query[..., -QUERIES_COMPARED:, :].double(), key.double(), value.double())
    return ((output - exact).norm() / exact.norm()).item()


def measure_memory_rows(config: Config, dim: int, backward: bool, bar: tqdm) -> list[dict]:
    """Peak memory of all contenders at every other length, each case in a process of its own."""
    running, rows = set(CONTENDERS), []
    available = torch.cuda.mem_get_info()[0] if config.device == "cuda" else psutil.virtual_memory().available
    for length in config.lengths:
        for name in [name for name in CONTENDERS if name in running]:
            start = time.perf_counter()
            peak = measure_memory(config, name, dim, length, backward)
            case = {"contender": name, "dim": dim, "length": length, "pass": PASSES[backward]}
            rows.append(case | {"peak_bytes": peak})
            factor = 16 if name in QUADRATIC else 4
            elapsed = time.perf_counter() - start
            if factor * elapsed > 8 * config.longest_call or factor * peak > 0.7 * available:
                running.discard(name)
        bar.update()
    return rows


def measure(config: Config, dim: int, backward: bool, bar: tqdm) -> list[dict]:
    """Times of all contenders at all lengths that they can do: one row each."""
    contenders = {name: torch.compile(f) if config.compile else f for name, f in CONTENDERS.items()}
    available = torch.cuda.mem_get_info()[0] if config.device == "cuda" else psutil.virtual_memory().available
    running, rows = set(contenders), []
    for length in config.lengths:
        bar.set_description(f"D {dim}, L {length}, {PASSES[backward]}")
        x = inputs(config, dim, length, backward)
        current = {name: f for name, f in contenders.items() if name in running}
        rates, times = [], {name: [] for name in current}
        for repetition in range(config.repetitions + 1):
            for name, contender in current.items():
                elapsed = seconds(contender, x)
                if repetition:  # the first warms up
                    times[name].append(elapsed)
            rates.append(matrix_product_rate(config))
        for name, contender in current.items():
            factor = 4 if name in QUADRATIC else 2
            with torch.no_grad():
                error = None if backward else relative_error(contender, x)
            rows.append(
                {
                    "contender": name,
                    "dim": dim,
                    "length": length,
                    "pass": PASSES[backward],
                    "seconds": times[name],
                    "error": error,
                    "matrix_product_flops": statistics.median(rates),
                }
            )
            if (
                factor * statistics.median(times[name]) > config.longest_call
                or factor * held(name, x) > 0.7 * available
            ):
                running.discard(name)
        bar.update()
    return rows


# --- what it says ------------------------------------------------------------------------------------


def summary(rows: list[dict], heads: int) -> dict:
    """Per head dimension and pass: ratios to the peer package, and from which length on it is faster than SDPA."""
    result = {}
    for dim in sorted({row["dim"] for row in rows}):
        result[str(dim)] = entry = {}
        for name in PASSES:
            chosen = [row for row in rows if row["dim"] == dim and row["pass"] == name]
            ours = {row["length"]: row for row in chosen if row["contender"] == "this"}
            faster = times_faster(ours, chosen, "scaled_dot_product_attention")
            crossover = 2 * max((int(length) for length, ratio in faster.items() if ratio < 1), default=LENGTHS[0] // 2)
            entry[name] = {
                "times_faster_than_package": times_faster(ours, chosen, "taylor-series-linear-attention"),
                "times_faster_than_sdpa": faster,
                "crossover_with_sdpa": crossover if str(crossover) in faster else None,
            }
        forward = [row for row in rows if (row["contender"], row["dim"], row["pass"]) == ("this", dim, PASSES[0])]
        entry["share_of_matrix_product_rate"] = {
            str(row["length"]): operations(row, heads) / statistics.median(row["seconds"]) / row["matrix_product_flops"]
            for row in forward
        }
    return result


def times_faster(ours: dict[int, dict], rows: list[dict], peer: str) -> dict[str, float]:
    """Length -> median of the ratios of calls that were timed one after the other."""
    return {
        str(row["length"]): statistics.median(
            theirs / own for theirs, own in zip(row["seconds"], ours[row["length"]]["seconds"], strict=True)
        )
        for row in rows
        if row["contender"] == peer
    }


def operations(row: dict, heads: int) -> int:
    """4 H L M D: two matrix products with the features."""
    return 4 * heads * row["length"] * feature_dim(row["dim"]) * row["dim"]


def what_features_buy(dim: int = 16, length: int = 512, seeds: range = range(5)) -> list[dict]:
    """Error of the attention output at the same number of features: Maclaurin against random ones."""
    rows = []
    for norm in (0.5, 1.0, 2.0, 4.0):  # |q| |k| D^-1/2 is its square
        for terms in (2, 3, 4, 5):
            for seed in seeds:
                generator = torch.Generator().manual_seed(seed)
                query, key = F.normalize(torch.randn(2, length, dim, generator=generator).double(), dim=-1) * norm
                value = torch.randn(length, dim, generator=generator).double()
                exact = softmax_attention(query, key, value, scale=1.0)
                directions = orthogonal_directions(feature_dim(dim, terms), dim, seed).double()
                features = {
                    "maclaurin": [maclaurin_features(x, terms) for x in (query, key)],
                    "random": [positive_random_features(x, directions) for x in (query, key)],
                }
                for kind, (phi_query, phi_key) in features.items():
                    error = ((attend_by_features(phi_query, phi_key, value) - exact).norm() / exact.norm()).item()
                    rows.append(
                        {
                            "kind": kind,
                            "largest_score": norm**2,
                            "terms": terms,
                            "features": len(directions),
                            "seed": seed,
                            "error": error,
                        }
                    )
    return rows


def run(config: Config) -> dict:
    torch.set_num_threads(config.threads)
    start, rows = time.perf_counter(), []
    with tqdm(total=2 * len(config.dims) * len(config.lengths), unit="length") as bar:
        for dim in config.dims:
            for backward in (False, True):
                rows += (measure_memory_rows if config.memory else measure)(config, dim, backward, bar)
    settings = dataclasses.asdict(config)
    result = {
        "question": "q1",
        "run": config.run_name,
        "config": {key: value for key, value in settings.items() if key != "out"},
        "seeds": list(range(5)),
        "data": {"name": "standard normal queries, keys and values", "source": "synthetic", "lengths": config.lengths},
        "metrics": {} if config.memory else summary(rows, config.heads),
        "rows": rows,
    }
    if not config.memory:
        result["features"] = what_features_buy()
    return result | {"seconds": time.perf_counter() - start}


def report(result: dict) -> str:
    lines = []
    for dim, entry in result["metrics"].items():
        lines.append(f"D = {dim}")
        for name in PASSES:
            ratios = entry[name]["times_faster_than_package"]
            shown = ", ".join(f"{ratio:.1f} (L {length})" for length, ratio in ratios.items() if int(length) >= 4096)
            crossover = entry[name]["crossover_with_sdpa"]
            lines.append(f"  {name}: {shown} times the package's speed; faster than SDPA from L {crossover}")
        share = entry["share_of_matrix_product_rate"]
        lines.append(f"  {max(share.values()):.0%} of a large matrix product's rate at best")
    return "\n".join(lines)


@command_line.entry_point
def main(argv: list[str] | None = None) -> None:
    config = command_line.parse(Config, argv, __doc__)
    (Path(config.out) / "q1").mkdir(parents=True, exist_ok=True)  # fails now, not after an hour
    try:
        import taylor_series_linear_attention  # noqa: F401
    except ImportError:
        raise ValueError("the peer package is missing: pip install -e '.[benchmark]'") from None
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no CUDA device here")
    result = run(config)
    path = records.save_results(Path(config.out), result)
    print(report(result))
    print(path)


if __name__ == "__main__":
    sys.exit(main())
