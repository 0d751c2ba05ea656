"""The tables of docs/deep-features.md: every study, its variants, and the published figures beside them."""

from __future__ import annotations

from pathlib import Path

from common.catalogue import Run
from deep_features import published, runs
from publish.tables import bash, not_run, run_rows, table
from records import mean_std, spread


def deep_features_runs(root: Path) -> str:
    """Every run of this course: time, result file, figures, command."""
    header = table(["MNIST (real) unless it says otherwise", "result", "time", "figures"], run_rows(root, runs.RUNS))
    return f"{header}\n\n{bash(run.command for run in runs.RUNS)}"


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


def classifiers(root: Path) -> str:
    """Accuracies of every variant of every study of classifiers."""
    header = ("study", "variant", "seeds", "parameters", "validation (%)", "test (%)", "published (%)")
    rows = []
    for run in (*runs.STACKED, *runs.CNNS, *runs.VITS):
        result = run.find(root)
        if result is None:
            rows.append([run.what, "", *not_run(run.command, 5)])
            continue
        for name, model in networks(result).items():
            cells = [accuracy(model["metrics"].get(part)) for part in ("validation", "test")]
            known = f"{100 * PUBLISHED[name]:.1f}" if name in PUBLISHED else ""
            rows.append([run.what, name, str(len(model["trials"])), f"{model['parameters']:,}", *cells, known])
    return table(header, rows)


def accuracy(scores: dict | None) -> str:
    """An accuracy in percent, after the one before fine-tuning where there is one."""
    if scores is None:
        return ""
    before = f"{spread(scores['before'], 100, 1)} → " if "before" in scores else ""
    return before + spread(scores["accuracy"], 100, 2)


def autoencoders(root: Path) -> str:
    """Mean squared errors of every variant, in thousandths, with PCA and the mean image."""
    header = ("study", "variant", "seeds", "parameters", "validation", "test")
    rows = []
    for run in runs.AUTOENCODERS:
        result = run.find(root)
        if result is None:
            rows.append([run.what, "", *not_run(run.command, 4)])
            continue
        for name, errors in result.get("baselines", {}).items():
            rows.append([run.what, name, "", "", *(f"{1000 * errors[part]:.2f}" for part in ("validation", "test"))])
        for name, model in networks(result).items():
            scores = [model["metrics"].get(part) for part in ("validation", "test")]
            cells = [spread(each["mse"], 1000, 2) if each else "" for each in scores]
            rows.append([run.what, name, str(len(model["trials"])), f"{model['parameters']:,}", *cells])
    return table(header, rows)


def autoencoder_figures(root: Path) -> str:
    """The published figures of autoencoders: as they stand, what they mean, and the same measured here."""
    header = ("published as", "value", "what it is", "that is, in thousandths", "measured here, in thousandths")
    run: Run = runs.AUTOENCODERS[-1]
    result, grid = run.find(root), runs.AUTOENCODERS[0].find(root)
    ours = result and next(iter(result["models"].values()))
    means = ours and spread(ours["metrics"]["test"]["mse"], 1000, 2)
    as_published = ours and mean_std([trial["as_published"] for trial in ours["trials"]])
    best = grid and grid["models"].get("batch 64, code 128")
    sum_of = f"a sum over {published.TEST_IMAGES:,} images, divided by {published.DIVISOR:,}"
    scale = 1000 * published.DIVISOR / published.TEST_IMAGES
    validation, test, baseline = published.AUTOENCODER_BEST, published.AUTOENCODER_TEST, published.AUTOENCODER_BASELINE
    here = f"{means} (and {spread(as_published, 1, 6)} by that sum)" if ours else f"not run here: `{run.command}`"
    rows = [
        [validation.what, f"{validation.value:.5f}", "a mean", f"{1000 * validation.value:.2f}",
         spread(best["metrics"]["validation"]["mse"], 1000, 2) if best else ""],
        [test.what, f"{test.value:.6f}", sum_of, f"{scale * test.value:.2f}", here],
        [baseline.what, f"{baseline.value:.6f}", sum_of, f"{scale * baseline.value:.1f}", "its settings are not known"],
    ]  # fmt: skip
    return table(header, rows)
