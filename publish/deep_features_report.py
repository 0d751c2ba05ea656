"""What the report on deep feature learning takes from results/: an answer for each study, numbers, tables.

A study that was not run here has its command instead of an answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from common.catalogue import Run
from deep_features import published, runs
from deep_features.classifier import standard_error
from publish import deep_features
from publish.latex import Document, Results, absent, number, percent, plain, spread, tabular
from publish.verdicts import verdict

COLLAPSED = 0.02  # deviation over the images of sigmoid codes, which lie between 0 and 1
LABELS = ("100", "1000", "10000", "all")


def find_in(results: Results) -> deep_features.Find:
    return lambda run: results(run.name) if results.exists(run.name) else None


def thousandths(metric: dict) -> str:
    return spread(metric, 1000, 2)


def accuracy(model: dict, part: str = "test") -> str:
    return rf"{spread(model['metrics'][part]['accuracy'], 100, 2)}\,\%"


def gain(name: str, model: dict, other: dict, part: str = "test") -> str:
    """What the difference of two accuracies is worth."""
    return verdict(name, *(each["metrics"][part]["accuracy"] for each in (model, other)), digits=2)


# --- an answer for each study ------------------------------------------------------------------------


def grid(result: dict) -> str:
    choice, anew, code = result["selected"], result["retrained"], result["retrained"]["settings"]["code_dim"]
    chosen = result["models"][choice["variant"]]["metrics"]["validation"]["mse"]
    pca, mean = result["baselines"][f"PCA, {code} components"], result["baselines"]["mean image"]
    return (
        f"Validation selects {choice['variant']}, after {choice['epochs']} epochs: its validation error is"
        f" {thousandths(chosen)} thousandths. Trained anew on all images, it has a test error of"
        f" {thousandths(anew['metrics']['test']['mse'])}; PCA with {code} components has {1000 * pca['test']:.2f},"
        f" and the mean image {1000 * mean['test']:.1f}."
    )


def dead_units(result: dict) -> str:
    """How the smallest code's errors go with the number of its units that are never active."""
    code = min(model["settings"]["code_dim"] for model in result["models"].values())
    trials = [t for m in result["models"].values() if m["settings"]["code_dim"] == code for t in m["trials"]]
    dead, errors = ([t["dead_units"] for t in trials], [1000 * t["history"][-1]["val_mse"] for t in trials])
    together = ""
    if len(set(dead)) > 1:
        together = f" The correlation of both numbers over these trainings is {np.corrcoef(dead, errors)[0, 1]:.2f}."
    return (
        f"In the {len(trials)} trainings with a code of {code}, errors run from {min(errors):.1f} to {max(errors):.1f}"
        f" thousandths, and {min(dead)} to {max(dead)} units of the code are 0 for every training image.{together}"
    )


def improved(result: dict) -> str:
    """What the recipe is made of with a code of 128 units, and what it is worth with one of 32."""
    errors = {name: model["metrics"]["validation"]["mse"] for name, model in result["models"].items()}
    *steps, plain_small, small = errors
    models = result["models"]
    test = thousandths(result["retrained"]["metrics"]["test"]["mse"])
    share = errors[small]["mean"] / errors[plain_small]["mean"]
    return (
        f"Validation errors in thousandths: {'; '.join(f'{name} {thousandths(errors[name])}' for name in steps)} "
        f"({number(models[steps[-1]]['parameters'])} parameters against {number(models[steps[0]]['parameters'])}). "
        f"The step with the smallest one, “{result['selected']['variant']}”, trained anew, has a test error of {test}. "
        f"With a code of 32 units the whole recipe reaches "
        f"{thousandths(errors[small])} against {thousandths(errors[plain_small])}, {share:.2f} of it."
    )


