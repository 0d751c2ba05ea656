"""What the assignments' report takes from Homework 4's runs: a limited look-ahead, a Vision Transformer and a CNN."""

from __future__ import annotations

from assignments import runs
from deep_features import runs as features
from publish.latex import Results, absent, number, plain, spread, tabular
from publish.verdicts import paired_bootstrap, resolved, verdict

LOOKING, COMPARING = runs.LOOK_AHEAD.name, runs.SIZES.name
SCALE, RECIPE, FINE = (run.name for run in features.VITS[1:])
NAMES = {"vit": "Vision Transformer", "cnn": "CNN"}
WAYS = {"moved": "moved", "as they are": "as they are", "shuffled": "pixels shuffled"}


def limited_look(results: Results) -> dict[str, str]:
    """What Question 3's encoder was, and on what it was scored with a limited look-ahead."""
    if not results.exists(LOOKING):
        return {"hw4-look-ahead": absent(runs.LOOK_AHEAD)}
    result = results(LOOKING)
    clips = "recorded clips (real)" if result["data"]["source"] == "real" else "clips of synthetic speech"
    return {
        "hw4-look-ahead": (
            f"{result['config']['blocks']} blocks behind two convolutions, trained without a mask;"
            f" {result['data']['sizes']['test']} {clips}"
        )
    }


def look_ahead_table(results: Results) -> str:
    """How late the output comes, and how many characters are wrong, by look-ahead."""
    if not results.exists(LOOKING):
        return absent(runs.LOOK_AHEAD)
    rows = []
    for row in results(LOOKING)["rows"]:
        low, high = (number(100 * bound, 1) for bound in row["cer"]["interval"])
        whole = row["look_ahead"] is None
        rows.append(
            [
                "all" if whole else number(row["look_ahead"]),
                "the clip" if whole else number(row["milliseconds_late"] / 1000, 2),
                f"{number(100 * row['cer']['mean'], 1)} [{low}, {high}]",
            ]
        )
    return tabular("rrr", ["positions ahead", "seconds late", r"characters wrong (\%)"], rows)


# --- a Vision Transformer against a CNN --------------------------------------------------------------


def counts_of(models: dict[str, dict]) -> list[int]:
    return sorted({model["settings"]["train_size"] for model in models.values()})


def accuracy_of(model: dict, part: str = "test") -> float:
    return model["metrics"][part]["accuracy"]["mean"]


