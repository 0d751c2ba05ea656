"""The tables of deep feature learning, for its page in docs/ and for its report: every study, every variant."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from common.catalogue import Run
from deep_features import published, runs
from deep_features.classifier import standard_error
from publish import verdicts
from publish.tables import bash, not_run, run_rows, table
from records import mean_std, spread

Find = Callable[[Run], dict | None]  # a run's result, or None where it was not run
FACTORS, SEVEN = runs.CNNS[1], runs.VITS[0]  # which have tables of their own
AS_PUBLISHED = (runs.STACKED[0], runs.CNNS[0], SEVEN)
CNNS = tuple(run for run in runs.CNNS if run is not FACTORS)
VITS = tuple(run for run in runs.VITS if run is not SEVEN)
CLASSIFIER_HEADER = (
    "study", "variant", "seeds", "parameters", "validation (%)", "test (%)", "s.e.", "published (%)"
)  # fmt: skip
FACTOR_HEADER = (
    "changed", "parameters", "multiply-adds", "µs an image", "validation (%)", "s.e.", "against the base"
)  # fmt: skip
SEVEN_HEADER = (
    "configuration", "seeds", "parameters", "minutes", "validation (%)", "gap (points)", "test (%)", "published (%)",
)  # fmt: skip
AUTOENCODER_HEADER = ("study", "variant", "seeds", "parameters", "validation", "test")
FIGURES_HEADER = ("published as", "value", "what it is", "so, in thousandths", "measured here")


def vit_name(sizes: tuple[int, int, int, int]) -> str:
    return "dim {}, depth {}, {} heads, MLP {}".format(*sizes)


PUBLISHED = {  # test accuracies by variant
    **published.CNN,
    **{name: after for name, (_, after) in published.STACKED.items()},
    **{vit_name(sizes): accuracy for sizes, accuracy in published.VIT.items()},
}


def networks(result: dict) -> dict[str, dict]:
    """Every variant of a study, and what was selected and trained anew."""
    if "retrained" not in result:
        return result["models"]
    name = f"{result['selected']['variant']}, trained anew"  # on all 60,000 images
    return result["models"] | {name: result["retrained"]}


def classifier_rows(find: Find, studies: Iterable[Run]) -> list[list[str]]:
    """Accuracies of every variant of studies of classifiers."""
    rows = []
    for run in studies:
        result = find(run)
        if result is None:
            rows.append([run.what, "", *not_run(run.command, 6)])
            continue
        for name, model in networks(result).items():
            cells = [accuracy(model["metrics"].get(part)) for part in ("validation", "test")]
            count = model["settings"]["test_size"] or result["data"]["sizes"]["test"]
            cells.append(error_of_images(model, "test", count) if "test" in model["metrics"] else "")
            rows.append(
                [run.what, name, str(len(model["trials"])), f"{model['parameters']:,}", *cells, known(run, name)]
            )
    return rows


def known(run: Run, name: str) -> str:
    """The published accuracy of a variant in percent, in a study of the published settings."""
    return f"{100 * PUBLISHED[name]:.4g}" if run in AS_PUBLISHED and name in PUBLISHED else ""


def error_of_images(model: dict, part: str, count: int) -> str:
    """The standard error, in points, that an accuracy has by the number of its images."""
    return f"{100 * standard_error(model['metrics'][part]['accuracy']['mean'], count):.2f}"


def factor_rows(find: Find) -> list[list[str]]:
    """One changed factor of a CNN a row: what it costs, how well it does, and how far from the base."""
    result = find(FACTORS)
    if result is None:
        return [["", *not_run(FACTORS.command, 6)]]
    rows, base = [], next(iter(result["models"].values()))["metrics"]["validation"]["accuracy"]
    for name, model in result["models"].items():
        metric = model["metrics"]["validation"]["accuracy"]
        difference, error = metric["mean"] - base["mean"], verdicts.standard_error(metric, base)
        told = "" if verdicts.resolved(metric, base) else ", not resolved"
        against = f"{100 * difference:+.2f} ± {100 * error:.2f}{told}" if metric is not base else ""
        costs = (f"{model['parameters']:,}", f"{model['multiply_adds']:,}", f"{model['inference_us_per_image']:.0f}")
        of_images = error_of_images(model, "validation", result["data"]["sizes"]["val"])
        rows.append([name, *costs, accuracy(model["metrics"]["validation"]), of_images, against])
    return rows


def seven_rows(find: Find) -> list[list[str]]:
    """The exercise's Vision Transformers, one a row."""
    result = find(SEVEN)
    if result is None:
        return [["", *not_run(SEVEN.command, 7)]]
    rows = []
    for name, model in result["models"].items():
        scores, trials = model["metrics"], model["trials"]
        above = mean_std([t["train_accuracy"] - t["validation"]["accuracy"] for t in trials])
        minutes = sum(map(training_seconds, trials)) / len(trials) / 60
        size = (str(len(trials)), f"{model['parameters']:,}", f"{minutes:.1f}")
        found = (accuracy(scores["validation"]), spread(above, 100, 2), accuracy(scores["test"]))
        rows.append([name, *size, *found, known(SEVEN, name)])
    return rows


