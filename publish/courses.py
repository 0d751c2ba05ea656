"""What the other courses found, a line for each part, for README.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from assignments import runs as assignments
from common.catalogue import Run
from deep_features import runs as features
from lab3 import runs as lab
from publish import deep_features
from publish.tables import not_run, table
from records import spread

FEATURES = "[Deep feature learning](docs/deep-features.md)"
ASSIGNMENTS = "[Assignments](docs/runs.md#assignments)"
LAB = "[Lab 3](docs/runs.md#lab-3)"


def autoencoder(result: dict) -> str:
    model = result["retrained"]
    error, code = spread(model["metrics"]["test"]["mse"], 1000, 2), model["settings"]["code_dim"]
    return f"MNIST (real): a test error of {error} thousandths with a code of {code} numbers"


def accuracy(result: dict) -> str:
    """Test accuracy and size of the network that was selected, or of the only one."""
    chosen = result.get("selected", {"variant": next(iter(result["models"]))})["variant"]
    model = result.get("retrained", result["models"][chosen])
    test = spread(model["metrics"]["test"]["accuracy"], 100, 2)
    return f"MNIST (real): {test} % of the test images are right, with {model['parameters']:,} parameters"


def few_labels(result: dict) -> str:
    kinds = ("from random weights", "pre-trained")
    scores = [spread(result["models"][f"100 labels, {kind}"]["metrics"]["test"]["accuracy"], 100, 1) for kind in kinds]
    return f"MNIST (real), 100 labels: {scores[0]} % right from random weights, {scores[1]} % pre-trained"


def by_hand(result: dict) -> str:
    test, count = result["metrics"]["test"]["accuracy"], result["data"]["sizes"]["test"]
    return f"{spread(test, 100, 1)} % of {count} small digits (real) are right, trained without autograd"


def photographs(result: dict) -> str:
    test, parameters = result["metrics"]["test"]["accuracy"], result["parameters"]
    count = result["data"]["sizes"]["train"]
    return (
        f"CIFAR-10 (JPEG, real): {spread(test, 100, 1)} % right from {count:,} images, with {parameters:,} parameters"
    )


def echoes(result: dict) -> str:
    hardest, longest = result["metrics"]["test"]["accuracy"], result["config"]["max_delay"]
    return f"random letters (synthetic): {spread(hardest, 100, 2)} % repeated at the hardest delay from 0 to {longest}"


def words(result: dict) -> str:
    length, sets = result["config"]["word_length"], result["methods"]["nll"]["by_set"]
    right, twice = (spread(sets[str(count)]["paths_exact"], 100, 1) for count in (length, 2 * length))
    return (
        f"rendered words (synthetic): {right} % of {length} letters and {twice} % of {2 * length} are read exactly,"
        f" trained on {length}"
    )


def transformer(result: dict) -> str:
    models = result["models"]
    count = max(model["settings"]["train_size"] for model in models.values())
    vit, cnn = (
        spread(models[f"{kind}, {count}, moved"]["metrics"]["test"]["accuracy"], 100, 1) for kind in ("vit", "cnn")
    )
    parameters = models[f"vit, {count}, moved"]["parameters"]
    return (
        f"CIFAR-10 (JPEG, real): {vit} % right from {count:,} images, with {parameters:,} parameters;"
        f" a CNN of that size: {cnn} %"
    )


def translation(result: dict) -> str:
    models = result["models"]
    scores = " against ".join(spread(model["metrics"]["test"]["bleu"]) for model in models.values())
    return f"Multi30k (real), English to German: BLEU {scores}, a Transformer against an LSTM of its size"


def from_features(transferred: str, scratch: str, data: str) -> Callable[[dict], str]:
    """A pretrained network against the same one from random weights."""

    def say(result: dict) -> str:
        better, worse = (
            spread(result["models"][name]["metrics"]["test"]["accuracy"], 100) for name in (transferred, scratch)
        )
        return f"{data} (real): {better} % right with pretrained weights, {worse} % without"

    return say


PARTS: tuple[tuple[str, str, Run, Callable[[dict], str]], ...] = (
    (FEATURES, "autoencoders", features.IMPROVED, autoencoder),
    (FEATURES, "stacked autoencoders", features.STACKED[2], few_labels),
    (FEATURES, "CNNs", features.CNNS[2], accuracy),
    (FEATURES, "Vision Transformers", features.VITS[3], accuracy),
    (ASSIGNMENTS, "backpropagation by hand", assignments.DIGITS, by_hand),
    (ASSIGNMENTS, "a CNN: cats and dogs", assignments.CATS_AND_DOGS[1], photographs),
    (ASSIGNMENTS, "a GRU's memory", assignments.ECHOES[2], echoes),
    (ASSIGNMENTS, "energies that read words", assignments.READERS, words),
    (ASSIGNMENTS, "a Vision Transformer", assignments.SIZES, transformer),
    (LAB, "a Transformer that translates", lab.TRANSLATION, translation),
    (LAB, "transfer: sentences", lab.METHODS, from_features("full", "random", "Rotten Tomatoes")),
    (LAB, "transfer: pictures", lab.PHOTOGRAPHS, from_features("frozen", "scratch", "ants and bees")),
)


def courses(root: Path) -> str:
    rows = []
    for course, part, run, say in PARTS:
        result = deep_features.in_results(root)(run)
        rows.append([course, part, say(result) if result else not_run(run.command, 1)[0]])
    return table(("course", "part", "found here"), rows)