def points(value: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"${100 * value:+.1f}$"


def lead(vit: dict, cnn: dict) -> float:
    """By how much the CNN's test accuracy is higher; 0 where seeds, or for one seed the test's images, cannot tell."""
    if len(vit["metrics"]["test"]["accuracy"]["values"]) > 1:
        return resolved(cnn["metrics"]["test"]["accuracy"], vit["metrics"]["test"]["accuracy"])
    low, high = paired_bootstrap(*([int(bit) for bit in model["test_right"]] for model in (cnn, vit)))
    return accuracy_of(cnn) - accuracy_of(vit) if low > 0 or high < 0 else 0.0


def catching_up(models: dict[str, dict]) -> str:
    """Whether the CNN's lead shrinks with more images."""
    counts = counts_of(models)
    leads = [lead(models[f"vit, {count}, moved"], models[f"cnn, {count}, moved"]) for count in counts]
    listed = ", ".join(f"{points(each)} with {number(count)}" for each, count in zip(leads, counts, strict=True))
    if leads[-1] <= 0:
        end = f"with {number(counts[-1])} images the Vision Transformer has caught up"
    elif leads[-1] < max(leads):
        largest = number(counts[leads.index(max(leads))])
        end = f"it is largest with {largest}, and smaller, but not gone, with {number(counts[-1])}"
    else:
        end = "within these sizes it does not shrink"
    return f"The CNN's lead on images moved at random, in points of test accuracy: {listed}; {end}."


def moving_helps(models: dict[str, dict]) -> str:
    """What moving the images adds to each network, by their number, where both were trained."""
    counts = [count for count in counts_of(models) if f"vit, {count}, as they are" in models]
    parts = []
    for kind, name in NAMES.items():
        pairs = [[models[f"{kind}, {count}, {way}"] for way in ("moved", "as they are")] for count in counts]
        gains = ", ".join(points(accuracy_of(moved) - accuracy_of(plain)) for moved, plain in pairs)
        parts.append(f"{gains} for the {name}")
    return f"Moving images adds, with {', '.join(map(number, counts))} of them: {'; '.join(parts)}."


def what_the_gap_is(models: dict[str, dict]) -> str:
    """Where the CNN's lead comes from: training images, neighbours, moves."""
    most = counts_of(models)[-1]
    vit, cnn = (models[f"{kind}, {most}, moved"] for kind in NAMES)
    on_training = accuracy_of(cnn, "train") - accuracy_of(vit, "train")
    on_test = accuracy_of(cnn) - accuracy_of(vit)
    where = "mostly there on training images too" if on_training > on_test / 2 else "one of generalisation"
    shuffled = next(model["settings"]["train_size"] for model in models.values() if model["settings"]["shuffle_pixels"])
    lost, shifted = {}, {}
    for short, name in NAMES.items():
        plain, mixed = (models[f"{short}, {shuffled}, {way}"] for way in ("as they are", "shuffled"))
        lost[name] = points(accuracy_of(mixed) - accuracy_of(plain))
        still, *_, far = (each["mean"] for each in models[f"{short}, {most}, moved"]["shifted"])
        shifted[name] = points(far - still)
    return (
        f"With {number(most)} images moved at random the CNN leads by {points(on_training)} on training and"
        f" {points(on_test)} on test images: the lead is {where}. One fixed permutation of all pixels takes neighbours"
        f" away from both; with {number(shuffled)} images as they are it changes the test accuracy by {listed(lost)}."
        f" On validation images moved by {len(vit['shifted']) - 1} pixels the accuracy of the networks trained with the"
        f" most changes by {listed(shifted)}."
    )


def listed(values: dict[str, str]) -> str:
    return " and ".join(f"{value} (the {name})" for name, value in values.items())


def transformers(results: Results) -> dict[str, str]:
    """A Vision Transformer against a CNN, in sentences."""
    if not results.exists(COMPARING):
        return {"hw4-compared": absent(runs.SIZES), "hw4-networks": "of nearly as many parameters"}
    models = results(COMPARING)["models"]
    vit, cnn = (models[f"{kind}, {counts_of(models)[-1]}, moved"] for kind in NAMES)
    sizes = " and ".join(number(model["parameters"]) for model in (vit, cnn))
    work = " and ".join(number(model["multiply_adds"] / 1e6) for model in (vit, cnn))
    return {
        "hw4-compared": " ".join([catching_up(models), moving_helps(models), what_the_gap_is(models)]),
        "hw4-networks": f"of {sizes} parameters, with {work} million multiply-adds an image",
    }


def on_mnist(results: Results) -> dict[str, str]:
    """Two answers from deep feature learning: the scale of the scores, and the size of the patches."""
    recipe, fine, scale = (results(name) if results.exists(name) else None for name in (RECIPE, FINE, SCALE))
    found = {"hw4-scale": absent(features.VITS[1]), "hw4-patches": absent(features.VITS[3])}
    if scale:
        width, head = (model["metrics"]["test"]["accuracy"] for model in scale["models"].values())
        found["hw4-scale"] = compared("scores divided by the head's", head, "by the width's", width)
    if recipe and fine:
        (small,) = (model["metrics"]["test"]["accuracy"] for model in fine["models"].values())
        large = recipe["models"][recipe["selected"]["variant"]]["metrics"]["test"]["accuracy"]
        found["hw4-patches"] = compared("patches of 4 pixels", small, "of 7", large)
    return found


def compared(name: str, metric: dict, other_name: str, other: dict) -> str:
    """Two accuracies and what their difference is worth."""
    scores = f"{spread(metric, 100, 2)}\\,\\% ({name}) and {spread(other, 100, 2)}\\,\\% ({other_name})"
    return f"accuracies are {scores}: {plain(verdict('the former', metric, other, digits=2))}"


def transformer_table(results: Results) -> str:
    """Test accuracy by network, by how the images are shown, and by their number."""
    if not results.exists(COMPARING):
        return absent(runs.SIZES)
    models = results(COMPARING)["models"]
    counts, rows = counts_of(models), []
    for way, words in WAYS.items():
        for kind, name in NAMES.items():
            found = [models.get(f"{kind}, {count}, {way}") for count in counts]
            cells = [spread(each["metrics"]["test"]["accuracy"], 100) if each else "" for each in found]
            rows.append([name, words, *cells])
    return tabular("ll" + "r" * len(counts), ["network", "images", *map(number, counts)], rows)
