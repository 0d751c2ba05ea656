"""The plots of Question 3, from result files: `python -m asr.plots results/q3/*.json --out plots`.

Runs that differ in decoder and seed alone share a plot, with the evaluations of their models on joined clips.
"""

from __future__ import annotations

import command_line  # first, for Ctrl-C during the others

# isort: split

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import records
import utils
from asr.train import VALIDATION_CLIPS
from command_line import flag

NAMES = {"lstm": "LSTM", "transformer": "Transformer"}
MARKERS = {"lstm": ".", "transformer": "x"}
SIMILARITIES = {"jaccard": "Jaccard", "cosine": "cosine", "damerau_levenshtein": "Damerau-Levenshtein"}
ERROR_RATES = {"wer": "words", "cer": "characters"}
CORPORA = {
    "LJSpeech-1.1": "LJ Speech",
    "revoiced": "LJ Speech's texts, spoken by espeak-ng",
    "voices": "LJ Speech's texts in many voices",
    "ljspeech-345": "LJ Speech's first 345 clips",
}
SPEECH_KEYS = (  # what the result file of a training or an evaluation holds
    "config.decoder:text", "config.hop_ms:number", "data.name:text", "data.source:text", "data.sizes.*:number",
    "data.sizes.validation:number", "data.longest.train:number",
    "data.hours.*:number", "data.longest.*:number", "metrics.*.loss?:number", "metrics.*.frames.*:number",
    *(f"metrics.*.{name}.mean:number" for name in (*SIMILARITIES, *ERROR_RATES)),
    *(f"metrics.*.{name}.interval.*:number" for name in (*SIMILARITIES, *ERROR_RATES)),
    *(f"metrics.*.{name}.values.*:number" for name in (*SIMILARITIES, *ERROR_RATES)),
    *(f"metrics.*.transcripts.*.{name}:text" for name in ("clip", "said", "heard")),
    "attention.clip:text", "attention.text:text", "attention.frames:number", "attention.weights.*.*:number",
    "attention.own?.*.*:number",
)  # fmt: skip
TRAINING_KEYS = (  # of a training beside those
    *(f"history.*.{name}:number" for name in ("epoch", "seconds", "train_loss", "validation_loss")),
    *(f"history.*.validation_{name}:number" for name in (*SIMILARITIES, *ERROR_RATES)), "metrics.test:dict",
    *(f"config.{name}:number" for name in ("hidden_dim", "num_heads", "num_blocks", "ctc_weight", "label_smoothing")),
    "budget.clips:number", "budget.epochs:number", "parameters:number", "seconds:number",
)  # fmt: skip
FEWEST_CLIPS = 10  # in a class of lengths that is drawn


def load_speech(path: Path) -> dict:
    """A result of Question 3: of a training, with its history, or of an evaluation."""
    trained = "history" in records.load_result(path)
    return records.load_result(path, *SPEECH_KEYS, *(TRAINING_KEYS if trained else ()))


def draw(paths: Iterable[Path], out: str | Path) -> list[Path]:
    """Draw every plot of one experiment, given by its result files, as OUT/q3/<experiment>-<plot>.pdf and .png."""
    results = {path: load_speech(path) for path in paths}
    trained = {path: result for path, result in results.items() if "history" in result}
    plots = {
        "loss": (plot_loss, trained),
        "scores": (plot_scores, trained),
        "length": (plot_length, trained),
        "attention": (plot_attention, trained),
    }
    if any("own" in result["attention"] for result in trained.values()):
        plots["self_attention"] = plot_self_attention, trained
    if len(results) > len(trained):
        plots["joined"] = plot_joined, results
    written = []
    for name, (plot, sources) in plots.items():
        stem = Path(out) / "q3" / f"{experiment(next(iter(trained.values())))}-{name}"
        written += utils.save_figure(plot(list(sources.values())), stem, *sources)
    return written


def experiment(result: dict) -> str:
    """The name of a run, or of the run whose model was evaluated, without decoder and seed."""
    return re.sub(rf"-{result['config']['decoder']}(-seed\d+)?", "", result["run"].partition("-on-")[0])


def of_decoders(results: list[dict]) -> list[tuple[str, str, list[dict]]]:
    """Decoder, colour, and its results (one a seed), for each decoder that there is."""
    groups = [(name, [r for r in results if r["config"]["decoder"] == name]) for name in NAMES]
    return [(name, colour, g) for (name, g), colour in zip(groups, utils.COLOURS, strict=False) if g]


def title(results: list[dict]) -> str:
    data = results[0]["data"]
    clips = results[0]["budget"]["clips"]
    return f"{corpus_in_words(data)},\n{clips:,} clips for training"


def corpus_in_words(data: dict) -> str:
    """A corpus in words, with what it is made of."""
    kind = "recorded" if data["source"] == "real" else "synthetic"
    return f"{CORPORA.get(data['name'], data['name'])} ({kind})"


