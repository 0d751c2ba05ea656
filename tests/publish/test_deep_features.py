"""Tables and answers of deep feature learning: from results made by hand, and turning with them."""

import copy

import pytest

from deep_features import published, runs
from publish import deep_features, deep_features_report
from records import mean_std


def model(seeds=2, parameters=1000, settings=None, trials=None, **metrics):
    """A variant's entry in a study: metrics as validation_accuracy=[0.9, 0.92]."""
    found = {}
    for name, values in metrics.items():
        part, score = name.split("_")
        found.setdefault(part, {})[score] = mean_std(values)
    return {
        "parameters": parameters,
        "settings": {"test_size": 0} | (settings or {}),
        "metrics": found,
        "trials": trials or [{}] * seeds,
    }


def study(models, selected=None, retrained=None, **more):
    result = {"models": models, "data": {"sizes": {"test": 10_000}}} | more
    return result | ({"selected": selected, "retrained": retrained} if selected else {})


GRID = study(
    {
        "batch 64, code 128": model(
            settings={"code_dim": 128},
            validation_mse=[0.0017, 0.0019],
            trials=[{"dead_units": 40, "history": [{"val_mse": 0.0018}]}] * 2,
        ),
        "batch 16, code 32": model(
            settings={"code_dim": 32},
            validation_mse=[0.01, 0.02],
            trials=[
                {"dead_units": 3, "history": [{"val_mse": 0.01}]},
                {"dead_units": 9, "history": [{"val_mse": 0.02}]},
            ],
        ),
    },
    {"variant": "batch 64, code 128", "epochs": 60},
    model(settings={"code_dim": 128}, test_mse=[0.0016, 0.0016]),
    baselines={
        "mean image": {"validation": 0.068, "test": 0.067},
        "PCA, 128 components": {"validation": 0.0041, "test": 0.004},
    },
)


def test_the_answer_of_the_grid_names_what_was_selected_and_its_baselines():
    words = deep_features_report.grid(GRID)
    assert words == (
        "Validation selects batch 64, code 128, after 60 epochs: its validation error is $1.80\\pm0.14$ thousandths. "
        "Trained anew on all images, it has a test error of $1.60\\pm0.00$; PCA with 128 components has 4.00, and the "
        "mean image 67.0."
    )


def test_dead_units_are_those_of_the_smallest_code():
    words = deep_features_report.dead_units(GRID)
    assert "In the 2 trainings with a code of 32" in words
    assert "from 10.0 to 20.0 thousandths, and 3 to 9 units" in words
    assert "is 1.00" in words


def test_rows_say_what_was_not_run_and_what_was_trained_anew():
    rows = deep_features.autoencoder_rows(lambda run: GRID if run is runs.GRID else None)
    names = [row[1] for row in rows]
    assert names[:2] == ["mean image", "PCA, 128 components"]
    assert "batch 64, code 128, trained anew" in names
    assert [row[2] for row in rows if row[0] == runs.LINEAR.what] == [f"not run here: `{runs.LINEAR.command}`"]


def test_published_means_are_ten_times_what_they_are_called():
    rows = deep_features.figure_rows(lambda run: None)
    assert [row[3] for row in rows] == ["1.73", "2.27", "14.7"]
    ours = study({"10,000 images": model(test_mse=[0.002, 0.003], trials=[{"as_published": e} for e in (2e-4, 3e-4)])})
    (_, test, _) = deep_features.figure_rows(lambda run: ours if run is runs.AS_PUBLISHED else None)
    assert test[4] == "2.50 ± 0.71 (0.000250 ± 0.000071 by that sum)"


def test_classifiers_stand_beside_the_published_figures_with_the_error_of_their_images():
    name = next(iter(published.CNN))
    ours = study({name: model(settings={"test_size": 2000}, test_accuracy=[0.98, 0.98])})
    (row,) = deep_features.classifier_rows(lambda run: ours, runs.CNNS[:1])
    assert row[1:] == [name, "2", "1,000", "", "98.00 ± 0.00", "0.31", "97.9"]  # sqrt(.98 * .02 / 2000)
    stacked = study({"x": model(test_accuracy=[0.94, 0.96], test_before=[0.2, 0.3])})
    (row,) = deep_features.classifier_rows(lambda run: stacked, runs.STACKED[:1])
    assert row[5] == "25.0 ± 7.1 → 95.00 ± 1.41"
    sizes = study({next(iter(published.STACKED)): model(test_accuracy=[0.9, 0.9])})
    (row,) = deep_features.classifier_rows(lambda run: sizes, runs.STACKED[1:2])
    assert row[-1] == ""  # of another recipe, which nobody has published


def labels(pretrained):
    names = {"pre-trained": pretrained, "from random weights": [0.7, 0.71]}
    return study(
        {
            f"{count} labels, {what}": model(test_accuracy=values)
            for count in deep_features_report.LABELS
            for what, values in names.items()
        }
    )


@pytest.mark.parametrize(
    ("pretrained", "words"),
    [
        ([0.8, 0.81], "with 1{,}000 labels, pre-training is better by 10.00 points"),
        ([0.6, 0.61], "With 100 labels, pre-training is worse by 10.00 points"),
        ([0.5, 0.92], "which the seeds do not resolve"),
    ],
)
def test_the_worth_of_pretraining_follows_the_numbers(pretrained, words):
    assert words in deep_features_report.labels(labels(pretrained))