def linear(result: dict) -> str:
    parts = []
    for name, model in result["models"].items():
        code = model["settings"]["code_dim"]
        pca = 1000 * result["baselines"][f"PCA, {code} components"]["validation"]
        parts.append(f"{thousandths(model['metrics']['validation']['mse'])} against {pca:.2f} ({name})")
    return f"Validation errors of linear autoencoders, against PCA's, in thousandths: {'; '.join(parts)}."


def stacked_published(result: dict) -> str:
    parts, last = [], []
    for name, model in result["models"].items():
        before, codes = spread(model["metrics"]["test"]["before"], 100, 1), code_deviations(model)
        last.append(codes[-1])
        parts.append(
            rf"{name} has {before}\,\% before fine-tuning and {accuracy(model)} after it (over the images, a unit of"
            f" the first layer deviates by {codes[0]:.3f}, one of the last by {codes[-1]:.3f})"
        )
    collapsed = (
        "The last codes hardly depend on the image, so a classifier has next to nothing to go by until the layers below"
        " it may move."
        if max(last) < COLLAPSED
        else "The last codes depend on the image, so it is not their collapse that keeps the accuracy low."
    )
    return f"With the exercise's settings on 6,000 fixed images, {'; '.join(parts)}. {collapsed}"


def code_deviations(model: dict) -> np.ndarray:
    """By how much a unit of each layer deviates over the images, the mean over seeds."""
    return np.mean([trial["code_deviation"] for trial in model["trials"]], 0)


def sizes(result: dict) -> str:
    """What was selected, and what keeps its codes from collapsing."""
    model = result["retrained"]
    before, codes = spread(model["metrics"]["test"]["before"], 100, 2), code_deviations(model)
    return (
        rf"{selected(result)} Before fine-tuning it is {before}\,\%: over the images, a unit of its last layer deviates"
        f" by {codes[-1]:.2f}."
    )


def labels(result: dict) -> str:
    parts = []
    for count in LABELS:
        pretrained, random = (
            result["models"][f"{count} labels, {what}"] for what in ("pre-trained", "from random weights")
        )
        shown = number(int(count)) if count.isdigit() else count
        parts.append(f"with {shown} labels, {gain('pre-training', pretrained, random)}")
    return f"{'; '.join(parts)}.".capitalize()


def selected(result: dict) -> str:
    """What validation chose, and its test accuracy, after training on all images where it was trained anew."""
    choice = result["selected"]
    model = result.get("retrained", result["models"][choice["variant"]])
    trained = "Trained anew on all images, its" if "retrained" in result else "Its"
    return (
        f"Validation selects {plain(choice['variant'])} ({number(model['parameters'])} parameters). {trained} test"
        f" accuracy is {accuracy(model)}."
    )


def each_accuracy(result: dict) -> str:
    parts = [f"{accuracy(model)} ({plain(name)})" for name, model in result["models"].items()]
    return f"{'Test accuracies are' if len(parts) > 1 else 'The test accuracy is'} {', '.join(parts)}."


def recipe(result: dict) -> str:
    """What each step of a recipe adds, and the test accuracy of the one that was selected."""
    models, choice = result["models"], result["selected"]["variant"]
    steps = "; ".join(f"{name} {accuracy(model, 'validation')}" for name, model in models.items())
    return (
        f"Validation accuracies, step by step: {steps}. The step with the highest one, “{choice}”, has a test accuracy"
        f" of {accuracy(models[choice])} with {number(models[choice]['parameters'])} parameters."
    )


def factors(result: dict) -> str:
    """Which single changes of the base help, which hurt, and which the seeds do not resolve."""
    base, *others = result["models"].items()
    kinds: dict[str, list[str]] = {"better": [], "worse": [], "resolve": []}
    for name, model in others:
        words = gain("it", model, base[1], "validation")
        kinds[next(kind for kind in kinds if kind in words)].append(name)
    said = {"better": "Better than the base", "worse": "Worse", "resolve": "Not resolved by the seeds"}
    found = " ".join(f"{said[kind]}: {', '.join(names)}." for kind, names in kinds.items() if names)
    return f"{found} {selected(result)}"