@utils.plot_style()
def plot_loss(results: list[dict]) -> Figure:
    """Training and validation loss per epoch, both plain cross-entropy in one panel where the results have both."""
    if all("plain_training_loss" in run["history"][0] for run in results):
        return plot_plain_loss(results)
    figure = Figure(figsize=(6.6, 2.7))
    training, validation = figure.subplots(1, 2)
    for decoder, colour, runs in of_decoders(results):
        line = {"color": colour, "marker": MARKERS[decoder], "ms": 4, "ls": "-", "label": NAMES[decoder]}
        histories = [run["history"] for run in runs]
        utils.draw_curves(training, histories, "train_loss", **line)
        utils.draw_curves(validation, histories, "validation_loss", **line)
    utils.epoch_axis(training, ylabel="training loss (smoothed, with CTC)", ylim=(0, None))
    utils.epoch_axis(validation, ylabel="validation loss (nats per token)", ylim=(0, None))
    validation.legend()
    figure.suptitle(title(results), fontsize=9)
    return figure


def plot_plain_loss(results: list[dict]) -> Figure:
    """Cross-entropy per character of training and of validation clips: no smoothing, no CTC, no changed features."""
    figure = Figure(figsize=(4.8, 2.9))
    axes = figure.subplots()
    parts = {"plain_training_loss": ("training", "--"), "validation_loss": ("validation", "-")}
    for decoder, colour, runs in of_decoders(results):
        for key, (part, style) in parts.items():
            line = {"color": colour, "ls": style, "marker": MARKERS[decoder], "ms": 4}
            histories = [run["history"] for run in runs]
            utils.draw_curves(axes, histories, key, label=f"{NAMES[decoder]}, {part}", **line)
    utils.epoch_axis(axes, ylabel="cross-entropy (nats per character)", ylim=(0, None))
    axes.legend()
    figure.suptitle(f"{title(results)}; {seeds_in_words(results)}", fontsize=9)
    return figure


def seeds_in_words(results: list[dict]) -> str:
    count = len({seed for result in results for seed in result["seeds"]})
    return "one seed" if count == 1 else f"{count} seeds, band: one standard deviation"


@utils.plot_style()
def plot_scores(results: list[dict]) -> Figure:
    """Validation scores per epoch: a panel for each similarity, and one for both error rates."""
    figure = Figure(figsize=(6.6, 4.4))
    panels = figure.subplots(2, 2).flatten()
    for axes, (name, shown) in zip(panels, SIMILARITIES.items(), strict=False):
        draw_scores(axes, results, {name: ""})
        utils.epoch_axis(axes, ylabel=f"{shown} similarity", ylim=(0, 1))
    draw_scores(panels[-1], results, {name: f", {shown}" for name, shown in ERROR_RATES.items()})
    utils.epoch_axis(panels[-1], ylabel="error rate", ylim=(0, None))
    panels[0].legend(loc="lower right")
    panels[-1].legend(fontsize=8)
    clips = min(VALIDATION_CLIPS, results[0]["data"]["sizes"]["validation"])
    figure.suptitle(f"{title(results)}; the first {clips} validation clips, greedy search", fontsize=9)
    return figure


def draw_scores(axes, results: list[dict], scores: dict[str, str]) -> None:
    """Curves of validation scores: colours and marks tell the decoders apart, lines the scores."""
    for decoder, colour, runs in of_decoders(results):
        for (name, shown), style in zip(scores.items(), utils.LINE_STYLES, strict=False):
            line = {"color": colour, "ls": style, "marker": MARKERS[decoder], "ms": 4}
            histories = [run["history"] for run in runs]
            utils.draw_curves(axes, histories, f"validation_{name}", label=f"{NAMES[decoder]}{shown}", **line)


def seconds(result: dict, frames) -> np.ndarray:
    return np.asarray(frames) * result["config"]["hop_ms"] / 1000


