"""The plots of Question 3, from result files: `python q3_plots.py results/q3/*.json --out plots`.

Runs that differ in their decoder alone share a plot.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import utils
from asr.train import VALIDATION_CLIPS

NAMES = {"lstm": "LSTM", "transformer": "Transformer"}
SIMILARITIES = {"jaccard": "Jaccard", "cosine": "cosine", "damerau_levenshtein": "Damerau-Levenshtein"}
ERROR_RATES = {"wer": "words", "cer": "characters"}
FEWEST_CLIPS = 10  # in a class of lengths that is drawn


def draw(paths: list[Path], out: str | Path) -> list[Path]:
    """Draw every plot of runs that share all but the decoder, as OUT/q3/<run>-<plot>.pdf and .png."""
    results = [json.loads(path.read_text()) for path in paths]
    plots = {"loss": plot_loss, "scores": plot_scores, "length": plot_length, "attention": plot_attention}
    written = []
    for name, plot in plots.items():
        written += utils.save_figure(plot(results), Path(out) / "q3" / f"{experiment(results[0])}-{name}", *paths)
    return written


def experiment(result: dict) -> str:
    """The name of a run without that of its decoder."""
    return result["run"].replace(f"-{result['config']['decoder']}", "")


def title(results: list[dict]) -> str:
    data = results[0]["data"]
    clips = results[0]["budget"]["clips"]
    return f"{data['name']} ({data['source']}), {clips:,} clips for training"


def decoder(result: dict) -> str:
    return NAMES[result["config"]["decoder"]]


def history(result: dict, name: str) -> list[float]:
    return [record[name] for record in result["history"]]


def epoch_axis(axes, **labels) -> None:
    axes.set(xlabel="epoch", **labels)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


@utils.plot_style()
def plot_loss(results: list[dict]) -> Figure:
    """Training and validation loss per epoch."""
    figure = Figure(figsize=(6.6, 2.7))
    training, validation = figure.subplots(1, 2)
    for result in results:
        epochs = history(result, "epoch")
        training.plot(epochs, history(result, "train_loss"), label=decoder(result))
        validation.plot(epochs, history(result, "validation_loss"), label=decoder(result))
    epoch_axis(training, ylabel="training loss (smoothed, with CTC)", ylim=(0, None))
    epoch_axis(validation, ylabel="validation loss (nats per token)", ylim=(0, None))
    validation.legend()
    figure.suptitle(title(results), fontsize=9)
    return figure


@utils.plot_style()
def plot_scores(results: list[dict]) -> Figure:
    """Validation scores per epoch: colours and dots tell the decoders apart, lines the scores."""
    figure = Figure(figsize=(6.6, 2.9))
    panels = figure.subplots(1, 2)
    for axes, scores in zip(panels, (SIMILARITIES, ERROR_RATES), strict=True):
        for result, colour, marker in zip(results, utils.COLOURS, (None, "."), strict=False):
            for (name, label), style in zip(scores.items(), utils.LINE_STYLES, strict=False):
                line = {"color": colour, "ls": style, "marker": marker, "label": f"{decoder(result)}, {label}"}
                axes.plot(history(result, "epoch"), history(result, f"validation_{name}"), **line)
        axes.legend(fontsize=6)
    epoch_axis(panels[0], ylabel="similarity, validation", ylim=(0, 1))
    epoch_axis(panels[1], ylabel="error rate, validation", ylim=(0, None))
    clips = min(VALIDATION_CLIPS, results[0]["data"]["sizes"]["validation"])
    figure.suptitle(f"{title(results)}; the first {clips} validation clips, greedy", fontsize=9)
    return figure


def seconds(result: dict, frames) -> np.ndarray:
    return np.asarray(frames) * result["config"]["hop_ms"] / 1000


@utils.plot_style()
def plot_length(results: list[dict]) -> Figure:
    """Error rate of the test clips in classes of a second's width, with a standard error."""
    figure = Figure(figsize=(4.4, 2.8))
    axes = figure.subplots()
    for result in results:
        test = result["metrics"]["test"]
        error = 100 * np.array(test["cer"]["values"])
        classes = seconds(result, test["frames"]).astype(int)
        shown = [c for c in np.unique(classes) if (classes == c).sum() >= FEWEST_CLIPS]
        middle = np.array(shown) + 0.5
        mean = np.array([error[classes == c].mean() for c in shown])
        deviation = np.array([error[classes == c].std(ddof=1) / np.sqrt((classes == c).sum()) for c in shown])
        (line,) = axes.plot(middle, mean, marker=".", label=decoder(result))
        axes.fill_between(middle, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.2, lw=0)
    axes.set(xlabel="length of the clip (s)", ylabel="character error rate, test (%)", ylim=(0, None))
    axes.legend()
    figure.suptitle(title(results), fontsize=9)
    return figure


@utils.plot_style()
def plot_attention(results: list[dict]) -> Figure:
    """Where each decoder looks while it writes one test clip."""
    figure = Figure(figsize=(6.6, 3.6))
    for axes, result in zip(np.atleast_1d(figure.subplots(1, len(results))), results, strict=True):
        attention = result["attention"]
        weights = np.array(attention["weights"])  # (N, S)
        end = float(seconds(result, attention["frames"]))
        extent = (0, end, len(weights), 0)
        darkest = max(0.1, weights.max())  # attention that is spread evenly stays pale
        axes.imshow(weights, cmap="Greys", vmin=0, vmax=darkest, aspect="auto", extent=extent, interpolation="nearest")
        words = attention["text"].split(" ")
        starts = np.cumsum([0] + [len(word) + 1 for word in words])  # the last is the stop token's
        axes.set_yticks(starts + 0.5, [*words, "(stop)"], fontsize=6)
        axes.set(xlabel="time (s)", title=decoder(result))
        axes.grid(False)
    figure.suptitle(f"{title(results)}; cross-attention, mean over heads, clip {attention['clip']}", fontsize=9)
    return figure


@utils.command_line
def main(argv: list[str] | None = None) -> None:
    parser = utils.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="result files of python -m asr train")
    parser.add_flag("out", default="runs/plots", help="folder for the plots (runs/plots)")
    args = parser.parse_args(argv)
    groups: dict[str, list[Path]] = {}
    for path in sorted(args.results):
        result = json.loads(path.read_text())
        if result["question"] == "q3" and "history" in result:  # other measurements have no curves
            groups.setdefault(experiment(result), []).append(path)
    if not groups:
        raise ValueError("none of these files is the result of `python -m asr train`: give some that are")
    for paths in groups.values():
        print(*draw(paths, args.out), sep="\n")


if __name__ == "__main__":
    matplotlib.use("Agg")
    sys.exit(main())
