"""The plots of Lab 3's two towers, from their result files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

import records
import utils
from lab3 import drawing

NAMES = {
    "spoken": "invented sentences, synthetic speech",
    "revoiced": "LJ Speech's sentences, synthetic speech",
    "ljspeech": "LJ Speech, recorded (real)",
}
WAYS = {"to_text": "speech finds its text", "to_speech": "text finds its speech"}
KEYS = ("config.dataset:text", "baselines.*.candidates:number", "baselines.*.length.to_text_1:number")
TRIAL_KEYS = ("history.*.recall:number", "metrics.*.to_text_1.mean:number")
SCORES = {"1": "first", "5": "among 5", "10": "among 10", "close": "first of 20 of nearly one length"}
STUDY_KEYS = ("models.*.settings.dataset:text", "models.*.metrics.*.to_text_1.mean:number")


def title(result: dict) -> str:
    return NAMES[result["config"]["dataset"]]


def part_in_words(result: dict, part: str) -> str:
    dataset = "ljspeech" if part == "recorded" else result["config"]["dataset"]
    return f"{NAMES[dataset]}, {result['baselines'][part]['candidates']:,} candidates"


def methods(result: dict) -> dict[str, dict[str, dict]]:
    """For each test part its methods by name, the baselines first, and the scores of each as mean and deviation."""
    found = {}
    for part, baseline in result["baselines"].items():
        found[part] = {
            name: {score: records.mean_std([value]) for score, value in baseline[kind].items()}
            for name, kind in (("chance", "chance"), ("length alone", "length"))
        }
    models = result.get("models") or {"two towers": result | {"settings": result["config"]}}
    for name, model in models.items():
        of_recorded = model["settings"]["dataset"] == "ljspeech" != result["config"]["dataset"]
        for part, scores in model["metrics"].items():
            where, _, tuned = part.partition("_")
            if where != "validation":
                label = f"{name}, then recorded" if tuned else name
                found["recorded" if of_recorded else where][label] = scores
    return found


def plots(path: Path) -> dict[str, Callable[[dict], Figure]]:
    """The plots that a result has. Raises ValueError for a file that does not hold what they need."""
    result = records.load_result(path, *KEYS)
    records.load_result(path, *(STUDY_KEYS if "models" in result else TRIAL_KEYS))
    if "models" in result:
        return {result["run"].split("-")[1]: plot_recall}
    return {"curve": plot_curve, "recall": plot_recall}


def plot_curve(result: dict) -> Figure:
    """Recall among the validation clips after each epoch."""
    words = "first of all validation clips (%)"
    return drawing.curve(title(result), [result["history"]], {"recall": None}, 100, ylabel=words)


@utils.plot_style()
def plot_recall(result: dict) -> Figure:
    """How often the right candidate is among the first, in both directions, for every method; a row for each corpus."""
    parts = methods(result)
    rows = sum(map(len, parts.values()))
    figure = Figure(figsize=(6.4, 0.6 + 0.55 * len(parts) + 0.26 * rows))
    heights = [len(part) + 1 for part in parts.values()]
    panels = figure.subplots(len(parts), 2, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights})
    for (part, found), row in zip(parts.items(), panels, strict=True):
        for axes, way in zip(row, WAYS, strict=True):
            for place, (score, label) in enumerate(SCORES.items()):
                each = [scores[f"{way}_{score}"] for scores in found.values()]
                means, deviations = ([100 * (metric[of] or 0) for metric in each] for of in ("mean", "std"))
                style = {"fmt": "osDx"[place], "color": utils.COLOURS[place], "ms": 4, "capsize": 2, "label": label}
                axes.errorbar(means, range(len(found)), xerr=deviations, **style)
            axes.set_yticks(range(len(found)), found if axes is row[0] else [], fontsize=8)
            axes.set(ylim=(len(found) - 0.5, -0.5), xlim=(-2, 102))
        row[0].set_title(part_in_words(result, part), loc="left", fontsize=8)
    for axes, words in zip(panels[-1], WAYS.values(), strict=True):
        axes.set(xlabel=f"{words} (%)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    return figure


draw = partial(drawing.draw, plots)