def test_factors_are_sorted_by_what_they_do():
    base = model(validation_accuracy=[0.98, 0.981])
    result = study(
        {
            "the base": base,
            "wider": model(validation_accuracy=[0.99, 0.991]),
            "narrow": model(validation_accuracy=[0.97, 0.971]),
            "another": copy.deepcopy(base),
        },
        {"variant": "wider", "epochs": 6},
        model(test_accuracy=[0.99, 0.99]),
    )
    assert deep_features_report.factors(result) == (
        "Better than the base: wider. Worse: narrow. Not resolved by the seeds: another. Validation selects wider"
        r" (1{,}000 parameters). Trained anew on all images, its test accuracy is $99.00\pm0.00$\,\%."
    )
    for each in result["models"].values():
        each |= {"multiply_adds": 12_345, "inference_us_per_image": 6.7}
    result["data"]["sizes"]["val"] = 10_000
    rows = deep_features.factor_rows(lambda run: result)
    assert rows[0] == ["the base", "1,000", "12,345", "7", "98.05 ± 0.07", "0.14", ""]  # sqrt(.9805 * .0195 / 10000)
    assert [row[-1] for row in rows[1:]] == ["+1.00 ± 0.07", "-1.00 ± 0.07", "+0.00 ± 0.07, not resolved"]


def test_what_is_selected_and_tested_as_it_is_is_not_said_to_be_trained_anew():
    steps = {"plain": model(validation_accuracy=[0.9, 0.9])}
    steps["and more"] = model(validation_accuracy=[0.95, 0.95], test_accuracy=[0.94, 0.94])
    result = study(steps) | {"selected": {"variant": "and more", "epochs": 60}}
    assert deep_features_report.selected(result) == (
        r"Validation selects and more (1{,}000 parameters). Its test accuracy is $94.00\pm0.00$\,\%."
    )
    assert deep_features_report.recipe(result) == (
        r"Validation accuracies, step by step: plain $90.00\pm0.00$\,\%; and more $95.00\pm0.00$\,\%. The step with the"
        r" highest one, “and more”, has a test accuracy of $94.00\pm0.00$\,\% with 1{,}000 parameters."
    )


SEVEN = study(
    {
        name: model(
            seeds=1,
            validation_accuracy=[0.97],
            test_accuracy=[test],
            trials=[
                {"train_accuracy": 0.99, "validation": {"accuracy": 0.97}}
                | {"history": [{"seconds": 60.0}, {"seconds": 30.0}], "pretraining": [[{"seconds": 30.0}]]}
            ],
        )
        for name, test in {"base": 0.975, "large": 0.98, "small": 0.97, "deep": 0.976}.items()
    }
)


def test_of_the_seven_those_are_told_apart_that_lie_beyond_the_seeds():
    found = deep_features_report.seven(SEVEN, mean_std([0.974, 0.975, 0.976]))
    assert found == (
        "Three seeds of the base deviate by 0.10 points, so that it takes 0.28 points to tell two single trainings"
        " apart. Above the base: large. Below it: small. Not told apart from it: deep."
    )
    assert deep_features.seven_rows(lambda run: SEVEN)[1] == [
        "large", "1", "1,000", "2.0", "97.00", "2.00", "98.00", "",
    ]  # fmt: skip


@pytest.mark.parametrize(("deviation", "words"), [(0.01, "hardly depend on the image"), (0.1, "is not their collapse")])
def test_whether_codes_collapse_follows_their_deviation(deviation, words):
    trials = [{"code_deviation": [0.3, deviation]}] * 2
    ours = study({"x": model(test_accuracy=[0.9, 0.9], test_before=[0.1, 0.1], trials=trials)})
    assert words in deep_features_report.stacked_published(ours)


def test_every_study_has_an_answer_and_every_answer_a_study():
    answered = {run for run, _ in deep_features_report.ANSWERS.values()}
    assert answered >= set(runs.STUDIES) - {runs.AS_PUBLISHED, runs.VITS[0]}  # which tables answer


def test_variants_that_are_looked_up_by_name_are_those_of_the_studies():
    from deep_features import cnn, stacked_autoencoder, vit

    assert set(published.CNN) <= set(cnn.STUDIES["published"].variants)
    assert set(published.STACKED) == set(stacked_autoencoder.STUDIES["published"].variants)
    assert set(map(deep_features.vit_name, published.VIT)) == set(vit.STUDIES["seven"].variants)
    names = set(stacked_autoencoder.STUDIES["labels"].variants)
    assert {f"{n} labels, pre-trained" for n in deep_features_report.LABELS} <= names
    assert {"CNN, in order", "fully connected, shuffled"} <= set(cnn.STUDIES["pixels"].variants)
    assert [run.command.split("--study ")[1].split()[0] for run in runs.STUDIES] == [
        "grid", "improved", "linear", "published", "published", "sizes", "labels", "published", "factors", "best",
        "pixels", "seven", "scale", "recipe", "fine",
    ]  # fmt: skip
