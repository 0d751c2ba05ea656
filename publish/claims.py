"""The gains that Lab 3's page calls typical, beside what its runs found here; for the notebook and docs/runs.md."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common.catalogue import Run
from lab3 import runs
from publish.tables import table
from publish.verdicts import resolved, standard_error
from records import spread

KEPT, OPEN, REFUTED = "kept", "not resolved", "refuted here"
MORE_ACCURACY = 10  # percentage points, the least that is claimed
LESS_TIME = 80  # percent
LESS_DATA = 10  # times, the least that is claimed
MORE_SPEED = 2  # times, the least that is claimed
HALVES = {"bf16": "bfloat16", "fp16": "float16"}  # formats of 16 bits, as the study of costs calls them
TRANSLATORS = {"transformer": "Transformer", "lstm": "LSTM"}


class Finding(NamedTuple):
    """A claim on one task: what was measured, and whether that keeps it."""

    claim: str
    task: str
    measured: str
    verdict: str


def accuracy(model: dict) -> dict:
    return model["metrics"]["test"]["accuracy"]


def by_at_least(difference: float, error: float, least: float) -> str:
    """Whether a difference of means is at least so large, given its standard error."""
    if difference - 2 * error >= least:
        return KEPT
    return REFUTED if difference + 2 * error < least else OPEN


def more_accuracy(models: dict, transferred: str, scratch: str) -> tuple[str, str]:
    """The gain in points over the same network from random weights, on the same training data."""
    better, worse = accuracy(models[transferred]), accuracy(models[scratch])
    gain, error = (100 * x for x in (better["mean"] - worse["mean"], standard_error(better, worse)))
    sure = "one seed each" if math.isnan(error) else f"standard error {error:.1f}"
    words = f"{spread(better, 100)} % against {spread(worse, 100)} %: {gain:+.1f} points, {sure}"
    return words, by_at_least(gain, error, MORE_ACCURACY)


def less_time(models: dict, transferred: str, scratch: str) -> tuple[str, str]:
    """The time saved on the way to an accuracy that is no lower, as far as the seeds tell."""
    quick, slow = (seconds(models[name]) for name in (transferred, scratch))
    better, worse = accuracy(models[transferred]), accuracy(models[scratch])
    saved = 100 * (1 - quick / slow)
    as_good = by_at_least(better["mean"] - worse["mean"], standard_error(better, worse), 0) != REFUTED
    words = f"{quick:,.0f} s against {slow:,.0f} s: {-saved:+.0f} %, {'as accurate' if as_good else 'less accurate'}"
    return words, KEPT if as_good and saved >= LESS_TIME else REFUTED


def seconds(model: dict) -> float:
    """The time of one training, on average over the seeds."""
    if "training_seconds" in model:
        return model["training_seconds"]["mean"]
    return model["adapting_seconds"] / len(model["seeds"])


def less_data(models: dict, transferred: str, scratch: str) -> tuple[str, str]:
    """How much less it needs to reach, in the mean, what random weights reach with all training data.

    The claim is kept where a tenth of the data or less is enough by two standard errors, and refuted where it is too
    little by as much.
    """
    aim, whole = accuracy(models[f"{scratch}, all"]), training_size(models[f"{scratch}, all"])
    found = {
        training_size(model): accuracy(model)
        for name, model in models.items()
        if name.startswith(f"{transferred}, ")
    }  # fmt: skip
    few = [metric for size, metric in found.items() if size <= whole / LESS_DATA]
    verdicts = {by_at_least(metric["mean"] - aim["mean"], standard_error(metric, aim), 0) for metric in few}
    verdict = next((each for each in (KEPT, OPEN) if each in verdicts), REFUTED)
    enough = min((size for size, metric in found.items() if metric["mean"] >= aim["mean"]), default=None)
    if enough is None:
        return f"{spread(aim, 100)} % from random weights with all {whole:,} is not reached", verdict
    words = f"{spread(found[enough], 100)} % with {enough:,}, {spread(aim, 100)} % from random weights with {whole:,}"
    return f"{words}: {whole / enough:.0f} times less", verdict


def training_size(model: dict) -> int:
    return model["settings"]["labels"] if "labels" in model["settings"] else model["sizes"]["train"]


class Task(NamedTuple):
    """Something that a pretrained network is used for: what it is compared with, and the studies that do so."""

    words: str
    transferred: str
    scratch: str
    methods: Run
    sizes: Run


TASKS = (
    Task("polarity of sentences, frozen features", "svm", "random", runs.METHODS, runs.LABELS),
    Task("polarity of sentences, LoRA", "lora", "random", runs.METHODS, runs.LABELS),
    Task("polarity of sentences, all layers", "full", "random", runs.METHODS, runs.LABELS),
    Task("ants and bees, frozen features", "frozen", "scratch", runs.PHOTOGRAPHS, runs.PHOTOGRAPH_SIZES),
    Task("ants and bees, all layers", "full", "scratch", runs.PHOTOGRAPHS, runs.PHOTOGRAPH_SIZES),
)
CLAIMS: dict[str, Callable[[dict, str, str], tuple[str, str]]] = {
    "10 to 20 % more accuracy": more_accuracy,
    "80 % less time": less_time,
    "10 to 100 times less data": less_data,
}


def findings(find: Callable[[Run], dict | None]) -> list[Finding]:
    """Every claim on every task with what was found, or the command that measures it."""
    found = []
    for claim, measure in CLAIMS.items():
        for task in TASKS:
            run = task.sizes if measure is less_data else task.methods
            result, words, verdict = find(run), f"`{run.command}`", "not run"
            if result:
                words, verdict = measure(result["models"], task.transferred, task.scratch)
            found.append(Finding(claim, task.words, words, verdict))
    result, words, verdict = find(runs.COSTS), f"`{runs.COSTS.command}`", "not run"
    if result:
        words, verdict = more_speed(result["rows"])
    found.append(Finding("2 to 3 times faster by mixed precision", "a step of a Vision Transformer", words, verdict))
    return found


def more_speed(rows: list[dict]) -> tuple[str, str]:
    """What 16 bits make of a step's time: of the formats that the machine has, the faster one."""
    best = min((row for row in rows if row["technique"] in HALVES), key=lambda row: row["share_of_time"])
    speed = 1 / best["share_of_time"]
    words = f"{HALVES[best['technique']]}, median of rounds: {speed:.2f} times as fast"
    return f"{words}, gradients {100 * best['gradients_off_by']:.1f} % off", KEPT if speed >= MORE_SPEED else REFUTED