def lengths_and_errors(results: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and character error rate (%) of every test clip of every result."""
    tests = [(result, result["metrics"]["test"]) for result in results]
    lengths = [seconds(result, test["frames"]) for result, test in tests]
    return np.concatenate(lengths), 100 * np.concatenate([test["cer"]["values"] for _, test in tests])


def draw_by_length(axes, results: list[dict], width: float) -> None:
    """Mean error of the test clips in classes of `width` seconds, with a standard error."""
    for decoder, colour, runs in of_decoders(results):
        lengths, errors = lengths_and_errors(runs)
        classes = (lengths // width).astype(int)
        shown = [c for c in np.unique(classes) if (classes == c).sum() >= FEWEST_CLIPS]
        middle = width * (np.array(shown) + 0.5)
        mean = np.array([errors[classes == c].mean() for c in shown])
        deviation = np.array([errors[classes == c].std(ddof=1) / np.sqrt((classes == c).sum()) for c in shown])
        axes.plot(middle, mean, color=colour, ls="-", marker=MARKERS[decoder], label=NAMES[decoder])
        axes.fill_between(middle, mean - deviation, mean + deviation, color=colour, alpha=0.2, lw=0)
    axes.set(ylabel="character error rate, test (%)", ylim=(0, None))
    axes.legend()


@utils.plot_style()
def plot_length(results: list[dict]) -> Figure:
    """Error rate of the test clips in classes of a second's width, with a standard error."""
    figure = Figure(figsize=(4.4, 2.8))
    axes = figure.subplots()
    draw_by_length(axes, results, width=1)
    axes.set_xlabel("length of the clip (s)")
    figure.suptitle(title(results), fontsize=9)
    return figure


@utils.plot_style()
def plot_joined(results: list[dict]) -> Figure:
    """The same for clips that were joined, beyond the longest of training, which a line marks."""
    figure = Figure(figsize=(4.4, 2.8))
    axes = figure.subplots()
    draw_by_length(axes, results, width=2)
    trained = next(result for result in results if "history" in result)
    longest = trained["data"]["longest"]["train"]
    axes.axvline(longest, color="0.4", lw=1, ls=":")
    axes.annotate(" longest in training", (longest, 0.03), xycoords=("data", "axes fraction"), fontsize=7, color="0.4")
    axes.set_xlabel("length of one to three test clips in a row (s)")
    figure.suptitle(title([trained]), fontsize=9)
    return figure


@utils.plot_style()
def plot_self_attention(results: list[dict]) -> Figure:
    """Where the first Transformer decoder looks in its own text, character by character."""
    result, figure = next(each for each in results if "own" in each["attention"]), Figure(figsize=(4.4, 3.9))
    attention = result["attention"]
    weights, axes = np.array(attention["own"]), figure.subplots()  # (N, N)
    axes.imshow(weights, cmap="Greys", vmin=0, vmax=max(0.1, weights[2:].max()), interpolation="nearest")
    words = attention["text"].split(" ")
    starts = 1 + np.cumsum([0] + [len(word) + 1 for word in words[:-1]])  # the first is the start token
    axes.set_yticks(starts, words, fontsize=7)
    axes.set_xticks(starts, words, fontsize=7, rotation=60, ha="right", rotation_mode="anchor")
    axes.set(xlabel="character looked at", ylabel="character read", title="Self-attention, mean over heads")
    axes.grid(False)
    figure.suptitle(f"{corpus_in_words(result['data'])}, clip {attention['clip']}", fontsize=9)
    return figure


@utils.plot_style()
def plot_attention(results: list[dict]) -> Figure:
    """Where each decoder looks while it writes one test clip."""
    figure = Figure(figsize=(6.6, 3.6))
    decoders = of_decoders(results)
    for axes, (decoder, _, runs) in zip(figure.subplots(1, len(decoders), squeeze=False)[0], decoders, strict=True):
        result, attention = runs[0], runs[0]["attention"]
        weights = np.array(attention["weights"])  # (N, S)
        end = float(seconds(result, attention["frames"]))
        extent = (0, end, len(weights), 0)
        darkest = max(0.1, weights.max())  # attention that is spread evenly stays pale
        axes.imshow(weights, cmap="Greys", vmin=0, vmax=darkest, aspect="auto", extent=extent, interpolation="nearest")
        words = attention["text"].split(" ")
        starts = np.cumsum([0] + [len(word) + 1 for word in words])  # the last is the stop token's
        axes.set_yticks(starts + 0.5, [*words, "(stop)"], fontsize=7)
        axes.set(xlabel="time (s)", title=NAMES[decoder])
        axes.grid(False)
    figure.suptitle(f"{title(results)}; cross-attention, mean over heads, clip {attention['clip']}", fontsize=9)
    return figure


@dataclass(frozen=True)
class Config:
    """The flags."""

    results: tuple[Path, ...] = flag((), "result files of python -m asr train", positional=True)
    out: str = flag("runs/plots", "folder for the plots")


@command_line.entry_point
def main(argv: list[str] | None = None) -> int:
    config = command_line.parse(Config, argv, __doc__)
    groups: dict[str, list[Path]] = {}
    trained = set()  # the groups that hold a training

    def sort(path: Path) -> None:
        result = records.load_result(path, "config.join?:number")
        if result["question"] == "q3" and ("history" in result or (result["config"].get("join") or 1) > 1):
            groups.setdefault(experiment(load_speech(path)), []).append(path)
            trained.update({experiment(result)} if "history" in result else ())

    code = command_line.for_each(sorted(config.results), sort)
    if not trained and not code:
        raise ValueError("none of these files is the result of `python -m asr train`: give some that are")
    for name, paths in groups.items():
        if name in trained:
            print(*draw(paths, config.out), sep="\n")
    return code


if __name__ == "__main__":
    matplotlib.use("Agg")
    sys.exit(main())
