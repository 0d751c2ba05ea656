"""The plots of Question 1, drawn from its result files: `python -m q1.plots results/q1/*.json --out plots`."""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import records
import utils
from command_line import flag

DRAWN = {  # contenders of the benchmark, in words
    "this": "the series, this code",
    "taylor-series-linear-attention": "the series, package taylor-series-linear-attention",
    "scaled_dot_product_attention": "exact attention (SDPA)",
    "elu + 1": "elu + 1 features",
}
# what the result files hold
DEMO_KEYS = (
    "config.dim:number", "config.length:number", "errors.*.terms:number", "errors.*.largest_score:number",
    "errors.*.error.mean:number", "errors.*.bound:number?", "maps.largest_score:number", "maps.weights.*.*.*:number",
    "crossover.*.dim:number", "crossover.*.length:number", "seconds:number",
)  # fmt: skip
ROW_KEYS = (
    "config.device:text", "config.dtype:text", "config.heads:number", "config.threads:number", "rows.*.contender:text",
    "rows.*.dim:number", "rows.*.length:number", "rows.*.pass:text",
)  # fmt: skip
MEMORY_KEYS = (*ROW_KEYS, "rows.*.peak_bytes:number")
SPEED_KEYS = (
    *ROW_KEYS, "rows.*.seconds.*:number", "rows.*.error?:number", "features.*.kind:text", "features.*.error:number",
    "features.*.features:number", "features.*.largest_score:number", "config.repetitions:number",
    "metrics.*.*.times_faster_than_package?.*:number", "metrics.*.*.times_faster_than_sdpa?.*:number",
    "metrics.*.forward.crossover_with_sdpa:number", "metrics.*.share_of_matrix_product_rate.*:number",
    "environment.torch:text",
)  # fmt: skip


def draw(paths: Iterable[Path], out: str | Path) -> list[Path]:
    """Draw what each result file has the numbers for, as OUT/q1/<run>-<plot>.pdf and .png."""
    return [figure for path in paths for figure in draw_one(path, out)]


@utils.plot_style()
def draw_one(result_path: Path, out: str | Path) -> list[Path]:
    result = records.load_result(result_path)
    plots = {}
    if result["run"].startswith("attention-memory"):
        result = records.load_result(result_path, *MEMORY_KEYS)
        plots["length"] = plot_against_length(result, "peak_bytes", "peak beyond the inputs (MiB)")
    if result["run"].startswith("attention-speed"):
        result = records.load_result(result_path, *SPEED_KEYS)
        plots["time"] = plot_against_length(result, "seconds", "seconds")
        plots["features"] = plot_features(result)
    if "errors" in result:
        result = records.load_result(result_path, *DEMO_KEYS)
        plots["error"] = plot_errors(result)
        plots["weights"] = plot_weights(result)
    written = []
    for name, figure in plots.items():
        written += utils.save_figure(figure, Path(out) / "q1" / f"{result['run']}-{name}", result_path)
    return written


def machine(result: dict) -> str:
    config = result["config"]
    where = config["device"] if config["device"] == "cuda" else f"CPU, {config['threads']} threads"
    return f"{where}, {config['dtype']}, {config['heads']} heads; synthetic inputs"


def plot_against_length(result: dict, key: str, label: str) -> Figure:
    """A panel for each head dimension, a line for each contender of DRAWN, forward passes, both axes logarithmic."""
    rows = [row for row in result["rows"] if row["pass"] == "forward"]
    dims = sorted({row["dim"] for row in rows})
    figure = Figure(figsize=(6.6, 2.9))
    panels = figure.subplots(1, len(dims), sharey=True, squeeze=False)[0]
    for axes, dim in zip(panels, dims, strict=True):
        for i, (contender, shown) in enumerate(DRAWN.items()):
            own = [row for row in rows if (row["contender"], row["dim"]) == (contender, dim)]
            style = {"color": utils.COLOURS[i], "ls": utils.LINE_STYLES[i], "marker": "o", "ms": 2.5}
            values = [point(row, key) for row in own]
            axes.plot([row["length"] for row in own], values, label=shown, lw=2.2 if i == 0 else 1.2, **style)
        axes.set(yscale="log", title=f"D = {dim}", xlabel="tokens L")
        axes.set_xscale("log", base=2)
        if key == "seconds":
            draw_slopes(axes, [row for row in rows if row["dim"] == dim])
    panels[0].set_ylabel(label)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle(f"{machine(result)}; forward pass", fontsize=9)
    return figure


def point(row: dict, key: str) -> float:
    return statistics.median(row["seconds"]) if key == "seconds" else max(row["peak_bytes"] / 2**20, 0.1)