def training_seconds(trial: dict) -> float:
    """What the epochs of a training took, whatever interrupted it in between."""
    histories = [trial["history"], *trial.get("pretraining", [])]
    return sum(record["seconds"] for history in histories for record in history)


def accuracy(scores: dict | None) -> str:
    """An accuracy in percent, after the one before fine-tuning where there is one."""
    if scores is None:
        return ""
    before = f"{spread(scores['before'], 100, 1)} → " if "before" in scores else ""
    return before + spread(scores["accuracy"], 100, 2)


def autoencoder_rows(find: Find) -> list[list[str]]:
    """Mean squared errors of every variant, in thousandths, with PCA and the mean image."""
    rows = []
    for run in runs.AUTOENCODERS:
        result = find(run)
        if result is None:
            rows.append([run.what, "", *not_run(run.command, 4)])
            continue
        for name, errors in result.get("baselines", {}).items():
            rows.append([run.what, name, "", "", *(f"{1000 * errors[part]:.2f}" for part in ("validation", "test"))])
        for name, model in networks(result).items():
            scores = [model["metrics"].get(part) for part in ("validation", "test")]
            cells = [spread(each["mse"], 1000, 2) if each else "" for each in scores]
            rows.append([run.what, name, str(len(model["trials"])), f"{model['parameters']:,}", *cells])
    return rows


def figure_rows(find: Find) -> list[list[str]]:
    """The published figures of autoencoders: as they stand, what they mean, and the same measured here."""
    run, grid = runs.AS_PUBLISHED, find(runs.GRID)
    result, best = find(run), grid and grid["models"].get("batch 64, code 128")
    here = f"not run here: `{run.command}`"
    if result:
        (ours,) = result["models"].values()
        by_that_sum = spread(mean_std([trial["as_published"] for trial in ours["trials"]]), 1, 6)
        here = f"{spread(ours['metrics']['test']['mse'], 1000, 2)} ({by_that_sum} by that sum)"
    sum_of = f"a sum over {published.TEST_IMAGES:,} images, divided by {published.DIVISOR:,}"
    scale = 1000 * published.DIVISOR / published.TEST_IMAGES
    validation, test, baseline = published.AUTOENCODER_BEST, published.AUTOENCODER_TEST, published.AUTOENCODER_BASELINE
    in_the_grid = (
        spread(best["metrics"]["validation"]["mse"], 1000, 2) if best else f"not run here: `{runs.GRID.command}`"
    )
    return [
        [validation.what, f"{validation.value:.5f}", "a mean", f"{1000 * validation.value:.2f}", in_the_grid],
        [test.what, f"{test.value:.6f}", sum_of, f"{scale * test.value:.2f}", here],
        [baseline.what, f"{baseline.value:.6f}", sum_of, f"{scale * baseline.value:.1f}", "its settings are not known"],
    ]


# --- for docs/ ---------------------------------------------------------------------------------------


def in_results(root: Path) -> Find:
    return lambda run: run.find(root)


def deep_features_runs(root: Path) -> str:
    """Every run of this course: result file, what its epochs took, figures, command."""
    rows = []
    for run, (what, result, _, figures) in zip(runs.RUNS, run_rows(root, runs.RUNS), strict=True):
        models = networks(run.find(root) or {"models": {}}).values() if run in runs.STUDIES else ()
        seconds = sum(training_seconds(trial) for model in models for trial in model["trials"])
        rows.append([what, result, f"{seconds / 60:.0f} min" if seconds else "", figures])
    header = ["MNIST (real) unless it says otherwise", "result", "training, added up", "figures"]
    return f"{table(header, rows)}\n\n{bash(run.command for run in runs.RUNS)}"


def classifiers(studies: Iterable[Run]) -> Callable[[Path], str]:
    return lambda root: table(CLASSIFIER_HEADER, classifier_rows(in_results(root), studies))


def factors(root: Path) -> str:
    return table(FACTOR_HEADER, factor_rows(in_results(root)))


def seven(root: Path) -> str:
    return table(SEVEN_HEADER, seven_rows(in_results(root)))


def autoencoders(root: Path) -> str:
    return table(AUTOENCODER_HEADER, autoencoder_rows(in_results(root)))


def autoencoder_figures(root: Path) -> str:
    return table(FIGURES_HEADER, figure_rows(in_results(root)))


TABLES = {
    "autoencoders": autoencoders,
    "autoencoder-figures": autoencoder_figures,
    "stacked": classifiers(runs.STACKED),
    "cnns": classifiers(CNNS),
    "factors": factors,
    "seven": seven,
    "vits": classifiers(VITS),
}
