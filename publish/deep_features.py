"""The tables of deep feature learning, for its page in docs/ and for its report: every study, every variant."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from common.catalogue import Run
from deep_features import published, runs
from deep_features.classifier import standard_error
from publish.tables import bash, not_run, run_rows, table
from records import mean_std, spread

Find = Callable[[Run], dict | None]  # a run's result, or None where it was not run
CLASSIFIERS = (*runs.STACKED, *runs.CNNS, *runs.VITS)
CLASSIFIER_HEADER = (
    "study", "variant", "seeds", "parameters", "validation (%)", "test (%)", "of the images", "published (%)"
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
    name = "{variant}, {epochs} epochs, on all 60,000 images".format(**result["selected"])
    return result["models"] | {name: result["retrained"]}


def classifier_rows(find: Find, studies: Iterable[Run] = CLASSIFIERS) -> list[list[str]]:
    """Accuracies of every variant of studies of classifiers."""
    rows = []
    for run in studies:
        result = find(run)
        if result is None:
            rows.append([run.what, "", *not_run(run.command, 6)])
            continue
        for name, model in networks(result).items():
            cells = [accuracy(model["metrics"].get(part)) for part in ("validation", "test")]
            cells.append(error_of_images(model, result["data"]["sizes"]["test"]))
            known = f"{100 * PUBLISHED[name]:.1f}" if name in PUBLISHED else ""
            rows.append([run.what, name, str(len(model["trials"])), f"{model['parameters']:,}", *cells, known])
    return rows


def error_of_images(model: dict, count: int) -> str:
    """The standard error, in points, that a test accuracy has by the number of its images."""
    if "test" not in model["metrics"]:
        return ""
    share, few = model["metrics"]["test"]["accuracy"]["mean"], model["settings"]["test_size"]
    return f"{100 * standard_error(share, few or count):.2f}"


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
    """Every run of this course: time, result file, figures, command."""
    header = table(["MNIST (real) unless it says otherwise", "result", "time", "figures"], run_rows(root, runs.RUNS))
    return f"{header}\n\n{bash(run.command for run in runs.RUNS)}"


def classifiers(root: Path) -> str:
    return table(CLASSIFIER_HEADER, classifier_rows(in_results(root)))


def autoencoders(root: Path) -> str:
    return table(AUTOENCODER_HEADER, autoencoder_rows(in_results(root)))


def autoencoder_figures(root: Path) -> str:
    return table(FIGURES_HEADER, figure_rows(in_results(root)))