def draw_slopes(axes, rows: list[dict]) -> None:
    """Grey lines of slope 1 and 2, to read the order of growth from."""
    own = [row for row in rows if row["contender"] == "this"]
    right, height = own[-1]["length"], statistics.median(own[-1]["seconds"])
    for slope in (1, 2):
        lengths = np.array([max(own[0]["length"], right / 16), right])
        times = 0.4 * height * (lengths / right) ** slope
        axes.plot(lengths, times, color="0.6", linewidth=0.8, linestyle="-", zorder=0)
        axes.annotate(f"slope {slope}", (lengths[0], times[0]), fontsize=7, color="0.4", ha="right", va="center")


def plot_features(result: dict) -> Figure:
    """Error of the attention output against the number of features, Maclaurin's and random ones."""
    rows = result["features"]
    scores = sorted({row["largest_score"] for row in rows})
    figure = Figure(figsize=(2.3 * len(scores), 2.8))
    for axes, score in zip(figure.subplots(1, len(scores), sharey=True), scores, strict=True):
        for kind, marker in (("maclaurin", "o"), ("random", "s")):
            chosen = [row for row in rows if row["kind"] == kind and row["largest_score"] == score]
            counts = sorted({row["features"] for row in chosen})
            errors = np.array([[row["error"] for row in chosen if row["features"] == count] for count in counts])
            label = {"maclaurin": "Maclaurin", "random": "random (Performer)"}[kind]
            axes.errorbar(counts, errors.mean(1), errors.std(1, ddof=1), marker=marker, markersize=3, label=label)
        axes.set(xscale="log", yscale="log", xlabel="features M", title=f"|q||k| = {score:g}")
    figure.axes[0].set_ylabel("relative error of the output")
    figure.axes[0].legend(fontsize=7)
    figure.suptitle("What features buy: D = 16, 512 tokens, 5 seeds, synthetic; M for K = 2, 3, 4, 5", fontsize=9)
    return figure


def plot_errors(result: dict) -> Figure:
    """Distance of the attention weights from softmax's by the size of the scores, and the bound for three terms."""
    figure = Figure(figsize=(4.2, 3.2))
    axes = figure.subplots()
    for terms, colour in zip((2, 3, 5), utils.COLOURS, strict=False):
        rows = [row for row in result["errors"] if row["terms"] == terms]
        scores = [row["largest_score"] for row in rows]
        style = {"color": colour, "marker": "o", "ms": 3, "ls": "-"}
        axes.plot(scores, [row["error"]["mean"] for row in rows], label=f"{terms} terms", **style)
        if terms == 3:
            axes.plot(scores, [row["bound"] for row in rows], color=colour, ls=":", lw=1.2, label="bound, 3 terms")
    axes.axhline(2, color="0.6", lw=0.8, ls="-")
    axes.annotate("2: nothing in common", (scores[0], 2), fontsize=7, color="0.4", va="bottom")
    axes.set_xscale("log", base=2)
    axes.set(yscale="log", xlabel="largest score |q||k|", ylabel="sum of |exact - approximated weight|")
    config = result["config"]
    axes.set_title(f"D = {config['dim']}, {config['length']} keys, mean of {len(result['seeds'])} seeds, synthetic")
    axes.legend()
    return figure


def plot_weights(result: dict) -> Figure:
    """Heat maps of the attention weights, exact and approximated, on one scale."""
    maps = result["maps"]["weights"]
    limit = max(np.max(weights) for weights in maps.values())
    figure = Figure(figsize=(2.1 * len(maps) + 0.6, 2.6))
    grid = figure.subplots(1, len(maps), sharey=True)
    for axes, (name, weights) in zip(grid, maps.items(), strict=True):
        image = axes.imshow(weights, cmap="viridis", vmin=0, vmax=limit)
        axes.set(title=name, xlabel="key")
        axes.grid(False)
    grid[0].set_ylabel("query")
    figure.colorbar(image, ax=grid, shrink=0.75, label="weight")
    figure.suptitle(f"Attention weights, |q||k| = {result['maps']['largest_score']:g}, synthetic", fontsize=9)
    return figure


@dataclass(frozen=True)
class Config:
    """The flags."""

    results: tuple[Path, ...] = flag((), "result files of Question 1", positional=True)
    out: str = flag("runs/plots", "folder for the plots")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    return command_line.for_each(config.results, lambda path: print(*draw_one(path, config.out), sep="\n"))


if __name__ == "__main__":
    matplotlib.use("Agg")
    sys.exit(main())