def pixels(result: dict) -> str:
    models = result["models"]
    parts = [
        f"{network}: {accuracy(models[f'{network}, in order'])} with the pixels in order and"
        f" {accuracy(models[f'{network}, shuffled'])} with them shuffled"
        for network in ("CNN", "fully connected")
    ]
    moved = [
        100 * np.mean([trial["shifted_accuracy"][2] for trial in models[f"{network}, in order"]["trials"]])
        for network in ("CNN", "fully connected")
    ]
    return (
        rf"{'; '.join(parts)}. On validation images moved by two pixels, the CNN has {moved[0]:.1f}\,\% and the fully"
        rf" connected network {moved[1]:.1f}\,\%."
    )


def scale(result: dict) -> str:
    width, head = result["models"].values()
    return f"With a head's dimension instead: {gain('the network', head, width)}."


def seven(result: dict, three: dict) -> str:
    """Which of the seven lie further from the base than two seeds of it do; `three` are those of the base."""
    base, *others = result["models"].items()
    apart = 2 * math.sqrt(2) * three["std"]  # two standard deviations of the difference of two trainings
    test = {name: model["metrics"]["test"]["accuracy"]["mean"] for name, model in (base, *others)}
    kinds = {"above": [], "below": [], "within": []}
    for name, _ in others:
        difference = test[name] - test[base[0]]
        kinds["within" if abs(difference) < apart else "above" if difference > 0 else "below"].append(name)
    said = {"above": "Above the base", "below": "Below it", "within": "Not told apart from it"}
    found = " ".join(f"{said[kind]}: {'; '.join(map(plain, names))}." for kind, names in kinds.items() if names)
    return (
        f"Three seeds of the base deviate by {100 * three['std']:.2f} points, so that it takes {100 * apart:.2f} points"
        f" to tell two single trainings apart. {found}"
    )


ANSWERS: dict[str, tuple[Run, Callable[[dict], str]]] = {
    "grid": (runs.GRID, grid),
    "dead-units": (runs.GRID, dead_units),
    "improved": (runs.IMPROVED, improved),
    "linear": (runs.LINEAR, linear),
    "stacked-published": (runs.STACKED[0], stacked_published),
    "sizes": (runs.STACKED[1], sizes),
    "labels": (runs.STACKED[2], labels),
    "cnn-published": (runs.CNNS[0], each_accuracy),
    "factors": (runs.CNNS[1], factors),
    "cnn-best": (runs.CNNS[2], selected),
    "pixels": (runs.CNNS[3], pixels),
    "scale": (runs.VITS[1], scale),
    "recipe": (runs.VITS[2], recipe),
    "fine": (runs.VITS[3], each_accuracy),
}


def answers(results: Results) -> dict[str, str]:
    """What each study found, in a sentence or two."""
    found = {}
    for key, (run, say) in ANSWERS.items():
        result = find_in(results)(run)
        found[key] = say(result) if result else absent(run)
    of_seven, of_scale = (find_in(results)(run) for run in (deep_features.SEVEN, runs.VITS[1]))
    found["seven"] = absent(deep_features.SEVEN)
    if of_seven and of_scale:
        found["seven"] = seven(of_seven, next(iter(of_scale["models"].values()))["metrics"]["test"]["accuracy"])
    return found


def self_attention(results: Results) -> dict[str, str]:
    """How far the implementations agree, and where a pronoun looks."""
    result = results(runs.SELF_ATTENTION[0].name)
    largest = max(difference for kind in result["differences"].values() for difference in kind.values())
    exponent = int(np.floor(np.log10(largest)))
    words, weights = result["sentence"]["words"], np.array(result["sentence"]["weights"])
    row = weights[words.index("it")]
    return {
        "attention-difference": rf"${largest / 10**exponent:.1f}\cdot10^{{{exponent}}}$",
        "attention-tokens": str(result["config"]["length"]),
        "attention-it": words[int(row.argmax())],
        "attention-it-weight": number(row.max(), 2),
    }


