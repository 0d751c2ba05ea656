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

COLOURS = (*utils.COLOURS, "#000000")
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
    """One panel for each head dimension and pass, a line for each contender, both axes logarithmic."""
    dims = sorted({row["dim"] for row in result["rows"]})
    passes = list(dict.fromkeys(row["pass"] for row in result["rows"]))
    names = list(dict.fromkeys(row["contender"] for row in result["rows"]))
    figure = Figure(figsize=(3.0 * len(dims), 5.6))
    grid = figure.subplots(len(passes), len(dims), sharex=True, sharey="row", squeeze=False)
    for axes_row, name in zip(grid, passes, strict=True):
        for axes, dim in zip(axes_row, dims, strict=True):
            for i, contender in enumerate(names):
                rows = [r for r in result["rows"] if (r["contender"], r["dim"], r["pass"]) == (contender, dim, name)]
                lengths, values = [r["length"] for r in rows], [point(r, key) for r in rows]
                style = {
                    "color": COLOURS[i % len(COLOURS)],
                    "linestyle": utils.LINE_STYLES[i % 4],
                    "marker": "o",
                    "markersize": 2.5,
                }
                axes.plot(lengths, values, label=contender, linewidth=2.2 if contender == "this" else 1.1, **style)
            axes.set(xscale="log", yscale="log", title=f"D = {dim}, {name}")
            axes.set_xscale("log", base=2)
            if key == "seconds":
                draw_slopes(axes, [r for r in result["rows"] if (r["dim"], r["pass"]) == (dim, name)])
        axes_row[0].set_ylabel(label)
    for axes in grid[-1]:
        axes.set_xlabel("tokens L")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle(machine(result), fontsize=9)
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
        axes.annotate(f"slope {slope}", (lengths[0], times[0]), fontsize=6, color="0.4", ha="right", va="center")


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
    """Distance of the attention weights from softmax's, with the bound, against the size of the scores."""
    rows = result["errors"]
    figure = Figure(figsize=(6.0, 4.2))
    axes = figure.subplots()
    for i, terms in enumerate(sorted({row["terms"] for row in rows})):
        chosen = [row for row in rows if row["terms"] == terms]
        scores = [row["largest_score"] for row in chosen]
        style = {"color": COLOURS[i], "marker": "o", "markersize": 3, "linestyle": "-"}
        axes.plot(scores, [row["error"]["mean"] for row in chosen], label=f"K = {terms}", **style)
        finite = [(row["largest_score"], row["bound"]) for row in chosen if row["bound"] is not None]
        axes.plot(*zip(*finite, strict=True), color=COLOURS[i], linestyle=":", linewidth=1.2)
    axes.plot([], [], color="0.3", linestyle=":", label="bound")
    axes.axhline(2, color="0.6", linewidth=0.8, linestyle="-")
    axes.annotate("2: nothing in common", (scores[0], 2), fontsize=7, color="0.4", va="bottom")
    axes.set_xscale("log", base=2)
    axes.set(
        yscale="log", ylim=(1e-9, 20), xlabel="largest score |q||k|", ylabel="sum of |exact - approximated weight|"
    )
    config = result["config"]
    axes.set_title(f"D = {config['dim']}, {config['length']} keys, mean of {len(result['seeds'])} seeds, synthetic")
    axes.legend(ncols=2)
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