def ranking(metrics: dict[str, dict]) -> str:
    """Which of several accuracies is the highest, and whether the seeds tell it from the second."""
    first, second = sorted(metrics, key=lambda name: metrics[name]["mean"], reverse=True)[:2]
    lead = 100 * (metrics[first]["mean"] - metrics[second]["mean"])
    error = 100 * standard_error(metrics[first], metrics[second])
    if math.isnan(error):
        return f"Most accurate: {first}, {lead:.1f} points ahead of {second}, with one seed each"
    size = f"{lead:.1f} points (standard error {error:.1f})"
    if lead >= 2 * error:
        return f"Most accurate: {first}, {size} ahead of {second}"
    return f"Most accurate on average: {first}, but the seeds do not resolve its lead of {size} over {second}"


def gains(metrics: dict[str, dict], base: str) -> str:
    """Which of several accuracies are above or below that of a base, as far as the seeds tell."""
    differences = {name: 100 * resolved(metric, metrics[base]) for name, metric in metrics.items() if name != base}
    ordered = sorted(differences.items(), key=lambda item: -item[1])
    better = ", ".join(f"{name} ({gain:+.1f} points)" for name, gain in ordered if gain > 0) or "none"
    worse = ", ".join(f"{name} ({gain:+.1f})" for name, gain in ordered[::-1] if gain < 0) or "none"
    same = sum(gain == 0 for _, gain in ordered)
    return f"More accurate than {base}: {better}. Less: {worse}. Not told apart from it by the seeds: {same}."


def better_translator(result: dict) -> str:
    """Which of two translators has more BLEU: by the seeds, or by the bootstrap intervals of one seed each."""
    (name, model), (other, against) = result["models"].items()
    bleus = [each["metrics"]["test"]["bleu"] for each in (model, against)]
    lead = resolved(*bleus)
    if len(model["seeds"]) == len(against["seeds"]) == 1:
        (low, high), (bottom, top) = model["intervals"][0], against["intervals"][0]
        lead = 1 if low > top else -1 if high < bottom else 0
    if not lead:
        return f"{spread(bleus[0])} and {spread(bleus[1])} BLEU: which translates better is not resolved"
    best, worse = (name, other) if lead > 0 else (other, name)
    return f"The {TRANSLATORS[best]} translates better than the {TRANSLATORS[worse]}"


def claims(root: Path) -> str:
    """The table for docs/runs.md."""
    return table(("claim", "task", "measured here", "verdict"), findings(lambda run: run.find(root)))