def published_figures(results: Results) -> dict[str, str]:
    """Figures of the course's students, which no run of this repository made."""
    known = {"low": published.AUTOENCODER_SPREAD[0], "high": published.AUTOENCODER_SPREAD[1]}
    small, large = published.CNN.values()
    shares = {"vit-page": published.VIT_PAGE, "cnn": small, "cnn-large": large}
    for name, (before, after) in published.STACKED.items():
        first = name.split("-")[1]
        shares |= {f"{first}-before": before, f"{first}-after": after}
    return {
        **{f"published-{name}": number(1000 * value, 1) for name, value in known.items()},
        **{f"published-{name}": percent(value, 2 if name == "vit-page" else 1) for name, value in shares.items()},
        "published-cnn-error": number(100 * standard_error(small, 2000), 1),
    }


# --- tables ------------------------------------------------------------------------------------------


def shown(rows: list[list[str]], columns: str, header: tuple[str, ...]) -> str:
    """Rows whose first cell is the study: a heading each; what was not run is a heading alone."""
    lines: list[list[str] | str] = []
    last = None
    for study, *cells in rows:
        missing = cells[1].startswith("not run here")
        if study != last or missing:
            lines.append(plain(study) + (": not run here" if missing else ""))
        last = study
        if not missing:
            lines.append([plain(cell).replace("→", r"$\to$") for cell in cells])
    return tabular(columns, [plain(name) for name in header[1:]], lines)


def autoencoders(results: Results) -> str:
    return shown(deep_features.autoencoder_rows(find_in(results)), "lrrrr", deep_features.AUTOENCODER_HEADER)


def autoencoder_figures(results: Results) -> str:
    rows = [[plain(cell.partition(":")[0]) for cell in row] for row in deep_features.figure_rows(find_in(results))]
    return tabular("p{40mm}rp{42mm}rp{26mm}", list(deep_features.FIGURES_HEADER), rows)


def classifiers(studies: tuple[Run, ...]) -> Callable[[Results], str]:
    def make(results: Results) -> str:
        rows = deep_features.classifier_rows(find_in(results), studies)
        return shown(rows, "lrrrrrr", deep_features.CLASSIFIER_HEADER)

    return make


def alone(make: Callable, columns: str, header: tuple[str, ...]) -> Callable[[Results], str]:
    """The table of a single study."""

    def table(results: Results) -> str:
        rows: list[list[str] | str] = []
        for row in make(find_in(results)):
            missing = row[1].startswith("not run here")
            rows.append("not run here" if missing else [plain(cell).replace(" ± ", r"$\,\pm\,$") for cell in row])
        return tabular(columns, [plain(name).replace("µ", r"\textmu ") for name in header], rows)

    return table


def shapes(results: Results) -> str:
    """The arrays of one head, and where their dimensions come from."""
    result = results(runs.SELF_ATTENTION[1].name)
    rows = [
        [plain(name), plain(shape).replace(" x ", r"$\times$"), plain(words)] for name, shape, words in result["shapes"]
    ]
    return tabular("lll", ["array", "shape", "where its dimensions come from"], rows)


DOCUMENT = Document(
    name="deep_features",
    folder="deep_features",
    numbers=(answers, self_attention, published_figures),
    tables={
        "autoencoders": autoencoders,
        "autoencoder-figures": autoencoder_figures,
        "stacked": classifiers(runs.STACKED),
        "cnns": classifiers(deep_features.CNNS),
        "factors": alone(deep_features.factor_rows, "lrrrrrr", deep_features.FACTOR_HEADER),
        "seven": alone(deep_features.seven_rows, "lrrrrrrr", deep_features.SEVEN_HEADER),
        "vits": classifiers(deep_features.VITS),
        "shapes": shapes,
    },
)
